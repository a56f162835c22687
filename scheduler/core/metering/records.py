"""Meter records and pool certificates: the only thing that statements are made of.

A record is one position, one interval, one version. Identities, each checked by `broken_identities`: the ten states add
up to `contracted_gpu_ms` exactly; the losses add up to what was not delivered, state by state, each GPU-ms with one
cause; what is estimated is no more than what was contracted; version 1 supersedes nothing, version n supersedes n - 1.
A correction is a new record, never an edit.
"""

from __future__ import annotations

from enum import StrEnum
from operator import itemgetter
from typing import Annotated

from pydantic import Field

from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict
from scheduler.core.ids import Name
from scheduler.core.intervals import Interval
from scheduler.core.metering.states import DELIVERED, STATE_OF_CAUSE, State
from scheduler.core.models import Model

LONGEST_INSTRUMENT, LONGEST_SUITE = 300, 600
"""In characters."""

_FIELD_OF_STATE = {state: f"{state}_gpu_ms" for state in State}  # made once: auditors read millions of records
_STATE_FIELDS = itemgetter(*_FIELD_OF_STATE.values())
_LOST_FIELDS = tuple(
    (state, "" if state in DELIVERED or state is State.DERATED else field) for state, field in _FIELD_OF_STATE.items()
)
"""The field that the losses of a state add up to; empty where it has none of its own."""


BIND_EDGES_MS = (1_000, 5_000, 10_000, 30_000, 60_000, 300_000)
"""Where the times to bind in certificates are cut."""


class RecordStatus(StrEnum):
    """How settled a record is."""

    PROVISIONAL = "provisional"
    INITIAL = "initial"
    FINAL = "final"
    CORRECTED = "corrected"


class Quality(StrEnum):
    """How a record came about; the worst that applies, in this order of rising doubt."""

    MEASURED = "measured"
    SUBSTITUTED = "substituted"
    ESTIMATED = "estimated"
    SUSPECT = "suspect"


class MeterRecord(Model):
    """Where every contracted GPU-ms of one position went in one interval. All `_gpu_ms` are 0 or more."""

    position: Name
    instrument: str = Field(min_length=1, max_length=LONGEST_INSTRUMENT)
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=1)
    version: int = Field(default=1, ge=1)
    status: RecordStatus = RecordStatus.INITIAL
    supersedes: int | None = Field(default=None, ge=1)
    contracted_gpu_ms: int = Field(ge=0)
    used_gpu_ms: int = Field(default=0, ge=0)
    available_unused_gpu_ms: int = Field(default=0, ge=0)
    released_gpu_ms: int = Field(default=0, ge=0)
    derated_gpu_ms: int = Field(default=0, ge=0)
    out_forced_gpu_ms: int = Field(default=0, ge=0)
    out_planned_gpu_ms: int = Field(default=0, ge=0)
    out_buyer_gpu_ms: int = Field(default=0, ge=0)
    out_excused_gpu_ms: int = Field(default=0, ge=0)
    recalled_gpu_ms: int = Field(default=0, ge=0)
    unknown_gpu_ms: int = Field(default=0, ge=0)
    losses: tuple[tuple[Cause, int], ...] = ()
    """(cause, gpu_ms), ascending by cause, no zeros: what was not delivered, and why."""
    par_gpu_ms: int = Field(default=0, ge=0)
    """What was delivered, in GPU-ms of the par grade: each grade's part × its conversion, rounded down once."""
    measured_mean_ppm: int = Field(default=0, ge=0)
    """Time-weighted mean performance of covered, healthy, observed GPUs, rounded down; 0 where there were none."""
    measured_min_ppm: int = Field(default=0, ge=0)
    """The least performance among them."""
    suite: str = Field(default="", max_length=LONGEST_SUITE)
    """The suites that measured it, sorted and joined by `+`; empty where nothing was measured yet."""
    quality: Quality = Quality.MEASURED
    estimated_gpu_ms: int = Field(default=0, ge=0)

    @property
    def interval(self) -> Interval:
        """`[start_ms, end_ms)`."""
        return Interval(self.start_ms, self.end_ms)

    def gpu_ms(self, state: State) -> int:
        """The quantity in a state."""
        quantity: int = self.__dict__[_FIELD_OF_STATE[state]]
        return quantity

    @property
    def states(self) -> dict[State, int]:
        """The quantity in each state, zeros included."""
        fields = self.__dict__
        return {state: fields[field] for state, field in _FIELD_OF_STATE.items()}

    @property
    def delivered_gpu_ms(self) -> int:
        """Used, available and released: what the seller owed and gave."""
        return self.used_gpu_ms + self.available_unused_gpu_ms + self.released_gpu_ms


