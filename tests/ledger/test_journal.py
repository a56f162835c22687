"""What the journal promises to those who use it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core import merkle
from scheduler.core.errors import Conflict, Damaged, InvalidValue, Unavailable
from scheduler.ledger.journal import GENESIS_CHAIN, Entry, Journal


def _entry(number: int) -> Entry:
    return Entry(at_ms=1_000 * number, kind="gang_started", version=1, body=b'{"gang":"g-%d"}' % number)


def _entries(count: int, start: int = 1) -> list[Entry]:
    return [_entry(number) for number in range(start, start + count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_what_is_committed_is_read_back_after_reopening(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.head == (0, GENESIS_CHAIN)
        assert journal.commit(_entries(3), leaves=[b"a", b"b"], stream="records", cursors={"acme": b"7"}) == 3
        assert journal.commit([], leaves=[b"c"], stream="records") == 3
        assert journal.commit(_entries(2, 4), cursors={"acme": b"8", "borealis": b""}) == 5
        head = journal.head
    with Journal.open(path, create=False) as journal:
        assert journal.head == head
        stored = list(journal.read())
        assert [(it.seq, it.at_ms, it.kind, it.version, it.body) for it in stored] == [
            (seq, it.at_ms, it.kind, it.version, it.body) for seq, it in enumerate(_entries(5), 1)
        ]
        assert stored[-1].chain == head[1]
        assert list(journal.read(3)) == stored[3:]
        assert list(journal.leaves("records")) == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert list(journal.leaves("records", 1, 1)) == [(1, b"b")]
        assert journal.log_size("records") == 3
        assert (journal.cursor("acme"), journal.cursor("borealis"), journal.cursor("nobody")) == (b"8", b"", None)


def test_the_chain_is_what_the_module_says() -> None:
    entry = Entry(at_ms=-5, kind="größer", version=2, body=b"{}")
    kind = entry.kind.encode()
    header = struct.pack(">QqIH", 1, -5, 2, len(kind)) + kind + struct.pack(">Q", 2)
    with Journal.open(":memory:") as journal:
        journal.commit([entry])
        assert journal.head == (1, hashlib.sha256(bytes(32) + header + b"{}").digest())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Entry,
            at_ms=st.integers(-(2**63), 2**63 - 1),
            kind=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
            version=st.integers(0, 2**32 - 1),
            body=st.binary(max_size=50),
        ),
        max_size=20,
    ),
    st.integers(0, 20),
)
def test_any_entries_read_back_and_their_chain_does_not_depend_on_the_commits(entries: list[Entry], cut: int) -> None:
    with Journal.open(":memory:") as one, Journal.open(":memory:") as two:
        one.commit(entries)
        two.commit(entries[:cut])
        two.commit(entries[cut:])
        assert one.head == two.head
        assert [Entry(it.at_ms, it.kind, it.version, it.body) for it in one.read()] == entries


def test_more_entries_and_leaves_than_a_page_read_back_in_order(path: Path) -> None:
    with Journal.open(path, durable=False) as journal:
        journal.commit(_entries(2_500), leaves=[b"%d" % i for i in range(2_500)], stream="s")
        assert [it.seq for it in journal.read(verify=False)] == list(range(1, 2_501))
        assert [index for index, _ in journal.leaves("s", 100, 2_000)] == list(range(100, 2_100))


def test_logs_have_the_roots_and_proofs_of_rfc_9162() -> None:
    leaves = [b"%d" % i for i in range(600)]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    with Journal.open(":memory:") as journal:
        journal.commit([], leaves=leaves[:500], stream="s")
        journal.commit([], leaves=leaves[500:], stream="s")
        assert journal.root("s") == merkle.root(hashes)
        assert journal.root("s", 300) == merkle.root(hashes[:300])
        assert journal.inclusion_proof("s", 7, 300) == merkle.inclusion_proof(hashes, 7, 300)
        assert journal.consistency_proof("s", 300, 600) == merkle.consistency_proof(hashes, 300, 600)


def test_the_outbox_holds_what_was_not_acknowledged(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.commit([], leaves=[b"%d" % i for i in range(10)], stream="s")
        assert journal.outbox("s", 3) == [(0, b"0"), (1, b"1"), (2, b"2")]
        journal.acknowledge("s", 2)
        journal.acknowledge("s", 1)  # a late acknowledgement of less changes nothing
        assert journal.acknowledged("s") == 2
        assert journal.outbox("s", 2) == [(2, b"2"), (3, b"3")]
        with pytest.raises(Conflict, match="11 leaves"):
            journal.acknowledge("s", 11)
    with Journal.open(path) as journal:
        assert journal.acknowledged("s") == 2
        journal.acknowledge("s", 10)
        assert journal.outbox("s", 5) == []
        assert journal.outbox("another", 5) == []


def test_a_checkpoint_never_shrinks_and_never_runs_ahead(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.checkpoint("s") is None
        journal.commit([], leaves=[b"a", b"b", b"c"], stream="s")
        journal.save_checkpoint("s", 2, b"note of 2")
        journal.save_checkpoint("s", 2, b"note of 2, cosigned")
        for size in (1, 4, -1):
            with pytest.raises(Conflict, match=r"expected 2\.\.3"):
                journal.save_checkpoint("s", size, b"a lie")
    with Journal.open(path) as journal:
        assert journal.checkpoint("s") == (2, b"note of 2, cosigned")


def test_the_latest_snapshot_is_given_and_two_are_kept(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.snapshot() is None
        for _ in range(4):
            journal.commit([_entry(1)])
            seq, chain = journal.head
            journal.save_snapshot(seq, chain, b"state at %d" % seq)
        assert journal.snapshot() == (4, journal.head[1], b"state at 4")
        kept = journal._connection.execute("SELECT seq FROM snapshot ORDER BY seq").fetchall()
        assert kept == [(3,), (4,)]
        with pytest.raises(Conflict, match="a snapshot at 4"):
            journal.save_snapshot(4, GENESIS_CHAIN, b"of another journal")
        with pytest.raises(InvalidValue, match="seq"):
            journal.save_snapshot(5, GENESIS_CHAIN, b"of the future")


def test_a_changed_snapshot_is_damaged(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.save_snapshot(0, GENESIS_CHAIN, b"state")
        journal._connection.execute("UPDATE snapshot SET body = x'00'")
        with pytest.raises(Damaged, match="snapshot at 0"):
            journal.snapshot()


BAD_ENTRIES = [
    Entry(2**63, "k", 1, b"{}"),
    Entry(0, "", 1, b"{}"),
    Entry(0, "k" * 70_000, 1, b"{}"),
    Entry(0, "\ud800", 1, b"{}"),
    Entry(0, "k", -1, b"{}"),
    Entry(0, "k", 1, "{}"),  # type: ignore[arg-type]
    Entry(0.5, "k", 1, b"{}"),  # type: ignore[arg-type]
    Entry(0, None, 1, b"{}"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("bad", BAD_ENTRIES)
def test_an_entry_that_cannot_be_stored_is_refused_and_nothing_written(bad: Entry) -> None:
    with Journal.open(":memory:") as journal:
        with pytest.raises(InvalidValue):
            journal.commit([_entry(1), bad], leaves=[b"x"], stream="s", cursors={"c": b"1"})
        assert (journal.head[0], journal.log_size("s"), journal.cursor("c")) == (0, 0, None)


def test_a_leaf_or_cursor_that_cannot_be_stored_takes_its_whole_commit_with_it() -> None:
    with Journal.open(":memory:") as journal:
        journal.commit(_entries(2), leaves=[b"x"], stream="s")
        for leaves, stream, value in (([b"x" * 70_000], "s", b""), ([b"x"], "", b""), ([b"x"], "s", "text")):
            with pytest.raises(InvalidValue):
                journal.commit(_entries(2), leaves=leaves, stream=stream, cursors={"c": value})  # type: ignore[dict-item]
        assert (journal.head[0], journal.log_size("s"), journal.cursor("c")) == (2, 1, None)
        assert journal.commit(_entries(1)) == 3
        assert len(list(journal.read())) == 3


def test_reading_from_beyond_the_head_is_refused() -> None:
    with Journal.open(":memory:") as journal:
        journal.commit(_entries(2))
        assert list(journal.read(2)) == []
        with pytest.raises(InvalidValue, match=r"0\.\.2"):
            list(journal.read(3))


def test_an_interrupt_just_after_a_commit_does_not_confuse_the_next(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.commit(_entries(2))
        journal._head = (0, GENESIS_CHAIN)  # as if the interrupt came before the head was noted
        assert journal.commit(_entries(1)) == 3
        assert len(list(journal.read())) == 3


def test_a_second_owner_is_refused_and_told_who_the_first_is(path: Path) -> None:
    with (
        Journal.open(path),
        pytest.raises(Conflict, match=rf"{path} is owned by the running process {os.getpid()}$"),
    ):
        Journal.open(path)
    Journal.open(path).close()


def test_a_closed_journal_answers_with_an_error_of_ours(path: Path) -> None:
    journal = Journal.open(path)
    journal.close()
    journal.close()
    with pytest.raises(Unavailable, match="closed"):
        journal.commit(_entries(1))


def test_one_thread_commits_while_another_reads_and_acknowledges(path: Path) -> None:
    commits, batch = 60, 20
    failures: list[BaseException] = []
    with Journal.open(path, durable=False) as journal:

        def publish() -> None:
            try:
                sent = 0
                while sent < commits * batch:
                    page = journal.outbox("s", 50)
                    assert [index for index, _ in page] == list(range(sent, sent + len(page)))
                    sent += len(page)
                    journal.acknowledge("s", sent)
                    journal.root("s")
                    list(journal.read(max(0, journal.head[0] - 30)))
            except BaseException as error:  # noqa: BLE001 - told to the test, which fails with it
                failures.append(error)

        publisher = threading.Thread(target=publish)
        publisher.start()
        for _ in range(commits):
            journal.commit(_entries(batch), leaves=[os.urandom(20) for _ in range(batch)], stream="s")
        publisher.join(60)
        assert not publisher.is_alive()
        assert failures == []
        assert journal.acknowledged("s") == journal.log_size("s") == commits * batch
        assert sum(1 for _ in journal.read()) == commits * batch


def test_a_reader_in_the_middle_does_not_hold_up_a_commit(path: Path) -> None:
    with Journal.open(path, durable=False) as journal:
        journal.commit(_entries(3_000))
        reader = journal.read()
        assert next(reader).seq == 1
        committer = threading.Thread(target=journal.commit, args=(_entries(1),))
        committer.start()
        committer.join(30)
        assert not committer.is_alive()
        assert [it.seq for it in reader][-1] == 3_001  # the reader sees what came meanwhile


def test_a_journal_from_before_witnesses_keeps_their_cosignatures(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        journal.commit((), leaves=[b"a", b"b"], stream="s")
        journal.save_checkpoint("s", 2, b"signed")
    with sqlite3.connect(path) as older:
        older.executescript("DROP TABLE cosigned; UPDATE meta SET value = 1 WHERE key = 'schema_version';")
    with Journal.open(path) as journal:
        assert journal.cosigned("s") is None
        journal.save_cosigned("s", 2, b"cosigned", "vkey")
    with Journal.open(path) as journal:
        assert journal.cosigned("s") == (2, b"cosigned", "vkey")
        assert journal.checkpoint("s") == (2, b"cosigned")
