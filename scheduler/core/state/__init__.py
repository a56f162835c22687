"""The state as a fold over the journal's events: fleet health, the calendar of promises, the gang table, the meter."""
