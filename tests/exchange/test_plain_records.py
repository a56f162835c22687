"""What is told at a glance of a record is what a close look tells, and a close look at records costs no validation."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.errors import Refused
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.records import MeterRecord
from scheduler.core.positions import Position
from scheduler.exchange.checks import checked_leaf
from scheduler.exchange.leaves import RecordLeaf, decode, encode_record
from scheduler.exchange.plain_records import plain_of, plain_record
from scheduler.exchange.v1 import delivery_pb2 as wire
from tests.exchange.world import LOTS, START_MS, delivered, metered, terms

TERMS = terms()
FIELDS = [*wire.MeterRecord.DESCRIPTOR.fields_by_name]
BY_ONE = st.sampled_from([-1, 0, 1, 2, 10_000, -(2**63), 2**31, 2**63 - 1])


def known(name: str) -> tuple[Position, InstrumentTerms] | None:
    if name not in LOTS:
        return None
    lots = ((START_MS, LOTS[name]),)
    return Position(id=name, account="a", instrument=TERMS.id, acquired_ms=1, lots=lots), TERMS


def changed(record: wire.MeterRecord, name: str, by: int, cause: int) -> None:
    """One field of a record another than it was; what its type does not take is left."""
    try:
        match name:
            case "losses":
                record.losses.add(cause=cause, gpu_ms=by)
            case "position" | "instrument" | "suite":
                setattr(record, name, getattr(record, name) * by if by < 10_001 else "")
            case _:
                setattr(record, name, getattr(record, name) + by)
    except ValueError:
        return


@st.composite
def nearly_sound(draw: st.DrawFn) -> bytes:
    """A sound record, or one with up to three fields changed, two of which may make up for each other."""
    content: dict[str, Any] = {}
    if draw(st.booleans()):
        version = draw(st.integers(1, 3))
        content = {"version": version, "supersedes": version - 1 or None}
    entry = wire.LogEntry.FromString(encode_record(metered("pos-1", 3, draw(st.integers(0, 12)), **content), 1))
    record, by = entry.record, draw(BY_ONE)
    if draw(st.booleans()):
        record.ClearField("losses")
        record.used_gpu_ms += record.out_forced_gpu_ms
        record.out_forced_gpu_ms = 0
    if record.losses:
        record.losses[0].cause = draw(st.sampled_from([int(cause) for cause in Cause] + [0, 1_999]))
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True)):
        changed(record, name, by, draw(st.sampled_from([*Cause, 7])))
        by = draw(st.sampled_from([-by if by > -(2**63) else 0, by]))
    entry.written_ms = draw(st.sampled_from([0, 1, -1, 2**62]))
    return entry.SerializeToString()


@given(leaf=nearly_sound())
@example(leaf=b"")
@example(leaf=b"\xff")
def test_what_is_plain_has_nothing_wrong_and_says_the_same(leaf: bytes) -> None:
    plain = plain_record(leaf, known)
    decoded, rejected = checked_leaf(leaf, known)
    if plain is None:
        return
    assert rejected is None
    assert isinstance(decoded, RecordLeaf)
    assert plain == plain_of(decoded)


def test_the_records_of_an_honest_log_are_plain() -> None:
    records = [leaf for leaf in delivered() if isinstance(decode(leaf), RecordLeaf)]
    assert len(records) > 30
    assert all(plain_record(leaf, known) is not None for leaf in records)
    assert plain_record(records[0], lambda _: None) is None


@given(leaf=nearly_sound())
def test_what_is_decoded_is_what_the_model_admits(leaf: bytes) -> None:
    try:
        decoded = decode(leaf)
    except Refused:
        return
    assert isinstance(decoded, RecordLeaf)
    again = MeterRecord.model_validate(dict(decoded.record))
    assert again == decoded.record
    assert again.model_fields_set == decoded.record.model_fields_set
    assert again.model_dump_json() == decoded.record.model_dump_json()
