"""Which Helios tenant runs which Philly job: by size, as the lending rules were measured.

1. Each Helios tenant, most GPU-days first, gets the Philly tenant with most demand not yet met. Demand is what
   falls inside the days, scaled so that all jobs together ask for exactly what all tenants own.
2. A Philly tenant's jobs are split among its Helios tenants in proportion to what each owns on the job's day; where
   none of them owns anything that day, to what each owns in the whole slice. Which job goes where depends on
   (seed, row) alone, so thinning never moves a job.
3. A Philly tenant for which no Helios tenant was left is split among all of them.

No job is lost, none is doubled, and none is made smaller: a gang bigger than its tenant ever owns has to borrow.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces.arrays import Bools, Int32s, Int64s, UInt64s, sealed
from scheduler.traces.helios import GPUS_PER_NODE, HeliosCalendar
from scheduler.traces.philly import PhillyJobs
from scheduler.traces.splitmix import Purpose, below, draws


def gang_shape(gpus: int) -> tuple[int, int]:
    """`(workers, gpus_per_worker)` of a gang: one worker up to 8 GPUs; beyond, workers of gcd(gpus, 8) GPUs each."""
    if gpus <= GPUS_PER_NODE:
        return 1, gpus
    each = gcd(gpus, GPUS_PER_NODE)
    return gpus // each, each


def gang_shapes(gpus: Int32s) -> tuple[Int32s, Int32s]:
    """`gang_shape` of each: two arrays (n,) int32."""
    each = np.where(gpus <= GPUS_PER_NODE, gpus, np.gcd(gpus, GPUS_PER_NODE)).astype(np.int32)
    return sealed((gpus // each).astype(np.int32)), sealed(each)


def match_tenants(owned: Int64s, demand: Int64s) -> Int32s:
    """For each Helios tenant the Philly tenant whose jobs it runs: (n_helios,) int32.

    owned: (n_helios,) GPU-days; demand: (n_philly,) GPU-ms. A Helios tenant that owns nothing is matched too (the
    last of all) but is given no job while another of the same Philly tenant owns something.
    """
    all_owned, all_demand = sum(owned.tolist()), sum(demand.tolist())
    # Both sides scaled to a common denominator: Python integers, because the products pass int64.
    unmet = [asked * all_owned for asked in demand.tolist()]
    matched = np.zeros(len(owned), dtype=np.int32)
    for helios in sorted(range(len(owned)), key=lambda i: (-int(owned[i]), i)):
        philly = max(range(len(unmet)), key=lambda j: (unmet[j], -j))
        matched[helios] = philly
        unmet[philly] -= int(owned[helios]) * all_demand
    return sealed(matched)


def map_tenants(calendar: HeliosCalendar, jobs: PhillyJobs, first_ms: int, seed: int = 0) -> Int32s:
    """The Helios tenant of each job: (n_jobs,) int32, index into `calendar.tenants`.

    The calendar's first day begins at the instant `first_ms` of the jobs' clock. Jobs outside its days are split as on
    its first or last day.
    """
    owned = calendar.gpus.sum(axis=0)
    demand = np.zeros(len(jobs.tenants), dtype=np.int64)
    np.add.at(demand, jobs.tenant, jobs.demand_gpu_ms(first_ms + len(calendar.gpus) * MS_PER_DAY))
    matched = match_tenants(owned, demand)
    day = np.clip((jobs.submitted_ms - first_ms) // MS_PER_DAY, 0, len(calendar.gpus) - 1)
    drawn = draws(seed, Purpose.TENANT, jobs.row)
    mapped = np.zeros(len(jobs), dtype=np.int32)
    for philly in range(len(jobs.tenants)):
        mine = np.flatnonzero(jobs.tenant == philly)
        weights = _weights(calendar.gpus, owned, matched == philly)
        mapped[mine] = _weighted_choice(weights[day[mine]], drawn[mine])
    return sealed(mapped)


def _weights(gpus: Int64s, owned: Int64s, candidates: Bools) -> Int64s:
    """How a Philly tenant's jobs split on each day: (n_days, n_helios) int64, no row all zero."""
    chosen = candidates if bool((candidates & (owned > 0)).any()) else np.ones_like(candidates)
    by_day: Int64s = np.where(chosen, gpus, 0)
    overall: Int64s = np.where(chosen, owned, 0)
    if not overall.any():
        overall = np.ones_like(overall)
    nothing_that_day = by_day.sum(axis=1, keepdims=True) == 0
    return np.where(nothing_that_day, overall, by_day)


def _weighted_choice(weights: Int64s, drawn: UInt64s) -> Int32s:
    """For each row of weights (n, n_helios) the column its draw falls on: (n,) int32."""
    ends = np.cumsum(weights, axis=1)
    at = below(drawn, ends[:, -1]) if len(ends) else np.zeros(0, dtype=np.int64)
    fallen: Int32s = (ends <= at[:, None]).sum(axis=1, dtype=np.int32)
    return fallen
