"""What a replay plays: lots by day, gangs by instant, and the fleet they were meant for. Plain arrays, no file.

Helios says what each tenant owns on each day, Philly what its jobs ask for (`mapping`), a hash what its teams declare
(`declarations`) and how much of it comes (`scaling`). The replay's clock starts at 0 at the first day's first instant.

Dates: `from_date` is a Philly date (2017). Helios' calendar begins at the same number of days after its own first day.
A date that Philly does not hold but Helios does is taken as a Helios date, and Philly's follows the same way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from datetime import date

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.intervals import Interval
from scheduler.core.quantities import MS_PER_DAY, ONE_PPM
from scheduler.traces.arrays import Bools, Int32s, Int64s, sealed
from scheduler.traces.dates import day_start_ms
from scheduler.traces.declarations import declare
from scheduler.traces.folder import TraceFolder
from scheduler.traces.helios import GPUS_PER_NODE, HeliosCalendar, load_calendar
from scheduler.traces.mapping import gang_shapes, map_tenants
from scheduler.traces.philly import PhillyJobs, load_jobs
from scheduler.traces.scaling import COPIES_MAX, keep, load_ppm, moved_ms


@dataclass(frozen=True, slots=True, eq=False)
class Lots:
    """Whole nodes owned for one day, by (day, tenant), none of them zero. Every array is (n_lots,).

    tenant: int32, index into `ReplayInput.tenants`
    day:    int32, 0 for the first
    nodes:  int32, nodes of 8 GPUs
    """

    tenant: Int32s
    day: Int32s
    nodes: Int32s

    def __len__(self) -> int:
        return len(self.tenant)


@dataclass(frozen=True, slots=True, eq=False)
class Gangs:
    """Gangs by (submitted, row, copy). Every array is (n_gangs,).

    submitted_ms:    int64, on the replay's clock
    tenant:          int32, index into `ReplayInput.tenants`
    workers:         int32, positive
    gpus_per_worker: int32, 1..8
    duration_ms:     int64, how long it runs undisturbed
    declared_ms:     int64, how long its team says it runs
    preemptible:     bool
    checkpoint_ms:   int64, time between checkpoints, 0 = never
    grace_ms:        int64
    row:             int64, the job's row in the trace
    copy:            int64, 0 for the job itself, 1.. for replicas
    """

    submitted_ms: Int64s
    tenant: Int32s
    workers: Int32s
    gpus_per_worker: Int32s
    duration_ms: Int64s
    declared_ms: Int64s
    preemptible: Bools
    checkpoint_ms: Int64s
    grace_ms: Int64s
    row: Int64s
    copy: Int64s

    def __len__(self) -> int:
        return len(self.submitted_ms)

    @property
    def gpus(self) -> Int32s:
        """The gang's size: (n_gangs,) int32."""
        return self.workers * self.gpus_per_worker


@dataclass(frozen=True, slots=True, eq=False)
class ReplayInput:
    """One replay. `origin_ms` is the UTC instant of the replay's 0; `load_ppm` the demand inside the days, of the peak.

    The first `warm_up_days` of the `days` are played but should not be counted.
    """

    tenants: tuple[str, ...]
    origin_ms: int
    days: int
    warm_up_days: int
    nodes: int
    lots: Lots
    gangs: Gangs
    natural_load_ppm: int
    load_ppm: int

    @property
    def gpus(self) -> int:
        """The fleet: the calendar's peak, in whole nodes of 8."""
        return self.nodes * GPUS_PER_NODE

    @property
    def end_ms(self) -> int:
        """The replay's last instant (not in it), on its own clock."""
        return self.days * MS_PER_DAY

    def sha256(self) -> str:
        """Lower-case hex SHA-256 over every name, number and array: equal inputs, equal bytes."""
        seen = hashlib.sha256()
        for part in (self, self.lots, self.gangs):
            for field in fields(part):
                value = getattr(part, field.name)
                if isinstance(value, np.ndarray):
                    seen.update(f"{field.name}:{value.dtype.str}:{value.shape}".encode() + value.tobytes())
                elif not isinstance(value, Lots | Gangs):
                    seen.update(f"{field.name}={value!r};".encode())
        return seen.hexdigest()


def build(
    folder: TraceFolder,
    from_date: date,
    days: int,
    *,
    load_ppm: int | None = None,
    seed: int = 0,
    warm_up_days: int = 0,
    helios_from: date | None = None,
) -> ReplayInput:
    """Helios' calendar and Philly's jobs of a folder as the input of a replay.

    Without `load_ppm` the jobs come as they were. Raises TracesMissing where a file is absent, InvalidValue for a
    malformed one and for days that a trace does not hold.
    """
    calendar_path, jobs_path = folder.helios_calendar, folder.philly_jobs
    calendar, jobs = load_calendar(calendar_path), load_jobs(jobs_path)
    philly_from, aligned = align(calendar, jobs, from_date)
    return combine(
        calendar.slice(helios_from or aligned, days),
        jobs.slice(philly_from, days, running_at_start=True),
        day_start_ms(philly_from),
        load_ppm_asked=load_ppm,
        seed=seed,
        warm_up_days=warm_up_days,
    )


