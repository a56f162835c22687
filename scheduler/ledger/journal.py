"""The journal: every event in order, and with them the logs' leaves, the cursors and the snapshots, in one SQLite file.

It exists because state is a fold over events: what is not here did not happen, and what is here survives the process.
Events, the leaves that follow from them and the cursors that they move are committed in one transaction, so that a
crash leaves all of them or none.

Laws:
- `seq` is dense from 1; nothing committed is ever changed.
- Each entry carries `chain = SHA-256(previous chain || header || body)`, from 32 zero bytes on. The header is,
  big-endian, `seq` (8 bytes), `at_ms` (8, signed), `version` (4), the length of `kind` (2), `kind` in UTF-8, the
  length of `body` (8). A changed, missing or added entry breaks it: `Damaged`.
- Once `commit` returns, its entries survive a crash of the process, and of the machine too where the journal is
  `durable` (SQLite's WAL with `synchronous=FULL`). A replay on virtual time, which can be run again, opens with
  `durable=False` (`synchronous=OFF`): safe against a crash of the process, not of the machine.
- One process owns a file (`lock`). Threads of it may share a Journal: every call takes its guard, and iterators read a
  page at a time, so that a slow reader never holds up a commit.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from scheduler.core.errors import Conflict, Damaged, InvalidValue
from scheduler.core.merkle import CompactRange
from scheduler.ledger.faults import reported
from scheduler.ledger.lock import Lock
from scheduler.ledger.schema import connect, connect_to_read
from scheduler.ledger.treestore import TreeStore

GENESIS_CHAIN = bytes(32)
"""The chain before the first entry."""

_MEMORY = ":memory:"
_NO_CURSORS: Mapping[str, bytes] = MappingProxyType({})
_PAGE_ENTRIES = 1_024
_KEPT_SNAPSHOTS = 2
_HEADER = struct.Struct(">QqIH")
_BODY_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to be appended: `at_ms` is the instant it takes effect, `body` its JSON exactly as hashed."""

    at_ms: int
    kind: str
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One event as it was stored, with its place and its link of the chain (32 bytes)."""

    seq: int
    at_ms: int
    kind: str
    version: int
    body: bytes
    chain: bytes


def chained(previous: bytes, seq: int, entry: Entry | StoredEntry) -> bytes:
    """The 32-byte link of `entry` at `seq`. Raises TypeError, ValueError or struct.error where it cannot be encoded."""
    kind = entry.kind.encode()
    header = _HEADER.pack(seq, entry.at_ms, entry.version, len(kind)) + kind + _BODY_LENGTH.pack(len(entry.body))
    return hashlib.sha256(previous + header + entry.body).digest()


class Journal:
    """The events, logs, cursors and snapshots of one service. Made by `open`; a context manager that closes itself."""

    def __init__(self, connection: sqlite3.Connection, location: str, lock: Lock | None) -> None:
        self._connection = connection
        self._location = location
        self._lock = lock
        self._guard = threading.RLock()
        self._trees = TreeStore(connection, location)
        self._head = self._stored_head()

    @classmethod
    def open(cls, path: Path | str, *, durable: bool = True, create: bool = True) -> Journal:
        """The journal at `path`, made where it is missing and `create` allows; `":memory:"` for one that nobody keeps.

        Raises Conflict naming the process that owns it, InvalidValue for a path that cannot be a journal or one of a
        newer version, Damaged for a file that is no database, Unauthorised where this user may not write it.
        """
        location = str(path)
        if location == _MEMORY:
            return cls(connect(location, durable=False, create=True), location, None)
        if not create and not Path(location).exists():
            raise InvalidValue("path", f"the journal {location}", "missing", "a file that exists")
        lock = Lock(Path(location))
        try:
            connection = connect(location, durable=durable, create=create)
            try:
                with reported(location):
                    return cls(connection, location, lock)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.close()
            raise

    @classmethod
    def beside(cls, path: Path) -> Journal:
        """The journal at `path` as somebody beside its owner sees it: the same answers over a connection of its own,
        so that reading never waits for the owner and never holds it up. What writes raises Unauthorised.

        Raises InvalidValue where there is none, and as `open`.
        """
        connection = connect_to_read(str(path))
        try:
            with reported(str(path)):
                return cls(connection, str(path), None)
        except BaseException:
            connection.close()
            raise

    @property
    def head(self) -> tuple[int, bytes]:
        """The last `seq` and its chain; 0 and 32 zero bytes before the first commit."""
        with self._guard:
            return self._head

    def commit(
        self,
        entries: Sequence[Entry],
        *,
        leaves: Sequence[bytes] = (),
        stream: str = "",
        cursors: Mapping[str, bytes] = _NO_CURSORS,
    ) -> int:
        """Appends the entries, the leaves to `stream`'s log, and sets the cursors: all of it or nothing. The last seq.

        Raises InvalidValue for what cannot be stored, Unavailable where the disk is full or fails; nothing is changed.
        """
        with self._guard:
            with reported(self._location):
                self._head = self._stored_head()  # an interrupt may have come between the last commit and its noting
            seq, chain = self._head
            rows = []
            for seq, entry in enumerate(entries, seq + 1):  # noqa: B020 - goes on from the head, and stays there if empty
                chain = _link(chain, seq, entry)
                rows.append((seq, entry.at_ms, entry.kind, entry.version, entry.body, chain))
            with self._transaction():
                self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", rows)
                if leaves:
                    self._trees.append(stream, leaves)
                for name, value in sorted(cursors.items()):
                    if not isinstance(value, bytes):
                        raise InvalidValue("cursor", name, value, "bytes")
                    self._connection.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?)", (name, value))
            self._head = (seq, chain)
            return seq

    def read(self, after_seq: int = 0, *, verify: bool = True) -> Iterator[StoredEntry]:
        """The entries after `after_seq` in order, each checked against the chain unless `verify` is off.

        Ends at the head of the moment it got there. Raises Damaged naming the file and the first seq that is wrong,
        InvalidValue where `after_seq` is beyond the head.
        """
        with self._guard, reported(self._location):
            previous = self._chain_at(after_seq)
        while page := self._page(after_seq):
            for row in page:
                entry = StoredEntry(*row)
                if verify:
                    self._check(previous, after_seq + 1, entry)
                previous, after_seq = entry.chain, after_seq + 1
                yield entry

    def leaves(self, stream: str, start: int = 0, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """`(index, leaf)` of the stream's log from `start` on, at most `limit`, each checked against the tree.

        Raises Damaged naming the stream and the index.
        """
        stop = self.log_size(stream) if limit is None else start + limit
        while start < stop:
            with self._guard, reported(self._location):
                page = next(self._trees.leaves(stream, start, stop), [])
            if not page:
                return
            yield from enumerate(page, start)
            start += len(page)

    def streams(self) -> tuple[str, ...]:
        """The names of the streams that have a log here, sorted."""
        with self._guard, reported(self._location):
            return self._trees.streams()

    def log_size(self, stream: str) -> int:
        """The number of leaves of the stream's log."""
        with self._guard, reported(self._location):
            return self._trees.size(stream)

    def root(self, stream: str, size: int | None = None) -> bytes:
        """The root of the first `size` leaves, or of all. Raises InvalidValue beyond the end."""
        with self._guard, reported(self._location):
            return self._trees.root(stream, size)

    def edge(self, stream: str, size: int) -> CompactRange:
        """The compact range of the first `size` leaves. Raises InvalidValue beyond the end."""
        with self._guard, reported(self._location):
            return self._trees.edge(stream, size)

    def inclusion_proof(self, stream: str, index: int, size: int) -> tuple[bytes, ...]:
        """The proof that leaf `index` is among the first `size` (RFC 9162). Raises InvalidValue outside the log."""
        with self._guard, reported(self._location):
            return self._trees.inclusion_proof(stream, index, size)

    def consistency_proof(self, stream: str, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the first `first` leaves are a prefix of the first `second`. Raises InvalidValue outside."""
        with self._guard, reported(self._location):
            return self._trees.consistency_proof(stream, first, second)

    def outbox(self, stream: str, limit: int) -> list[tuple[int, bytes]]:
        """The oldest leaves that nobody acknowledged yet, at most `limit`, with their indices."""
        return list(self.leaves(stream, self.acknowledged(stream), limit))

    def acknowledge(self, stream: str, up_to: int) -> None:
        """Notes durably that the receiver has every leaf with an index below `up_to`. Never moves back.

        Raises Conflict where the log has no such leaf: a receiver cannot have what was never sent.
        """
        with self._guard:
            held = self.log_size(stream)
            if up_to > held:
                raise Conflict(f"{up_to} leaves of stream {stream!r} were acknowledged, the log holds {held}")
            if up_to <= self.acknowledged(stream):
                return
            with self._transaction():
                self._connection.execute("INSERT OR REPLACE INTO delivery VALUES (?, ?)", (stream, up_to))

    def acknowledged(self, stream: str) -> int:
        """The number of leaves, from the oldest on, that the receiver is known to have."""
        row = self._one("SELECT acknowledged FROM delivery WHERE stream = ?", (int,), stream)
        return row[0] if row else 0

    def cursor(self, name: str) -> bytes | None:
        """The cursor as it was last committed; None where it never was."""
        row = self._one("SELECT value FROM cursor WHERE name = ?", (bytes,), name)
        return row[0] if row else None

    def save_checkpoint(self, stream: str, size: int, note: bytes) -> None:
        """Keeps the latest signed checkpoint of a log.

        Raises Conflict where `size` is beyond the log or smaller than that of the checkpoint kept: a log that signed a
        size never signs a smaller one.
        """
        with self._guard:
            held, kept = self.log_size(stream), self.checkpoint(stream)
            least = kept[0] if kept else 0
            if not least <= size <= held:
                raise Conflict(f"a checkpoint of stream {stream!r} was of size {size}, expected {least}..{held}")
            with self._transaction():
                self._connection.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)", (stream, size, note))

    def checkpoint(self, stream: str) -> tuple[int, bytes] | None:
        """The size and the note of the latest checkpoint; None before the first."""
        row = self._one("SELECT size, note FROM checkpoint WHERE stream = ?", (int, bytes), stream)
        return (row[0], row[1]) if row else None

    def save_cosigned(self, stream: str, size: int, note: bytes, witness: str) -> None:
        """Keeps the latest checkpoint that a witness cosigned, and its vkey; where it is the latest of all, the
        cosignature stands in that one too. `note` is one that this log signed. An older one changes nothing.

        Raises Conflict where `size` is beyond the latest checkpoint.
        """
        with self._guard:
            kept, known = self.checkpoint(stream), self.cosigned(stream)
            most = kept[0] if kept else 0
            if size > most:
                raise Conflict(
                    f"a cosigned checkpoint of stream {stream!r} was of size {size}, expected at most {most}"
                )
            if known is not None and size < known[0]:
                return
            with self._transaction():
                row = (stream, size, note, witness)
                self._connection.execute("INSERT OR REPLACE INTO cosigned VALUES (?, ?, ?, ?)", row)
                again = (note, stream, size)
                self._connection.execute("UPDATE checkpoint SET note = ? WHERE stream = ? AND size = ?", again)

    def cosigned(self, stream: str) -> tuple[int, bytes, str] | None:
        """The size, the note and the witness's vkey of the latest cosigned checkpoint; None before the first."""
        row = self._one("SELECT size, note, witness FROM cosigned WHERE stream = ?", (int, bytes, str), stream)
        return (row[0], row[1], row[2]) if row else None

    def save_snapshot(self, seq: int, chain: bytes, body: bytes) -> None:
        """Keeps what the entries up to `seq` fold to, and the one before it; older ones go.

        Raises Conflict unless `chain` is the chain of entry `seq`.
        """
        with self._guard:
            with reported(self._location):
                known = self._chain_at(seq)
            if chain != known:
                raise Conflict(f"a snapshot at {seq} had the chain {chain.hex()}, the journal has {known.hex()}")
            with self._transaction():
                row = (seq, chain, body, _snapshot_hash(seq, chain, body))
                self._connection.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)", row)
                self._connection.execute(
                    "DELETE FROM snapshot WHERE seq NOT IN (SELECT seq FROM snapshot ORDER BY seq DESC LIMIT ?)",
                    (_KEPT_SNAPSHOTS,),
                )

    def snapshot(self) -> tuple[int, bytes, bytes] | None:
        """The `seq`, chain and body of the latest snapshot; None before the first. Raises Damaged where it changed."""
        query = "SELECT seq, chain, body, hash FROM snapshot ORDER BY seq DESC LIMIT 1"
        row = self._one(query, (int, bytes, bytes, bytes))
        if row is None:
            return None
        seq, chain, body, stored = row
        if _snapshot_hash(seq, chain, body) != stored:
            raise Damaged(f"{self._location}: the snapshot at {seq} is not what was written")
        return seq, chain, body

    @contextmanager
    def one_instant(self) -> Iterator[None]:
        """What is read inside is of one instant, whatever the owner of the file commits meanwhile; nothing is written.

        The owner goes on, and its write-ahead log grows until this ends.
        """
        with self._guard:
            with reported(self._location):
                self._connection.execute("BEGIN")
                self._head = self._stored_head()
            try:
                yield
            finally:
                with reported(self._location):
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Closes the file and gives up the lock. Closing twice does nothing."""
        with self._guard:
            try:
                with reported(self._location):
                    self._connection.close()
            finally:
                if self._lock is not None:
                    self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what is done inside, durably, or nothing."""
        with reported(self._location):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite rolls some failures back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def _one(self, query: str, types: tuple[type, ...], *arguments: str) -> tuple[Any, ...] | None:
        """The first row, its columns of those types. SQLite would give a column of damaged bytes as any type."""
        with self._guard, reported(self._location):
            row: tuple[Any, ...] | None = self._connection.execute(query, arguments).fetchone()
        if row is not None and not all(isinstance(value, kind) for value, kind in zip(row, types, strict=True)):
            raise Damaged(f"{self._location}: {query} gave {row!r}")
        return row

    def _stored_head(self) -> tuple[int, bytes]:
        row = self._connection.execute("SELECT seq, chain FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
        if row is None:
            return 0, GENESIS_CHAIN
        if not isinstance(row[0], int):
            raise Damaged(f"{self._location}: the last seq was {row[0]!r}")
        return row[0], _chain_of(row[1], self._location, row[0])

    def _chain_at(self, seq: int) -> bytes:
        """The stored chain of an entry; the genesis chain at 0."""
        if not 0 <= seq <= self._head[0]:
            raise InvalidValue("seq", self._location, seq, f"an integer in 0..{self._head[0]}")
        if seq == 0:
            return GENESIS_CHAIN
        row = self._connection.execute("SELECT chain FROM entry WHERE seq = ?", (seq,)).fetchone()
        return _chain_of(row[0] if row else None, self._location, seq)

    def _page(self, after_seq: int) -> list[tuple[int, int, str, int, bytes, bytes]]:
        query = "SELECT seq, at_ms, kind, version, body, chain FROM entry WHERE seq > ? ORDER BY seq LIMIT ?"
        with self._guard:
            try:
                with reported(self._location):
                    rows = self._connection.execute(query, (after_seq, _PAGE_ENTRIES)).fetchall()
            except Damaged as damaged:
                raise Damaged(f"{damaged} (in the entries after {after_seq})") from damaged
            if not rows and after_seq < self._head[0]:
                raise Damaged(f"{self._location}: entry {after_seq + 1} is missing, the head is {self._head[0]}")
            return rows

    def _check(self, previous: bytes, seq: int, entry: StoredEntry) -> None:
        try:
            intact = entry.seq == seq and chained(previous, seq, entry) == entry.chain
        except (TypeError, ValueError, AttributeError, struct.error):  # a flipped byte can change a column's type
            intact = False
        if not intact:
            found = "is not what was written" if entry.seq == seq else f"is missing, entry {entry.seq} follows"
            raise Damaged(f"{self._location}: entry {seq} {found}")


def _link(previous: bytes, seq: int, entry: Entry) -> bytes:
    if not entry.kind or type(entry.body) is not bytes:
        raise InvalidValue("entry", f"seq {seq}", entry, "a kind and a body of bytes")
    try:
        return chained(previous, seq, entry)
    except (TypeError, ValueError, AttributeError, struct.error) as error:
        raise InvalidValue(
            "entry", f"seq {seq}", entry, f"at_ms in int64, version in uint32, kind a str ({error})"
        ) from error


def _chain_of(stored: object, location: str, seq: int) -> bytes:
    if not isinstance(stored, bytes) or len(stored) != len(GENESIS_CHAIN):
        raise Damaged(f"{location}: entry {seq} has no chain")
    return stored


def _snapshot_hash(seq: int, chain: bytes, body: bytes) -> bytes:
    return hashlib.sha256(seq.to_bytes(8, "big", signed=True) + chain + body).digest()
