"""Versions: which version of each of a position's records holds at a point of the log, and how settled it is.

A log tells of a record in full (a leaf that is one), or promotes what was told: the record's next version, with the
same content and a later status. Which leaves a promotion speaks of is fixed by its place: those before it. So a prefix
of a log is a version set, and everybody who has it has the same one.

Laws (each tested): versions are dense from 1, each supersedes the one before; a record's stage (PROVISIONAL, INITIAL,
FINAL) never goes back; a correction keeps the stage; a longer prefix never changes what a shorter one says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from pydantic import Field, model_validator

from scheduler.core.ids import Name
from scheduler.core.intervals import Interval
from scheduler.core.metering.disputes import Answer, Dispute
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.models import Model


class Stage(IntEnum):
    """How far a record is settled, whatever corrected it. Numbers are kept in databases."""

    PROVISIONAL = 0
    INITIAL = 1
    FINAL = 2


_STAGES = {
    RecordStatus.PROVISIONAL: Stage.PROVISIONAL,
    RecordStatus.INITIAL: Stage.INITIAL,
    RecordStatus.FINAL: Stage.FINAL,
}
STATUS_OF_STAGE = {stage: status for status, stage in _STAGES.items()}


class Promotion(Model):
    """The records of a position in `[start_ms, end_ms)` that were less settled are of this status from here on."""

    position: Name
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=1)
    status: RecordStatus

    @model_validator(mode="after")
    def _settles(self) -> Promotion:
        if self.status not in (RecordStatus.INITIAL, RecordStatus.FINAL):
            raise ValueError(f"status was {self.status}, expected initial or final")
        if self.start_ms >= self.end_ms:
            raise ValueError(f"end_ms was {self.end_ms}, expected an instant after start_ms {self.start_ms}")
        return self

    @property
    def interval(self) -> Interval:
        """`[start_ms, end_ms)`."""
        return Interval(self.start_ms, self.end_ms)

    @property
    def stage(self) -> Stage:
        """What it promotes to."""
        return _STAGES[self.status]


class LateFact(Model):
    """What corrects a final record without a dispute: learnt late, it holds from an instant on."""

    position: Name
    from_ms: int = Field(ge=0)
    fact: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hex of the SHA-256 of the fact, as the cluster's journal has it."""


def stage_after(status: RecordStatus, before: Stage | None) -> Stage:
    """The stage of a record with this status; `before`: that of the version before it. A correction keeps it."""
    told = _STAGES.get(status)
    if told is None:
        return Stage.INITIAL if before is None else before
    return told if before is None else max(told, before)


def wrong_version(told: int, status: RecordStatus, version: int, stage: Stage | None) -> str:
    """Why a record of version `told` cannot follow the version before it, in words; empty for a right one. `version` 0
    and `stage` None: there is none before it.

    Versions are dense from 1. A later one is of a later stage, or it says that it corrects.
    """
    if told != version + 1:
        return f"version was {told}, expected {version + 1}"
    if stage is None or status is RecordStatus.CORRECTED or _STAGES[status] > stage:
        return ""
    return f"status was {status} after {STATUS_OF_STAGE[stage]}, expected {RecordStatus.CORRECTED}"


@dataclass(frozen=True, slots=True)
class Held:
    """One interval's record as it stands: `record` and `leaf_hash` as last told in full, at leaf `index`; `version` and
    `stage` since leaf `since`, which is a later one where it was promoted.
    """

    record: MeterRecord
    leaf_hash: bytes
    index: int
    version: int
    stage: Stage
    since: int

    @property
    def current(self) -> MeterRecord:
        """The record as the version that it is by now."""
        if self.since == self.index:
            return self.record
        versions = {"version": self.version, "supersedes": self.version - 1, "status": STATUS_OF_STAGE[self.stage]}
        return MeterRecord.model_validate(dict(self.record) | versions)


@dataclass(slots=True)
class PositionVersions:
    """The records of one position, folded from the log's leaves in their order; see the module."""

    held: dict[int, Held] = field(default_factory=dict)
    """By the start of the interval."""
    open: dict[str, int] = field(default_factory=dict)
    """Disputes that are not answered: the start of the interval, by id."""

    def tell(self, index: int, record: MeterRecord, leaf_hash: bytes) -> str:
        """A record in full, at a leaf. What is wrong with its version, in words; one that is not later than what
        stands changes nothing.
        """
        before = self.held.get(record.start_ms)
        version, stage = (0, None) if before is None else (before.version, before.stage)
        wrong = wrong_version(record.version, record.status, version, stage)
        if record.version > version:
            after = stage_after(record.status, stage)
            self.held[record.start_ms] = Held(record, leaf_hash, index, record.version, after, since=index)
        return wrong

    def promote(self, index: int, promotion: Promotion) -> list[Held]:
        """A promotion at a leaf, of what stands before it. Those that it promotes, as they are then, in order."""
        changed = []
        for start_ms in sorted(self.held):
            before = self.held[start_ms]
            inside = promotion.start_ms <= start_ms and before.record.end_ms <= promotion.end_ms
            if inside and before.stage < promotion.stage:
                after = replace(before, version=before.version + 1, stage=promotion.stage, since=index)
                self.held[start_ms] = after
                changed.append(after)
        return changed

    def hear(self, dispute: Dispute) -> None:
        """A dispute is told of."""
        self.open[dispute.id] = dispute.start_ms

    def answer(self, answer: Answer) -> None:
        """A dispute is answered; of one that is not open nothing changes."""
        self.open.pop(answer.dispute, None)

    @property
    def disputed(self) -> frozenset[int]:
        """The starts of intervals whose record is disputed."""
        return frozenset(self.open.values())


def final_starts(held: Iterable[Held]) -> frozenset[int]:
    """The starts of intervals whose record is final, corrected since or not."""
    return frozenset(each.record.start_ms for each in held if each.stage is Stage.FINAL)