def align(calendar: HeliosCalendar, jobs: PhillyJobs, from_date: date) -> tuple[date, date]:
    """The Philly date and the Helios date of the first day: equally many days after each trace's own first day."""
    if jobs.first_day <= from_date <= jobs.last_day:
        return from_date, calendar.first_day + (from_date - jobs.first_day)
    if calendar.first_day <= from_date <= calendar.last_day:
        return jobs.first_day + (from_date - calendar.first_day), from_date
    raise InvalidValue(
        "from date",
        "the replay",
        str(from_date),
        f"a day of Philly, {jobs.first_day}..{jobs.last_day}, or of Helios, {calendar.first_day}..{calendar.last_day}",
    )


def combine(
    calendar: HeliosCalendar,
    jobs: PhillyJobs,
    origin_ms: int,
    *,
    load_ppm_asked: int | None = None,
    seed: int = 0,
    warm_up_days: int = 0,
) -> ReplayInput:
    """A slice of a calendar and a slice of jobs, as many days long, `origin_ms` being the first instant of the jobs'.

    Raises InvalidValue for a calendar in which nobody owns anything, a warm-up that leaves no day, or a load that the
    jobs cannot make.
    """
    days = len(calendar.gpus)
    if not 0 <= warm_up_days < days:
        raise InvalidValue("warm_up_days", "the replay", warm_up_days, f"0..{days - 1}")
    if calendar.peak_gpus == 0:
        raise InvalidValue("GPUs owned", "the Helios calendar", 0, "at least one node on one day")
    end_ms = days * MS_PER_DAY
    capacity_gpu_ms = calendar.peak_gpus * end_ms
    demand = jobs.demand_gpu_ms(origin_ms + end_ms)
    copies = np.ones(len(jobs), dtype=np.int64)
    if load_ppm_asked is not None:
        copies = keep(demand, jobs.row, capacity_gpu_ms * load_ppm_asked // ONE_PPM, seed)
    gangs = _gangs(
        jobs, map_tenants(calendar, jobs, origin_ms, seed), copies, Interval(origin_ms, origin_ms + end_ms), seed
    )
    came = gangs.gpus * np.minimum(gangs.duration_ms, end_ms - gangs.submitted_ms)
    return ReplayInput(
        tenants=calendar.tenants,
        origin_ms=origin_ms,
        days=days,
        warm_up_days=warm_up_days,
        nodes=calendar.peak_gpus // GPUS_PER_NODE,
        lots=_lots(calendar),
        gangs=gangs,
        natural_load_ppm=load_ppm(int(demand.sum()), capacity_gpu_ms),
        load_ppm=load_ppm(int(came.sum()), capacity_gpu_ms),
    )


def _lots(calendar: HeliosCalendar) -> Lots:
    nodes = calendar.gpus // GPUS_PER_NODE
    day, tenant = np.nonzero(nodes)
    return Lots(
        sealed(tenant.astype(np.int32)), sealed(day.astype(np.int32)), sealed(nodes[day, tenant].astype(np.int32))
    )


def _gangs(jobs: PhillyJobs, tenant: Int32s, copies: Int64s, span: Interval, seed: int) -> Gangs:
    job = np.repeat(np.arange(len(jobs), dtype=np.int64), copies)
    copy = np.arange(len(job), dtype=np.int64) - np.repeat(np.cumsum(copies) - copies, copies)
    row = jobs.row[job]
    submitted_ms = moved_ms(row, copy, jobs.submitted_ms[job] - span.start_ms, span.length_ms, seed)
    order = np.lexsort((copy, row, submitted_ms))
    job, copy, row = job[order], copy[order], row[order]
    workers, each = gang_shapes(jobs.gpus[job])
    declared = declare(seed, row * COPIES_MAX + copy, jobs.duration_ms[job])
    return Gangs(
        submitted_ms=sealed(submitted_ms[order]),
        tenant=sealed(tenant[job]),
        workers=workers,
        gpus_per_worker=each,
        duration_ms=sealed(jobs.duration_ms[job]),
        declared_ms=declared.declared_ms,
        preemptible=declared.preemptible,
        checkpoint_ms=declared.checkpoint_ms,
        grace_ms=declared.grace_ms,
        row=sealed(row),
        copy=sealed(copy),
    )