class PoolRecord(Model):
    """Sold against what stood behind it, for one pool and interval: `covered`, the three `unsold` and `unknown` tile
    `total`.

    A GPU counts from the instant at which it joined. Which GPUs are covered is always known, so `unknown` is of unsold
    ones.
    """

    grade: Name
    site: Name
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=1)
    total_gpu_ms: int = Field(ge=0)
    sold_gpu_ms: int = Field(ge=0)
    """Contracted for the par grade of this pool, whatever the length of the metering interval; positions without a
    contract at the close count as they were covered.
    """
    covered_gpu_ms: int = Field(ge=0)
    """What stood behind some position, in whatever state."""
    unsold_used_gpu_ms: int = Field(ge=0)
    unsold_idle_gpu_ms: int = Field(ge=0)
    unsold_unhealthy_gpu_ms: int = Field(ge=0)
    unknown_gpu_ms: int = Field(ge=0)
    accredited_gpus: int | None = Field(default=None, ge=0)
    """GPUs that the pool honours after the loss of any one NVLink domain, when the certificate was written."""
    spare_gpus: int | None = Field(default=None, ge=0)
    """GPUs of spare nodes, then."""
    pledged_gpus: int | None = Field(default=None, ge=0)
    """Devices that are pledged to the pool at the end of the interval."""
    binds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), max_length=len(BIND_EDGES_MS) + 1)
    """How many gangs inside their account's entitlement were bound in the interval, by how long that took: below each
    of `BIND_EDGES_MS`, then longer. Empty: none was.
    """
    slowest_bind_ms: int = Field(default=0, ge=0)
    version: int = Field(default=1, ge=1)
    """A later one supersedes the one before: something was learnt late."""

    @property
    def pool(self) -> str:
        """`site/grade`."""
        return f"{self.site}/{self.grade}"


def broken_identities(record: MeterRecord) -> tuple[str, ...]:
    """Every identity that the record breaks, in words; empty for a sound one. Auditors call it on every leaf."""
    states_gpu_ms = sum(_STATE_FIELDS(record.__dict__))
    broken = []
    if record.start_ms >= record.end_ms:
        broken.append(f"end_ms was {record.end_ms}, expected an instant after start_ms {record.start_ms}")
    if states_gpu_ms != record.contracted_gpu_ms:
        broken.append(f"the states add up to {states_gpu_ms}, contracted_gpu_ms is {record.contracted_gpu_ms}")
    broken += _broken_losses(record)
    if record.estimated_gpu_ms > record.contracted_gpu_ms:
        broken.append(
            f"estimated_gpu_ms {record.estimated_gpu_ms} exceeds contracted_gpu_ms {record.contracted_gpu_ms}"
        )
    before = record.version - 1 if record.version > 1 else None
    if record.supersedes != before:
        broken.append(f"version {record.version} supersedes {record.supersedes}, expected {before}")
    if record.version == 1 and record.status is RecordStatus.CORRECTED:
        broken.append("version 1 has status corrected, expected an earlier version to correct")
    return tuple(broken)


def _broken_losses(record: MeterRecord) -> list[str]:
    lost: dict[State, int] = {}
    previous, slow_gpu_ms, in_order = 0, 0, True
    for cause, gpu_ms in record.losses:
        in_order = in_order and cause > previous and gpu_ms > 0
        previous = cause
        state = STATE_OF_CAUSE[cause]
        lost[state] = lost.get(state, 0) + gpu_ms
        if cause is Cause.UNDER_PERFORMANCE:
            slow_gpu_ms = gpu_ms
    broken = [] if in_order else ["losses must rise by cause, each once and above 0"]
    if record.derated_gpu_ms:  # UNDER_PERFORMANCE is the cause of both
        lost[State.OUT_FORCED] = lost.get(State.OUT_FORCED, 0) - record.derated_gpu_ms
    if record.derated_gpu_ms > slow_gpu_ms:
        broken.append(f"derated_gpu_ms {record.derated_gpu_ms} exceeds the loss by {Cause.UNDER_PERFORMANCE.name}")
    fields = record.__dict__
    for state, field in _LOST_FIELDS:
        expected = fields[field] if field else 0
        if lost.get(state, 0) != expected:
            broken.append(f"the causes of {state} add up to {lost.get(state, 0)}, expected {expected}")
    return broken


_OF_THE_VERSION = {"version", "status", "supersedes"}


def superseding(
    previous: MeterRecord, current: MeterRecord, status: RecordStatus = RecordStatus.CORRECTED
) -> MeterRecord | None:
    """`current` as the next version after `previous`, with `status`; None where that would say nothing new.

    A correction says something new where a quantity differs, a promotion (INITIAL to FINAL) where the status does.
    Raises Conflict where the two are not of one position and interval.
    """
    of_previous = (previous.position, previous.instrument, previous.start_ms, previous.end_ms)
    of_current = (current.position, current.instrument, current.start_ms, current.end_ms)
    if of_previous != of_current:
        raise Conflict(f"the record {of_previous} cannot be superseded by one of {of_current}")
    content = dict(current)
    same = all(content[field] == value for field, value in previous if field not in _OF_THE_VERSION)
    if same and status in (previous.status, RecordStatus.CORRECTED):
        return None
    content |= {"version": previous.version + 1, "supersedes": previous.version, "status": status}
    return MeterRecord.model_validate(content)
