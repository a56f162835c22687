"""Philly (ATC'19): when real jobs came, how long they ran, on how many GPUs, and whose they were.

64,483 jobs of 13 tenants over ten weeks of 2017, as extracted by Sia. Times in the file are local wall time without
a zone; they are read as UTC, which shifts the whole trace and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces.arrays import Int32s, Int64s, indexed, sealed
from scheduler.traces.dates import day_of, day_start_ms
from scheduler.traces.table import Table, read_table

MAX_GPUS = 100_000
MAX_DURATION_MS = 10 * 366 * MS_PER_DAY


@dataclass(frozen=True, slots=True, eq=False)
class PhillyJobs:
    """Jobs by (submitted, row). Every array is (n_jobs,).

    submitted_ms: int64, UTC
    duration_ms:  int64, positive
    gpus:         int32, positive: the gang's size
    tenant:       int32, index into `tenants`
    row:          int64, the job's place in the file, counted from 0: its identity
    tenants:      names, sorted
    """

    submitted_ms: Int64s
    duration_ms: Int64s
    gpus: Int32s
    tenant: Int32s
    row: Int64s
    tenants: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def first_day(self) -> date:
        """The first job's day."""
        return day_of(int(self.submitted_ms[0]))

    @property
    def last_day(self) -> date:
        """The last job's day."""
        return day_of(int(self.submitted_ms[-1]))

    def demand_gpu_ms(self, until_ms: int) -> Int64s:
        """What each job asks for before `until_ms` if it starts when submitted: (n_jobs,) int64, 0 for a later one."""
        return self.gpus.astype(np.int64) * np.clip(until_ms - self.submitted_ms, 0, self.duration_ms)

    def slice(self, from_date: date, days: int, *, running_at_start: bool = False) -> PhillyJobs:
        """Jobs submitted in the `days` days from `from_date` on.

        With `running_at_start`, jobs that were submitted before and would still run (had they started at once) come
        too, submitted at the first instant with what was left of their duration. Raises InvalidValue for days
        outside the trace.
        """
        if days < 1 or from_date < self.first_day or (from_date - self.last_day).days + days > 1:
            raise InvalidValue(
                "days", "the Philly jobs", f"{days} from {from_date}", f"days within {self.first_day}..{self.last_day}"
            )
        start_ms = day_start_ms(from_date)
        end_ms = start_ms + days * MS_PER_DAY
        left_ms = self.submitted_ms + self.duration_ms - start_ms
        came = (self.submitted_ms >= start_ms) & (self.submitted_ms < end_ms)
        runs = (self.submitted_ms < start_ms) & (left_ms > 0)
        chosen = np.flatnonzero(came | runs) if running_at_start else np.flatnonzero(came)
        return in_order(
            PhillyJobs(
                np.maximum(self.submitted_ms, start_ms)[chosen],
                np.where(runs, left_ms, self.duration_ms)[chosen],
                self.gpus[chosen],
                self.tenant[chosen],
                self.row[chosen],
                self.tenants,
            )
        )


def load_jobs(path: Path) -> PhillyJobs:
    """Read Philly's jobs, in any order of the file. `gpu_time`, where the file has it, is checked.

    Raises InvalidValue with file, line and column for anything that is not the published format.
    """
    table = read_table(path, ("timestamp", "duration", "num_gpus", "cluster"))
    clusters = table.names("cluster")
    table.require_whole_last_line(lambda: table.columns[-1] == "cluster" and clusters[-1] in clusters[:-1])
    submitted_ms = table.timestamps_ms("timestamp")
    duration_ms = table.seconds_as_ms("duration", at_least_ms=1, at_most_ms=MAX_DURATION_MS)
    gpus = table.integers("num_gpus", at_least=1, at_most=MAX_GPUS)
    _check_gpu_time(table, duration_ms, gpus)
    tenants, tenant = indexed(clusters)
    row = np.arange(len(gpus), dtype=np.int64)
    return in_order(PhillyJobs(submitted_ms, duration_ms, gpus.astype(np.int32), tenant, row, tenants))


def _check_gpu_time(table: Table, duration_ms: Int64s, gpus: Int64s) -> None:
    if table.has("gpu_time"):
        apart_ms = np.abs(table.seconds_as_ms("gpu_time") - duration_ms * gpus)
        table.require("gpu_time", apart_ms <= 1000 * gpus, "duration times num_gpus, to a second a GPU")


def in_order(jobs: PhillyJobs) -> PhillyJobs:
    """The same jobs by (submitted, row), sealed: what every `PhillyJobs` that leaves this module is."""
    order = np.lexsort((jobs.row, jobs.submitted_ms))
    return PhillyJobs(
        sealed(jobs.submitted_ms[order]),
        sealed(jobs.duration_ms[order]),
        sealed(jobs.gpus[order]),
        sealed(jobs.tenant[order]),
        sealed(jobs.row[order]),
        jobs.tenants,
    )
