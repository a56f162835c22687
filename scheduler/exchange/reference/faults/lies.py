"""Answers with something else in them: what an exchange says that lies, contradicts itself, or signs wrongly.

Each function gives a changed copy; what it was given stays as it was.
"""

from __future__ import annotations

import json
from dataclasses import replace

from scheduler.core.models import canonical_bytes
from scheduler.exchange.v1 import delivery_pb2, positions_pb2
from scheduler.ledger.keys import Kind, VerifierKey
from scheduler.ledger.notes import parse_note

MANY = 1_000


def equivocal_event(told: positions_pb2.WatchResponse) -> positions_pb2.WatchResponse:
    """The same place in the stream with another content."""
    other = positions_pb2.WatchResponse.FromString(told.SerializeToString())
    other.event.lots += 1
    return other


def oversold_event(told: positions_pb2.WatchResponse) -> positions_pb2.WatchResponse:
    """More lots than were traded, and than there are."""
    other = positions_pb2.WatchResponse.FromString(told.SerializeToString())
    other.event.lots *= MANY
    return other


def equivocal_snapshot(told: positions_pb2.GetSnapshotResponse) -> positions_pb2.GetSnapshotResponse:
    """The same cursor, and the first position with another number of lots."""
    other = positions_pb2.GetSnapshotResponse.FromString(told.SerializeToString())
    for position in other.positions[:1]:
        position.lots[0].lots += 1
    return other


def missigned_ack(told: delivery_pb2.PublishResponse) -> delivery_pb2.PublishResponse:
    """A cosignature that is not the witness's; where there is none, as it was."""
    if not told.cosigned:
        return told
    other = delivery_pb2.PublishResponse.FromString(told.SerializeToString())
    other.cosigned = _missigned(told.cosigned, told.witness)
    return other


def missigned_checkpoint(told: delivery_pb2.GetCheckpointResponse) -> delivery_pb2.GetCheckpointResponse:
    """The same with a checkpoint's."""
    other = delivery_pb2.GetCheckpointResponse.FromString(told.SerializeToString())
    other.checkpoint = _missigned(told.checkpoint, told.witnesses[0])
    return other


def false_ack(told: delivery_pb2.PublishResponse) -> delivery_pb2.PublishResponse:
    """More leaves than ever came."""
    other = delivery_pb2.PublishResponse.FromString(told.SerializeToString())
    other.acknowledged += MANY
    return other


def kept_nothing(batch: delivery_pb2.Batch, before: delivery_pb2.PublishResponse) -> delivery_pb2.PublishResponse:
    """The acknowledgement of a batch that nobody took in."""
    return delivery_pb2.PublishResponse(
        acknowledged=max(before.acknowledged, batch.first_index + len(batch.leaves)), credits=before.credits
    )


def false_statement(told: delivery_pb2.GetStatementResponse) -> delivery_pb2.GetStatementResponse:
    """A millionth more than is owed."""
    statement = json.loads(told.statement)
    statement["amount_micro"] += 1
    return delivery_pb2.GetStatementResponse(statement=canonical_bytes(statement), checkpoint=told.checkpoint)


def false_checkpoint(told: delivery_pb2.GetCheckpointResponse) -> delivery_pb2.GetCheckpointResponse:
    """More leaves than the note that comes with it says."""
    other = delivery_pb2.GetCheckpointResponse.FromString(told.SerializeToString())
    other.size += MANY
    return other


def false_proof(told: delivery_pb2.GetProofResponse) -> delivery_pb2.GetProofResponse:
    """A proof that proves nothing."""
    hashes = list(told.hashes) or [bytes(32)]
    return delivery_pb2.GetProofResponse(hashes=[_flipped(hashes[0]), *hashes[1:]])


def _missigned(message: bytes, vkey: str) -> bytes:
    """The note with a wrong signature of that key."""
    key, note = VerifierKey.parse(vkey), parse_note(message)
    wrong = tuple(
        replace(each, signature=_flipped(each.signature))
        if (each.name, each.key_hash) == (key.name, key.key_hash) and key.kind is Kind.COSIGNATURE
        else each
        for each in note.signatures
    )
    return replace(note, signatures=wrong).encode()


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])
