"""Leaves: what is encoded comes back, the bytes never change, and what is no leaf is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.core.devices import DevicePledge, DeviceWithdrawal, device_hash
from scheduler.core.errors import InvalidValue, Refused
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.exchange.leaves import (
    PledgeLeaf,
    PoolLeaf,
    RecordLeaf,
    ShortageLeaf,
    WithdrawalLeaf,
    decode,
    encode_pledge,
    encode_pool,
    encode_record,
    encode_shortage,
    encode_withdrawal,
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


PLEDGE = DevicePledge(
    device=device_hash("GPU-1"), grade="H100SXM", site="local", cell="local/block-0/domain-0/node-1/3", from_ms=77
)


def test_a_pledge_and_a_withdrawal_come_back_as_they_were() -> None:
    assert decode(encode_pledge(PLEDGE, 7)) == PledgeLeaf(7, PLEDGE)
    withdrawal = DeviceWithdrawal(device=PLEDGE.device, from_ms=88)
    assert decode(encode_withdrawal(withdrawal, 9)) == WithdrawalLeaf(9, withdrawal)


def test_the_bytes_of_a_pledge_never_change() -> None:
    assert encode_pledge(PLEDGE, 1_234).hex() == (
        "08d2092a550a20c9d3d85017f64cc5dbb5dc7335600d67654908b06a73ef1c2254f59d2688383e12074831303053584d"
        "1a056c6f63616c221f6c6f63616c2f626c6f636b2d302f646f6d61696e2d302f6e6f64652d312f33284d"
    )


@pytest.mark.parametrize("device", [b"", bytes(31), bytes(33)])
def test_a_device_that_is_no_hash_is_refused(device: bytes) -> None:
    for entry in (
        wire.LogEntry(pledge=wire.DevicePledge(device=device, grade="G", site="s", cell="c")),
        wire.LogEntry(withdrawal=wire.DeviceWithdrawal(device=device)),
    ):
        with pytest.raises(Refused, match="device"):
            decode(entry.SerializeToString())


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
