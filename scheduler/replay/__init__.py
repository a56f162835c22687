"""Replay: published traces through the production code, on virtual time."""
