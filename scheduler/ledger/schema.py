"""The journal's tables, their versions, and the opening of a connection to them.

A file says what it is (`application_id`) and which version its tables have (`meta`). Older files are brought forward
one migration after the other, in one transaction; a file of a newer version is refused unread, for an older program
must never guess at what it cannot know.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from scheduler.core.errors import Damaged, InvalidValue, Unauthorised
from scheduler.ledger import treestore
from scheduler.ledger.faults import reported

APPLICATION_ID = 0x54454E52  # "TENR"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        """CREATE TABLE entry (
            seq INTEGER PRIMARY KEY,
            at_ms INTEGER NOT NULL,
            kind TEXT NOT NULL,
            version INTEGER NOT NULL,
            body BLOB NOT NULL,
            chain BLOB NOT NULL
        )""",
        "CREATE TABLE cursor (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE delivery (stream TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE checkpoint (stream TEXT PRIMARY KEY, size INTEGER NOT NULL, note BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE snapshot (seq INTEGER PRIMARY KEY, chain BLOB NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL)",
        *treestore.SCHEMA,
    ),
    (
        # The latest checkpoint that a witness cosigned, and the witness's verifier key.
        """CREATE TABLE cosigned (
            stream TEXT PRIMARY KEY,
            size INTEGER NOT NULL,
            note BLOB NOT NULL,
            witness TEXT NOT NULL
        ) WITHOUT ROWID""",
    ),
)
"""`MIGRATIONS[n]` brings a file of version n to version n + 1. Version 0 is an empty file."""

VERSION = len(MIGRATIONS)

_MEMORY = ":memory:"
_BUSY_MS = 5_000  # somebody may look at a live journal with another tool


def connect(path: str, *, durable: bool, create: bool) -> sqlite3.Connection:
    """A connection to the journal at `path`, with the tables of this version.

    Raises InvalidValue for a missing folder or file, for a database of another program or of a newer version; Damaged
    for a file that is no database; Unauthorised and Unavailable as the file system says.
    """
    if path != _MEMORY:
        _check_file(Path(path), create=create)
    with reported(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            _prepare(connection, path, durable=durable)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_to_read(path: str) -> sqlite3.Connection:
    """A connection that can only read, beside the one that owns the journal; neither waits for the other.

    Raises InvalidValue where there is no journal of this version, and as `connect`.
    """
    _check_file(Path(path), create=False)
    with reported(path):
        uri = f"{Path(path).absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            found = _version(connection, path)
            if found != VERSION:
                raise InvalidValue(  # noqa: TRY301 - the connection is to be closed
                    "schema version", path, found, f"{VERSION}, as the journal's owner leaves it"
                )
        except BaseException:
            connection.close()
            raise
    return connection


def _check_file(path: Path, *, create: bool) -> None:
    if not path.parent.is_dir():
        raise InvalidValue("folder", f"the journal {path}", "missing", "a folder that exists")
    if path.is_dir():
        raise InvalidValue("path", f"the journal {path}", "a folder", "a file")
    if not path.exists():
        if not create:
            raise InvalidValue("path", f"the journal {path}", "missing", "a file that exists")
    elif not os.access(path, os.R_OK | os.W_OK):
        raise Unauthorised(f"{path} may not be read and written by this user")


def _prepare(connection: sqlite3.Connection, path: str, *, durable: bool) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    found = _version(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    connection.execute("PRAGMA cache_size = -16000")  # KiB
    if found < VERSION:
        _migrate(connection, found)


def _version(connection: sqlite3.Connection, path: str) -> int:
    """The version of the tables; 0 for an empty file."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if not tables and application in (0, APPLICATION_ID):
        return 0
    if application != APPLICATION_ID or "meta" not in tables:
        raise InvalidValue("file", path, "a database of another program", "a journal of Tenor")
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if row is None or not isinstance(row[0], int):
        raise Damaged(f"{path} does not say which version its tables have")
    if row[0] > VERSION:
        raise InvalidValue("schema version", path, row[0], f"at most {VERSION}; a newer Tenor wrote this journal")
    return int(row[0])


def _migrate(connection: sqlite3.Connection, found: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (VERSION,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
