"""Load as a share of the fleet's peak: thinned below the natural load, replicas moved up to 2 h above it.

Jobs are ranked by a hash of (seed, row). The first ones of that order whose demand still fits are kept; above the
natural load every job comes whole times, and the first ones once more. So a higher load has every job of a lower one,
and the load asked for is met to within one job.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import ONE_PPM
from scheduler.traces.arrays import Int64s, sealed
from scheduler.traces.splitmix import Purpose, below, draws

MOVED_MAX_MS = 7_200_000
COPIES_MAX = 1000


def keep(demand_gpu_ms: Int64s, row: Int64s, target_gpu_ms: int, seed: int = 0) -> Int64s:
    """How often each job comes, for a total demand just under `target_gpu_ms`: (n_jobs,) int64, 0 or more.

    Raises InvalidValue where nothing asks for anything, or where it would take more than 1,000 copies of a job.
    """
    natural_gpu_ms = int(demand_gpu_ms.sum())
    if natural_gpu_ms <= 0 or not 0 <= target_gpu_ms <= COPIES_MAX * natural_gpu_ms:
        expected = f"0..{COPIES_MAX} times the jobs' own demand of {natural_gpu_ms} GPU-ms"
        raise InvalidValue("load", "the trace", f"{target_gpu_ms} GPU-ms", expected)
    whole, rest_gpu_ms = divmod(target_gpu_ms, natural_gpu_ms)
    order = np.lexsort((row, draws(seed, Purpose.KEPT, row)))
    copies = np.full(len(row), whole, dtype=np.int64)
    copies[order[np.cumsum(demand_gpu_ms[order]) <= rest_gpu_ms]] += 1
    return sealed(copies)


def moved_ms(row: Int64s, copy: Int64s, submitted_ms: Int64s, end_ms: int, seed: int = 0) -> Int64s:
    """When each copy is submitted, on the replay's clock: (n,) int64. The first copy (0) stays where the job was.

    Others come up to 2 h later, or as much earlier where that would pass `end_ms` (never before 0).
    """
    by_ms = below(draws(seed, Purpose.MOVED, row * COPIES_MAX + copy), MOVED_MAX_MS) + 1
    later_ms = submitted_ms + by_ms
    moved = np.where(later_ms < end_ms, later_ms, np.maximum(submitted_ms - by_ms, 0))
    return sealed(np.where(copy == 0, submitted_ms, moved))


def load_ppm(demand_gpu_ms: int, capacity_gpu_ms: int) -> int:
    """Demand as parts per million of capacity, rounded down."""
    return demand_gpu_ms * ONE_PPM // capacity_gpu_ms
