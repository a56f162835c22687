"""The waiting lines as arrays, for machine code that serves a run of turns: who is next, what it asks, where it may go.

A *turn* is a gang's place in an order of service; the heap holds the turns of the heads of all lines that are asked.
Lines stand account by account, their gangs one behind the other as in the queue. Machine code may serve a line whose
gangs have a fixed size, whole GPUs and no wish to be apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.books import Books
from scheduler.core.placement.cells import ROW_OF_LEVEL
from scheduler.core.placement.lines import Key, Line
from scheduler.core.placement.orders import LASTING_UNSOLD
from scheduler.core.placement.snapshot import Queue
from scheduler.core.placement.wants import Want, least_demand, wants
from scheduler.core.workloads import Gang, Shape

BoolArray = npt.NDArray[np.bool_]

ACCOUNT, SHAPE, AFTER, HEAD, ASKED, REFUSED, BY_HAND = range(7)
"""Columns of lines."""
GPUS, SERVED, FIRST_WANT, AFTER_WANT, FIRST_POOL, AFTER_POOL, RECKLESS, IS_OUT, WORKER_GPUS, END_MS, ORDER = range(11)
"""Columns of shapes."""
BY_RULES, FREELY, FIRMLY = range(3)
"""Who serves a shape: the modules of the rules alone; or machine code too, what can be preempted and what cannot."""
NUMBER, PRIORITY, SUBMITTED_MS, QUEUED_MS, RUNTIME_MS, GRACE_MS, HEAD_START_MS = range(7)
"""Columns of `Listed.ages`: what orders gangs, older by what a near deadline adds; declared run time, 0: none."""
ROW, PARTS, SIZE = range(3)
"""Columns of wants."""


class Roll(NamedTuple):
    """See the module; what machine code reads and writes."""

    lines: IntArray
    """(n_lines, 7): account; shape; behind its last gang; its next gang; whether it is asked (in the heap); whether its
    account's cells refused it; whether machine code may not serve it for now.
    """
    of_account: IntArray
    """(n_accounts + 1): where each account's lines begin."""
    shapes: IntArray
    """(n_shapes, 11): GPUs, the least that will do; who serves it (BY_RULES); where its wants begin and end, best
    first, and the pools that it may use; whether it borrows only while the pool is roomy; whether it is refused for
    this round; GPUs of a worker; of what cannot be preempted, the first change of ownership after its end, and the
    order of what lasts until then, -1: not made yet.
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
        self.names, self._account_index = books.names, books.account_index
        self.gangs: list[Gang] = []
        index: dict[Shape, int] = {}
        ids: list[int] = []
        ends: list[int] = []
        of_account = [0]
        for account in self.names:
            for shape, gangs in queue.get(account, {}).items():
                ids.append(index.setdefault(shape, len(index)))
                self.gangs += gangs
                ends.append(len(self.gangs))
            of_account.append(len(ids))
        self.at_shape, self.shapes = index, list(index)
        lines = np.zeros((len(ids), 7), dtype=np.int64)
        self.of_account = np.array(of_account, dtype=np.int64)
        lines[:, ACCOUNT] = np.repeat(np.arange(len(self.names)), np.diff(self.of_account))
        lines[:, SHAPE] = ids
        lines[:, AFTER] = ends
        lines[1:, HEAD] = ends[:-1]
        self.firsts = lines[:, HEAD].copy()
        self.line_of_gang = np.repeat(np.arange(len(ids)), np.diff([0, *ends]))
        self.lines = lines
        self._of_shapes(books)
        self.ages = self._ages()

    def key(self, at: int) -> Key:
        """Which line that is."""
        account, shape = self.lines[at, : SHAPE + 1].tolist()
        return self.names[account], self.shapes[shape]

    def at(self, account: int, shape: Shape) -> int:
        """Where the line is."""
        low, high = self.of_account[account : account + 2].tolist()
        return int(low) + int((self.lines[low:high, SHAPE] == self.at_shape[shape]).argmax())

    def taken(self, account: str) -> Mapping[Shape, int]:
        """How many gangs of each of the account's lines were taken, of lines that only machine code served."""
        at = self._account_index[account]
        low, high = self.of_account[at : at + 2].tolist()
        numbers = (self.lines[low:high, HEAD] - self.firsts[low:high]).tolist()
        return {self.shapes[shape]: n for shape, n in zip(self.lines[low:high, SHAPE].tolist(), numbers, strict=True)}

    def ended(self) -> Mapping[str, Collection[Shape]]:
        """Lines that have no gang left, by account; of lines that only machine code served."""
        found: dict[str, list[Shape]] = {}
        for account, shape in self.lines[self.lines[:, HEAD] == self.lines[:, AFTER], : SHAPE + 1].tolist():
            found.setdefault(self.names[account], []).append(self.shapes[shape])
        return found

    def first_in_turn(self, shape: Shape, moving: Collection[int]) -> int | None:
        """The line of the shape whose first gang, when the round began, waits longest among borrowers, but for those of
        the accounts that are moving.
        """
        lines = np.flatnonzero(self.lines[:, SHAPE] == self.at_shape[shape])
        lines = lines[~np.isin(self.lines[lines, ACCOUNT], list(moving))]
        if not len(lines):
            return None
        ages = self.ages[self.firsts[lines]]
        return int(
            lines[np.lexsort((ages[:, NUMBER], ages[:, SUBMITTED_MS], -ages[:, PRIORITY], ages[:, QUEUED_MS]))[0]]
        )

    def renew(self, line: Line) -> None:
        """Take over which gang is the line's head."""
        at = self.at(self._account_index[line.account], line.shape)
        self.lines[at, HEAD] = self.firsts[at] + line.head_at()
        self.lines[at, BY_HAND] = int(line.has_returned)

    def order_firm(self, books: Books, line: int) -> None:
        """Make the order of the GPUs that last long enough for the line's gangs, which cannot be preempted."""
        row = self.shape_rows[self.lines[line, SHAPE]]
        row[ORDER] = books.search.order(LASTING_UNSOLD, int(row[END_MS]))

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
                    served_how(shape, wished),
                    first_want,
                    len(wanted),
                    first_pool,
                    len(pools),
                    int(shape.reckless and shape.preemptible),
                    0,
                    shape.gpus_per_worker,
                    0 if shape.preemptible else books.search.turn_ms(books.now_ms + shape.runtime_ms)[0],
                    -1,
                )
            )
        self.shape_rows = np.array(rows, dtype=np.int64).reshape(len(rows), 11)
        self.wants = np.array(wanted, dtype=np.int64).reshape(len(wanted), 3)
        self.pools = np.array(pools, dtype=np.int64)

    def _ages(self) -> IntArray:
        """(n_gangs, 7): see NUMBER."""
        numbers = chain.from_iterable(
            (
                gang.number,
                (spec := gang.spec).priority,
                gang.submitted_ms,
                gang.queued_ms,
                spec.max_runtime_ms or 0,
                spec.grace_ms,
                0 if spec.deadline_ms is None else gang.head_start_ms,
            )
            for gang in self.gangs
        )
        ages = np.fromiter(numbers, dtype=np.int64, count=7 * len(self.gangs)).reshape(len(self.gangs), 7)
        ages[:, SUBMITTED_MS] -= ages[:, HEAD_START_MS]
        ages[:, QUEUED_MS] -= ages[:, HEAD_START_MS]
        return ages

    def in_order(self, *before: IntArray) -> tuple[IntArray, IntArray]:
        """(turns, line_of_turn) by these, the first counting most, then priority, age and number."""
        ages = self.ages
        order = np.lexsort((ages[:, NUMBER], ages[:, SUBMITTED_MS], -ages[:, PRIORITY], *reversed(before)))
        turns = np.empty(len(order), dtype=np.int64)
        turns[order] = np.arange(len(order))
        return turns, self.line_of_gang[order]

    def roll(self, turns: IntArray, line_of_turn: IntArray) -> Roll:
        """The roll in this order; nobody is asked."""
        heap = np.zeros(len(self.lines) + 1, dtype=np.int64)
        return Roll(self.lines, self.of_account, self.shape_rows, self.wants, self.pools, turns, line_of_turn, heap)


def served_how(shape: Shape, wished: Sequence[Want]) -> int:
    """Whether machine code may serve gangs of this shape, which wish this, and by which rules."""
    fixed = not shape.is_elastic and not shape.is_share
    if not fixed or not wished or any(want.apart is not None for want in wished):
        return BY_RULES
    return FREELY if shape.preemptible else FIRMLY


def fill(roll: Roll, chosen: IntArray) -> None:
    """Ask these lines, which all have a head, and no other."""
    roll.heap[0] = len(chosen)
    roll.heap[1 : len(chosen) + 1] = np.sort(roll.turns[roll.lines[chosen, HEAD]])
    roll.lines[:, ASKED] = 0
    roll.lines[chosen, ASKED] = 1
