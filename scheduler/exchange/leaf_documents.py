"""Leaves as people and scripts read them: each field by its name on the wire, whatever the kind, so that a kind that is
new here is shown as well.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError, Message

from scheduler.core.errors import Refused
from scheduler.exchange.v1 import delivery_pb2

Document = dict[str, Any]


def document(seq: int, leaf: bytes) -> Document:
    """The leaf as JSON has it: `seq`, `written_ms`, `kind`, and the fields of its kind, bytes in hexadecimal. Raises
    Refused for bytes that are no leaf.
    """
    try:
        entry = delivery_pb2.LogEntry.FromString(leaf)
    except DecodeError as error:
        raise Refused(f"leaf {seq} of {len(leaf)} bytes is no LogEntry: {error}") from error
    kind = entry.WhichOneof("kind")
    if kind is None:
        return {"seq": seq, "written_ms": entry.written_ms, "kind": "unknown"}
    return {"seq": seq, "written_ms": entry.written_ms, "kind": kind, **_fields(getattr(entry, kind))}


def _fields(message: Message) -> Document:
    shown: Document = {}
    for spec, value in message.ListFields():
        if spec.is_repeated:
            shown[spec.name] = [_value(spec, each) for each in value]
        else:
            shown[spec.name] = _value(spec, value)
    return shown


def _value(spec: Any, value: Any) -> Any:
    if spec.message_type is not None:
        return _fields(value)
    if spec.enum_type is not None:
        known = spec.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value.hex() if isinstance(value, bytes) else value
