"""The leaves of the delivery log: meter records, certificates and pledges of devices as bytes, and back.

A leaf is one protobuf `LogEntry`. Its bytes as they were first made are what is hashed, sent, kept and proved: nobody
encodes a leaf a second time, so no two implementations need to agree on an encoding. Laws: `decode` of what an encoder
made gives the same value; what `decode` gives has only known enum values and causes, and no negative quantity;
everything else is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from sys import intern
from typing import Any

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from scheduler.core.causes import Cause
from scheduler.core.coverage.shortage import Certificate, certificate_of
from scheduler.core.devices import DevicePledge, DeviceWithdrawal
from scheduler.core.errors import Damaged, InvalidValue, Refused
from scheduler.core.ids import NAME_PATTERN
from scheduler.core.metering.records import (
    LONGEST_INSTRUMENT,
    LONGEST_SUITE,
    MeterRecord,
    PoolRecord,
    Quality,
    RecordStatus,
)
from scheduler.exchange import settling_leaves
from scheduler.exchange.consents import ConsentLeaf, consent_from_wire
from scheduler.exchange.outages import OutageLeaf, outage_of
from scheduler.exchange.probe_leaves import ProbeLeaf, probe_from_wire
from scheduler.exchange.settling_leaves import Settling
from scheduler.exchange.v1 import delivery_pb2 as wire
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import VerifierKey

MAX_INSTANT_MS = 7_258_118_400_000
"""2200-01-01T00:00:00Z: nothing is written later."""

_STATUS_NUMBERS = {
    RecordStatus.PROVISIONAL: wire.RECORD_STATUS_PROVISIONAL,
    RecordStatus.INITIAL: wire.RECORD_STATUS_INITIAL,
    RecordStatus.FINAL: wire.RECORD_STATUS_FINAL,
    RecordStatus.CORRECTED: wire.RECORD_STATUS_CORRECTED,
}
_QUALITY_NUMBERS = {
    Quality.MEASURED: wire.QUALITY_MEASURED,
    Quality.ESTIMATED: wire.QUALITY_ESTIMATED,
    Quality.SUBSTITUTED: wire.QUALITY_SUBSTITUTED,
    Quality.SUSPECT: wire.QUALITY_SUSPECT,
}
_STATUSES = {int(number): status for status, number in _STATUS_NUMBERS.items()}
_QUALITIES = {int(number): quality for quality, number in _QUALITY_NUMBERS.items()}
_CAUSES = {int(cause): cause for cause in Cause}
_KINDS = tuple(kind.name for kind in wire.LogEntry.DESCRIPTOR.oneofs_by_name["kind"].fields)
_SAME_NAME = tuple(
    name
    for name in MeterRecord.model_fields
    if name in wire.MeterRecord.DESCRIPTOR.fields_by_name and name not in ("losses", "status", "quality")
)
"""The fields that the core and the wire call the same and give the same values."""
_COUNTS = itemgetter(*(name for name, field in MeterRecord.model_fields.items() if field.annotation is int))


@dataclass(frozen=True, slots=True)
class RecordLeaf:
    """Where every contracted GPU-ms of a position went in an interval, as it was known at `written_ms`."""

    written_ms: int
    record: MeterRecord


@dataclass(frozen=True, slots=True)
class PoolLeaf:
    """What was sold of a pool in an interval, against what stood behind it."""

    written_ms: int
    pool: PoolRecord


@dataclass(frozen=True, slots=True)
class ShortageLeaf:
    """Who went short, by the published rule."""

    written_ms: int
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class PledgeLeaf:
    """A device that backs what is sold, from an instant on."""

    written_ms: int
    pledge: DevicePledge


@dataclass(frozen=True, slots=True)
class WithdrawalLeaf:
    """A device that backs nothing any more."""

    written_ms: int
    withdrawal: DeviceWithdrawal


@dataclass(frozen=True, slots=True)
class KeyChangeLeaf:
    """Another key signs the log from here on. Who signed the change is not looked at here (`KeyChange.verify`)."""

    written_ms: int
    change: KeyChange


@dataclass(frozen=True, slots=True)
class SettlingLeaf:
    """What settles records: a promotion, a dispute or its answer, a fact that was learnt late."""

    written_ms: int
    told: Settling


Leaf = (
    RecordLeaf
    | PoolLeaf
    | ShortageLeaf
    | PledgeLeaf
    | WithdrawalLeaf
    | ProbeLeaf
    | KeyChangeLeaf
    | OutageLeaf
    | SettlingLeaf
    | ConsentLeaf
)


def encode_record(record: MeterRecord, written_ms: int) -> bytes:
    """The leaf of a meter record. Raises InvalidValue for a quantity beyond int64."""
    entry = wire.LogEntry()
    sent, fields = entry.record, record.__dict__
    try:
        entry.written_ms = written_ms
        for name in _SAME_NAME:
            value = fields[name]
            if value:  # most quantities are 0, which is the wire's default
                setattr(sent, name, value)
        for cause, gpu_ms in record.losses:
            sent.losses.add(cause=cause, gpu_ms=gpu_ms)
        if record.measured_mean_ppm:
            sent.measured_ppm = record.measured_mean_ppm
        if record.measured_min_ppm:
            sent.least_ppm = record.measured_min_ppm
    except ValueError as error:
        raise _too_large(f"the record of {record.position} at {record.start_ms}", error) from error
    sent.status, sent.quality = _STATUS_NUMBERS[record.status], _QUALITY_NUMBERS[record.quality]
    return entry.SerializeToString()


def encode_pool(record: PoolRecord, written_ms: int) -> bytes:
    """The leaf of a pool's coverage certificate. Raises InvalidValue for a quantity beyond int64."""
    try:
        coverage = wire.CoverageCertificate(
            grade=record.grade,
            site=record.site,
            start_ms=record.start_ms,
            end_ms=record.end_ms,
            total_gpu_ms=record.total_gpu_ms,
            sold_gpu_ms=record.sold_gpu_ms,
            covered_gpu_ms=record.covered_gpu_ms,
            unsold_used_gpu_ms=record.unsold_used_gpu_ms,
            unsold_idle_gpu_ms=record.unsold_idle_gpu_ms,
            unsold_unhealthy_gpu_ms=record.unsold_unhealthy_gpu_ms,
            unknown_gpu_ms=record.unknown_gpu_ms,
            accredited_gpus=record.accredited_gpus,
            spare_gpus=record.spare_gpus,
            pledged_gpus=record.pledged_gpus,
            binds=record.binds,
            slowest_bind_ms=record.slowest_bind_ms,
            version=record.version if record.version > 1 else 0,  # the first has the bytes that it always had
        )
        return wire.LogEntry(written_ms=written_ms, coverage=coverage).SerializeToString()
    except ValueError as error:
        raise _too_large(f"the certificate of {record.pool} at {record.start_ms}", error) from error


