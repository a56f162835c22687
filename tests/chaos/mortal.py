"""Runs a module as a program that dies by SIGKILL at a place given beforehand: the same place each time.

`python -m tests.chaos.mortal LEAF:STATEMENTS MODULE ARGUMENTS...` runs MODULE until it is about to write the leaf with
index LEAF of a log, or one after it; then it dies, so many of its statements to SQLite later. 0 is in the middle of a
batch of leaves; a little more is between two statements of its transaction, before the commit, between the commit and
what is told of it, or in the transactions that follow.
"""

from __future__ import annotations

import os
import runpy
import signal
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

_INDEX = (1 << 40) - 1
"""The part of a leaf's slot that is its index."""


class _Death:
    """When it comes."""

    def __init__(self, place: str) -> None:
        leaf, statements = place.split(":")
        self._leaf, self._left, self._near = int(leaf), int(statements), False

    def at_leaf(self, index: int) -> None:
        """A leaf is about to be written."""
        self._near = self._near or index >= self._leaf
        if self._near and not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def at_statement(self) -> None:
        """A statement is about to be executed."""
        if self._near:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Connection(sqlite3.Connection):
    """One that counts what it is asked."""

    death: _Death

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.death.at_statement()
        return super().execute(*arguments)

    def executemany(self, statement: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        self.death.at_statement()
        return super().executemany(statement, self._leaves(rows) if "INTO tree_leaf" in statement else rows)

    def _leaves(self, rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for slot, body in rows:
            self.death.at_leaf(slot & _INDEX)
            yield slot, body


def main(place: str, module: str, *arguments: str) -> None:
    """Runs the module in this process."""
    _Connection.death = _Death(place)
    sqlite3.connect = partial(sqlite3.connect, factory=_Connection)  # type: ignore[assignment]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
