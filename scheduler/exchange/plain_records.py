"""Records whose soundness shows at a glance, straight from the wire: the way that nearly all of a log takes in.

An exchange looks at every record that comes in, and nearly all are alike: sound, of a known position, with one cause of
loss at most. Those are told here from the message's own fields, without a value of the core for each. It is only ever
quick to say yes: whatever is unusual in any way is for `checks.checked_leaf`, which also knows how to say why not. Law
(tested): what is plain here has nothing wrong there, and says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from scheduler.core.causes import Cause
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.records import LONGEST_SUITE, RecordStatus
from scheduler.core.metering.states import DELIVERED, STATE_OF_CAUSE, State
from scheduler.core.positions import Position
from scheduler.exchange.leaves import MAX_INSTANT_MS, Leaf, RecordLeaf
from scheduler.exchange.v1 import delivery_pb2 as wire

_STATES = tuple(state for state in State if state not in DELIVERED)
_PLACE_OF_CAUSE = {
    int(cause): _STATES.index(state)
    for cause, state in STATE_OF_CAUSE.items()
    if state not in DELIVERED and cause is not Cause.UNDER_PERFORMANCE  # which may be derated in part
}
_STATUSES = {
    int(wire.RECORD_STATUS_PROVISIONAL): RecordStatus.PROVISIONAL,
    int(wire.RECORD_STATUS_INITIAL): RecordStatus.INITIAL,
    int(wire.RECORD_STATUS_CORRECTED): RecordStatus.CORRECTED,
}
"""FINAL is not plain: when it may be said depends on the calendar."""
_QUALITIES = frozenset(wire.Quality.values()) - {wire.QUALITY_UNSPECIFIED}


class PlainRecord(NamedTuple):
    """What is noted of a record: whose it is, of which interval, which version it is, and when it was written."""

    position: str
    start_ms: int
    end_ms: int
    version: int
    status: RecordStatus
    instrument: str
    written_ms: int


def record_of(leaf: Leaf | PlainRecord | None) -> PlainRecord | None:
    """What is noted of the record in a leaf; None where the leaf is of another kind."""
    if isinstance(leaf, PlainRecord):
        return leaf
    return plain_of(leaf) if isinstance(leaf, RecordLeaf) else None


def plain_of(leaf: RecordLeaf) -> PlainRecord:
    """What is noted of a record that was looked at closely."""
    record = leaf.record
    return PlainRecord(
        record.position,
        record.start_ms,
        record.end_ms,
        record.version,
        record.status,
        record.instrument,
        leaf.written_ms,
    )


def plain_record(leaf: bytes, known: Callable[[str], tuple[Position, InstrumentTerms] | None]) -> PlainRecord | None:
    """What a leaf says where it is a plain record; None: look closely. `known` gives a position and the terms of its
    instrument.
    """
    try:
        entry = wire.LogEntry.FromString(leaf)
    except DecodeError:
        return None
    if entry.WhichOneof("kind") != "record" or not 0 <= entry.written_ms <= MAX_INSTANT_MS:
        return None
    record = entry.record
    status = _STATUSES.get(record.status)
    if status is None:
        return None
    place = PlainRecord(
        record.position,
        record.start_ms,
        record.end_ms,
        record.version,
        status,
        record.instrument,
        entry.written_ms,
    )
    held = known(place.position)
    if held is None or not _of_contract(record.instrument, place, *held):
        return None
    return place if _adds_up(record) and _in_order(record, place.version) else None


def _of_contract(instrument: str, place: PlainRecord, position: Position, terms: InstrumentTerms) -> bool:
    """Whether it is of the position's instrument and of one of its intervals."""
    length_ms, window = terms.interval_ms, terms.window
    start_ms, end_ms = place.start_ms, place.end_ms
    return (
        instrument == position.instrument
        and not start_ms % length_ms
        and end_ms - start_ms == length_ms
        and start_ms >= window.start_ms
        and end_ms <= window.end_ms
    )


def _adds_up(record: wire.MeterRecord) -> bool:
    """Whether the states add up to what was contracted, and the one loss, if any, to what was not delivered."""
    lost = (
        record.derated_gpu_ms,
        record.out_forced_gpu_ms,
        record.out_planned_gpu_ms,
        record.out_buyer_gpu_ms,
        record.out_excused_gpu_ms,
        record.recalled_gpu_ms,
        record.unknown_gpu_ms,
    )
    used, unused, released = record.used_gpu_ms, record.available_unused_gpu_ms, record.released_gpu_ms
    contracted, estimated = record.contracted_gpu_ms, record.estimated_gpu_ms
    if min(used, unused, released, estimated, *lost) < 0 or estimated > contracted:
        return False
    lost_gpu_ms = sum(lost)
    if used + unused + released + lost_gpu_ms != contracted:
        return False
    losses = record.losses
    if not losses:
        return not lost_gpu_ms
    place = _PLACE_OF_CAUSE.get(losses[0].cause)
    return len(losses) == 1 and place is not None and lost[place] == lost_gpu_ms == losses[0].gpu_ms > 0


def _in_order(record: wire.MeterRecord, version: int) -> bool:
    """Whether the rest is such as it may be: version and status, and what was measured."""
    status = record.status
    first = version == 1 and status != wire.RECORD_STATUS_CORRECTED
    return (
        (first or version > 1)
        and record.supersedes == version - 1
        and record.quality in _QUALITIES
        and record.par_gpu_ms >= 0
        and record.measured_ppm >= 0
        and record.least_ppm >= 0
        and len(record.suite) <= LONGEST_SUITE
    )
