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
    """After the warm-up: the work of gangs that cannot be preempted and that their account's lots do not carry until
    their declared end, beside those of its gangs of that kind that do, did each start when it was submitted. A pool
    serves it; nobody who keeps promises to owners can do so at that instant.
    """
    gangs = case.replay.gangs
    owned = gpus_owned(case)
    last_day = len(owned) - 1
    carried: list[list[tuple[int, int]]] = [[] for _ in case.replay.tenants]
    """By account: (end, GPUs) of what runs."""
    beyond = 0
    for gang in np.flatnonzero(~gangs.preemptible).tolist():
        account, gpus, start_ms = int(gangs.tenant[gang]), int(gangs.gpus[gang]), int(gangs.submitted_ms[gang])
        end_ms, declared_end_ms = start_ms + int(gangs.duration_ms[gang]), start_ms + int(gangs.declared_ms[gang])
        running = carried[account] = [(until_ms, each) for until_ms, each in carried[account] if until_ms > start_ms]
        first = min(start_ms // MS_PER_DAY, last_day)
        last = min((declared_end_ms - 1) // MS_PER_DAY, last_day)
        if gpus + sum(each for _, each in running) <= owned[first : last + 1, account].min():
            running.append((end_ms, gpus))
        else:
            beyond += gpus * max(0, min(end_ms, case.replay.end_ms) - max(start_ms, case.warm_up_ms))
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
