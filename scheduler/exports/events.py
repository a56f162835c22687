"""The leaves of a log as CloudEvents 1.0 (https://github.com/cloudevents/spec), structured or batched JSON.

One leaf is one event: `source` is the log, `id` the leaf's index, so that source and id name it once and for ever, as
the specification asks. `sequence` is the extension of that name, its digits padded so that text sorts as numbers do;
`leafhash` is the leaf's hash in the log's tree, with which an exchange's inclusion proof is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, BinaryIO

from scheduler.core.causes import Cause
from scheduler.core.coverage.shortage import Certificate
from scheduler.core.devices import DevicePledge, DeviceWithdrawal
from scheduler.core.merkle import leaf_hash
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.models import Model
from scheduler.exchange.leaves import decode, kind_of
from scheduler.exports.forms import EventForm
from scheduler.exports.tables import instant, line
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import VerifierKey

TYPE_PREFIX = "dev.tenor.delivery"
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
_SEQUENCE_DIGITS = 20
_WRITTEN_AT_ONCE = 1_000

Event = Mapping[str, Any]


def events(origin: str, leaves: Iterable[tuple[int, bytes]]) -> Iterator[Event]:
    """The event of each leaf, in order. Raises Refused for what is no leaf."""
    for index, leaf in leaves:
        yield event(origin, index, leaf)


def event(origin: str, index: int, leaf: bytes) -> Event:
    """The event of one leaf. Raises Refused for what is no leaf."""
    decoded = decode(leaf)
    content = {each.name: getattr(decoded, each.name) for each in fields(decoded) if each.name != "written_ms"}
    subject = _subject(content.values())
    return {
        "specversion": "1.0",
        "id": str(index),
        "source": f"//{origin}",
        "type": f"{TYPE_PREFIX}.{kind_of(leaf)}.v1",
        **({"subject": subject} if subject else {}),
        "time": instant(decoded.written_ms),
        "datacontenttype": "application/json",
        "sequence": f"{index:0{_SEQUENCE_DIGITS}d}",
        "leafhash": leaf_hash(leaf).hex(),
        "data": _plain(next(iter(content.values())) if len(content) == 1 else content),
    }


def write_events(form: EventForm, found: Iterable[Event], file: BinaryIO) -> int:
    """Writes them, and gives how many there were."""
    remaining, count = iter(found), 0
    before, between, after = (b"[", b",\n", b"]\n") if form is EventForm.BATCH else (b"", b"\n", b"\n")
    file.write(before)
    while chunk := list(islice(remaining, _WRITTEN_AT_ONCE)):
        file.write((between if count else b"") + between.join(encoded(each) for each in chunk))
        count += len(chunk)
    file.write(after if count or form is EventForm.BATCH else b"")
    return count


def encoded(one: Event) -> bytes:
    """An event as its JSON bytes."""
    return line(one).encode()


def batch(several: Sequence[Event]) -> bytes:
    """Events as one batch."""
    return b"[" + b",".join(map(encoded, several)) + b"]"


def _subject(contents: Iterable[object]) -> str:
    """What the event is about: the position, the pool, the device or the new key."""
    for content in contents:
        match content:
            case MeterRecord():
                return content.position
            case PoolRecord() | Certificate():
                return content.pool
            case DevicePledge() | DeviceWithdrawal():
                return content.device
            case KeyChange():
                return content.new.encode()
            case _:
                position = getattr(content, "position", "")
                return position if isinstance(position, str) else ""
    return ""


def _plain(content: object) -> Any:
    """A leaf's content as what JSON has; losses with their cause's name and who bears it."""
    match content:
        case MeterRecord():
            losses = [
                {"cause": int(cause), "name": cause.name, "bearer": str(cause.bearer), "gpu_ms": gpu_ms}
                for cause, gpu_ms in content.losses
            ]
            return content.model_dump(mode="json") | {"losses": losses}
        case Model():
            return content.model_dump(mode="json")
        case VerifierKey():
            return content.encode()
        case bytes():
            return content.hex()
        case Cause():
            return int(content)
        case dict():
            return {str(name): _plain(value) for name, value in content.items()}
        case tuple() | list():
            return [_plain(each) for each in content]
        case _ if is_dataclass(content):
            return {each.name: _plain(getattr(content, each.name)) for each in fields(content)}
        case _:
            return content
