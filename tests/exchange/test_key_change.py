"""The log's key changes: with an overlap, announced by the log itself, through every loss; and never by a stranger."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.core.errors import Refused, Unauthorised
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.leaves import KeyChangeLeaf, decode, encode_key_change
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import KeyChange, Keyring, LogSigner, Tenure
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, open_checkpoint, sign_checkpoint
from tests.exchange.test_trust import WAIT_S, until
from tests.exchange.world import SIGNER, STREAM, Embedded, ManualClock, delivered, embedded, terms

NEXT = SignerKey(SIGNER.name, bytes(range(2, 34)))
THIRD = SignerKey(SIGNER.name, bytes(range(3, 35)))
STRANGER = SignerKey(SIGNER.name, bytes(range(4, 36)))
OVERLAP_MS = 1_000


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Embedded]:
    with embedded(tmp_path / "exchange.db") as running:
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", durable=False) as opened:
        yield opened


def ring(clock: ManualClock) -> Keyring:
    return Keyring([Tenure(SIGNER.verifier, -1, None, SIGNER)], clock)


def change(journal: Journal, keys: Keyring, key: SignerKey, until_ms: int) -> KeyChange:
    """The change in the log, as `KeyChanges` makes it."""
    announced = KeyChange.signed(keys.current, key, until_ms)
    keys.tenures = keys.following(key, journal.log_size(STREAM), until_ms)
    journal.commit((), leaves=[encode_key_change(announced, 1)], stream=STREAM, cursors=dict([keys.cursor(STREAM)]))
    return announced


def sign(journal: Journal, keys: LogSigner) -> bytes:
    size = journal.log_size(STREAM)
    signers = keys.signers(journal.acknowledged(STREAM))
    note = sign_checkpoint(Checkpoint(keys.name, size, journal.root(STREAM, size)), *signers)
    journal.save_checkpoint(STREAM, size, note)
    return note


def publish(exchange: Embedded, journal: Journal, keys: LogSigner, epoch: int = 1) -> Publisher:
    return Publisher(exchange.server.address, journal, STREAM, keys, epoch, chance=random.Random(1))


def test_a_key_follows_another_while_the_log_goes_on(exchange: Embedded, journal: Journal) -> None:
    leaves, keys = delivered(), ring(exchange.clock)
    with publish(exchange, journal, keys) as publisher:
        for number, part in enumerate((leaves[:5], leaves[5:20], leaves[20:])):
            journal.commit((), leaves=part, stream=STREAM)
            if number < 2:
                change(journal, keys, (NEXT, THIRD)[number], exchange.clock.now_ms + OVERLAP_MS)
            publisher.wake()
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S), publisher.status()
            exchange.clock.now_ms += 2 * OVERLAP_MS
        note = sign(journal, keys)
        assert publisher.status().state is PublishState.PUBLISHING
    size = len(leaves) + 2
    assert exchange.server.intake.root(STREAM) == journal.root(STREAM, size)
    assert {reason for _, reason, _ in exchange.server.intake.rejections(STREAM)} == {"UNKNOWN_POSITION"}
    assert open_checkpoint(note, [THIRD.verifier]).size == size
    with pytest.raises(Unauthorised):
        open_checkpoint(note, [SIGNER.verifier])


def test_in_the_overlap_whoever_knows_the_old_key_still_verifies(exchange: Embedded, journal: Journal) -> None:
    keys = ring(exchange.clock)
    journal.commit((), leaves=delivered()[:5], stream=STREAM)
    before = sign(journal, keys)
    change(journal, keys, NEXT, exchange.clock.now_ms + OVERLAP_MS)
    with publish(exchange, journal, keys) as publisher:
        assert publisher.wait_acknowledged(6, WAIT_S)
    journal.commit((), leaves=delivered()[5:7], stream=STREAM)
    both = sign(journal, keys)
    for key in (SIGNER, NEXT):
        assert open_checkpoint(both, [key.verifier]).size == 8
    exchange.clock.now_ms += OVERLAP_MS
    journal.commit((), leaves=delivered()[7:9], stream=STREAM)
    with pytest.raises(Unauthorised):
        open_checkpoint(sign(journal, keys), [SIGNER.verifier])
    assert open_checkpoint(before, [SIGNER.verifier]).size == 5  # what it signed, it signed


def test_an_exchange_that_was_away_for_the_whole_overlap_learns_of_it(exchange: Embedded, journal: Journal) -> None:
    keys = ring(exchange.clock)
    journal.commit((), leaves=delivered()[:5], stream=STREAM)
    with publish(exchange, journal, keys) as publisher:
        assert publisher.wait_acknowledged(5, WAIT_S)
    change(journal, keys, NEXT, exchange.clock.now_ms + OVERLAP_MS)
    change(journal, keys, THIRD, exchange.clock.now_ms + OVERLAP_MS)
    exchange.clock.now_ms += 10 * OVERLAP_MS
    journal.commit((), leaves=delivered()[5:9], stream=STREAM)
    with publish(exchange, journal, keys, 2) as publisher:
        assert publisher.wait_acknowledged(11, WAIT_S), publisher.status()
    assert keys.signers(journal.acknowledged(STREAM)) == (THIRD,)


def test_an_acknowledgement_that_was_lost_does_not_lock_the_log_out(exchange: Embedded, journal: Journal) -> None:
    keys = ring(exchange.clock)
    journal.commit((), leaves=delivered()[:5], stream=STREAM)
    change(journal, keys, NEXT, exchange.clock.now_ms)  # no overlap at all
    note = sign(journal, keys)
    session, _ = exchange.server.intake.open(STREAM, 1, SIGNER.verifier.encode())
    leaves = [leaf for _, leaf in journal.leaves(STREAM)]
    exchange.server.intake.take(session, 0, leaves, note, [])  # the exchange has it, the cluster does not know
    assert keys.opening(journal.acknowledged(STREAM)) == SIGNER.verifier
    journal.commit((), leaves=delivered()[5:9], stream=STREAM)
    with publish(exchange, journal, keys, 2) as publisher:
        assert publisher.wait_acknowledged(10, WAIT_S), publisher.status()


def test_the_old_key_signs_nothing_new_once_its_overlap_is_over(exchange: Embedded, journal: Journal) -> None:
    keys = ring(exchange.clock)
    journal.commit((), leaves=delivered()[:5], stream=STREAM)
    change(journal, keys, NEXT, exchange.clock.now_ms + OVERLAP_MS)
    with publish(exchange, journal, keys) as publisher:
        assert publisher.wait_acknowledged(6, WAIT_S)
    exchange.clock.now_ms += OVERLAP_MS
    journal.commit((), leaves=delivered()[5:6], stream=STREAM)
    with publish(exchange, journal, SIGNER, 2) as thief:
        until(lambda: thief.status().state is PublishState.REFUSED)
        assert "UNAUTHORISED" in thief.status().detail
    assert exchange.server.intake.checkpoint(STREAM)[0] == 6


@pytest.mark.parametrize("key", [STRANGER, SignerKey("another.log/x", bytes(range(2, 34)))])
def test_a_key_that_no_change_announced_is_refused(exchange: Embedded, journal: Journal, key: SignerKey) -> None:
    journal.commit((), leaves=delivered()[:5], stream=STREAM)
    with publish(exchange, journal, SIGNER) as publisher:
        assert publisher.wait_acknowledged(5, WAIT_S)
    with pytest.raises(Unauthorised, match="the key of stream"):
        exchange.server.intake.open(STREAM, 2, key.verifier.encode())


def forged() -> dict[str, tuple[KeyChange, str]]:
    """Changes that change nothing, each with what is said of it."""
    good = KeyChange.signed(SIGNER, STRANGER, 9)
    elsewhere = SignerKey("another.log/x", bytes(range(2, 34)))
    return {
        "signed by another": (
            KeyChange(good.old, good.new, 9, STRANGER.sign_bytes(b"x"), good.new_signature),
            "is not signed by",
        ),
        "not by the new one": (KeyChange(good.old, good.new, 9, good.old_signature, b"x" * 64), "is not signed by"),
        "for longer": (KeyChange(good.old, good.new, 10, good.old_signature, good.new_signature), "is not signed by"),
        "from no key of it": (KeyChange.signed(STRANGER, THIRD, 9), "expected a new key to follow"),
        "another log's": (
            KeyChange(SIGNER.verifier, elsewhere.verifier, 9, b"x" * 64, b"x" * 64),
            "expected another of that name",
        ),
    }


@pytest.mark.parametrize("name", forged())
def test_a_forged_change_is_kept_as_evidence_and_changes_nothing(
    exchange: Embedded, journal: Journal, name: str
) -> None:
    bad, says = forged()[name]
    journal.commit((), leaves=[*delivered()[:3], encode_key_change(bad, 1)], stream=STREAM)
    with publish(exchange, journal, SIGNER) as publisher:
        assert publisher.wait_acknowledged(4, WAIT_S)
        (told,) = [each for each in publisher.status().rejections if each.reason == "WRONG_KEY_CHANGE"]
        assert says in told.detail
    assert exchange.server.intake._keys.known(STREAM) == (SIGNER.verifier,)


def test_a_leaf_of_a_change_reads_back(journal: Journal) -> None:
    made = KeyChange.signed(SIGNER, NEXT, 77)
    leaf = encode_key_change(made, 5)
    assert decode(leaf) == KeyChangeLeaf(5, made)
    made.verify()
    for spoilt in (leaf.replace(b"tenor.test", b"tenor+test"), leaf[:-3]):
        with pytest.raises(Refused):
            decode(spoilt)


def test_an_auditor_with_the_old_key_is_led_to_the_new_one(tmp_path: Path, journal: Journal) -> None:
    clock = ManualClock()
    keys = ring(clock)
    leaves = delivered()
    journal.commit((), leaves=leaves[:12], stream=STREAM)
    change(journal, keys, NEXT, clock.now_ms + OVERLAP_MS)
    journal.commit((), leaves=leaves[12:], stream=STREAM)
    journal.acknowledge(STREAM, 13)
    clock.now_ms += OVERLAP_MS
    sign(journal, keys)
    vkeys = [key.encode() for key in keys.verifiers]
    bundles.write(journal, STREAM, tmp_path / "bundle", [terms()], {}, vkeys)
    for trusted in ((SIGNER.verifier,), (NEXT.verifier,), keys.verifiers):
        report = audit(tmp_path / "bundle", trusted)
        assert {each.name: each.verdict for each in report.checks}["checkpoint"] == "ok"
    report = audit(tmp_path / "bundle", (STRANGER.verifier,))
    assert {each.name: each.verdict for each in report.checks}["checkpoint"] == "failed"


def test_an_audit_names_a_forged_change(tmp_path: Path, journal: Journal) -> None:
    bad, says = forged()["signed by another"]
    journal.commit((), leaves=[*delivered(), encode_key_change(bad, 1)], stream=STREAM)
    sign(journal, SIGNER)
    bundles.write(journal, STREAM, tmp_path / "bundle", [terms()], {}, [SIGNER.verifier.encode()])
    (wrong,) = [each for each in audit(tmp_path / "bundle").checks if each.name == "leaves"]
    assert (wrong.verdict, says in wrong.detail) == ("failed", True)
