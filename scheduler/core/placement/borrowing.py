"""Whose turn it is among borrowers: one by one, or in runs by machine code. Both serve the same order.

By waiting time, to which a near deadline adds; ties to the account that lent more than it borrowed, then the published
order. Lines of accounts whose work is being moved wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heappop, heappush
from typing import Protocol

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement import runs
from scheduler.core.placement.books import Books
from scheduler.core.placement.intake import new_record, stage_of, take_in
from scheduler.core.placement.lines import Line, Lines, Turn, turn_of
from scheduler.core.placement.orders import UNSOLD_OR_LASTING
from scheduler.core.placement.protect import Protected
from scheduler.core.placement.roll import (
    ACCOUNT,
    AFTER,
    FIRMLY,
    GRACE_MS,
    HEAD,
    IS_OUT,
    QUEUED_MS,
    RUNTIME_MS,
    SERVED,
    SHAPE,
    Listed,
    fill,
    push,
)
from scheduler.core.quantities import INT64_MAX
from scheduler.core.workloads import Shape, asked_shape

Entry = tuple[int, tuple[()] | tuple[int, tuple[int, int, int]], int, tuple[list[Turn], int]]
"""Since when it waits, and what breaks ties; then what comes up: a line, or (no tie) all of a list from an index on."""


class Turns(Protocol):
    """The borrowers' order of service."""

    def line_up(self, line: Line) -> None:
        """The line's head comes up in its turn."""

    def next(self) -> Line | None:
        """The line that comes up, of a shape that is not refused."""

    def refuse(self, shape: Shape) -> None:
        """No line of the shape comes up any more."""

    def wake(self, account: str) -> None:
        """Something happened to the account: its lines that were left out come up after all, those whose turn is not
        over.
        """


class OneByOne:
    """By a heap of lines; of each shape only the next line stands in it, of those that may find room. Who finds none
    while nothing happens to its account is left out, and comes back where something does.
    """

    def __init__(
        self,
        books: Books,
        lines: Lines,
        moving: Collection[str],
        may_fit: Callable[[Shape], bool],
        in_turn: Callable[[Shape], list[Turn]],
        may_come: Callable[[Line], bool],
    ) -> None:
        """`in_turn`: a shape's lines that may find room in this round, in order; `may_come`: whether a line may, unless
        something happens to its account.
        """
        self._books, self._moving, self._may_come = books, moving, may_come
        self._refused: set[Shape] = set()
        self._heap: list[Entry] = []
        self._left_out: dict[str, list[Turn]] = {}
        self._last: tuple[int, tuple[int, tuple[int, int, int]]] | None = None
        """The key of the line that came up last."""
        for shape in lines.by_shape():
            if may_fit(shape):
                self._line_up_from(in_turn(shape), 0)
        for account, shape in dict.fromkeys((gang.spec.account, asked_shape(gang)) for gang in books.gangs_taken()):
            if may_fit(shape):
                self.line_up(lines.of(account)[shape])

    def line_up(self, line: Line) -> None:
        """See `Turns`."""
        gang = line.head()
        if gang is not None:
            self._push(turn_of(gang, line))

    def next(self) -> Line | None:
        """See `Turns`."""
        while self._heap:
            queued_ms, tie, _, (turns, at) = heappop(self._heap)
            line = turns[at][2]
            if line.shape in self._refused:
                continue
            if tie:
                self._last = queued_ms, tie
                return line
            self._bring_up(turns, at)
        return None

    def refuse(self, shape: Shape) -> None:
        """See `Turns`."""
        self._refused.add(shape)

    def wake(self, account: str) -> None:
        """See `Turns`."""
        for turn in self._left_out.pop(account, ()):
            if self._last is None or (turn[0], self._tie(turn)) > self._last:
                self._push(turn)

    def _push(self, turn: Turn) -> None:
        if turn[2].account not in self._moving:
            heappush(self._heap, (turn[0], self._tie(turn), 0, ([turn], 0)))

    def _tie(self, turn: Turn) -> tuple[int, tuple[int, int, int]]:
        return -self._books.snapshot.balance_gpu_ms.get(turn[2].account, 0), turn[1]

    def _line_up_from(self, turns: list[Turn], at: int) -> None:
        """The shape's next line from this one on, by an entry that comes before that of each that waits as long."""
        while at < len(turns) and not self._comes(turns[at]):
            at += 1
        if at < len(turns):
            heappush(self._heap, (turns[at][0], (), len(self._heap), (turns, at)))

    def _bring_up(self, turns: list[Turn], at: int) -> None:
        """Line up those that have waited equally long, and after them the others."""
        queued_ms = turns[at][0]
        while at < len(turns) and turns[at][0] == queued_ms:
            if self._comes(turns[at]):
                self._push(turns[at])
            at += 1
        self._line_up_from(turns, at)

    def _comes(self, turn: Turn) -> bool:
        """Whether the line comes up in this turn; one that lost gangs stands where its next gang does."""
        line = turn[2]
        if line.moved:
            return False
        comes = self._may_come(line)
        if not comes:
            self._left_out.setdefault(line.account, []).append(turn)
        return comes


