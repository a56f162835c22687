"""Disputes: a record that its owner or the exchange does not believe, what is claimed instead, and the answer.

A claim is all that was lost in the interval, by cause. What it makes of a record is arithmetic (`as_claimed`), so that
whoever accepts it and whoever audits that have the same record. Laws: a dispute is answered once; the record is
unsettled from the leaf that tells of the dispute to the leaf that answers it; an accepted one names its correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from pydantic import Field, model_validator

from scheduler.core.causes import Cause
from scheduler.core.errors import InvalidValue
from scheduler.core.ids import Name
from scheduler.core.metering.records import MeterRecord
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.models import Model
from scheduler.core.quantities import floor_div

Losses = tuple[tuple[Cause, int], ...]
LONGEST_REASON = 500


class DisputeState(StrEnum):
    """How a dispute stands. EXPIRED: nobody answered in time, the record stands."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EXPIRED = "expired"


class Dispute(Model):
    """One record, disputed; instants are by the exchange's clock. `losses`: (cause, gpu_ms), ascending, no zeros."""

    id: Name
    position: Name
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=1)
    version: int = Field(ge=1)
    leaf: int = Field(ge=0)
    """Of the disputed record, in the log of whoever delivered it."""
    losses: Losses = ()
    evidence: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Hex of the SHA-256 of what shows it; empty: nothing is given."""
    opened_ms: int = Field(ge=0)
    answer_by_ms: int = Field(ge=0)


class Answer(Model):
    """What became of a dispute. `version`: the one that corrects the record, of an accepted dispute only."""

    dispute: Name
    state: DisputeState
    reason: str = Field(default="", max_length=LONGEST_REASON)
    version: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _is_an_answer(self) -> Answer:
        if self.state is DisputeState.OPEN:
            raise ValueError("state was open, expected accepted, rejected or expired")
        if (self.version is not None) != (self.state is DisputeState.ACCEPTED):
            raise ValueError(f"version was {self.version} of a dispute that is {self.state}")
        return self


@dataclass(frozen=True, slots=True)
class Disputed:
    """A dispute as the exchange has it. `seq`: its place there; `reason`: the claimant's; `answer`, `corrected`: what
    the log said of it; `answered_ms`: by the exchange's clock, 0: not yet.
    """

    seq: int
    dispute: Dispute
    stream: str
    reason: str
    state: DisputeState
    answer: str = ""
    corrected: int | None = None
    answered_ms: int = 0


def checked_losses(losses: Sequence[tuple[Cause, int]], contracted_gpu_ms: int) -> Losses:
    """A claim's losses in their order. Raises InvalidValue for a cause that is given twice or is no loss, a quantity
    that is not above 0, or more than was contracted.
    """
    ordered = tuple(sorted(losses))
    for cause, gpu_ms in ordered:
        if cause is Cause.BUYER_RELEASE:
            raise InvalidValue("losses", "a claim", cause.name, "a loss; what is given back was delivered")
        if gpu_ms <= 0:
            raise InvalidValue(cause.name, "a claim", gpu_ms, "a quantity above 0")
    for (cause, _), (following, _) in pairwise(ordered):
        if following == cause:
            raise InvalidValue(cause.name, "a claim", "given twice", "each cause once")
    lost_gpu_ms = sum(gpu_ms for _, gpu_ms in ordered)
    if lost_gpu_ms > contracted_gpu_ms:
        raise InvalidValue("losses", "a claim", lost_gpu_ms, f"at most {contracted_gpu_ms}, as contracted")
    return ordered


def as_claimed(record: MeterRecord, losses: Losses) -> MeterRecord:
    """The record with these losses and no others; version and status stay.

    What is delivered more was available; what is delivered less was available, then released, then used, as far as each
    reaches. Slowness stays derated as far as it was. The par quantity moves in proportion, rounded down.
    """
    lost = dict.fromkeys(State, 0)
    for cause, gpu_ms in losses:
        lost[STATE_OF_CAUSE[cause]] += gpu_ms
    derated = min(record.derated_gpu_ms, dict(losses).get(Cause.UNDER_PERFORMANCE, 0))
    lost[State.OUT_FORCED] -= derated
    lost[State.DERATED] = derated
    before, after = record.delivered_gpu_ms, record.contracted_gpu_ms - sum(lost.values())
    used = min(record.used_gpu_ms, after)
    released = min(record.released_gpu_ms, after - used)
    content = {f"{state}_gpu_ms": gpu_ms for state, gpu_ms in lost.items()} | {
        "used_gpu_ms": used,
        "released_gpu_ms": released,
        "available_unused_gpu_ms": after - used - released,
        "par_gpu_ms": floor_div(record.par_gpu_ms * after, before) if before else after,
        "losses": losses,
    }
    return MeterRecord.model_validate(dict(record) | content)
