"""Gangs over their entitlement borrow free GPUs: unsold ones first, then such as others own and do not use.

Order: by waiting time, to which a near deadline adds, so that nobody starves; ties to the account that lent more than
it borrowed, then the published order. What cannot be preempted borrows unsold GPUs only, to its declared end, beside
such as its own account has, where only work that can be preempted fills the count (`firm`). A gang that never
checkpoints and runs long borrows only while its pool is roomy. An account within its count whose work is being moved
waits until that is back, or what it borrows would take the mover's turn. Fullest nodes first, so that whole nodes stay
for whole-node gangs. Who has waited long and does not fit is not delayed (`protect`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.borrowing import InRuns, OneByOne, Turns
from scheduler.core.placement.elastic import most_free, sized, tried_sizes
from scheduler.core.placement.ends import ends_ms
from scheduler.core.placement.firm import LASTING, owns_for, rest_repacks
from scheduler.core.placement.lines import Key, Line, Lines, Turn, turn_of
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.protect import Protected, protected
from scheduler.core.placement.roll import Listed
from scheduler.core.placement.room import free_fit
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.snapshot import Backfill, Policy
from scheduler.core.placement.wants import Want, demand, least_demand, wants
from scheduler.core.quantities import ONE_PPM, ceil_div, floor_div
from scheduler.core.workloads import Gang, Shape

FREE = tiers(Kind.ANY)
UNSOLD = tiers(Kind.UNSOLD)
FIRM = tiers(Kind.LASTING_UNSOLD)
ENDLESS = tiers(Kind.UNSOLD, Kind.ANY)
ENDING = tiers(Kind.UNSOLD, Kind.UNSOLD_OR_LASTING, Kind.ANY)


class Borrowed:
    """The second phase of a round. Free GPUs only become fewer, so a shape that was refused stays refused."""

    def __init__(self, books: Books, lines: Lines, listed: Listed | None = None) -> None:
        """With a roll most turns are served by machine code."""
        self._books = books
        self._lines = lines
        self._listed = listed
        self._fits: dict[Shape, bool] = {}
        self._moving: set[str] = set()
        self._roomy_wants: dict[tuple[int, Want], bool] = {}
        self._unsold_wants: dict[tuple[int, Want], bool] = {}
        self._held_keys: set[Shape | Key] = set()
        self._not_unsold: set[tuple[Shape, int]] = set()
        """Shapes that cannot be preempted, and pools on whose unsold GPUs they have no room, whoever asks."""
        self._own_only: set[Shape] = set()
        """Shapes that have no room on unsold GPUs, of any pool and at their least."""
        self._is_held = False
        self._idle_owners: set[str] | None = None
        self._touched: set[str] = set()
        """Accounts of which this round decided something, or where it did."""
        self.protected: dict[int, Protected] = {}
        """By pool: the gang that others must not delay (`protect`)."""
        self.held: dict[Key, Protected] = {}
        """Lines that would fit but for it."""

    def run(self) -> None:
        """Place every borrower that fits, in order."""
        books = self._books
        if not any(books.free_gpus(pool) for pool in range(books.n_pools)):
            return
        self._touched = books.owners_touched()
        moving = books.accounts_moving()
        self._moving = {name for name, index in books.account_index.items() if index in moving} if moving else set()
        self._protect()
        self._serve(self._turns())

    def backfill(self) -> Backfill:
        """Who is protected, and who is held back for whom."""
        return Backfill(
            {(guard.gang.account, guard.gang.shape): guard.start_ms for guard in self.protected.values()},
            {line: (guard.gang.shape.gpus, guard.start_ms) for line, guard in self.held.items()},
        )

    def _turns(self) -> Turns:
        books = self._books
        if self._listed is None:
            return OneByOne(books, self._lines, self._moving, self._may_fit, self._in_turn, self._may_come)
        # One floor for all pools' guards: machine code takes from it too.
        spare = np.zeros(books.n_nodes, dtype=np.int64)
        for pool, guard in self.protected.items():
            spare = np.where(books.fleet.pool_of_node == pool, guard.spare, spare)
        self.protected = {pool: replace(guard, spare=spare) for pool, guard in self.protected.items()}
        idle = [idle_share(books.policy, books.usable_gpus(pool)) for pool in range(books.n_pools)]
        return InRuns(
            books,
            self._lines,
            self._listed,
            (ENDING, ENDLESS),
            self._moving,
            self._may_fit,
            self.protected,
            spare,
            idle,
        )

    def _serve(self, turns: Turns) -> None:
        """Place who comes up and fits; who is held back stands aside, for the one behind it may be short."""
        passed: dict[Line, None] = {}
        while (line := turns.next()) is not None:
            if (gang := line.head()) is not None and self._placed(gang, line):
                line.take()
                turns.line_up(line)
                turns.wake(line.account)
            elif self._is_held:
                line.pass_over()
                passed[line] = None
                turns.line_up(line)
            elif line.shape.preemptible:  # others of a firm shape may have GPUs of their own
                turns.refuse(line.shape)
        for line in passed:
            line.recall()

    def _protect(self) -> None:
        """Find who is protected, of those that do not fit now."""
        long_ms = self._books.now_ms - self._books.policy.protect_after_ms
        found: list[Turn] = []
        for shape in self._lines.shapes():
            if shape.preemptible and not shape.reckless and not self._may_fit(shape):
                first = self._first_in_turn(shape)
                if first is not None and first[2].first().queued_ms < long_ms:
                    found.append(first)
        if found:
            heads = [head for _, _, line in sorted(found, key=_turn) if (head := line.head()) is not None]
            self.protected = protected(self._books, heads)

    def _first_in_turn(self, shape: Shape) -> Turn | None:
        if self._listed is None:
            turns = (turn for turn in self._lines.in_turn(shape) if turn[2].account not in self._moving)
            return next(turns, None)
        at = self._listed.first_in_turn(shape, [self._books.account_index[name] for name in self._moving])
        if at is None:
            return None
        account, shape = self._listed.key(at)
        line = self._lines.of(account)[shape]
        return turn_of(line.first(), line)

    def _may_fit(self, shape: Shape) -> bool:
        """Whether the shape fitted when it was first asked for; asked once a round."""
        fits = self._fits.get(shape)
        if fits is None:
            pools = self._books.pools_for(shape.grade)
            fits = self._fits[shape] = any(self._fits_in(shape, pool) for pool in pools)
        return fits

    def _in_turn(self, shape: Shape) -> list[Turn]:
        """The shape's lines; of what cannot be preempted, and finds no unsold GPUs, those of accounts that have free
        ones of their own. Free GPUs only become fewer meanwhile, so no other finds room.
        """
        turns = self._lines.in_turn(shape)
        if not shape.preemptible:
            self._ask_unsold(shape)
        if shape not in self._own_only:
            return turns
        owners = self._owners_with_room()
        return [turn for turn in turns if turn[2].account in owners]

    def _may_come(self, line: Line) -> bool:
        """Whether the line may find room yet. Where unsold GPUs have none, those of accounts without free ones of their
        own may not, nor those refused before, while nothing happens to their account.
        """
        if line.shape not in self._own_only:
            return True
        if line.refused and line.account not in self._touched:
            return False
        return line.account in self._owners_with_room()

    def _owners_with_room(self) -> set[str]:
        if self._idle_owners is None:
            self._idle_owners = self._books.idle_owners()
        return self._idle_owners

    def _ask_unsold(self, shape: Shape) -> None:
        """Whether unsold GPUs have room for the shape, wherever it may use them."""
        want, end_ms = least_demand(shape), self._books.now_ms + shape.runtime_ms
        pools = self._books.pools_for(shape.grade)
        if want and not any(self._has_unsold(want, pool, end_ms) for pool in pools):
            self._not_unsold.update((shape, pool) for pool in pools)
            self._own_only.add(shape)

    def _has_unsold(self, want: Want, pool: int, end_ms: int) -> bool:
        """Whether the pool's unsold GPUs have room for the want until then: where none have now, none have."""
        key = (pool, want)
        some = self._unsold_wants.get(key)
        if some is None:
            some = self._unsold_wants[key] = self._books.has_room(want, Tiers(UNSOLD, pool))
        return some and self._books.has_room(want, Tiers(FIRM, pool, end_ms=end_ms))

    def _fits_in(self, shape: Shape, pool: int) -> bool:
        """Whether free GPUs of the pool have room for the shape, as its topology must be, wherever it may borrow."""
        want = least_demand(shape)
        if want is None:
            return False
        key = (pool, want)
        fits = self._roomy_wants.get(key)
        if fits is None:
            fits = self._roomy_wants[key] = self._books.has_room(want, Tiers(FREE, pool))
        return fits and roomy(self._books, shape, pool)

    def _placed(self, gang: Gang, line: Line) -> bool:
        self._is_held = False
        placed = any(
            self._placed_as(chosen, line, pool)
            for pool in self._books.pools_for(line.shape.grade)
            for chosen in self._sizes(gang, line, pool)
        )
        # An elastic gang is also refused for how much is free in all.
        line.refused = not (placed or self._is_held or line.shape.preemptible or line.shape.is_elastic)
        if placed:
            self._touched.add(line.account)
        return placed

    def _placed_as(self, gang: Gang, line: Line, pool: int) -> bool:
        """Place the gang, which may be of fewer workers than the line asks for, in the pool; whether it has room."""
        books, shape = self._books, gang.shape
        if line.refused and (shape, pool) in self._not_unsold and line.account not in self._touched:
            return False
        wished = wants(shape) if line.shape.is_elastic else line.wants
        own = own_tiers(books, gang, pool)
        if own is not None and self._takes(line, gang, wished, own):
            return True
        if (shape, pool) in self._not_unsold:
            return False
        if self._takes(line, gang, wished, borrowing_tiers(books, gang, pool)):
            return True
        if not (shape.preemptible or self._is_held):
            self._not_unsold.add((shape, pool))
            if not shape.is_elastic and all((shape, each) in self._not_unsold for each in books.pools_for(shape.grade)):
                self._own_only.add(shape)
        return False

    def _takes(self, line: Line, gang: Gang, wished: tuple[Want, ...], where: Tiers) -> bool:
        books = self._books
        gpus = free_fit(books, wished, where)
        guard = self.protected.get(where.pool)
        if gpus is not None and guard is not None and ends_ms(gang, books.now_ms) > guard.start_ms:
            gang, gpus = self._beside(guard, gang, gpus, line, where)
        else:
            guard = None
        if gpus is None or (where.account >= 0 and not rest_repacks(books, where.account, where.pool, gpus)):
            return False
        if guard is not None:
            guard.take(books, gpus)
        books.place(gang, gpus, inside=False)
        return True

    def _beside(
        self, guard: Protected, gang: Gang, gpus: IntArray, line: Line, where: Tiers
    ) -> tuple[Gang, IntArray | None]:
        """GPUs for a gang that outlasts the protected one's start, such as that one does not need: these, if it does
        not, or others.
        """
        books = self._books
        found: tuple[Gang, IntArray | None] = (gang, None)
        if guard.allows(books, gpus):
            return gang, gpus
        key = line.shape if where.account < 0 else (line.account, line.shape)
        if key not in self._held_keys:
            sizes = tried_sizes(line.shape, floor_div(len(gpus), line.shape.gpus_per_worker))
            tried = (
                (sized(gang, workers), books.scan(want, where, guard.spare))
                for workers in sizes
                if (want := demand(line.shape.sized(workers))) is not None
            )
            found = next((each for each in tried if each[1] is not None), found)
        if found[1] is None:
            self._is_held = True
            self._held_keys.add(key)
            self.held[line.account, line.shape] = guard
        return found

    def _sizes(self, gang: Gang, line: Line, pool: int) -> Iterator[Gang]:
        """The gang, where the pool is roomy enough for it; an elastic one with as many workers as fit. One that cannot
        be preempted may fit its account's own GPUs with more than the unsold ones hold, which are tried before.
        """
        books, shape = self._books, line.shape
        if not shape.is_elastic:
            if roomy(books, shape, pool):
                yield gang
            return
        most = min(shape.workers, floor_div(max(0, spare_gpus(books, shape, pool)), shape.gpus_per_worker))
        workers = most_free(books, shape, borrowing_tiers(books, gang, pool), most)
        if not shape.preemptible:
            yield from (sized(gang, more) for more in tried_sizes(shape, most) if more > (workers or 0))
        if workers is not None:
            yield sized(gang, workers)


