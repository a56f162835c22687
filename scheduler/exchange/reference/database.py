"""The exchange's own SQLite file: its tables, one connection, one writer at a time.

WAL with `synchronous=FULL`: what was committed survives a crash of the machine, and nothing is told before it is
committed. One process owns a file (`scheduler.ledger.lock`); its threads take turns at `guard`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import INT64_MAX
from scheduler.ledger import treestore
from scheduler.ledger.faults import reported
from scheduler.ledger.lock import Lock

APPLICATION_ID = 0x54454E58  # "TENX"
VERSION = 5
MEMORY = ":memory:"

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE instrument (
        id TEXT PRIMARY KEY,
        listed INTEGER NOT NULL,            -- the order of listing, from 1
        terms BLOB NOT NULL,
        lots_listed INTEGER NOT NULL        -- 0: no limit
    ) WITHOUT ROWID""",
    "CREATE TABLE event (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE position (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
    "CREATE TABLE request (id TEXT PRIMARY KEY, content BLOB NOT NULL, answer BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE stream (
        name TEXT PRIMARY KEY,
        number INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        vkey TEXT NOT NULL,
        frozen TEXT NOT NULL                -- why nothing more is taken; empty: it is
    ) WITHOUT ROWID""",
    """CREATE TABLE checkpoint (
        stream TEXT NOT NULL,
        size INTEGER NOT NULL,
        root BLOB NOT NULL,
        note BLOB NOT NULL,
        PRIMARY KEY (stream, size)
    ) WITHOUT ROWID""",
    """CREATE TABLE record (
        position INTEGER NOT NULL,          -- position.number
        start_ms INTEGER NOT NULL,
        stream INTEGER NOT NULL,            -- stream.number
        version INTEGER NOT NULL,           -- the last one seen, settled or rejected
        leaf INTEGER,                       -- the index of the last one that is settled
        PRIMARY KEY (position, start_ms)
    ) WITHOUT ROWID""",
    """CREATE TABLE rejection (
        stream TEXT NOT NULL,
        leaf INTEGER NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (stream, leaf)
    ) WITHOUT ROWID""",
    "CREATE TABLE evidence (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, what TEXT NOT NULL, body BLOB NOT NULL)",
    *treestore.SCHEMA,
)
_SINCE = {
    2: (
        """CREATE TABLE cosigner (
            stream TEXT NOT NULL,
            vkey TEXT NOT NULL,                 -- of a witness other than this exchange
            PRIMARY KEY (stream, vkey)
        ) WITHOUT ROWID""",
        """CREATE TABLE device (
            device BLOB PRIMARY KEY,            -- the hash of its UUID
            stream INTEGER NOT NULL,            -- stream.number, of the log that pledged it last
            leaf INTEGER NOT NULL,
            from_ms INTEGER NOT NULL,
            until_ms INTEGER                    -- of its withdrawal; NULL: it is pledged
        ) WITHOUT ROWID""",
    ),
    3: (
        """CREATE TABLE key_change (
            stream TEXT NOT NULL,
            leaf INTEGER NOT NULL,
            vkey TEXT NOT NULL,                 -- of the key that signs from this leaf on
            until_ms INTEGER NOT NULL,          -- when the one before it signs no longer
            PRIMARY KEY (stream, leaf)
        ) WITHOUT ROWID""",
    ),
    4: (
        "ALTER TABLE record ADD COLUMN stage INTEGER NOT NULL DEFAULT 1",  # core.metering.versions.Stage
        """CREATE TABLE superseded (
            position INTEGER NOT NULL,          -- position.number
            start_ms INTEGER NOT NULL,
            leaf INTEGER NOT NULL,              -- told of a record that a later leaf told of again
            PRIMARY KEY (position, start_ms, leaf)
        ) WITHOUT ROWID""",
        """CREATE TABLE settling (
            position INTEGER NOT NULL,
            stream INTEGER NOT NULL,
            leaf INTEGER NOT NULL,              -- a promotion, a dispute, its answer or a late fact
            from_ms INTEGER,                    -- of a late fact, when it began to hold
            PRIMARY KEY (position, stream, leaf)
        ) WITHOUT ROWID""",
        """CREATE TABLE dispute (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            position TEXT NOT NULL,
            start_ms INTEGER NOT NULL,
            stream INTEGER NOT NULL,
            body BLOB NOT NULL,
            reason TEXT NOT NULL,
            state TEXT NOT NULL,
            answer TEXT NOT NULL,
            corrected INTEGER,                  -- the version that corrects the record
            answered_ms INTEGER NOT NULL        -- 0: not yet
        )""",
        "CREATE INDEX dispute_of_record ON dispute (position, start_ms)",
    ),
    5: (
        """CREATE TABLE probe (
            seq INTEGER PRIMARY KEY,
            stream TEXT NOT NULL,
            step TEXT NOT NULL,                 -- called, revealed, answered, or found: then body is the finding
            until_ms INTEGER NOT NULL,          -- of a step before that: from then on the cluster is silent
            nonce BLOB NOT NULL,
            asked TEXT NOT NULL,                -- which rows to open, once it was answered
            body BLOB NOT NULL,                 -- the finding as far as it has come
            leaf INTEGER                        -- that tells of it
        )""",
        "CREATE INDEX probe_of_stream ON probe (stream, step)",
        "CREATE TABLE probe_due (stream TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID",
    ),
}
"""What each version of the file added to the one before it."""


def checked_place(after: int) -> int:
    """A place in a list that is read page by page. Raises InvalidValue beyond what SQLite holds."""
    if after > INT64_MAX:
        raise InvalidValue("after", "a list", after, f"0..{INT64_MAX}")
    return after


class Database:
    """One open file. `guard` is held by whoever reads or writes; `transaction` takes it."""

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        """Opens the file, made where it is missing.

        Raises Conflict where another process owns it, InvalidValue for a missing folder, another program's database or
        a newer version, Damaged for a file that is no database, Unavailable or Unauthorised as the file system says.
        """
        self.location = str(path)
        self.guard = threading.RLock()
        if self.location != MEMORY and not Path(path).parent.is_dir():
            raise InvalidValue("folder", f"the exchange's database {path}", "missing", "a folder that exists")
        if Path(path).is_dir():
            raise InvalidValue("path", f"the exchange's database {path}", "a folder", "a file")
        self._lock = Lock(Path(path)) if self.location != MEMORY else None
        try:
            with reported(self.location):
                self._connection = sqlite3.connect(
                    self.location, isolation_level=None, check_same_thread=False, cached_statements=256
                )
                try:
                    self._prepare(durable=durable)
                except BaseException:
                    self._connection.close()
                    raise
        except BaseException:
            if self._lock is not None:
                self._lock.close()
            raise
        self.trees = treestore.TreeStore(self._connection, self.location)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done inside, durably, or nothing."""
        with self.guard, reported(self.location):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite rolls some failures back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def write(self, statement: str, *arguments: object) -> None:
        """One statement; call inside a transaction."""
        self._connection.execute(statement, arguments)

    def write_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """One statement for each row; call inside a transaction."""
        self._connection.executemany(statement, rows)

    def one(self, query: str, *arguments: object) -> tuple[Any, ...] | None:
        """The first row, if any."""
        with self.guard, reported(self.location):
            row: tuple[Any, ...] | None = self._connection.execute(query, arguments).fetchone()
            return row

    def all(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows."""
        with self.guard, reported(self.location):
            return self._connection.execute(query, arguments).fetchall()

    def meta(self, key: str, otherwise: int) -> int:
        """A number that the exchange keeps of itself."""
        row = self.one("SELECT value FROM meta WHERE key = ?", key)
        return int(row[0]) if row else otherwise

    def set_meta(self, key: str, value: int) -> None:
        """Keeps a number; call inside a transaction."""
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def close(self) -> None:
        """Closes the file and gives up the lock. Closing twice does nothing."""
        with self.guard:
            self._connection.close()
            if self._lock is not None:
                self._lock.close()

    def _prepare(self, *, durable: bool) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        if application != APPLICATION_ID and (application or tables):
            raise InvalidValue("file", self.location, "a database of another program", "one of the reference exchange")
        self._connection.execute("PRAGMA busy_timeout = 5000")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        self._connection.execute("PRAGMA cache_size = -32000")  # KiB
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise InvalidValue("version", self.location, version, f"at most {VERSION}; a newer exchange wrote it")
        if version < VERSION:
            added = [each for since, statements in _SINCE.items() if since > version for each in statements]
            self._create(added if tables else [*_SCHEMA, *added])

    def _create(self, statements: Sequence[str]) -> None:
        """Makes the tables of this version that are missing: all of a new file, or those that an older one lacks."""
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {VERSION}")
        self._connection.execute("COMMIT")
