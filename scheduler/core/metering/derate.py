"""The derate: how much of a slow GPU's time does not count as delivered.

At or above the floor nothing. Below it, each ppm that is missing takes `slope_ppm` ppm of the quantity, rounded up to
whole GPU-ms (in favour of the owner) and never more than there is. Laws (tested): monotone in the performance and in
the slope; between 0 and the quantity.
"""

from __future__ import annotations

from scheduler.core.quantities import ONE_PPM, ceil_div


def derated_gpu_ms(gpu_ms: int, *, ppm: int, floor_ppm: int, slope_ppm: int) -> int:
    """The part of `gpu_ms` at `ppm` of the reference that is lost: `ceil(gpu_ms × (floor − p) × slope / 10^12)`,
    capped.
    """
    if ppm >= floor_ppm:
        return 0
    return min(gpu_ms, ceil_div(gpu_ms * (floor_ppm - ppm) * slope_ppm, ONE_PPM * ONE_PPM))
