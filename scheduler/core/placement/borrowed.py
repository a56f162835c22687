"""Gangs over their entitlement borrow free GPUs: unsold ones first, then such as others own and do not use.

Order: by waiting time, so that nobody starves, ties to the account that lent more than it borrowed, then the published
order. What cannot be preempted borrows unsold GPUs only, to its declared end. A gang that never
checkpoints and runs long borrows only while its pool is roomy. An account within its count whose work is being moved
waits until that is back, or what it borrows would take the mover's turn. Fullest nodes first, so that whole nodes
stay for whole-node gangs.
"""

from __future__ import annotations

from heapq import heappop, heappush

from scheduler.core.placement.books import Books
from scheduler.core.placement.lines import Line, Lines, Turn
from scheduler.core.placement.room import free_fit
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.snapshot import Policy
from scheduler.core.placement.tight import Kind
from scheduler.core.placement.wants import Want, demand
from scheduler.core.quantities import ONE_PPM
from scheduler.core.workloads import Gang, Shape

FREE = tiers(Kind.ANY)
FIRM = tiers(Kind.LASTING_UNSOLD)
ENDLESS = tiers(Kind.UNSOLD, Kind.ANY)
ENDING = tiers(Kind.UNSOLD, Kind.UNSOLD_OR_LASTING, Kind.ANY)

Entry = tuple[int, tuple[()] | tuple[int, tuple[int, int, int]], int, tuple[list[Turn], int]]
"""Since when it waits, and what breaks ties; then what comes up: a line, or (no tie) all of a list from an index on."""


class Borrowed:
    """The second phase of a round. Free GPUs only become fewer, so a shape that was refused stays refused."""

    def __init__(self, books: Books, lines: Lines) -> None:
        self._books = books
        self._lines = lines
        self._refused: set[Shape] = set()
        self._fitting: set[Shape] = set()
        self._moving: set[str] = set()
        self._turns: list[Entry] = []
        self._roomy_wants: dict[tuple[int, Want], bool] = {}

    def run(self) -> None:
        """Place every borrower that fits, in order."""
        books = self._books
        if not any(books.free_gpus(pool) for pool in range(books.n_pools)):
            return
        moving = books.accounts_moving()
        self._moving = {name for name, index in books.account_index.items() if index in moving} if moving else set()
        for shape in self._lines.by_shape():
            if self._may_fit(shape):
                self._line_up_from(self._lines.in_turn(shape), 0)
        for account, shape in dict.fromkeys((gang.spec.account, gang.shape) for gang in books.gangs_taken()):
            if self._may_fit(shape):
                self._line_up(self._lines.of(account)[shape])
        while self._turns:
            _, tie, _, (turns, at) = heappop(self._turns)
            line = turns[at][2]
            if line.shape in self._refused:
                continue
            if not tie:
                self._bring_up(turns, at)
            elif (gang := line.head()) is not None and self._placed(gang, line):
                line.take()
                self._line_up(line)
            else:
                self._refused.add(line.shape)

    def _line_up_from(self, turns: list[Turn], at: int) -> None:
        """All lines of a shape from this one on, by an entry that comes before that of each of them."""
        if at < len(turns):
            heappush(self._turns, (turns[at][0], (), len(self._turns), (turns, at)))

    def _bring_up(self, turns: list[Turn], at: int) -> None:
        """Line up those that have waited equally long, and after them the others."""
        queued_ms = turns[at][0]
        while at < len(turns) and turns[at][0] == queued_ms:
            if not turns[at][2].moved:  # one that lost gangs stands where its next gang does
                self._line_up(turns[at][2])
            at += 1
        self._line_up_from(turns, at)

    def _line_up(self, line: Line) -> None:
        gang = line.head()
        if gang is not None and line.account not in self._moving:
            tie = (-self._books.snapshot.balance_gpu_ms.get(line.account, 0), gang.order)
            heappush(self._turns, (gang.queued_ms, tie, 0, ([(gang.queued_ms, gang.order, line)], 0)))

    def _may_fit(self, shape: Shape) -> bool:
        """Whether the shape fitted when it was first asked for; asked once a round."""
        if shape in self._fitting:
            return True
        if shape in self._refused:
            return False
        fits = any(self._fits_in(shape, pool) for pool in self._books.pools_for(shape.grade))
        (self._fitting if fits else self._refused).add(shape)
        return fits

    def _fits_in(self, shape: Shape, pool: int) -> bool:
        """Whether free GPUs of the pool have room for the shape, as its topology must be, wherever it may borrow."""
        want = demand(shape)
        if want is None:
            return False
        key = (pool, want)
        fits = self._roomy_wants.get(key)
        if fits is None:
            fits = self._roomy_wants[key] = self._books.has_room(want, Tiers(FREE, pool))
        if shape.preemptible or not fits:
            return fits and roomy(self._books, shape, pool)
        return self._books.has_room(want, Tiers(FIRM, pool, end_ms=self._books.now_ms + shape.runtime_ms))

    def _placed(self, gang: Gang, line: Line) -> bool:
        books = self._books
        for pool in books.pools_for(line.shape.grade):
            if not roomy(books, line.shape, pool):
                continue
            gpus = free_fit(books, line.wants, _tiers(books, gang, pool))
            if gpus is not None:
                books.place(gang, gpus, inside=False)
                return True
        return False


def _tiers(books: Books, gang: Gang, pool: int) -> Tiers:
    if not gang.shape.preemptible:
        return Tiers(FIRM, pool, end_ms=books.now_ms + gang.shape.runtime_ms)
    runtime_ms = gang.spec.max_runtime_ms
    if runtime_ms is None:
        return Tiers(ENDLESS, pool)
    return Tiers(ENDING, pool, end_ms=books.now_ms + runtime_ms)


def roomy(books: Books, shape: Shape, pool: int) -> bool:
    """Whether the pool keeps its idle share when a gang of this shape borrows; asked only of reckless shapes."""
    if not (shape.reckless and shape.preemptible):
        return True
    return keeps_idle(books.policy, books.free_gpus(pool) - shape.gpus, books.usable_gpus(pool))


def keeps_idle(policy: Policy, idle: int, usable: int) -> bool:
    """Whether so many idle GPUs of a pool are the share that reckless borrowers must leave."""
    return idle * ONE_PPM >= policy.reckless_idle_ppm * usable