def encode_shortage(certificate_json: str, written_ms: int) -> bytes:
    """The leaf of a shortage certificate, given as its canonical JSON."""
    shortage = wire.ShortageCertificate(body=certificate_json.encode())
    return wire.LogEntry(written_ms=written_ms, shortage=shortage).SerializeToString()


def encode_pledge(pledge: DevicePledge, written_ms: int) -> bytes:
    """The leaf of a device's pledge."""
    sent = wire.DevicePledge(
        device=bytes.fromhex(pledge.device),
        grade=pledge.grade,
        site=pledge.site,
        cell=pledge.cell,
        from_ms=pledge.from_ms,
    )
    return wire.LogEntry(written_ms=written_ms, pledge=sent).SerializeToString()


def encode_withdrawal(withdrawal: DeviceWithdrawal, written_ms: int) -> bytes:
    """The leaf of a device's withdrawal."""
    sent = wire.DeviceWithdrawal(device=bytes.fromhex(withdrawal.device), from_ms=withdrawal.from_ms)
    return wire.LogEntry(written_ms=written_ms, withdrawal=sent).SerializeToString()


def encode_key_change(change: KeyChange, written_ms: int) -> bytes:
    """The leaf of a change of the log's key."""
    sent = wire.KeyChange(
        old=change.old.encode(),
        new=change.new.encode(),
        until_ms=change.until_ms,
        old_signature=change.old_signature,
        new_signature=change.new_signature,
    )
    return wire.LogEntry(written_ms=written_ms, key_change=sent).SerializeToString()


