"""Leaves: what is encoded comes back, the bytes never change, and what is no leaf is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.core.errors import InvalidValue, Refused
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.exchange.leaves import (
    PoolLeaf,
    RecordLeaf,
    ShortageLeaf,
    decode,
    encode_pool,
    encode_record,
    encode_shortage,
)
from scheduler.exchange.v1 import delivery_pb2 as wire
from tests.exchange.samples import instants, pool, pools, record, records


@given(record=records(), written_ms=instants)
def test_a_record_comes_back_as_it_was(record: MeterRecord, written_ms: int) -> None:
    assert decode(encode_record(record, written_ms)) == RecordLeaf(written_ms, record)


@given(pool=pools(), written_ms=instants)
def test_a_pool_certificate_comes_back_as_it_was(pool: PoolRecord, written_ms: int) -> None:
    assert decode(encode_pool(pool, written_ms)) == PoolLeaf(written_ms, pool)


def test_a_shortage_certificate_comes_back_as_it_was() -> None:
    certificate = ration(
        [ShortClaim(position="pos-1", firmness_class=0, lots=3, acquired_ms=5)], 2, pool="local/H100SXM"
    )
    assert decode(encode_shortage(certificate.body.decode(), 7)) == ShortageLeaf(7, certificate)


def test_the_bytes_of_a_record_never_change() -> None:
    assert encode_record(record(1), 1_234).hex() == (
        "08d20912550a05706f732d31120b483130302e42415345403118904e20a09c01280130024080f10448d0860350a09c0168904e"
        "9a010608ed0710904ea001f0a204b001b0b63cb801a0e83bc201096d61746d756c2e7631c80101"
    )


def test_the_bytes_of_a_pool_certificate_never_change() -> None:
    assert encode_pool(pool(1), 1_234).hex() == (
        "08d2091a2d0a074831303053584d12056c6f63616c18904e20a09c012880e2093080f1043880f10440904e48e0d40350904e"
    )


@given(st.binary(max_size=200))
def test_bytes_are_a_leaf_or_refused(noise: bytes) -> None:
    try:
        leaf = decode(noise)
    except Refused:
        return
    assert leaf.written_ms >= 0


def changed(change: Callable[[wire.LogEntry], None]) -> bytes:
    entry = wire.LogEntry.FromString(encode_record(record(), 1))
    change(entry)
    return entry.SerializeToString()


def _status(entry: wire.LogEntry) -> None:
    entry.record.status = 9  # type: ignore[assignment]


def _quality(entry: wire.LogEntry) -> None:
    entry.record.quality = 0  # type: ignore[assignment]


def _cause(entry: wire.LogEntry) -> None:
    entry.record.losses[0].cause = 1_999


def _negative(entry: wire.LogEntry) -> None:
    entry.record.used_gpu_ms = -1


def _version(entry: wire.LogEntry) -> None:
    entry.record.version = 0


def _position(entry: wire.LogEntry) -> None:
    entry.record.position = "no name!"


def _written(entry: wire.LogEntry) -> None:
    entry.written_ms = -1


def _pool_total(entry: wire.LogEntry) -> None:
    entry.coverage.total_gpu_ms = -5


def _kind(entry: wire.LogEntry) -> None:
    entry.ClearField("record")


def _body(entry: wire.LogEntry) -> None:
    entry.shortage.body = b'{"rule":"mine"}'


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_status, "status"),
        (_quality, "quality"),
        (_cause, "cause"),
        (_negative, "used_gpu_ms"),
        (_version, "version"),
        (_position, "position"),
        (_written, "written_ms"),
        (_pool_total, "grade"),
        (_kind, "kind"),
        (_body, "shortage"),
    ],
)
def test_what_may_not_be_is_refused_by_name(change: Callable[[wire.LogEntry], None], names: str) -> None:
    with pytest.raises(Refused, match=names):
        decode(changed(change))


def test_a_quantity_beyond_the_wire_is_refused() -> None:
    with pytest.raises(InvalidValue, match="fit their wire fields"):
        encode_record(record(used_gpu_ms=2**63), 1)
