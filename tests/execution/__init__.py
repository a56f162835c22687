"""Tests of scheduler.execution."""