def decode(leaf: bytes) -> Leaf:  # noqa: C901, PLR0911, PLR0912 - one line a kind of leaf
    """What a leaf says. Raises Refused for bytes that are no leaf, a kind or an enum value that is not known, and
    values outside what they may be.
    """
    try:
        entry = wire.LogEntry.FromString(leaf)
    except DecodeError as error:
        raise Refused(f"a leaf of {len(leaf)} bytes is no LogEntry: {error}") from error
    if not 0 <= entry.written_ms <= MAX_INSTANT_MS:
        raise InvalidValue("written_ms", "a leaf", entry.written_ms, f"0..{MAX_INSTANT_MS}")
    match entry.WhichOneof("kind"):
        case "record":
            return RecordLeaf(entry.written_ms, _record(entry.record))
        case "coverage":
            return PoolLeaf(entry.written_ms, _pool(entry.coverage))
        case "shortage":
            return ShortageLeaf(entry.written_ms, _certificate(entry.shortage.body))
        case "pledge":
            return PledgeLeaf(entry.written_ms, _pledge(entry.pledge))
        case "withdrawal":
            return WithdrawalLeaf(entry.written_ms, _withdrawal(entry.withdrawal))
        case "probe":
            return ProbeLeaf(entry.written_ms, probe_from_wire(entry.probe))
        case "key_change":
            return KeyChangeLeaf(entry.written_ms, _key_change(entry.key_change))
        case "promotion":
            return SettlingLeaf(entry.written_ms, settling_leaves.promotion_from_wire(entry.promotion))
        case "dispute":
            return SettlingLeaf(entry.written_ms, settling_leaves.dispute_from_wire(entry.dispute))
        case "dispute_answer":
            return SettlingLeaf(entry.written_ms, settling_leaves.answer_from_wire(entry.dispute_answer))
        case "late_fact":
            return SettlingLeaf(entry.written_ms, settling_leaves.late_fact_from_wire(entry.late_fact))
        case "consent":
            return ConsentLeaf(entry.written_ms, consent_from_wire(entry.consent))
        case kind if (outage := outage_of(entry, kind)) is not None:
            return outage
        case _:
            raise InvalidValue("kind", "a leaf", "not known", f"one of {', '.join(_KINDS)}")


def subject_of(leaf: bytes) -> tuple[str, str]:
    """The position that a leaf settles or is a record of, and the dispute that it tells of, and no more of it; empty
    where there is none, or nothing that can be read. An answer names its dispute alone.
    """
    try:
        entry = wire.LogEntry.FromString(leaf)
    except DecodeError:
        return "", ""
    match entry.WhichOneof("kind"):
        case "record":
            return entry.record.position, ""
        case "promotion":
            return entry.promotion.position, ""
        case "late_fact":
            return entry.late_fact.position, ""
        case "dispute":
            return entry.dispute.position, entry.dispute.id
        case "dispute_answer":
            return "", entry.dispute_answer.dispute
        case _:
            return "", ""


def kind_of(leaf: bytes) -> str:
    """The name of what a leaf holds, as on the wire: `record`, `coverage`, `key_change`. Raises Refused for no leaf."""
    try:
        return wire.LogEntry.FromString(leaf).WhichOneof("kind") or ""
    except DecodeError as error:
        raise Refused(f"a leaf of {len(leaf)} bytes is no LogEntry: {error}") from error


def _record(sent: wire.MeterRecord) -> MeterRecord:
    fields = {
        "position": intern(sent.position),  # there are few, and an auditor holds millions of records
        "instrument": intern(sent.instrument),
        "start_ms": sent.start_ms,
        "end_ms": sent.end_ms,
        "version": sent.version,
        "status": _STATUSES.get(sent.status),
        "supersedes": sent.supersedes or None,
        "contracted_gpu_ms": sent.contracted_gpu_ms,
        "used_gpu_ms": sent.used_gpu_ms,
        "available_unused_gpu_ms": sent.available_unused_gpu_ms,
        "released_gpu_ms": sent.released_gpu_ms,
        "derated_gpu_ms": sent.derated_gpu_ms,
        "out_forced_gpu_ms": sent.out_forced_gpu_ms,
        "out_planned_gpu_ms": sent.out_planned_gpu_ms,
        "out_buyer_gpu_ms": sent.out_buyer_gpu_ms,
        "out_excused_gpu_ms": sent.out_excused_gpu_ms,
        "recalled_gpu_ms": sent.recalled_gpu_ms,
        "unknown_gpu_ms": sent.unknown_gpu_ms,
        "losses": tuple([(_CAUSES.get(loss.cause), loss.gpu_ms) for loss in sent.losses]),
        "par_gpu_ms": sent.par_gpu_ms,
        "measured_mean_ppm": sent.measured_ppm,
        "measured_min_ppm": sent.least_ppm,
        "suite": intern(sent.suite),
        "quality": _QUALITIES.get(sent.quality),
        "estimated_gpu_ms": sent.estimated_gpu_ms,
    }
    return MeterRecord.unchecked(fields) if _is_valid(fields) else _validated(sent, fields)


