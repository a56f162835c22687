"""The term sheet."""
