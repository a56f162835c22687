"""Gangs over their entitlement borrow free GPUs: unsold ones first, then such as others own and do not use.

Order: who waits longer than `starving_ms`, then by waiting time and a near deadline, ties to the account that
lent more than it borrowed, then the published order. What cannot be preempted borrows unsold GPUs only, to its declared
end. A gang that never checkpoints and runs long borrows only while its pool is roomy. An account within its count whose
work is being moved waits until that is back, or what it borrows would take the mover's turn. Fullest nodes first, so
that whole nodes stay for whole-node gangs.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from scheduler.core.placement.books import Books
from scheduler.core.placement.elastic import most_free, sized
from scheduler.core.placement.lines import Line, Lines
from scheduler.core.placement.room import free_fit
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.snapshot import Policy
from scheduler.core.placement.tight import Kind
from scheduler.core.placement.wants import demand, wants
from scheduler.core.quantities import ONE_PPM, ceil_div, floor_div
from scheduler.core.workloads import Gang, Shape

FREE = tiers(Kind.ANY)
FIRM = tiers(Kind.LASTING_UNSOLD)
ENDLESS = tiers(Kind.UNSOLD, Kind.ANY)
ENDING = tiers(Kind.UNSOLD, Kind.UNSOLD_OR_LASTING, Kind.ANY)

Turn = tuple[bool, int, int, tuple[int, int, int]]


class Borrowed:
    """The second phase of a round. Free GPUs only become fewer, so a shape that was refused stays refused."""

    def __init__(self, books: Books, lines: Lines) -> None:
        self._books = books
        self._lines = lines
        self._refused: set[Shape] = set()
        self._fitting: set[Shape] = set()

    def run(self) -> None:
        """Place every borrower that fits, in order."""
        books = self._books
        if not any(books.free_gpus(pool) for pool in range(books.n_pools)):
            return
        turns: list[tuple[Turn, Line]] = []
        moving = books.accounts_moving()
        for shape, lines in self._lines.by_shape().items():
            if self._may_fit(shape):
                for account, line in lines.items():
                    if books.account_index[account] not in moving:
                        self._line_up(turns, line)
        heapify(turns)
        while turns:
            _, line = heappop(turns)
            gang = line.head()
            if gang is None or line.shape in self._refused:
                continue
            if self._placed(gang, line):
                line.take()
                following = line.head()
                if following is not None:
                    heappush(turns, (self._turn(following), line))
            else:
                self._refused.add(line.shape)

    def _line_up(self, turns: list[tuple[Turn, Line]], line: Line) -> None:
        gang = line.head()
        if gang is not None:
            turns.append((self._turn(gang), line))

    def _turn(self, gang: Gang) -> Turn:
        snapshot = self._books.snapshot
        starves = self._books.now_ms - gang.queued_ms > self._books.policy.starving_ms
        return (
            not starves,
            gang.queued_ms - gang.head_start_ms,
            -snapshot.balance_gpu_ms.get(gang.spec.account, 0),
            gang.order,
        )

    def _may_fit(self, shape: Shape) -> bool:
        """Whether the shape fitted when it was first asked for; asked once a round."""
        if shape in self._fitting:
            return True
        if shape in self._refused:
            return False
        fits = any(fits_free(self._books, shape, pool) for pool in self._books.pools_for(shape.grade))
        (self._fitting if fits else self._refused).add(shape)
        return fits

    def _placed(self, gang: Gang, line: Line) -> bool:
        books = self._books
        for pool in books.pools_for(line.shape.grade):
            chosen = self._sized(gang, line, pool)
            if chosen is None:
                continue
            wished = line.wants if chosen is gang else wants(chosen.shape)
            gpus = free_fit(books, wished, _tiers(books, gang, pool))
            if gpus is not None:
                books.place(chosen, gpus, inside=False)
                return True
        return False

    def _sized(self, gang: Gang, line: Line, pool: int) -> Gang | None:
        """The gang; an elastic one with as many workers as fit; None where the pool is not roomy enough for it."""
        books, shape = self._books, line.shape
        if not shape.is_elastic:
            return gang if roomy(books, shape, pool) else None
        most = min(shape.workers, floor_div(max(0, spare_gpus(books, shape, pool)), shape.gpus_per_worker))
        workers = most_free(books, shape, _tiers(books, gang, pool), most)
        return None if workers is None else sized(gang, workers)


def _tiers(books: Books, gang: Gang, pool: int) -> Tiers:
    if not gang.shape.preemptible:
        return Tiers(FIRM, pool, end_ms=books.now_ms + gang.shape.runtime_ms)
    runtime_ms = gang.spec.max_runtime_ms
    if runtime_ms is None:
        return Tiers(ENDLESS, pool)
    return Tiers(ENDING, pool, end_ms=books.now_ms + runtime_ms)


def roomy(books: Books, shape: Shape, pool: int) -> bool:
    """Whether the pool keeps its idle share when a gang of this shape borrows; asked only of reckless shapes."""
    return not (shape.reckless and shape.preemptible) or shape.least_gpus <= spare_gpus(books, shape, pool)


def spare_gpus(books: Books, shape: Shape, pool: int) -> int:
    """How many of the pool's free GPUs a gang of this shape may borrow; less than 0 where it is too full already."""
    if not (shape.reckless and shape.preemptible):
        return books.free_gpus(pool)
    return beyond_idle_share(books.policy, books.free_gpus(pool), books.usable_gpus(pool))


def beyond_idle_share(policy: Policy, free: int, usable: int) -> int:
    """How many of a pool's free GPUs are more than the idle share that reckless borrowers must leave."""
    return free - ceil_div(policy.reckless_idle_ppm * usable, ONE_PPM)


def fits_free(books: Books, shape: Shape, pool: int) -> bool:
    """Whether free GPUs of the pool have room for the shape, as its topology must be, wherever it may borrow."""
    want = demand(shape.sized(shape.min_workers) if shape.is_elastic else shape)
    if want is None or not books.has_room(want, Tiers(FREE, pool)):
        return False
    if shape.preemptible:
        return roomy(books, shape, pool)
    return books.has_room(want, Tiers(FIRM, pool, end_ms=books.now_ms + shape.runtime_ms))
