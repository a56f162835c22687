"""The RFC 9162 trees of many streams on one SQLite connection: leaves, and their hashes kept as tiles.

It exists so that everybody who keeps a verifiable log keeps it in the same way: the journal does, the reference
exchange does on its own file. The shape is that of C2SP tlog-tiles (https://c2sp.org/tlog-tiles): a tile of level L
holds up to 256 hashes of perfect subtrees of height 8 L. Full tiles are stored, and of the levels above 0 also the
last, partial one; the last tile of level 0 follows from its leaves. So an append costs one row for each leaf and one
for each 256, and a proof reads a few tiles however large the tree.

Laws: indices are dense from 0; nothing stored is ever changed; leaves read are checked against the tree (`Damaged`
otherwise). The caller owns the connection, its transactions and its locking: `append` belongs inside a transaction, and
where that is rolled back the next call notices by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from scheduler.core.errors import Damaged, InvalidValue
from scheduler.core.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    CompactRange,
    consistency_proof_from,
    inclusion_proof_from,
    leaf_hash,
    range_from,
    root_from,
    subtree_rows,
)

TILE_WIDTH = 256
TILE_HEIGHT = 8
MAX_LEAF_BYTES = 65_535
"""The longest entry that the C2SP tlog-tiles layout can hold."""

SCHEMA = (
    """CREATE TABLE tree_log (
        id INTEGER PRIMARY KEY,
        stream TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        edge BLOB NOT NULL          -- the hashes of the compact range of that size, largest subtree first
    )""",
    """CREATE TABLE tree_leaf (
        slot INTEGER PRIMARY KEY,   -- id of the log * 2^40 + index of the leaf: one integer key appends fastest
        body BLOB NOT NULL
    )""",
    """CREATE TABLE tree_tile (
        log INTEGER NOT NULL,
        level INTEGER NOT NULL,
        number INTEGER NOT NULL,
        hashes BLOB NOT NULL,       -- up to 256 hashes of 32 bytes
        UNIQUE (log, level, number)
    )""",
)
"""The tables, to be created once, in the caller's own schema."""

_LOG_SHIFT = 40


@dataclass(slots=True)
class _Partial:
    """The last tile of a level while it has fewer than 256 hashes, and the compact range over them."""

    hashes: list[bytes] = field(default_factory=list)
    range: CompactRange = field(default_factory=CompactRange)

    def extend(self, hashes: Sequence[bytes]) -> None:
        self.hashes += hashes
        self.range = self.range.extend(hashes)


@dataclass(slots=True)
class _Log:
    """One stream as the database has it, with the partial tile of each level, lowest first."""

    id: int
    size: int
    edge: bytes
    partial: list[_Partial] = field(default_factory=list)

    def compact_hashes(self) -> tuple[bytes, ...]:
        """The perfect subtrees that tile the stream, largest first: those of the highest partial tile, and so on."""
        return tuple(subtree for partial in reversed(self.partial) for subtree in partial.range.hashes)

    def range(self) -> CompactRange:
        return CompactRange(self.size, self.compact_hashes())


