"""Whose turn it is among gangs that may be inside their entitlement: one by one, or in runs by machine code.

Both serve the same order and remember the same: which lines are asked, and which their account's cells refused. A run
places whoever needs no more than free GPUs, and stops at the first turn that does.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

import numpy as np

from scheduler.core.placement import runs
from scheduler.core.placement.books import Books
from scheduler.core.placement.intake import new_record, stage_of, take_in
from scheduler.core.placement.lines import Line, Lines
from scheduler.core.placement.repack import Tables
from scheduler.core.placement.roll import ACCOUNT, FREELY, REFUSED, SERVED, SHAPE, Listed, fill
from scheduler.core.placement.wants import Want, demand, least_demand
from scheduler.core.workloads import Shape


class Asking(Protocol):
    """Who is asked."""

    def ask(self, line: Line) -> None:
        """Ask the line's head in its turn, if it has one and its account's count has room for it."""

    def next(self) -> Line | None:
        """The line whose turn it is; it is asked no more."""

    def refuse(self, line: Line) -> None:
        """The cells of its account refused it."""

    def forgive(self, account: str) -> list[Line]:
        """The account's lines that were refused; they are so no more."""

    def changed(self, line: Line) -> None:
        """Its head is another."""


class OneByOne:
    """By a heap of lines."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._heap: list[tuple[tuple[int, int, int], Line]] = []
        self._refused: dict[str, dict[Line, None]] = {}

    def ask(self, line: Line) -> None:
        """See `Asking`."""
        if line.asked or not _has_room(self._books, line):
            return
        gang = line.head()
        if gang is not None:
            line.asked = True
            heappush(self._heap, (gang.order, line))

    def next(self) -> Line | None:
        """See `Asking`."""
        if not self._heap:
            return None
        _, line = heappop(self._heap)
        line.asked = False
        return line

    def refuse(self, line: Line) -> None:
        """See `Asking`."""
        self._refused.setdefault(line.account, {})[line] = None

    def forgive(self, account: str) -> list[Line]:
        """See `Asking`."""
        return list(self._refused.pop(account, ()))

    def changed(self, line: Line) -> None:
        """See `Asking`."""


class InRuns:
    """By machine code, over the roll of a whole queue; all lines for which there is room are asked at first."""

    def __init__(self, books: Books, lines: Lines, listed: Listed, kinds: int) -> None:
        self._books, self._lines, self._listed, self._kinds = books, lines, listed, kinds
        self._serve = runs.serve_inside.compiled if books.compiled else runs.serve_inside
        self._ask = runs.ask.compiled if books.compiled else runs.ask
        for gang in books.devices.joined:
            listed.renew(lines.of(gang.spec.account)[gang.shape])
        self.roll = listed.roll(*listed.in_order())
        """Who is asked now."""
        fill(self.roll, np.flatnonzero(listed.with_room(-books.excess)))
        books.tables = tables_of(books, listed)
        self._record = new_record(books, len(listed.gangs))

    def ask(self, line: Line) -> None:
        """See `Asking`."""
        self.changed(line)
        self._ask(stage_of(self._books, self.roll, self._record), self._at(line))

    def next(self) -> Line | None:
        """See `Asking`."""
        books = self._books
        while True:
            code = self._serve(stage_of(books, self.roll, self._record), self._kinds, len(books.rows))
            take_in(books, self._lines, self._listed, self._record, inside=True)
            if code >= 0:
                return self._line(code)
            if code == runs.DONE:
                return None
            if code <= runs.NO_ORDER:
                self._listed.order_firm(books, runs.NO_ORDER - code)

    def refuse(self, line: Line) -> None:
        """See `Asking`."""
        self.roll.lines[self._at(line), REFUSED] = 1

    def forgive(self, account: str) -> list[Line]:
        """See `Asking`."""
        index = self._books.account_index[account]
        low, high = self.roll.of_account[index : index + 2].tolist()
        refused = low + np.flatnonzero(self.roll.lines[low:high, REFUSED])
        self.roll.lines[refused, REFUSED] = 0
        return [self._line(at) for at in refused.tolist()]

    def changed(self, line: Line) -> None:
        """See `Asking`."""
        self._listed.renew(line)

    def _line(self, at: int) -> Line:
        account, shape = self._listed.key(at)
        return self._lines.of(account)[shape]

    def _at(self, line: Line) -> int:
        return self._listed.at(self._books.account_index[line.account], line.shape)


def _has_room(books: Books, line: Line) -> bool:
    index = books.account_index[line.account]
    if line.least is None:
        return False
    return any(books.headroom(index, pool) >= line.gpus for pool in books.pools_for(line.shape.grade))


def tables_of(books: Books, listed: Listed) -> Tables:
    """What the counts of all accounts hold, with room for every plain line."""
    index: dict[Want, int] = {}
    of_shape: dict[Shape, int] = {}
    held_part: list[int] = []
    held_want: list[int] = []
    n_pools = books.n_pools
    counted = zip(
        books.rows, books.account_of_row, books.pool_of_row, books.counts_of_row, books.firm_of_row, strict=True
    )
    for gang, account, pool, counts, firm in counted:
        if counts and not firm:
            shape = gang.shape
            at = of_shape.get(shape)
            if at is None:
                want = demand(shape)
                at = of_shape[shape] = -1 if want is None else index.setdefault(want, len(index))
            if at >= 0:
                held_part.append(account * n_pools + pool)
                held_want.append(at)
    asked = np.full(len(listed.shapes), -1)
    for at, shape in enumerate(listed.shapes):
        least = least_demand(shape)
        if listed.shape_rows[at, SERVED] == FREELY and least is not None:
            asked[at] = index.setdefault(least, len(index))
    of_line = asked[listed.lines[:, SHAPE]]
    parts, wanted = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for pool in range(n_pools):
        chosen = np.flatnonzero((of_line >= 0) & listed.may_use(pool))
        parts.append(listed.lines[chosen, ACCOUNT] * n_pools + pool)
        wanted.append(of_line[chosen])
    held = np.array(held_part, dtype=np.int64), np.array(held_want, dtype=np.int64)
    return Tables.of(list(index), held, (np.concatenate(parts), np.concatenate(wanted)), books.units)
