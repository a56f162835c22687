"""Execution: gangs run real commands on Ray, or on virtual time, behind one protocol."""
