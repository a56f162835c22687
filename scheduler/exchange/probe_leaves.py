"""Device probes on the wire, and as leaves of a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from scheduler.core.device_probes import Declined, DeviceProbe, Outcome, ProbeCall, ProbedRow
from scheduler.core.errors import InvalidValue
from scheduler.exchange.v1 import delivery_pb2 as wire
from scheduler.exchange.v1 import probes_pb2

_OUTCOMES = {
    Outcome.PASSED: wire.PROBE_OUTCOME_PASSED,
    Outcome.WRONG: wire.PROBE_OUTCOME_WRONG,
    Outcome.LATE: wire.PROBE_OUTCOME_LATE,
    Outcome.DECLINED: wire.PROBE_OUTCOME_DECLINED,
    Outcome.SILENT: wire.PROBE_OUTCOME_SILENT,
}
_DECLINES = {
    Declined.BUSY: probes_pb2.PROBE_DECLINE_BUSY,
    Declined.GAVE_WAY: probes_pb2.PROBE_DECLINE_GAVE_WAY,
    Declined.NOT_HERE: probes_pb2.PROBE_DECLINE_NOT_HERE,
    Declined.FAILED: probes_pb2.PROBE_DECLINE_FAILED,
}
_OUTCOME_OF = {int(number): outcome for outcome, number in _OUTCOMES.items()}
_DECLINE_OF = {int(number): why for why, number in _DECLINES.items()}
_PLAIN = ("id", "suite", "size", "products", "called_ms", "limit_ms")
_HASHED = ("device", "commitment")
_LATER_PLAIN = ("revealed_ms", "answered_ms", "reason", "exchange")
_LATER_HASHED = ("nonce", "root", "signature")


@dataclass(frozen=True, slots=True)
class ProbeLeaf:
    """What the exchange found when it had a device compute."""

    written_ms: int
    probe: DeviceProbe


def encode_probe(probe: DeviceProbe, written_ms: int) -> bytes:
    """The leaf of a finding."""
    return wire.LogEntry(written_ms=written_ms, probe=probe_to_wire(probe)).SerializeToString()


def probe_to_wire(probe: DeviceProbe) -> wire.DeviceProbe:
    """The finding as it is sent."""
    fields: dict[str, Any] = {name: getattr(probe, name) for name in (*_PLAIN, *_LATER_PLAIN)}
    fields |= {name: bytes.fromhex(getattr(probe, name)) for name in (*_HASHED, *_LATER_HASHED)}
    return wire.DeviceProbe(**fields, rows=map(row_to_wire, probe.rows), outcome=_OUTCOMES[probe.outcome])


def probe_from_wire(sent: wire.DeviceProbe) -> DeviceProbe:
    """The finding that was sent. Raises InvalidValue."""
    if sent.outcome not in _OUTCOME_OF:
        raise InvalidValue("outcome", f"probe {sent.id[:100]}", sent.outcome, f"one of {sorted(_OUTCOME_OF)}")
    fields: dict[str, Any] = {name: getattr(sent, name) for name in (*_PLAIN, *_LATER_PLAIN)}
    fields |= {name: getattr(sent, name).hex() for name in (*_HASHED, *_LATER_HASHED)}
    fields |= {"rows": tuple(row_from_wire(row) for row in sent.rows), "outcome": _OUTCOME_OF[sent.outcome]}
    try:
        return DeviceProbe(**fields)
    except ValidationError as error:
        raise _refused(f"probe {sent.id[:100]}", error) from error


def call_to_wire(call: ProbeCall) -> probes_pb2.ProbeCall:
    """The call as it is sent."""
    fields: dict[str, Any] = {name: getattr(call, name) for name in _PLAIN}
    fields |= {name: bytes.fromhex(getattr(call, name)) for name in _HASHED}
    return probes_pb2.ProbeCall(**fields)


def call_from_wire(sent: probes_pb2.ProbeCall) -> ProbeCall:
    """The call that was sent. Raises InvalidValue."""
    fields: dict[str, Any] = {name: getattr(sent, name) for name in _PLAIN}
    fields |= {name: getattr(sent, name).hex() for name in _HASHED}
    try:
        return ProbeCall(**fields)
    except ValidationError as error:
        raise _refused(f"the call of probe {sent.id[:100]}", error) from error


def row_to_wire(row: ProbedRow) -> wire.ProbedRow:
    """A row as it is sent."""
    return wire.ProbedRow(row=row.row, values=bytes.fromhex(row.values), proof=[bytes.fromhex(p) for p in row.proof])


def row_from_wire(sent: wire.ProbedRow) -> ProbedRow:
    """The row that was sent. Raises InvalidValue."""
    try:
        return ProbedRow(row=sent.row, values=sent.values.hex(), proof=tuple(each.hex() for each in sent.proof))
    except ValidationError as error:
        raise _refused(f"row {sent.row} of an answer", error) from error


def decline_to_wire(why: Declined) -> probes_pb2.ProbeDecline.ValueType:
    """The reason as it is sent."""
    return _DECLINES[why]


def decline_from_wire(sent: int) -> Declined:
    """The reason that was sent. Raises InvalidValue."""
    if sent not in _DECLINE_OF:
        raise InvalidValue("why", "a decline of a probe", sent, f"one of {sorted(_DECLINE_OF)}")
    return _DECLINE_OF[sent]


def _refused(where: str, error: ValidationError) -> InvalidValue:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "value"
    return InvalidValue(name, where, str(first.get("input"))[:100], first["msg"])