def _turn(turn: Turn) -> tuple[int, tuple[int, int, int]]:
    return turn[:2]


def borrowing_tiers(books: Books, gang: Gang, pool: int) -> Tiers:
    """Which free GPUs of the pool the gang may borrow, best first."""
    if not gang.shape.preemptible:
        return Tiers(FIRM, pool, end_ms=books.now_ms + gang.shape.runtime_ms)
    runtime_ms = gang.spec.max_runtime_ms
    if runtime_ms is None:
        return Tiers(ENDLESS, pool)
    return Tiers(ENDING, pool, end_ms=books.now_ms + runtime_ms)


def own_tiers(books: Books, gang: Gang, pool: int) -> Tiers | None:
    """Where what cannot be preempted, with just these workers, may stand among its account's own and unsold GPUs; None
    where the account does not own enough that lasts, whatever else fills its count.
    """
    if gang.shape.preemptible:
        return None
    account, end_ms = books.account_index[gang.spec.account], books.now_ms + gang.shape.runtime_ms
    if not owns_for(books, gang, account, pool, end_ms):
        return None
    return Tiers(LASTING, pool, account, end_ms)


def roomy(books: Books, shape: Shape, pool: int) -> bool:
    """Whether the pool keeps its idle share when a gang of this shape borrows; asked only of reckless shapes."""
    return not (shape.reckless and shape.preemptible) or shape.least_gpus <= spare_gpus(books, shape, pool)


def spare_gpus(books: Books, shape: Shape, pool: int) -> int:
    """How many of the pool's free GPUs a gang of this shape may borrow; less than 0 where it is too full already."""
    if not (shape.reckless and shape.preemptible):
        return books.free_gpus(pool)
    return books.free_gpus(pool) - idle_share(books.policy, books.usable_gpus(pool))


def idle_share(policy: Policy, usable: int) -> int:
    """How many GPUs of a pool with so many usable ones reckless borrowers must leave idle."""
    return ceil_div(policy.reckless_idle_ppm * usable, ONE_PPM)
