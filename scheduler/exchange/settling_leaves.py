"""The leaves that settle records: promotions, disputes and their answers, facts that were learnt late; to their
messages and back. `scheduler.exchange.leaves` has the leaf around them, and the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

from pydantic import ValidationError

from scheduler.core.causes import Cause
from scheduler.core.errors import InvalidValue
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState, Losses
from scheduler.core.metering.records import RecordStatus
from scheduler.core.metering.versions import LateFact, Promotion
from scheduler.exchange.v1 import delivery_pb2 as wire

Settling = Promotion | Dispute | Answer | LateFact
_Told = TypeVar("_Told")

STATE_NUMBERS = {
    DisputeState.OPEN: wire.DISPUTE_STATE_OPEN,
    DisputeState.ACCEPTED: wire.DISPUTE_STATE_ACCEPTED,
    DisputeState.REJECTED: wire.DISPUTE_STATE_REJECTED,
    DisputeState.EXPIRED: wire.DISPUTE_STATE_EXPIRED,
}
_STATES = {int(number): state for state, number in STATE_NUMBERS.items()}
_PROMOTED = {RecordStatus.INITIAL: wire.RECORD_STATUS_INITIAL, RecordStatus.FINAL: wire.RECORD_STATUS_FINAL}
_PROMOTIONS = {int(number): status for status, number in _PROMOTED.items()}
_CAUSES = {int(cause): cause for cause in Cause}


def encode_settling(told: Settling, written_ms: int) -> bytes:
    """The leaf of a promotion, a dispute, its answer or a late fact. Raises InvalidValue for what does not fit."""
    try:
        return _entry(told, written_ms).SerializeToString()
    except ValueError as error:
        raise InvalidValue("quantity", f"a {type(told).__name__}", str(error), "what fits its wire fields") from error


def _entry(told: Settling, written_ms: int) -> wire.LogEntry:
    match told:
        case Promotion():
            promotion = wire.Promotion(
                position=told.position, start_ms=told.start_ms, end_ms=told.end_ms, status=_PROMOTED[told.status]
            )
            return wire.LogEntry(written_ms=written_ms, promotion=promotion)
        case Dispute():
            return wire.LogEntry(written_ms=written_ms, dispute=dispute_to_wire(told))
        case Answer():
            answer = wire.DisputeAnswer(
                dispute=told.dispute, state=STATE_NUMBERS[told.state], reason=told.reason, version=told.version or 0
            )
            return wire.LogEntry(written_ms=written_ms, dispute_answer=answer)
        case LateFact():
            fact = wire.LateFact(position=told.position, from_ms=told.from_ms, fact=bytes.fromhex(told.fact))
            return wire.LogEntry(written_ms=written_ms, late_fact=fact)


def dispute_to_wire(dispute: Dispute) -> wire.Dispute:
    """A dispute as its message. Raises ValueError for what does not fit."""
    return wire.Dispute(
        id=dispute.id,
        position=dispute.position,
        start_ms=dispute.start_ms,
        end_ms=dispute.end_ms,
        version=dispute.version,
        leaf=dispute.leaf,
        losses=losses_to_wire(dispute.losses),
        evidence=bytes.fromhex(dispute.evidence),
        opened_ms=dispute.opened_ms,
        answer_by_ms=dispute.answer_by_ms,
    )


def losses_to_wire(losses: Iterable[tuple[Cause, int]]) -> list[wire.Loss]:
    """Losses as their messages."""
    return [wire.Loss(cause=cause, gpu_ms=gpu_ms) for cause, gpu_ms in losses]


def losses_from_wire(sent: Iterable[wire.Loss], where: str) -> Losses:
    """Losses from their messages, as they came. Raises InvalidValue for a cause that is not known."""
    for loss in sent:
        if loss.cause not in _CAUSES:
            raise InvalidValue("cause", where, loss.cause, "a cause of the published list")
    return tuple((_CAUSES[loss.cause], loss.gpu_ms) for loss in sent)


def dispute_from_wire(sent: wire.Dispute) -> Dispute:
    """A dispute from its message. Raises InvalidValue."""
    where = f"dispute {sent.id[:80]}"
    losses = losses_from_wire(sent.losses, where)
    if any(gpu_ms <= 0 for _, gpu_ms in losses) or any(left >= right for (left, _), (right, _) in pairwise(losses)):
        raise InvalidValue("losses", where, losses, "rising causes, each above 0")
    return _checked(
        where,
        lambda: Dispute(
            id=sent.id,
            position=sent.position,
            start_ms=sent.start_ms,
            end_ms=sent.end_ms,
            version=sent.version,
            leaf=sent.leaf,
            losses=losses,
            evidence=sent.evidence.hex(),
            opened_ms=sent.opened_ms,
            answer_by_ms=sent.answer_by_ms,
        ),
    )


def promotion_from_wire(sent: wire.Promotion) -> Promotion:
    """A promotion from its message. Raises InvalidValue."""
    where = f"the promotion of {sent.position[:253]} from {sent.start_ms}"
    status = _PROMOTIONS.get(sent.status)
    if status is None:
        raise InvalidValue("status", where, sent.status, f"one of {sorted(_PROMOTIONS)}")
    return _checked(
        where,
        lambda: Promotion(position=sent.position, start_ms=sent.start_ms, end_ms=sent.end_ms, status=status),
    )


def answer_from_wire(sent: wire.DisputeAnswer) -> Answer:
    """An answer from its message. Raises InvalidValue."""
    where = f"the answer to dispute {sent.dispute[:80]}"
    state = state_from_wire(sent.state, where)
    return _checked(
        where, lambda: Answer(dispute=sent.dispute, state=state, reason=sent.reason, version=sent.version or None)
    )


def late_fact_from_wire(sent: wire.LateFact) -> LateFact:
    """A late fact from its message. Raises InvalidValue."""
    return _checked(
        f"a late fact of {sent.position[:253]}",
        lambda: LateFact(position=sent.position, from_ms=sent.from_ms, fact=sent.fact.hex()),
    )


def state_from_wire(number: int, where: str) -> DisputeState:
    """The state of a dispute. Raises InvalidValue for one that is not known."""
    state = _STATES.get(number)
    if state is None:
        raise InvalidValue("state", where, number, f"one of {sorted(_STATES)}")
    return state


def _checked(where: str, make: Callable[[], _Told]) -> _Told:
    try:
        return make()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "value"
        raise InvalidValue(field, where, first["input"], first["msg"].lower()) from error
