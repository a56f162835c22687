"""Gangs over their entitlement borrow free GPUs: unsold ones first, then such as others own and do not use.

Order: who waits longer than `starving_ms`, then by waiting time and a near deadline, ties to the account that
lent more than it borrowed, then the published order. What cannot be preempted borrows unsold GPUs only, to its declared
end. A gang that never checkpoints and runs long borrows only while its pool is roomy. An account within its count whose
work is being moved waits until that is back, or what it borrows would take the mover's turn. Fullest nodes first, so
that whole nodes stay for whole-node gangs. Who has waited long and does not fit is not delayed (`protect`).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.elastic import most_free, sized, tried_sizes
from scheduler.core.placement.lines import Key, Line, Lines
from scheduler.core.placement.protect import Protected, ends_ms, protected
from scheduler.core.placement.room import free_fit
from scheduler.core.placement.scan import fit_by_scan
from scheduler.core.placement.search import Tiers, tiers
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
        self._held_shapes: set[Shape] = set()
        self._is_held = False
        self.protected: dict[int, Protected] = {}
        """By pool: the gang that others must not delay (`protect`)."""
        self.held: dict[Key, Protected] = {}
        """Lines that would fit but for it."""

    def run(self) -> None:
        """Place every borrower that fits, in order."""
        books = self._books
        if not any(books.free_gpus(pool) for pool in range(books.n_pools)):
            return
        turns: list[tuple[Turn, Line]] = []
        moving = books.accounts_moving()
        for account in self._lines.accounts():
            if books.account_index[account] not in moving:
                for line in self._lines.of(account).values():
                    self._line_up(turns, line)
        self._protect(moving)
        heapify(turns)
        passed: dict[Line, None] = {}
        while turns:
            _, line = heappop(turns)
            gang = line.head()
            if gang is None or line.shape in self._refused:
                continue
            if self._placed(gang, line):
                line.take()
            elif self._is_held:
                line.pass_over()
                passed[line] = None
            else:
                self._refused.add(line.shape)
            self._line_up(turns, line)
        for line in passed:
            line.recall()

    def _protect(self, moving: set[int]) -> None:
        """Find who is protected, of those that do not fit now."""
        books = self._books
        since_ms = books.now_ms - books.policy.protect_after_ms
        lines = [line for line in self._lines.all() if line.shape.preemptible and not line.shape.reckless]
        heads = [
            head
            for line in lines
            if (head := line.head()) is not None
            and head.queued_ms < since_ms
            and books.account_index[line.account] not in moving
            and not self._may_fit(line.shape)
        ]
        if heads:
            self.protected = protected(books, sorted(heads, key=self._turn))

    def _line_up(self, turns: list[tuple[Turn, Line]], line: Line) -> None:
        if self._may_fit(line.shape):
            gang = line.head()
            if gang is not None:
                heappush(turns, (self._turn(gang), line))

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
        self._is_held = False
        for pool in books.pools_for(line.shape.grade):
            chosen = self._sized(gang, line, pool)
            if chosen is None:
                continue
            wished = line.wants if chosen is gang else wants(chosen.shape)
            gpus = free_fit(books, wished, borrowing_tiers(books, gang, pool))
            guard = self.protected.get(pool)
            if gpus is not None and guard is not None and ends_ms(gang, books.now_ms) > guard.start_ms:
                chosen, gpus = self._beside(guard, chosen, gpus, line, pool)
            if gpus is not None:
                books.place(chosen, gpus, inside=False)
                return True
        return False

    def _beside(
        self, guard: Protected, gang: Gang, gpus: IntArray, line: Line, pool: int
    ) -> tuple[Gang, IntArray | None]:
        """GPUs for a gang that outlasts the protected one's start, such as that one does not need: these, if it does
        not, or others.
        """
        books = self._books
        sizes = tried_sizes(line.shape, len(gpus) // line.shape.gpus_per_worker)
        where = borrowing_tiers(books, gang, pool)
        if guard.allows(books, gpus):
            found: tuple[Gang, IntArray | None] = (gang, gpus)
        elif line.shape in self._held_shapes:
            found = (gang, None)
        else:
            tried = (
                (sized(gang, workers), fit_by_scan(books.fleet, books.floor, want, where, guard.spare))
                for workers in sizes
                if (want := demand(line.shape.sized(workers))) is not None
            )
            found = next((each for each in tried if each[1] is not None), (gang, None))
        if found[1] is None:
            self._is_held = True
            self._held_shapes.add(line.shape)
            self.held[line.account, line.shape] = guard
        else:
            guard.take(books, found[1])
        return found

    def _sized(self, gang: Gang, line: Line, pool: int) -> Gang | None:
        """The gang; an elastic one with as many workers as fit; None where the pool is not roomy enough for it."""
        books, shape = self._books, line.shape
        if not shape.is_elastic:
            return gang if roomy(books, shape, pool) else None
        most = min(shape.workers, floor_div(max(0, spare_gpus(books, shape, pool)), shape.gpus_per_worker))
        workers = most_free(books, shape, borrowing_tiers(books, gang, pool), most)
        return None if workers is None else sized(gang, workers)


def borrowing_tiers(books: Books, gang: Gang, pool: int) -> Tiers:
    """Which free GPUs of the pool the gang may borrow, best first."""
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
    kept = ceil_div(books.policy.reckless_idle_ppm * books.usable_gpus(pool), ONE_PPM)
    return books.free_gpus(pool) - kept


def fits_free(books: Books, shape: Shape, pool: int) -> bool:
    """Whether free GPUs of the pool have room for the shape, as its topology must be, wherever it may borrow."""
    want = demand(shape.sized(shape.min_workers) if shape.is_elastic else shape)
    if want is None or not books.has_room(want, Tiers(FREE, pool)):
        return False
    if shape.preemptible:
        return roomy(books, shape, pool)
    return books.has_room(want, Tiers(FIRM, pool, end_ms=books.now_ms + shape.runtime_ms))
