"""The intake: what is acknowledged, what is rejected alone, what freezes a stream; and every proof checks out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.core.causes import Cause
from scheduler.core.errors import (
    Conflict,
    Equivocation,
    Fenced,
    InvalidValue,
    Refused,
    SequenceGap,
    Unauthorised,
)
from scheduler.core.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from scheduler.core.metering.records import RecordStatus
from scheduler.exchange.checks import Reason
from scheduler.exchange.consents import SubstituteConsent, encode_consent
from scheduler.exchange.leaves import encode_pool, encode_record, encode_shortage
from scheduler.exchange.reference.intake import Session
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, open_checkpoint, sign_checkpoint
from tests.exchange.world import (
    INTERVAL_MS,
    SIGNER,
    START_MS,
    STREAM,
    Embedded,
    delivered,
    embedded,
    metered,
    pooled,
    shortage,
    terms,
    trade_all,
    write_log,
)

VKEY = SIGNER.verifier.encode()


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal.open(":memory:") as opened:
        write_log(opened, delivered())
        yield opened


def opened(exchange: Embedded, epoch: int = 1) -> Session:
    return exchange.server.intake.open(STREAM, epoch, VKEY)[0]


def send(exchange: Embedded, session: Session, journal: Journal, first: int, end: int) -> tuple[int, list[Reason]]:
    """Sends the leaves `[first, end)` under a checkpoint of exactly that size, and gives what was acknowledged."""
    leaves = [leaf for _, leaf in journal.leaves(STREAM, first, end - first)]
    note = sign_checkpoint(Checkpoint(SIGNER.name, end, journal.root(STREAM, end)), SIGNER)
    receipt = exchange.server.intake.take(session, first, leaves, note, ())
    return receipt.acknowledged, [rejected.reason for _, rejected in receipt.rejections]


def alone(exchange: Embedded, session: Session, *leaves: bytes, key: SignerKey = SIGNER) -> list[tuple[int, Reason]]:
    """Sends a log of exactly these leaves, and gives what was rejected."""
    note = sign_checkpoint(Checkpoint(key.name, len(leaves), root([leaf_hash(leaf) for leaf in leaves])), key)
    receipt = exchange.server.intake.take(session, 0, leaves, note, ())
    return [(index, rejected.reason) for index, rejected in receipt.rejections]


def test_batches_are_acknowledged_and_nothing_is_rejected(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    assert send(exchange, session, journal, 0, 10) == (10, [])
    assert send(exchange, session, journal, 10, 50) == (50, [])
    assert exchange.server.intake.root(STREAM) == journal.root(STREAM)
    assert exchange.server.intake.rejections(STREAM) == ()


def test_what_is_there_already_is_acknowledged_again(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    send(exchange, session, journal, 0, 30)
    assert send(exchange, session, journal, 0, 30) == (30, [])
    assert send(exchange, session, journal, 20, 40) == (40, [])
    assert exchange.server.intake.root(STREAM) == journal.root(STREAM, 40)


def test_a_gap_says_what_is_expected(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    send(exchange, session, journal, 0, 10)
    with pytest.raises(SequenceGap) as gap:
        send(exchange, session, journal, 12, 20)
    assert (gap.value.expected, gap.value.got) == (10, 12)
    assert send(exchange, session, journal, 10, 20) == (20, [])


def test_one_checkpoint_may_cover_many_batches(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    kept = journal.checkpoint(STREAM)
    assert kept is not None
    for first, end in itertools.pairwise([0, 7, 8, 30, kept[0]]):
        leaves = [leaf for _, leaf in journal.leaves(STREAM, first, end - first)]
        proof = journal.consistency_proof(STREAM, end, kept[0])
        assert exchange.server.intake.take(session, first, leaves, kept[1], proof).acknowledged == end
    size, note = exchange.client.checkpoint(STREAM)
    assert size == kept[0]
    assert note.startswith(kept[1])  # and the exchange's cosignature after it


def test_other_content_at_a_known_index_freezes_the_stream(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    send(exchange, session, journal, 0, 10)
    changed = [leaf for _, leaf in journal.leaves(STREAM, 0, 10)]
    changed[3] = encode_record(metered("pos-1", 3, 0, suite="mine"), 5)
    with pytest.raises(Equivocation, match="leaf 3"):
        alone(exchange, session, *changed)
    with pytest.raises(Fenced):
        send(exchange, session, journal, 10, 20)
    with pytest.raises(Equivocation, match="frozen"):
        opened(exchange, epoch=2)
    assert exchange.client.checkpoint(STREAM)[0] == 10


def test_two_checkpoints_of_one_size_freeze_the_stream(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    send(exchange, session, journal, 0, 10)
    leaves = [leaf for _, leaf in journal.leaves(STREAM, 0, 10)]
    note = sign_checkpoint(Checkpoint(SIGNER.name, 10, bytes(32)), SIGNER)
    with pytest.raises(Equivocation, match="different roots"):
        exchange.server.intake.take(session, 0, leaves, note, ())
    with pytest.raises(Equivocation, match="frozen"):
        opened(exchange)


def test_a_checkpoint_that_was_taken_back_freezes_the_stream(exchange: Embedded, journal: Journal) -> None:
    """A longer checkpoint was shown; the leaves that then came are others."""
    session = opened(exchange)
    first = [leaf for _, leaf in journal.leaves(STREAM, 0, 4)]
    other = [*first, encode_pool(pooled(6, 11), 3)]
    hashes = [leaf_hash(leaf) for leaf in other]
    shown = sign_checkpoint(Checkpoint(SIGNER.name, 5, root(hashes)), SIGNER)
    with Journal.open(":memory:") as split:
        split.commit((), leaves=other, stream=STREAM)
        proof = split.consistency_proof(STREAM, 4, 5)
    assert exchange.server.intake.take(session, 0, first, shown, proof).acknowledged == 4
    with pytest.raises(Equivocation, match="5 leaves"):
        send(exchange, session, journal, 4, 10)
    with pytest.raises(Equivocation, match="frozen"):
        opened(exchange)


@pytest.mark.parametrize("size", [9, 11])
def test_a_checkpoint_that_is_not_over_the_leaves_is_refused(exchange: Embedded, journal: Journal, size: int) -> None:
    session = opened(exchange)
    leaves = [leaf for _, leaf in journal.leaves(STREAM, 0, 10)]
    note = sign_checkpoint(Checkpoint(SIGNER.name, size, bytes(32)), SIGNER)
    with pytest.raises(InvalidValue):
        exchange.server.intake.take(session, 0, leaves, note, ())
    assert send(exchange, session, journal, 0, 10) == (10, [])


def test_a_checkpoint_never_gets_smaller(exchange: Embedded, journal: Journal) -> None:
    session = opened(exchange)
    send(exchange, session, journal, 0, 10)
    with pytest.raises(Conflict, match="expected 10 or more"):
        send(exchange, session, journal, 0, 8)


def test_only_the_streams_key_signs_and_opens(exchange: Embedded) -> None:
    session = opened(exchange)
    stranger = SignerKey(SIGNER.name, bytes(32))
    with pytest.raises(Unauthorised):
        alone(exchange, session, encode_pool(pooled(6, 0), 1), key=stranger)
    with pytest.raises(Unauthorised, match="expected"):
        exchange.server.intake.open(STREAM, 1, stranger.verifier.encode())


def test_the_higher_epoch_wins_and_the_later_of_equals(exchange: Embedded, journal: Journal) -> None:
    first = opened(exchange, epoch=3)
    with pytest.raises(Fenced, match="expected 3"):
        opened(exchange, epoch=2)
    second = opened(exchange, epoch=4)
    with pytest.raises(Fenced):
        send(exchange, first, journal, 0, 10)
    third = opened(exchange, epoch=4)
    with pytest.raises(Fenced):
        send(exchange, second, journal, 0, 10)
    assert send(exchange, third, journal, 0, 10) == (10, [])


def test_bad_leaves_are_rejected_alone_and_kept(exchange: Embedded) -> None:
    exchange.client.list_instrument(terms("OTHER"))
    bad = {
        Reason.MALFORMED: b"\xff\xff\xff",
        Reason.BROKEN_IDENTITY: encode_record(metered("pos-1", 3, 0, used_gpu_ms=1), 1),
        Reason.UNKNOWN_POSITION: encode_record(metered("pos-9", 3, 0), 1),
        Reason.WRONG_INSTRUMENT: encode_record(metered("pos-2", 2, 1, instrument="OTHER@1"), 1),
        Reason.WRONG_INTERVAL: encode_record(metered("pos-2", 2, 2, end_ms=START_MS + 4 * INTERVAL_MS), 1),
        Reason.WRONG_VERSION: encode_record(
            metered("pos-2", 2, 3, version=2, supersedes=1, status=RecordStatus.CORRECTED), 1
        ),
        Reason.NOT_CONSENTED: encode_consent(SubstituteConsent("pos-1", "H100.BASE@1", ("A100SXM",), START_MS), 1),
        Reason.WRONG_CERTIFICATE: encode_shortage(shortage().replace('"awarded":1', '"awarded":0'), 1),
    }
    good = encode_record(metered("pos-3", 1, 0), 1)
    rejected = alone(exchange, opened(exchange), *bad.values(), good)
    assert rejected == list(enumerate(bad))
    assert exchange.client.checkpoint(STREAM)[0] == len(bad) + 1
    assert [reason for _, reason, _ in exchange.server.intake.rejections(STREAM)] == [it.value for it in bad]
    assert b"pos-3" in exchange.client.statement("pos-3")[0]


def test_a_rejected_record_is_corrected_by_the_next_version(exchange: Embedded) -> None:
    leaves = [
        encode_record(metered("pos-3", 1, 0, used_gpu_ms=1), 1),
        encode_record(metered("pos-3", 1, 0, version=2, supersedes=1, status=RecordStatus.CORRECTED), 2),
        encode_record(metered("pos-3", 1, 0, version=2, supersedes=1, status=RecordStatus.CORRECTED), 3),
    ]
    rejected = alone(exchange, opened(exchange), *leaves)
    assert rejected == [(0, Reason.BROKEN_IDENTITY), (2, Reason.WRONG_VERSION)]
    assert b'"records":1' in exchange.client.statement("pos-3")[0]


def test_a_record_of_a_position_that_another_stream_delivers_is_rejected(exchange: Embedded, journal: Journal) -> None:
    send(exchange, opened(exchange), journal, 0, 10)
    other, _ = exchange.server.intake.open("cluster-2", 1, VKEY)
    leaf = encode_record(
        metered("pos-1", 3, 0, version=2, supersedes=1, status=RecordStatus.CORRECTED, losses=((Cause.ECC, 3_000),)), 1
    )
    assert alone(exchange, other, leaf) == [(0, Reason.OTHER_STREAM)]


@pytest.mark.parametrize("leaves", [[], [b"x"] * 5_001, [b"x" * 65_536]])
def test_batches_that_cannot_be_are_refused(exchange: Embedded, leaves: list[bytes]) -> None:
    with pytest.raises(InvalidValue):
        alone(exchange, opened(exchange), *leaves)


@pytest.mark.parametrize(("stream", "epoch", "vkey"), [("", 1, VKEY), ("s", 0, VKEY), ("s", 1, "nonsense")])
def test_an_opening_that_cannot_be_is_refused(exchange: Embedded, stream: str, epoch: int, vkey: str) -> None:
    with pytest.raises(Refused):
        exchange.server.intake.open(stream, epoch, vkey)


def test_every_proof_of_the_evidence_checks_out(exchange: Embedded, journal: Journal) -> None:
    send(exchange, opened(exchange), journal, 0, 50)
    client, size = exchange.client, 50
    held, note = client.checkpoint(STREAM)
    checkpoint = open_checkpoint(note, (SIGNER.verifier,), origin=SIGNER.name)
    assert (held, checkpoint.size) == (size, size)
    for index, leaf in journal.leaves(STREAM, 0, size):
        proof = client.inclusion_proof(STREAM, index, size)
        assert verify_inclusion(leaf_hash(leaf), index, size, proof, checkpoint.root)
    for first in range(1, size, 7):
        proof = client.consistency_proof(STREAM, first, size)
        assert verify_consistency(first, size, journal.root(STREAM, first), checkpoint.root, proof)
    with pytest.raises(InvalidValue):
        client.inclusion_proof(STREAM, 50, 50)


def test_a_restart_keeps_leaves_epochs_and_frozen_streams(tmp_path: Path, journal: Journal) -> None:
    with embedded(tmp_path / "exchange.db") as running:
        trade_all(running.client)
        send(running, opened(running, epoch=5), journal, 0, 30)
    with embedded(tmp_path / "exchange.db") as running:
        with pytest.raises(Fenced):
            opened(running, epoch=4)
        session = opened(running, epoch=5)
        assert send(running, session, journal, 30, 50) == (50, [])
        with pytest.raises(Equivocation):
            alone(running, session, b"other")
    with embedded(tmp_path / "exchange.db") as running, pytest.raises(Equivocation, match="frozen"):
        opened(running, epoch=6)