class TreeStore:
    """The trees on one connection. `location` names the file in messages. Not safe for threads by itself."""

    def __init__(self, connection: sqlite3.Connection, location: str) -> None:
        self._connection = connection
        self._location = location
        self._logs: dict[str, _Log] = {}

    def append(self, stream: str, leaves: Sequence[bytes]) -> int:
        """Appends to the stream, which begins with its first leaf; gives the new size. Call inside a transaction.

        Raises InvalidValue for an empty stream name or a leaf that is not `bytes` of at most 65,535; then nothing is
        written.
        """
        _check_append(stream, leaves)
        log = self._open(stream)
        if not leaves:
            return log.size if log else 0
        log = log or self._begin(stream)
        first = (log.id << _LOG_SHIFT) + log.size
        self._connection.executemany("INSERT INTO tree_leaf VALUES (?, ?)", enumerate(leaves, first))
        log.size += len(leaves)
        self._fill(log, [leaf_hash(leaf) for leaf in leaves])
        log.edge = b"".join(log.compact_hashes())
        self._connection.execute("UPDATE tree_log SET size = ?, edge = ? WHERE id = ?", (log.size, log.edge, log.id))
        return log.size

    def size(self, stream: str) -> int:
        """The number of leaves; 0 for a stream that nobody appended to."""
        row = self._connection.execute("SELECT size FROM tree_log WHERE stream = ?", (stream,)).fetchone()
        return row[0] if row else 0

    def streams(self) -> tuple[str, ...]:
        """The names of all streams, sorted."""
        return tuple(name for (name,) in self._connection.execute("SELECT stream FROM tree_log ORDER BY stream"))

    def range(self, stream: str) -> CompactRange:
        """The stream's compact range: its size, and its root without reading anything more."""
        log = self._open(stream)
        return log.range() if log else CompactRange()

    def root(self, stream: str, size: int | None = None) -> bytes:
        """The root of the first `size` leaves; of all of them where it is None. Raises InvalidValue beyond the end."""
        log = self._log_of(stream, size)
        if log is None or size == 0:
            return EMPTY_ROOT
        if size is None or size == log.size:
            return log.range().root()
        return root_from(lambda height, index: self._subtree(log, height, index), size)

    def edge(self, stream: str, size: int) -> CompactRange:
        """The compact range of the first `size` leaves. Raises InvalidValue beyond the end."""
        log = self._log_of(stream, size)
        return CompactRange() if log is None else range_from(lambda height, at: self._subtree(log, height, at), size)

    def inclusion_proof(self, stream: str, index: int, size: int) -> tuple[bytes, ...]:
        """The proof that leaf `index` is among the first `size`. Raises InvalidValue outside the stream."""
        log = self._log_of(stream, size)
        if log is None:
            raise InvalidValue("size", f"stream {stream!r}", size, "leaves in the stream, which has none")
        return inclusion_proof_from(lambda height, at: self._subtree(log, height, at), index, size)

    def consistency_proof(self, stream: str, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the first `first` leaves are a prefix of the first `second`. Raises InvalidValue outside."""
        log = self._log_of(stream, second)
        if log is None:
            return consistency_proof_from(_no_subtree, first, second)
        return consistency_proof_from(lambda height, at: self._subtree(log, height, at), first, second)

    def leaves(self, stream: str, start: int, stop: int) -> Iterator[list[bytes]]:
        """The leaves `[start, stop)` in lists of at most 256, each checked against the tree. Clipped at the end.

        Raises Damaged naming the stream and the first leaf that is missing or not what was appended.
        """
        log = self._open(stream)
        if log is None:
            return
        stop = min(stop, log.size)
        while start < stop:
            number = start // TILE_WIDTH
            end = min(stop, (number + 1) * TILE_WIDTH)
            yield self._checked(stream, log, start, end)
            start = end

    def tile(self, stream: str, level: int, number: int) -> bytes:
        """The hashes of a tile of the tlog-tiles layout, as wide as it is now; empty beyond the end."""
        log = self._open(stream)
        return self._tile(log, level, number) if log and level >= 0 and number >= 0 else b""

    def _begin(self, stream: str) -> _Log:
        inserted = self._connection.execute("INSERT INTO tree_log (stream, size, edge) VALUES (?, 0, x'')", (stream,))
        self._logs[stream] = _Log(inserted.lastrowid or 0, 0, b"")
        return self._logs[stream]

    def _open(self, stream: str) -> _Log | None:
        """The stream as the database has it now; what is remembered counts only where size and edge are the same."""
        query = "SELECT id, size, edge FROM tree_log WHERE stream = ?"
        row = self._connection.execute(query, (stream,)).fetchone()
        if row is None:
            return None
        known = self._logs.get(stream)
        if known is not None and (known.id, known.size, known.edge) == row:
            return known
        self._logs[stream] = self._load(stream, row)
        return self._logs[stream]

    def _load(self, stream: str, row: tuple[Any, Any, Any]) -> _Log:
        """Reads the partial tiles and holds them against the stored edge."""
        log_id, size, edge = row
        where = f"{self._location}, stream {stream!r}"
        if not (isinstance(log_id, int) and isinstance(size, int) and size >= 0 and isinstance(edge, bytes)):
            raise Damaged(f"{where}: its number, size and edge were {log_id!r}, {size!r} and {edge!r}")
        log = _Log(log_id, size, edge)
        first = size - size % TILE_WIDTH
        bodies = self._bodies(log, first, size)
        log.partial.append(_Partial())
        log.partial[0].extend([leaf_hash(body) for body in bodies])
        for level in range(1, -(-size.bit_length() // TILE_HEIGHT)):
            held = size >> (TILE_HEIGHT * level)
            stored = self._stored_tile(log, level, held // TILE_WIDTH) if held % TILE_WIDTH else b""
            log.partial.append(_Partial())
            log.partial[level].extend(_cut(stored))
        if b"".join(log.compact_hashes()) != edge:
            raise Damaged(f"{where}: its last leaves, {first} to {size}, are not those that were appended")
        return log

    def _fill(self, log: _Log, hashes: Sequence[bytes], level: int = 0) -> None:
        """Adds hashes to a level's partial tile; stores the tiles that fill up and carries their roots one level up.

        `log.size` is the new size already.
        """
        if level == len(log.partial):
            log.partial.append(_Partial())
        partial = log.partial[level]
        held = log.size >> (TILE_HEIGHT * level)
        number = (held - len(hashes)) // TILE_WIDTH
        roots, taken = [], 0
        while taken < len(hashes):
            chunk = hashes[taken : taken + TILE_WIDTH - len(partial.hashes)]
            partial.extend(chunk)
            taken += len(chunk)
            if level or len(partial.hashes) == TILE_WIDTH:
                self._store_tile(log, level, number, b"".join(partial.hashes))
            if len(partial.hashes) == TILE_WIDTH:
                roots.append(partial.range.hashes[0])
                number += 1
                partial = log.partial[level] = _Partial()
        if roots:
            self._fill(log, roots, level + 1)

    def _store_tile(self, log: _Log, level: int, number: int, hashes: bytes) -> None:
        self._connection.execute(
            "INSERT INTO tree_tile VALUES (?, ?, ?, ?)"
            " ON CONFLICT (log, level, number) DO UPDATE SET hashes = excluded.hashes",
            (log.id, level, number, hashes),
        )

    def _stored_tile(self, log: _Log, level: int, number: int) -> bytes:
        query = "SELECT hashes FROM tree_tile WHERE log = ? AND level = ? AND number = ?"
        row = self._connection.execute(query, (log.id, level, number)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise Damaged(f"{self._location}, log {log.id}: tile {number} of level {level} is missing")
        return row[0]

    def _tile(self, log: _Log, level: int, number: int) -> bytes:
        held = log.size >> (TILE_HEIGHT * level)
        if (number + 1) * TILE_WIDTH <= held:
            return self._stored_tile(log, level, number)
        return b"".join(log.partial[level].hashes) if number * TILE_WIDTH < held else b""

    def _subtree(self, log: _Log, height: int, index: int) -> bytes:
        """The hash of a perfect subtree inside the stream."""
        level, row = divmod(height, TILE_HEIGHT)
        number, column = divmod(index, TILE_WIDTH >> row)
        rows = _rows(self._tile(log, level, number))
        if row >= len(rows) or column >= len(rows[row]):
            raise Damaged(f"{self._location}, log {log.id}: tile {number} of level {level} is too short")
        return rows[row][column]

    def _checked(self, stream: str, log: _Log, start: int, end: int) -> list[bytes]:
        """The leaves `[start, end)` of one tile, checked against it."""
        bodies = self._bodies(log, start, end)
        number, offset = divmod(start, TILE_WIDTH)
        expected = self._tile(log, 0, number)[offset * HASH_BYTES : (offset + end - start) * HASH_BYTES]
        found = b"".join(map(leaf_hash, bodies))
        if found != expected:
            pairs = zip(_cut(found), _cut(expected), strict=False)
            at = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), len(bodies))
            raise Damaged(f"{self._location}, stream {stream!r}: leaf {start + at} is not what was appended")
        return bodies

    def _bodies(self, log: _Log, start: int, end: int) -> list[bytes]:
        base = log.id << _LOG_SHIFT
        query = "SELECT slot, body FROM tree_leaf WHERE slot >= ? AND slot < ? ORDER BY slot"
        rows = self._connection.execute(query, (base + start, base + end)).fetchall()
        for index, (slot, body) in enumerate(rows, start):
            if slot != base + index or not isinstance(body, bytes):
                raise Damaged(f"{self._location}, log {log.id}: leaf {index} is not what was appended")
        if len(rows) != end - start:
            raise Damaged(f"{self._location}, log {log.id}: leaf {start + len(rows)} is missing")
        return [body for _, body in rows]

    def _log_of(self, stream: str, size: int | None) -> _Log | None:
        log = self._open(stream)
        held = log.size if log else 0
        if size is not None and not 0 <= size <= held:
            raise InvalidValue("size", f"stream {stream!r}", size, f"an integer in 0..{held}")
        return log


def _check_append(stream: str, leaves: Sequence[object]) -> None:
    if leaves and not stream:
        raise InvalidValue("stream", "a log", stream, "a name")
    for leaf in leaves:
        if not isinstance(leaf, bytes) or len(leaf) > MAX_LEAF_BYTES:
            was = len(leaf) if isinstance(leaf, bytes) else type(leaf).__name__
            raise InvalidValue("leaf", f"stream {stream!r}", was, f"bytes, at most {MAX_LEAF_BYTES}")


def _cut(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


@lru_cache(maxsize=64)
def _rows(tile: bytes) -> tuple[tuple[bytes, ...], ...]:
    """All perfect subtrees of a tile, by height above it. Remembered by content, so never out of date."""
    return subtree_rows(_cut(tile))


def _no_subtree(height: int, index: int) -> bytes:
    raise AssertionError(f"a tree without leaves was asked for subtree {height}, {index}")
