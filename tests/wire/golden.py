"""The golden messages: bytes that were on the wire once, and must be read and written the same for ever.

`golden/PACKAGE.json` has one of each kind of message, every field filled; `golden/made.json` what production code makes
of fixed values. `python -m tests.wire.golden` (`make protos-release` runs it) adds what is missing and changes nothing
that is there: a golden message that no longer fits is a broken promise, not an old file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from scheduler.api.v1 import api_pb2
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.device_probes import DeviceProbe, Outcome, ProbedRow
from scheduler.core.devices import DevicePledge, DeviceWithdrawal
from scheduler.core.instruments import standard_terms
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import RecordStatus
from scheduler.core.metering.versions import LateFact, Promotion
from scheduler.core.positions import Cursor, Position, PositionEvent, PositionEventKind
from scheduler.exchange import consents, convert, leaves, outages, probe_leaves, settling_leaves
from scheduler.exchange.v1 import (
    delivery_pb2,
    disputes_pb2,
    faults_pb2,
    feed_pb2,
    instruments_pb2,
    positions_pb2,
    probes_pb2,
)
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, cosign, sign_checkpoint
from tests.exchange.samples import pool, record
from tests.exchange.world import shortage
from tests.sources import ROOT

GOLDEN = Path(__file__).parent / "golden"
MADE = "made"
RELEASED = ROOT / "protos" / "released.binpb"
FILES = (
    *(instruments_pb2, positions_pb2, delivery_pb2, disputes_pb2, feed_pb2, faults_pb2, probes_pb2),
    api_pb2,
)
"""Imported, so that their messages are known by name."""
NOW_MS = 1_800_000_000_000
INSTRUMENT = "H100.GOLDEN@1"
KEY, NEXT_KEY = SignerKey("tenor.test/golden", bytes(range(32))), SignerKey("tenor.test/golden", bytes(range(32, 64)))
WITNESS = SignerKey("tenor.test/witness", bytes(range(64, 96)))


def released() -> tuple[str, ...]:
    """The full names of all messages of the released wire."""
    files = descriptor_pb2.FileDescriptorSet.FromString(RELEASED.read_bytes()).file
    return tuple(sorted(f"{file.package}.{each.name}" for file in files for each in file.message_type))


def kind_of(name: str) -> type[Message]:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))


def filled(kind: type[Message]) -> Message:
    """A message with something in every field; of a oneof the last member stays."""
    message = kind()
    for spec in _fields(kind.DESCRIPTOR):
        if spec.message_type is not None and spec.message_type.GetOptions().map_entry:
            getattr(message, spec.name).update({f"{spec.name}-key": f"{spec.name}-value"})
        elif spec.message_type is not None:
            inner = filled(message_factory.GetMessageClass(spec.message_type))
            target = getattr(message, spec.name)
            (target.add() if spec.is_repeated else target).CopyFrom(inner)
        elif spec.is_repeated:
            getattr(message, spec.name).extend([_value(spec, 0), _value(spec, 1)])
        else:
            setattr(message, spec.name, _value(spec, 0))
    return message


def settling() -> dict[str, bytes]:
    """Leaves of what settles records, and of lots that are withheld, by what they are."""
    withheld = outages.WithheldLots("pos-7", INSTRUMENT, 2, NOW_MS + 1, NOW_MS + 2)
    dispute = Dispute(
        id="dispute-3",
        position="pos-7",
        start_ms=NOW_MS,
        end_ms=NOW_MS + 300_000,
        version=1,
        leaf=9,
        losses=((Cause.NODE_LOST, 300_000),),
        evidence="cd" * 32,
        opened_ms=NOW_MS + 1,
        answer_by_ms=NOW_MS + 2,
    )
    return {
        "leaf of a recall": outages.encode_withheld(withheld, NOW_MS, recalled=True),
        "leaf of a release": outages.encode_withheld(withheld, NOW_MS, recalled=False),
        "leaf of a consent": consents.encode_consent(
            consents.SubstituteConsent("pos-7", INSTRUMENT, ("A100SXM", "H200SXM"), NOW_MS + 1), NOW_MS
        ),
        "leaf of a promotion": settling_leaves.encode_settling(
            Promotion(position="pos-7", start_ms=NOW_MS, end_ms=NOW_MS + 300_000, status=RecordStatus.FINAL), NOW_MS
        ),
        "leaf of a late fact": settling_leaves.encode_settling(
            LateFact(position="pos-7", from_ms=NOW_MS, fact="ab" * 32), NOW_MS
        ),
        "leaf of a dispute": settling_leaves.encode_settling(dispute, NOW_MS),
        "leaf of an answer to a dispute": settling_leaves.encode_settling(
            Answer(dispute="dispute-3", state=DisputeState.ACCEPTED, reason="it was so", version=2), NOW_MS
        ),
    }


def probe(device: str) -> DeviceProbe:
    """A device that passed."""
    row = ProbedRow(row=3, values="0102ffff", proof=("ab" * 32, "cd" * 32))
    return DeviceProbe(
        id="probe-3",
        device=device,
        suite="nonce-matmul-v1",
        size=1_024,
        products=4_096,
        commitment="ef" * 32,
        called_ms=NOW_MS,
        limit_ms=3_725,
        nonce="01" * 32,
        revealed_ms=NOW_MS + 1,
        root="02" * 32,
        answered_ms=NOW_MS + 2,
        rows=(row,),
        outcome=Outcome.PASSED,
        exchange=WITNESS.witness.encode(),
        signature="03" * 64,
    )


def made() -> dict[str, bytes]:
    """What production code puts on the wire for fixed values, by what it is."""
    change = KeyChange.signed(KEY, NEXT_KEY, NOW_MS)
    device = bytes(range(32)).hex()
    node = outages.DeclaredNode("H100SXM", "local", "local/b/d/node-1", 8)
    terms = standard_terms(
        symbol="H100.GOLDEN",
        start_ms=NOW_MS,
        end_ms=NOW_MS + 86_400_000,
        cell=Level.NODE,
        gpus=8,
        metering_interval_s=300,
        price_micro_per_gpu_hour=2_500_000,
    )
    event = PositionEvent(
        cursor=Cursor(stream="exchange", epoch=3, seq=41),
        kind=PositionEventKind.TRANSFER,
        position="pos-8",
        source="pos-7",
        account="borealis",
        instrument=terms.id,
        lots=2,
        effective_ms=NOW_MS + 1,
        committed_ms=NOW_MS,
    )
    position = Position(
        id="pos-7",
        account="acme",
        instrument=terms.id,
        acquired_ms=NOW_MS,
        lots=((NOW_MS, 5), (NOW_MS + 1, 3)),
    )
    note = sign_checkpoint(Checkpoint(KEY.name, 41, bytes(range(32))), KEY)
    return {
        "leaf of a record": leaves.encode_record(record(7), NOW_MS),
        "leaf of a coverage certificate": leaves.encode_pool(pool(7), NOW_MS),
        "leaf of a shortage certificate": leaves.encode_shortage(shortage(), NOW_MS),
        "leaf of a pledge": leaves.encode_pledge(
            DevicePledge(device=device, grade="H100SXM", site="local", cell="local/b/d/node-1/gpu-0", from_ms=NOW_MS),
            NOW_MS,
        ),
        "leaf of a withdrawal": leaves.encode_withdrawal(DeviceWithdrawal(device=device, from_ms=NOW_MS + 1), NOW_MS),
        "leaf of a key change": leaves.encode_key_change(change, NOW_MS),
        "leaf of a maintenance notice": outages.encode_maintenance(
            outages.MaintenanceNotice((node,), NOW_MS + 1, NOW_MS + 2), NOW_MS
        ),
        "leaf of a force majeure": outages.encode_force_majeure(
            outages.ForceMajeure((node,), NOW_MS + 1, NOW_MS + 2, bytes(range(32))), NOW_MS
        ),
        "leaf of a device probe": probe_leaves.encode_probe(probe(device), NOW_MS),
        **settling(),
        "instrument": convert.instrument_to_wire(terms, 12).SerializeToString(),
        "cursor": convert.cursor_to_wire(event.cursor).SerializeToString(),
        "position event": convert.event_to_wire(event).SerializeToString(),
        "position": convert.position_to_wire(position).SerializeToString(),
        "checkpoint": note,
        "cosigned checkpoint": cosign(note, WITNESS, NOW_MS // 1_000),
    }


def read(name: str) -> dict[str, Any]:
    """One file of golden messages; empty where there is none yet."""
    path = GOLDEN / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def packages() -> tuple[str, ...]:
    """The files of filled messages, by their package."""
    return tuple(sorted({name.rpartition(".")[0] for name in released()}))


def encoded(message: Message) -> bytes:
    """Its bytes, with the entries of maps in order."""
    return message.SerializeToString(deterministic=True)


def main() -> int:
    """Adds what is missing."""
    for package in packages():
        known = read(package)
        for name in released():
            if name.rpartition(".")[0] == package and name.rpartition(".")[2] not in known:
                message = filled(kind_of(name))
                text = text_format.MessageToString(message).splitlines()
                known[name.rpartition(".")[2]] = {"hex": encoded(message).hex(), "text": text}
        _write(package, known)
    known = read(MADE)
    _write(MADE, {name: known.get(name, content.hex()) for name, content in made().items()} | known)
    return 0


def _write(name: str, content: dict[str, Any]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    shown = json.dumps(dict(sorted(content.items())), indent=1, ensure_ascii=False)
    (GOLDEN / f"{name}.json").write_text(shown + "\n", encoding="utf-8")


def _fields(descriptor: Any) -> Iterator[FieldDescriptor]:
    yield from descriptor.fields


def _value(spec: FieldDescriptor, index: int) -> Any:
    """Something for a field that only it would have."""
    if spec.enum_type is not None:
        known = sorted(spec.enum_type.values_by_number)
        return known[-1 - index % len(known)]
    match spec.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if spec.type == FieldDescriptor.TYPE_BYTES:
            return f"{spec.name}:{index}\0".encode()
        case FieldDescriptor.CPPTYPE_STRING:
            return f"{spec.name}-{index} é"
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_UINT32:
            return 2**31 - spec.number - index
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            return 2**63 - spec.number - index
        case _:
            raise ValueError(f"no sample for {spec.full_name}")


if __name__ == "__main__":
    sys.exit(main())