def _is_valid(fields: dict[str, Any]) -> bool:
    """Whether the model would admit the fields. Records come by the million: this costs a third of asking it."""
    return (
        min(_COUNTS(fields)) >= 0
        and fields["version"] > 0
        and fields["end_ms"] > 0
        and fields["status"] is not None
        and fields["quality"] is not None
        and all(cause is not None for cause, _ in fields["losses"])
        and 0 < len(fields["instrument"]) <= LONGEST_INSTRUMENT
        and len(fields["suite"]) <= LONGEST_SUITE
        and _is_name(fields["position"])
    )


def _validated(sent: wire.MeterRecord, fields: dict[str, Any]) -> MeterRecord:
    """The record, or what is wrong with it, as the model says."""
    where = f"the record of {sent.position[:253]} at {sent.start_ms}"
    if fields["status"] is None:
        raise InvalidValue("status", where, sent.status, f"one of {sorted(_STATUSES)}")
    if fields["quality"] is None:
        raise InvalidValue("quality", where, sent.quality, f"one of {sorted(_QUALITIES)}")
    for loss in sent.losses:
        if loss.cause not in _CAUSES:
            raise InvalidValue("cause", where, loss.cause, "a cause of the published list")
    try:
        return MeterRecord.model_validate(fields)
    except ValidationError as error:
        raise _refused(where, error) from error


@lru_cache(maxsize=4_096)
def _is_name(text: str) -> bool:
    return bool(re.fullmatch(NAME_PATTERN, text))


def _pool(sent: wire.CoverageCertificate) -> PoolRecord:
    try:
        return PoolRecord(
            grade=sent.grade,
            site=sent.site,
            start_ms=sent.start_ms,
            end_ms=sent.end_ms,
            total_gpu_ms=sent.total_gpu_ms,
            sold_gpu_ms=sent.sold_gpu_ms,
            covered_gpu_ms=sent.covered_gpu_ms,
            unsold_used_gpu_ms=sent.unsold_used_gpu_ms,
            unsold_idle_gpu_ms=sent.unsold_idle_gpu_ms,
            unsold_unhealthy_gpu_ms=sent.unsold_unhealthy_gpu_ms,
            unknown_gpu_ms=sent.unknown_gpu_ms,
            accredited_gpus=sent.accredited_gpus if sent.HasField("accredited_gpus") else None,
            spare_gpus=sent.spare_gpus if sent.HasField("spare_gpus") else None,
            pledged_gpus=sent.pledged_gpus if sent.HasField("pledged_gpus") else None,
            binds=tuple(sent.binds),
            slowest_bind_ms=sent.slowest_bind_ms,
            version=sent.version or 1,
        )
    except ValidationError as error:
        raise _refused(f"the certificate of {sent.site[:253]}/{sent.grade[:253]} at {sent.start_ms}", error) from error


def _certificate(body: bytes) -> Certificate:
    try:
        return certificate_of(body)
    except Damaged as error:
        raise Refused(str(error)) from error


def _pledge(sent: wire.DevicePledge) -> DevicePledge:
    try:
        return DevicePledge(
            device=sent.device.hex(), grade=sent.grade, site=sent.site, cell=sent.cell, from_ms=sent.from_ms
        )
    except ValidationError as error:
        raise _refused(f"the pledge of device {sent.device.hex()[:16]}", error) from error


def _withdrawal(sent: wire.DeviceWithdrawal) -> DeviceWithdrawal:
    try:
        return DeviceWithdrawal(device=sent.device.hex(), from_ms=sent.from_ms)
    except ValidationError as error:
        raise _refused(f"the withdrawal of device {sent.device.hex()[:16]}", error) from error


def _key_change(sent: wire.KeyChange) -> KeyChange:
    if not 0 <= sent.until_ms <= MAX_INSTANT_MS:
        raise InvalidValue("until_ms", "a change of keys", sent.until_ms, f"0..{MAX_INSTANT_MS}")
    old, new = VerifierKey.parse(sent.old), VerifierKey.parse(sent.new)
    return KeyChange(old, new, sent.until_ms, sent.old_signature, sent.new_signature)


def _refused(where: str, error: ValidationError) -> Refused:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "value"
    return InvalidValue(field, where, first["input"], first["msg"].lower())


def _too_large(where: str, error: ValueError) -> InvalidValue:
    return InvalidValue("quantity", where, str(error), "integers that fit their wire fields")
