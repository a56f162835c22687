"""The exchange as a witness: it cosigns what it reached and nothing else, and the cluster keeps what it can check."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, UnknownName
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.reference.database import VERSION
from scheduler.exchange.reference.intake import MOST_WITNESSES
from scheduler.exchange.witnessing import keep_cosigned
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey, VerifierKey
from scheduler.ledger.notes import Checkpoint, cosign, cosigned_at_s, open_note, sign_checkpoint
from tests.exchange.world import SIGNER, STREAM, Embedded, delivered, embedded, trade_all, write_log

WAIT_S = 20.0
OTHER = SignerKey("tenor.test/regulator", bytes(range(1, 33)))


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal.open(":memory:") as opened:
        write_log(opened, delivered())
        yield opened


def publish(exchange: Embedded, journal: Journal) -> None:
    address = exchange.server.address
    with Publisher(address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S), sender.status()


def witness_of(exchange: Embedded) -> VerifierKey:
    return VerifierKey.parse(exchange.client.witnesses(STREAM)[0])


def test_what_is_published_comes_back_cosigned(exchange: Embedded, journal: Journal) -> None:
    publish(exchange, journal)
    kept = journal.cosigned(STREAM)
    assert kept is not None
    size, note, vkey = kept
    assert (size, vkey) == (journal.log_size(STREAM), witness_of(exchange).encode())
    assert journal.checkpoint(STREAM) == (size, note) == exchange.client.checkpoint(STREAM)
    opened = open_note(note, [SIGNER.verifier, VerifierKey.parse(vkey)])
    assert len(opened.verified) == 2
    assert cosigned_at_s(opened, VerifierKey.parse(vkey)) == exchange.clock() // 1_000


def test_a_later_checkpoint_leaves_the_cosigned_one_beside_it(exchange: Embedded, journal: Journal) -> None:
    publish(exchange, journal)
    witnessed = journal.cosigned(STREAM)
    write_log(journal, [b"later"])
    latest = journal.checkpoint(STREAM)
    assert witnessed is not None
    assert latest is not None
    assert (journal.cosigned(STREAM), latest[0]) == (witnessed, witnessed[0] + 1)
    assert len(open_note(latest[1], [SIGNER.verifier]).unverified) == 0


def test_a_checkpoint_is_cosigned_only_when_its_leaves_are_here(exchange: Embedded, journal: Journal) -> None:
    intake = exchange.server.intake
    session, receipt = intake.open(STREAM, 1, SIGNER.verifier.encode())
    assert receipt.cosigned == b""
    size = journal.log_size(STREAM)
    kept = journal.checkpoint(STREAM)
    assert kept is not None
    leaves = [leaf for _, leaf in journal.leaves(STREAM)]
    proof = journal.consistency_proof(STREAM, size - 1, size)
    assert intake.take(session, 0, leaves[:-1], kept[1], proof).cosigned == b""
    assert intake.take(session, size - 1, leaves[-1:], kept[1], ()).cosigned.startswith(kept[1])
    assert intake.take(session, size - 1, leaves[-1:], kept[1], ()).cosigned == b""  # once, and it stays
    assert len(open_note(exchange.client.checkpoint(STREAM)[1], [SIGNER.verifier, witness_of(exchange)]).verified) == 2


def test_the_exchange_keeps_its_witness_key_and_says_at_once_what_it_cosigned(tmp_path: Path, journal: Journal) -> None:
    with embedded(tmp_path / "exchange.db") as exchange:
        trade_all(exchange.client)
        publish(exchange, journal)
    key = tmp_path / "exchange.db.witness.key"
    assert key.stat().st_mode & 0o777 == 0o600
    with embedded(tmp_path / "exchange.db") as exchange, Journal.open(":memory:") as again:
        write_log(again, delivered())
        publish(exchange, again)
        assert again.cosigned(STREAM) == journal.cosigned(STREAM)
        assert SignerKey.load(key).witness == witness_of(exchange)


_PROBES = ("probe", "probe_due")
_SETTLING = ("superseded", "settling", "dispute", *_PROBES)


@pytest.mark.parametrize(
    ("version", "newer"),
    [
        (1, ("cosigner", "device", "key_change", *_SETTLING)),
        (2, ("key_change", *_SETTLING)),
        (3, _SETTLING),
        (4, _PROBES),
    ],
)
def test_an_older_database_gets_what_it_lacks(
    tmp_path: Path, journal: Journal, version: int, newer: tuple[str, ...]
) -> None:
    path = tmp_path / "exchange.db"
    with embedded(path) as exchange:
        trade_all(exchange.client)
    with sqlite3.connect(path) as older:
        gone = "".join(f"DROP TABLE {table};" for table in newer)
        gone += "ALTER TABLE record DROP COLUMN stage;" if version < 4 else ""
        older.executescript(f"{gone}PRAGMA user_version = {version};")
    with embedded(path) as exchange:
        publish(exchange, journal)
        assert len(exchange.client.witnesses(STREAM)) == 1
    with sqlite3.connect(path) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (VERSION,)


# -- other witnesses ---------------------------------------------------------------------------------------------------


def test_another_witness_adds_its_cosignature(exchange: Embedded, journal: Journal) -> None:
    publish(exchange, journal)
    _, note = exchange.client.checkpoint(STREAM)
    offered = cosign(note, OTHER, 1_900_000_000)
    vkey = OTHER.witness.encode()
    assert exchange.client.add_cosignature(STREAM, offered, vkey) == offered
    assert exchange.client.add_cosignature(STREAM, offered, vkey) == offered  # once, however often it is said
    assert exchange.client.checkpoint(STREAM)[1] == offered
    assert exchange.client.witnesses(STREAM) == (witness_of(exchange).encode(), vkey)


def test_a_cosignature_that_is_not_one_is_refused(exchange: Embedded, journal: Journal) -> None:
    client = exchange.client
    with pytest.raises(UnknownName):
        client.add_cosignature(STREAM, b"", OTHER.witness.encode())
    publish(exchange, journal)
    _, note = client.checkpoint(STREAM)
    offered = cosign(note, OTHER, 1_900_000_000)
    older = cosign(sign_checkpoint(Checkpoint(SIGNER.name, 3, journal.root(STREAM, 3)), SIGNER), OTHER, 1)
    ours = SignerKey(witness_of(exchange).name, bytes(32))
    for given, vkey, error, says in (
        (note, OTHER.witness.encode(), Unauthorised, "expected a signature of tenor.test/regulator"),
        (offered, SignerKey(OTHER.name, bytes(32)).witness.encode(), Unauthorised, "expected a signature"),
        (offered, OTHER.verifier.encode(), InvalidValue, "a witness's"),
        (older, OTHER.witness.encode(), Conflict, "was of 3 leaves of tenor.test/cluster-1"),
        (cosign(note, ours, 1), ours.witness.encode(), Unauthorised, "this exchange's own name"),
        (b"nothing", OTHER.witness.encode(), InvalidValue, "a note"),
        (offered, "no key", InvalidValue, "vkey"),
    ):
        with pytest.raises(error, match=says):
            client.add_cosignature(STREAM, given, vkey)
    assert client.checkpoint(STREAM)[1] == note


def test_a_log_has_only_so_many_witnesses(exchange: Embedded, journal: Journal) -> None:
    publish(exchange, journal)
    keys = [SignerKey(f"witness-{number}", bytes([number] * 32)) for number in range(MOST_WITNESSES + 1)]
    for number, key in enumerate(keys):
        offered = cosign(exchange.client.checkpoint(STREAM)[1], key, 1)
        if number < MOST_WITNESSES:
            exchange.client.add_cosignature(STREAM, offered, key.witness.encode())
            continue
        with pytest.raises(Conflict, match="has 16 witnesses, expected at most 16"):
            exchange.client.add_cosignature(STREAM, offered, key.witness.encode())


# -- what the cluster keeps --------------------------------------------------------------------------------------------


def test_nothing_is_kept_that_is_not_over_this_log(journal: Journal) -> None:
    def cosigned(size: int, root: bytes, signer: SignerKey = SIGNER) -> bytes:
        return cosign(sign_checkpoint(Checkpoint(signer.name, size, root), signer), OTHER, 1)

    vkey, size = OTHER.witness.encode(), journal.log_size(STREAM)
    plain = journal.checkpoint(STREAM)
    assert plain is not None
    for note, error, says in (
        (plain[1], Unauthorised, "expected a signature of tenor.test/regulator"),
        (cosigned(size, journal.root(STREAM), OTHER), Unauthorised, "expected a signature of tenor.test/cluster-1"),
        (cosigned(size + 1, bytes(32)), Conflict, f"cosigned {size + 1} leaves of stream cluster-1, the log holds"),
        (cosigned(7, bytes(32)), Conflict, "cosigned the root 0000"),
    ):
        with pytest.raises(error, match=says):
            keep_cosigned(journal, STREAM, SIGNER.verifiers, note, vkey)
    assert (journal.cosigned(STREAM), journal.checkpoint(STREAM)) == (None, plain)
    seven, five = cosigned(7, journal.root(STREAM, 7)), cosigned(5, journal.root(STREAM, 5))
    keep_cosigned(journal, STREAM, SIGNER.verifiers, seven, vkey)
    keep_cosigned(journal, STREAM, SIGNER.verifiers, five, vkey)  # late: an older one changes nothing
    assert (journal.cosigned(STREAM), journal.checkpoint(STREAM)) == ((7, seven, vkey), plain)
    with pytest.raises(Conflict, match="expected at most 50"):
        journal.save_cosigned(STREAM, size + 1, seven, vkey)
