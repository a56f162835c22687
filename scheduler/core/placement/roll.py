"""The waiting lines as arrays, for machine code that serves a run of turns: who is next, what it asks, where it may go.

A *turn* is a gang's place in an order of service; the heap holds the turns of the heads of all lines that are asked.
Lines stand account by account, their gangs one behind the other as in the queue. A line is *plain* where machine code
may serve it: it can be preempted, its size is fixed, it has whole GPUs and no wish to be apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.books import Books
from scheduler.core.placement.cells import ROW_OF_LEVEL
from scheduler.core.placement.lines import Key, Line, Lines
from scheduler.core.placement.snapshot import Queue
from scheduler.core.placement.wants import Want, least_demand, wants
from scheduler.core.workloads import Gang, Shape

BoolArray = npt.NDArray[np.bool_]

ACCOUNT, SHAPE, AFTER, HEAD, ASKED, REFUSED, BY_HAND = range(7)
"""Columns of lines."""
GPUS, PLAIN, FIRST_WANT, AFTER_WANT, FIRST_POOL, AFTER_POOL, RECKLESS, IS_OUT, WORKER_GPUS = range(9)
"""Columns of shapes."""
ROW, PARTS, SIZE = range(3)
"""Columns of wants."""


class Roll(NamedTuple):
    """See the module; what machine code reads and writes."""

    lines: IntArray
    """(n_lines, 7): account; shape; behind its last gang; its next gang; whether it is asked (in the heap); whether its
    account's cells refused it; whether it is not plain for now.
    """
    of_account: IntArray
    """(n_accounts + 1): where each account's lines begin."""
    shapes: IntArray
    """(n_shapes, 9): GPUs, the least that will do; whether it is plain; where its wants begin and end, best first, and
    the pools that it may use; whether it borrows only while the pool is roomy; whether it is refused for this round;
    GPUs of a worker.
    """
    wants: IntArray
    """(n, 3): row of its level in `cells`, -1 none; parts; size. The last of a shape's is what it cannot do without."""
    pools: IntArray
    """(n): pools."""
    turns: IntArray
    """(n_gangs): each gang's turn."""
    line_of_turn: IntArray
    """(n_gangs): the line of the gang with that turn."""
    heap: IntArray
    """(n_lines + 1): how many are in it, then turns."""


