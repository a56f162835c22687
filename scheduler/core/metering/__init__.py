"""Metering: the integral of who owned, who used and what worked, as records that add up to the GPU-millisecond."""
