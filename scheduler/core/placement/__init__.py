"""Placement: which workload runs on which GPUs, on what basis, and why the rest waits."""
