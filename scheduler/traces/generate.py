"""Traces from a seed, for tests and for users without the published ones: the same types, the same file formats.

`generate` gives a replay's input directly; `write_folder` writes the files that, loaded and built, give the very same
input (tested). Nothing is fitted to a real cluster: sizes and durations merely have the published ones' shape, many
small short jobs and a few that hold most of the work.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY, apportion
from scheduler.traces.arrays import Int64s, sealed
from scheduler.traces.dates import day_start_ms
from scheduler.traces.folder import TraceFolder
from scheduler.traces.helios import GPUS_PER_NODE, HeliosCalendar
from scheduler.traces.philly import PhillyJobs, in_order
from scheduler.traces.replay_input import ReplayInput, combine
from scheduler.traces.splitmix import Purpose, draw_below
from scheduler.traces.writing import write_calendar, write_gavel, write_helios, write_openb, write_philly

HELIOS_FROM = date(2020, 4, 1)
PHILLY_FROM = date(2017, 10, 2)

_SIZES = np.array([1] * 40 + [2] * 6 + [4] * 7 + [8] * 7 + [12, 16, 16, 32], dtype=np.int32)
_SHORTEST_S = 60
_DOUBLINGS = 11


def generate(
    seed: int, tenants: int, nodes: int, days: int, jobs: int, *, load_ppm: int | None = None, warm_up_days: int = 0
) -> ReplayInput:
    """A replay's input of so many tenants, nodes of 8 GPUs, days and jobs: a pure function of its arguments.

    The calendar's peak is `nodes`. Raises InvalidValue for sizes that make no trace.
    """
    calendar, philly = _calendar_and_jobs(seed, tenants, nodes, days, jobs)
    origin_ms = day_start_ms(PHILLY_FROM)
    return combine(calendar, philly, origin_ms, load_ppm_asked=load_ppm, seed=seed, warm_up_days=warm_up_days)


def write_folder(folder: Path, seed: int, tenants: int, nodes: int, days: int, jobs: int) -> TraceFolder:
    """Write small traces of every published format under `folder` (made where absent): the same seed, the same bytes.

    `build(write_folder(folder, seed, ...), PHILLY_FROM, days, seed=seed)` equals `generate(seed, ...)`. Raises
    InvalidValue as `generate` does, OSError where the folder cannot be written.
    """
    calendar, philly = _calendar_and_jobs(seed, tenants, nodes, days, jobs)
    write_helios(folder, calendar)
    write_philly(folder, philly)
    write_openb(folder, seed, nodes, jobs)
    write_gavel(folder, seed, tenants, jobs)
    write_calendar(folder, seed, nodes)
    return TraceFolder(folder)


def _calendar_and_jobs(seed: int, tenants: int, nodes: int, days: int, jobs: int) -> tuple[HeliosCalendar, PhillyJobs]:
    least = {"tenants": (tenants, 1), "nodes": (nodes, 1), "days": (days, 1), "jobs": (jobs, 2)}
    for name, (was, at_least) in least.items():
        if was < at_least:
            raise InvalidValue(name, "the generated trace", was, f"{at_least} or more")
    return _calendar(seed, tenants, nodes, days), _jobs(seed, (tenants + 1) // 2, days, jobs)


def _calendar(seed: int, tenants: int, nodes: int, days: int) -> HeliosCalendar:
    """All nodes sold on the first day, by drawn weights; each later day one node changes hands, or lies idle."""
    weights = draw_below(100, seed, Purpose.CALENDAR, np.arange(tenants, dtype=np.int64)) + 1
    owned = np.array(apportion(nodes, weights.tolist()), dtype=np.int64)
    unsold = 0
    keys = np.arange(days, dtype=np.int64) + 1_000_000
    givers = draw_below(2 * tenants, seed, Purpose.CALENDAR, keys)
    takers = draw_below(tenants + 1, seed, Purpose.CALENDAR, keys + 1_000_000)
    rows = [owned.copy()]
    for giver, taker in zip(givers[1:].tolist(), takers[1:].tolist(), strict=True):
        if giver < tenants and owned[giver] > 0:
            owned[giver] -= 1
            unsold += 1
        if taker < tenants and unsold > 0:
            owned[taker] += 1
            unsold -= 1
        rows.append(owned.copy())
    start_ms = day_start_ms(HELIOS_FROM) + np.arange(days, dtype=np.int64) * MS_PER_DAY
    names = tuple(f"vc{i:02d}" for i in range(tenants))
    return HeliosCalendar(names, sealed(start_ms), sealed(np.stack(rows) * GPUS_PER_NODE))


def _jobs(seed: int, tenants: int, days: int, jobs: int) -> PhillyJobs:
    """Jobs over all the days, one on the first and one on the last, so that the trace spans them."""
    job = np.arange(jobs, dtype=np.int64)
    arrival_s = np.sort(draw_below(days * 86_400, seed, Purpose.ARRIVAL, job))
    arrival_s[0] = min(int(arrival_s[0]), 86_399)
    arrival_s[-1] = max(int(arrival_s[-1]), (days - 1) * 86_400)
    longest_s: Int64s = _SHORTEST_S * 2 ** draw_below(_DOUBLINGS, seed, Purpose.DURATION, job)
    duration_s = longest_s + draw_below(2**32 - 1, seed, Purpose.DURATION, job + jobs) % longest_s
    # Squared, so that a few tenants ask for most: u² is small for most of a uniform u.
    drawn = draw_below(1000, seed, Purpose.ACCOUNT, job)
    tenant = drawn * drawn * tenants // 1_000_000
    used, index = np.unique(tenant, return_inverse=True)
    return in_order(
        PhillyJobs(
            submitted_ms=day_start_ms(PHILLY_FROM) + arrival_s * 1000,
            duration_ms=duration_s * 1000,
            gpus=_SIZES[draw_below(len(_SIZES), seed, Purpose.SIZE, job)],
            tenant=index.astype(np.int32),
            row=job,
            tenants=tuple(f"{0xA00000 + i:06x}" for i in used.tolist()),
        )
    )