@kernel
def push(heap: IntArray, turn: int) -> None:
    """Put a turn into the heap."""
    at = heap[0] + 1
    heap[0] = at
    while at > 1 and heap[at // 2] > turn:
        heap[at] = heap[at // 2]
        at //= 2
    heap[at] = turn


@kernel
def pop(heap: IntArray) -> int:
    """Take the earliest turn out of the heap, which is not empty."""
    first, last, size = heap[1], heap[heap[0]], heap[0] - 1
    heap[0] = size
    at = 1
    while 2 * at <= size:
        below = 2 * at
        if below < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= last:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = last
    return int(first)


class Listed:
    """The roll of a queue, and the values that its numbers stand for."""

    def __init__(self, books: Books, queue: Queue) -> None:
        self.keys: list[Key] = []
        self.gangs: list[Gang] = []
        index: dict[Shape, int] = {}
        ids: list[int] = []
        ends: list[int] = []
        of_account = [0]
        for account in books.account_index:
            for shape, gangs in queue.get(account, {}).items():
                self.keys.append((account, shape))
                ids.append(index.setdefault(shape, len(index)))
                self.gangs += gangs
                ends.append(len(self.gangs))
            of_account.append(len(ids))
        self.index = {key: at for at, key in enumerate(self.keys)}
        self.at_shape, self.shapes = index, list(index)
        lines = np.zeros((len(ids), 7), dtype=np.int64)
        self.of_account = np.array(of_account, dtype=np.int64)
        lines[:, ACCOUNT] = np.repeat(np.arange(len(of_account) - 1), np.diff(self.of_account))
        lines[:, SHAPE] = ids
        lines[:, AFTER] = ends
        lines[1:, HEAD] = ends[:-1]
        self.firsts = lines[:, HEAD].copy()
        self.line_of_gang = np.repeat(np.arange(len(ids)), np.diff([0, *ends]))
        self.lines = lines
        self._of_shapes(books)
        self._ages()

    def renew(self, line: Line) -> None:
        """Take over which gang is the line's head."""
        at = self.index[line.account, line.shape]
        self.lines[at, HEAD] = self.firsts[at] + line.head_at()
        self.lines[at, BY_HAND] = int(line.has_returned)

    def take(self, lines: Lines, gangs: IntArray) -> None:
        """These gangs, heads of their lines in turn, were placed."""
        for at in self.line_of_gang[gangs].tolist():
            account, shape = self.keys[at]
            lines.of(account)[shape].take()

    def may_use(self, pool: int) -> BoolArray:
        """(n_lines): whether the line may use the pool."""
        may = np.zeros(len(self.shapes), dtype=np.bool_)
        for at in range(len(self.shapes)):
            first, after = self.shape_rows[at, FIRST_POOL : AFTER_POOL + 1].tolist()
            may[at] = pool in self.pools[first:after]
        chosen: BoolArray = may[self.lines[:, SHAPE]]
        return chosen

    def with_room(self, headroom: IntArray) -> BoolArray:
        """(n_lines): whether it has a head for which its account has room in some pool; `headroom` (n_pools,
        n_accounts).
        """
        found = np.zeros(len(self.lines), dtype=np.bool_)
        gpus = self.shape_rows[self.lines[:, SHAPE], GPUS]
        for pool, of_account in enumerate(headroom):
            found |= self.may_use(pool) & (of_account[self.lines[:, ACCOUNT]] >= gpus)
        return found & (self.lines[:, HEAD] < self.lines[:, AFTER])

    def _of_shapes(self, books: Books) -> None:
        rows: list[tuple[int, ...]] = []
        wanted: list[tuple[int, int, int]] = []
        pools: list[int] = []
        for shape in self.shapes:
            wished, least, usable = wants(shape), least_demand(shape), books.pools_for(shape.grade)
            first_want, first_pool = len(wanted), len(pools)
            wanted += [(ROW_OF_LEVEL[want.level], want.parts, want.size) for want in wished]
            pools += usable if least is not None else ()
            rows.append(
                (
                    shape.least_gpus,
                    int(is_plain(shape, wished)),
                    first_want,
                    len(wanted),
                    first_pool,
                    len(pools),
                    int(shape.reckless and shape.preemptible),
                    0,
                    shape.gpus_per_worker,
                )
            )
        self.shape_rows = np.array(rows, dtype=np.int64).reshape(len(rows), 9)
        self.wants = np.array(wanted, dtype=np.int64).reshape(len(wanted), 3)
        self.pools = np.array(pools, dtype=np.int64)

    def _ages(self) -> None:
        self.numbers = self.column("number")
        self.priorities = self.column("spec.priority")
        starts = [0 if gang.spec.deadline_ms is None else gang.head_start_ms for gang in self.gangs]
        self.head_start_ms = np.array(starts, dtype=np.int64)
        self.submitted_ms = self.column("submitted_ms") - self.head_start_ms

    def column(self, name: str) -> IntArray:
        """(n_gangs) int64: an integer of each gang."""
        values: IntArray = np.fromiter(map(attrgetter(name), self.gangs), dtype=np.int64, count=len(self.gangs))
        return values

    def in_order(self, *before: IntArray) -> tuple[IntArray, IntArray]:
        """(turns, line_of_turn) by these, the first counting most, then priority, age and number."""
        order = np.lexsort((self.numbers, self.submitted_ms, -self.priorities, *reversed(before)))
        turns = np.empty(len(order), dtype=np.int64)
        turns[order] = np.arange(len(order))
        return turns, self.line_of_gang[order]

    def roll(self, turns: IntArray, line_of_turn: IntArray) -> Roll:
        """The roll in this order; nobody is asked."""
        heap = np.zeros(len(self.lines) + 1, dtype=np.int64)
        return Roll(self.lines, self.of_account, self.shape_rows, self.wants, self.pools, turns, line_of_turn, heap)


def is_plain(shape: Shape, wished: Sequence[Want]) -> bool:
    """Whether machine code may serve gangs of this shape, which wish this."""
    fixed = shape.preemptible and not shape.is_elastic and not shape.is_share
    return fixed and bool(wished) and all(want.apart is None for want in wished)


def fill(roll: Roll, chosen: IntArray) -> None:
    """Ask these lines, which all have a head, and no other."""
    roll.heap[0] = len(chosen)
    roll.heap[1 : len(chosen) + 1] = np.sort(roll.turns[roll.lines[chosen, HEAD]])
    roll.lines[:, ASKED] = 0
    roll.lines[chosen, ASKED] = 1
