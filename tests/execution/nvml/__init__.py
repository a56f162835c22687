"""NVML as a machine with two GPUs has it, in C: what the bindings call, and what it answers."""
