"""What metering takes from an instrument and a position: the terms that decide states, and the contracted quantity over
time.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.instruments import InstrumentTerms, ThroughputScope
from scheduler.core.intervals import StepFunction
from scheduler.core.quantities import ONE_PPM

NONE = StepFunction()


@dataclass(frozen=True, slots=True)
class MeteringTerms:
    """The terms that decide in which state a GPU-ms is. `deliverables`: (grade, conversion_ppm); empty: any grade is
    par.
    """

    interval_ms: int
    gpus_per_lot: int = 1
    cell: Level = Level.GPU
    grade: str = ""
    site: str = ""
    deliverables: tuple[tuple[str, int], ...] = ()
    floor_ppm: int = 0
    reject_below_ppm: int = 0
    discount_slope_ppm: int = ONE_PPM
    total: bool = False
    """Whether the floor holds for the mean of the position's GPUs instead of for each."""
    notice_ms: int = 0
    """How long before its beginning maintenance must be announced to be planned."""
    excused: bool = False
    """Whether force majeure excuses the seller."""
    replace_within_ms: int = 0
    """How long a failed device may be away before it is the seller's."""
    drain_from_ms: int | None = None
    """From when on a drained GPU is lost by the terms' own drain; None: they have none."""

    @classmethod
    def of(cls, terms: InstrumentTerms) -> MeteringTerms:
        """The metering part of a listing."""
        throughput = terms.throughput
        return cls(
            interval_ms=terms.interval_ms,
            gpus_per_lot=terms.lot.gpus,
            cell=terms.lot.cell,
            grade=terms.grade.klass,
            site=terms.site,
            deliverables=tuple((each.grade, each.conversion_ppm) for each in terms.deliverables),
            floor_ppm=throughput.floor_ppm,
            reject_below_ppm=throughput.reject_below_ppm,
            discount_slope_ppm=throughput.discount_slope_ppm,
            total=throughput.scope is ThroughputScope.TOTAL,
            notice_ms=terms.maintenance.notice_s * 1_000,
            excused=terms.force_majeure_excuses,
            replace_within_ms=terms.replace_within_s * 1_000,
            drain_from_ms=terms.window.end_ms - terms.drain_s * 1_000 if terms.drain_s else None,
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """A position that is metered elsewhere, as far as the certificate of its pool speaks of it."""

    index: int
    grade: str
    site: str
    contracted_gpu_ms: int
    """In the interval."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One position as the meter sees it. `contracted_gpus`: lots × GPUs a lot × profile, over time."""

    index: int
    """The position's index, as `Meter.set_owner` was given it."""
    position: str
    instrument: str
    terms: MeteringTerms
    contracted_gpus: StepFunction
    account: int
    """The owner's account index, as `Meter.set_occupant` is given it."""
    uncovered_cause: Cause | StepFunction = Cause.OVERSOLD
    """Why contracted GPUs that nothing covers are missing; a step function of cause codes where that changed (0:
    OVERSOLD).
    """
    withheld_gpus: tuple[tuple[Cause, StepFunction], ...] = ()
    """GPUs over time that nothing is to cover, by cause: what is not covered is first that."""
    planned_left_gpu_ms: int = 0
    """What the maintenance budget has left before the interval: planned outages beyond it are the seller's."""
    excused_gpus: StepFunction = NONE
    """GPUs over time that the shortage rule keeps from it because of a force majeure that excuses the seller."""
    consented_since_ms: tuple[tuple[str, int | None], ...] = ()
    """(grade, since when the owner agrees to it) of deliverables that need consent, by grade; None: it does not."""