class InRuns:
    """By machine code, which places whoever can be preempted, up to the first turn that is not for it."""

    def __init__(
        self,
        books: Books,
        lines: Lines,
        listed: Listed,
        kinds: tuple[int, int],
        moving: Collection[str],
        may_fit: Callable[[Shape], bool],
        guards: Mapping[int, Protected],
        spare: IntArray,
        idle: list[int],
    ) -> None:
        """`kinds`: the tiers of gangs that declare an end, and of others; `idle`: GPUs of each pool that reckless
        borrowers must leave; `spare` (n_nodes): what the guards do, in one.
        """
        self._books, self._lines, self._listed = books, lines, listed
        self._serve = runs.serve_borrowers.compiled if books.compiled else runs.serve_borrowers
        for gang in books.devices.joined:
            listed.renew(lines.of(gang.spec.account)[gang.shape])
        for at, shape in enumerate(listed.shapes):
            listed.shape_rows[at, IS_OUT] = int(not may_fit(shape))
        self._roll = listed.roll(*listed.in_order(listed.ages[:, QUEUED_MS], self._ties()))
        lines_now = listed.lines
        waits = (lines_now[:, HEAD] < lines_now[:, AFTER]) & (listed.shape_rows[lines_now[:, SHAPE], IS_OUT] == 0)
        if moving:
            waits &= ~np.isin(lines_now[:, ACCOUNT], [books.account_index[name] for name in moving])
        fill(self._roll, np.flatnonzero(waits))
        self._bound = self._terms(kinds, guards, spare, idle)
        self._record = new_record(books, len(listed.gangs))

    def line_up(self, line: Line) -> None:
        """See `Turns`."""
        self._listed.renew(line)
        head, after = self._roll.lines[
            self._listed.at(self._books.account_index[line.account], line.shape), [HEAD, AFTER]
        ].tolist()
        if head < after:
            push(self._roll.heap, int(self._roll.turns[head]))

    def next(self) -> Line | None:
        """See `Turns`."""
        while True:
            stage = stage_of(self._books, self._roll, self._record)
            code = self._serve(stage, self._bound, len(self._books.rows))
            take_in(self._books, self._lines, self._listed, self._record, inside=False)
            if code >= 0:
                account, shape = self._listed.key(code)
                return self._lines.of(account)[shape]
            if code == runs.DONE:
                return None
            if code <= runs.NO_ORDER:
                self._order(runs.NO_ORDER - code)

    def _order(self, line: int) -> None:
        """Make the order that the line's head needs."""
        shape, head = self._roll.lines[line, [SHAPE, HEAD]].tolist()
        if self._roll.shapes[shape, SERVED] == FIRMLY:
            self._listed.order_firm(self._books, line)
            return
        end = self._bound.ends[self._bound.end[head]]
        end[1] = self._books.search.order(UNSOLD_OR_LASTING, int(end[0]))

    def refuse(self, shape: Shape) -> None:
        """See `Turns`."""
        self._listed.shape_rows[self._listed.at_shape[shape], IS_OUT] = 1

    def wake(self, account: str) -> None:
        """See `Turns`: nobody was left out."""

    def _ties(self) -> IntArray:
        """(n_gangs): what its account borrowed more than it lent."""
        balance = self._books.snapshot.balance_gpu_ms
        of_account = np.array([-balance.get(name, 0) for name in self._books.account_index], dtype=np.int64)
        ties: IntArray = of_account[self._listed.lines[self._listed.line_of_gang, ACCOUNT]]
        return ties

    def _terms(
        self, kinds: tuple[int, int], guards: Mapping[int, Protected], spare: IntArray, idle: list[int]
    ) -> runs.Terms:
        books = self._books
        changes_ms = books.search.changes_ms
        runtimes_ms, graces_ms = self._listed.ages[:, RUNTIME_MS], self._listed.ages[:, GRACE_MS]
        end = np.array(changes_ms, dtype=np.int64).searchsorted(books.now_ms + runtimes_ms)
        ends = np.full((len(changes_ms), 2), -1, dtype=np.int64)
        ends[:, 0] = changes_ms
        start_ms = np.full(books.n_pools, INT64_MAX, dtype=np.int64)
        for pool, guard in guards.items():
            start_ms[pool] = guard.start_ms
        return runs.Terms(
            kinds=np.array(kinds, dtype=np.int64),
            ends=ends,
            # Where all ownership lasts until then, or none does, how long it lasts tells GPUs apart no more.
            end=np.where((runtimes_ms > 0) & (end > 0) & (end < len(changes_ms)), end, -1),
            gone_ms=np.where(runtimes_ms > 0, books.now_ms + runtimes_ms + graces_ms, INT64_MAX),
            idle=np.array(idle, dtype=np.int64),
            start_ms=start_ms,
            spare=spare,
            not_unsold=np.zeros((len(self._listed.shapes), books.n_pools), dtype=np.int64),
        )
