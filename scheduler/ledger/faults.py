"""What SQLite and the file system say, as Tenor's errors: the class says what the caller can do about it.

A full disk or a failing one may be mended and the same call made again (`Unavailable`); bytes that are not a database
any more need a person (`Damaged`); a path that cannot be used is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler.core.errors import Damaged, TenorError, Unauthorised, Unavailable

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
_FORBIDDEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_PRIMARY_CODE = 0xFF  # an extended code holds its primary code in the low byte


@contextmanager
def reported(location: str) -> Iterator[None]:
    """Turns SQLite's errors into Tenor's, naming the file: Unavailable, Damaged or Unauthorised."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, location) from error
    except UnicodeDecodeError as error:  # SQLite quotes damaged text in a message that Python cannot read either
        raise Damaged(f"{location} is not what was written: {error}") from error


def _translated(error: sqlite3.Error, location: str) -> TenorError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & _PRIMARY_CODE
    if primary == sqlite3.SQLITE_FULL:
        return Unavailable(f"{location} has no room left ({error}); nothing was written")
    if primary == sqlite3.SQLITE_BUSY:
        return Unavailable(f"{location} is held by another program ({error})")
    if primary in _FORBIDDEN:
        return Unauthorised(f"{location} may not be written by this user ({error})")
    if primary in _DAMAGED or (code is None and "decode" in str(error)) or _says_damaged(error):
        return Damaged(f"{location} is not what was written: {error}")
    return Unavailable(f"{location} did not answer: {error}")


def _says_damaged(error: sqlite3.Error) -> bool:
    """Some damage has no code of its own: text that is not UTF-8, a schema that cannot be read or lacks a table."""
    said = str(error)
    return any(words in said for words in ("UTF-8", "malformed", "no such table", "no such column"))
