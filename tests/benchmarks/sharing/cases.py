"""The inputs: windows of a calendar and of a trace of jobs, at a load, as what a run needs.

A window's days of the calendar are those in which most nodes change hands after the warm-up, most first, none used
twice while there are others; its days of jobs are spread evenly over the part of the trace that is not its thin
beginning. After the last day ownership stays as it was on it, so that what cannot be preempted has an end to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scheduler.core.intervals import Interval
from scheduler.core.quantities import MS_PER_DAY
from scheduler.execution.simulated import Fault
from scheduler.replay import book
from scheduler.replay.faults import node_failures
from scheduler.traces.dates import day_start_ms
from scheduler.traces.folder import find_traces
from scheduler.traces.generate import generate
from scheduler.traces.helios import GPUS_PER_NODE, HeliosCalendar, load_calendar
from scheduler.traces.philly import PhillyJobs, load_jobs
from scheduler.traces.replay_input import ReplayInput, combine

DAYS, WARM_UP_DAYS = 14, 4
THIN_PPM = 50_000
"""The jobs of a trace's beginning that are passed over, as a share of all."""
BIND_LIMIT_MS = book.BIND_LIMIT_S * 1_000
RESTART_MS = book.RESTART_MS


@dataclass(frozen=True, slots=True)
class Asked:
    """What is played: a load in ppm of the peak (None: as it came), a window by number, a seed, days between failures
    of one node (0: none fails), where the traces are (None: a small generated one).
    """

    load_ppm: int | None
    window: int = 0
    seed: int = 0
    failures_days: int = 0
    traces: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One input. Gangs are numbered by submission; instants are on the replay's clock, from 0.

    `nodes_owned` is (days + 1, n_tenants): whole nodes by day, the last row from the last day's end on.
    """

    replay: ReplayInput
    nodes_owned: npt.NDArray[np.int64]
    faults: tuple[Fault, ...]
    """By instant, on the trace's clock; nodes are named as `book.nodes` names them."""

    @property
    def warm_up_ms(self) -> int:
        """From when on figures count."""
        return self.replay.warm_up_days * MS_PER_DAY

    @property
    def span_ms(self) -> int:
        """How long figures count."""
        return self.replay.end_ms - self.warm_up_ms


def case_of(asked: Asked) -> Case:
    """The input that was asked for. Raises what the loaders raise."""
    replay = _generated(asked) if asked.traces is None else _traced(asked, asked.traces)
    owned = np.zeros((replay.days + 1, len(replay.tenants)), dtype=np.int64)
    owned[replay.lots.day, replay.lots.tenant] = replay.lots.nodes
    owned[-1] = owned[-2]
    span = Interval(replay.origin_ms, replay.origin_ms + replay.end_ms)
    faults = node_failures(book.nodes(replay.nodes), span, asked.seed, mean_days_between=asked.failures_days)
    return Case(replay, owned, faults)


def firm_beyond_owned_gpu_ms(case: Case) -> int:
    """After the warm-up: what gangs that cannot be preempted hold beyond what their account owns, did each of them
    start when it was submitted. A pool serves it; nobody who keeps promises to owners can do so at that instant.
    """
    gangs, end_ms = case.replay.gangs, case.replay.end_ms
    owned = gpus_owned(case)
    beyond = 0
    for account in range(len(case.replay.tenants)):
        firm = np.flatnonzero((gangs.tenant == account) & ~gangs.preemptible)
        gpus, start_ms = gangs.gpus[firm].astype(np.int64), gangs.submitted_ms[firm]
        days = np.arange(case.replay.days, dtype=np.int64)
        changes = np.concatenate([gpus, -gpus, -np.diff(owned[:-1, account], prepend=0)])
        at_ms = np.concatenate([start_ms, start_ms + gangs.duration_ms[firm], days * MS_PER_DAY])
        order = np.argsort(at_ms, kind="stable")
        edges = np.clip(np.append(at_ms[order], end_ms), case.warm_up_ms, end_ms)
        beyond += int((np.maximum(0, changes[order].cumsum()) * np.diff(edges)).sum())
    return beyond


def windows(calendar: HeliosCalendar, jobs: PhillyJobs, count: int) -> list[tuple[date, date]]:
    """(first day of the jobs, first day of the calendar) of each window; see the module."""
    changed = np.abs(np.diff(calendar.gpus, axis=0)).sum(axis=1)
    starts = range(len(calendar.gpus) - DAYS + 1)
    middle = (WARM_UP_DAYS + DAYS - 2) // 2

    def rank(start: int) -> tuple[int, int, int]:
        # The change from day d to d + 1 is changed[d]: a window from s on sees those of s + warm-up .. s + days - 2.
        seen = changed[start + WARM_UP_DAYS : start + DAYS - 1].tolist()
        off_middle = sum(many * abs(WARM_UP_DAYS + i - middle) for i, many in enumerate(seen))
        return -sum(seen), off_middle, start

    chosen: list[int] = []
    for start in sorted(starts, key=rank):
        if all(abs(start - other) >= DAYS for other in chosen):
            chosen.append(start)
    first = jobs.submitted_ms[len(jobs) * THIN_PPM // 1_000_000]
    thin_days = int(first - jobs.submitted_ms[0]) // MS_PER_DAY
    last = (jobs.last_day - jobs.first_day).days - DAYS + 1
    spread = [thin_days + (last - thin_days) * i // max(1, count - 1) for i in range(count)]
    return [
        (jobs.first_day + timedelta(days=asked), calendar.first_day + timedelta(days=owned))
        for asked, owned in zip(spread, cycle(chosen), strict=False)
    ]


WINDOWS = 5


def _traced(asked: Asked, traces: Path) -> ReplayInput:
    calendar, jobs = _loaded(traces)
    jobs_from, calendar_from = windows(calendar, jobs, WINDOWS)[asked.window]
    return combine(
        calendar.slice(calendar_from, DAYS),
        jobs.slice(jobs_from, DAYS, running_at_start=True),
        day_start_ms(jobs_from),
        load_ppm_asked=asked.load_ppm,
        seed=asked.seed,
        warm_up_days=WARM_UP_DAYS,
    )


def _generated(asked: Asked) -> ReplayInput:
    return generate(asked.seed + 1, 6, 12, 4, 500, load_ppm=asked.load_ppm, warm_up_days=1)


@lru_cache(maxsize=1)
def _loaded(traces: Path) -> tuple[HeliosCalendar, PhillyJobs]:
    folder = find_traces(traces)
    return load_calendar(folder.helios_calendar), load_jobs(folder.philly_jobs)


def gpus_owned(case: Case) -> npt.NDArray[np.int64]:
    """(days + 1, n_tenants): GPUs by day."""
    owned: npt.NDArray[np.int64] = case.nodes_owned * GPUS_PER_NODE
    return owned
