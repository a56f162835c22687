"""Why a line waits, with the numbers behind it and what would change it.

One reason a line, the first that applies:

NO_SUCH_GRADE         no node of the fleet has that grade
LARGER_THAN_FLEET     even the empty fleet could not hold it in that shape
UNHEALTHY_CELLS       its account's count would hold it, were all owned GPUs usable
FRAGMENTED            the count holds it, but the account's cells do not repack around it
OUTLASTS_WINDOW       it cannot be preempted, and the GPUs it may have change hands before it would end
AWAITING_RECLAIM      it fits once the gangs that are stopping have gone
HELD_BACK             it would fit, but outlasts the start of a gang that has waited long, on what that one needs
BORROWING_RESTRICTED  it would fit, but never checkpoints: it borrows only while the pool is roomy
FRAGMENTED            enough GPUs are free, but not in that shape
BEFORE_WINDOW         the account will own enough at a known instant
OVER_ENTITLEMENT      the account uses its count, and too little is free to borrow
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.borrowed import idle_share
from scheduler.core.placement.fits import has_slots, parts_on
from scheduler.core.placement.floor import LEAVER
from scheduler.core.placement.lines import Key, Lines
from scheduler.core.placement.snapshot import Backfill
from scheduler.core.placement.wants import Want, least_demand
from scheduler.core.workloads import Gang, GangStatus, Reason, Shape, Waiting

REMEDIES: Mapping[Reason, str] = {
    Reason.NO_SUCH_GRADE: "ask for a grade that the fleet has",
    Reason.LARGER_THAN_FLEET: "ask for fewer or smaller workers, or a wider topology",
    Reason.UNHEALTHY_CELLS: "starts when the account's unusable GPUs are repaired or replaced",
    Reason.OUTLASTS_WINDOW: "declare a shorter run time, make it preemptible, or buy a longer window",
    Reason.AWAITING_RECLAIM: "starts when the gangs that are stopping have gone",
    Reason.BORROWING_RESTRICTED: "let it checkpoint, declare an hour or less, or buy more GPUs",
    Reason.FRAGMENTED: "ask for smaller workers, or wait until whole nodes become free",
    Reason.BEFORE_WINDOW: "starts when the account's next window opens",
    Reason.OVER_ENTITLEMENT: "buy more GPUs, end other work of the account, or wait until GPUs can be borrowed",
    Reason.PAUSED: "starts when planning resumes",
    Reason.HELD_BACK: "declare a shorter run time, or wait until the larger gang has started",
}


Physical = tuple[Reason | None, tuple[tuple[str, int], ...], int | None]
"""What free GPUs say of a shape: a reason, if that is one, numbers, and until when it holds."""


class Reasons(Mapping[Key, Waiting]):
    """A reason for every line that still has a gang when the round is over; each is worked out when it is asked for.

    An answer tells of its round however late it is asked: what it needs is copied here, or kept as it was (`view`).
    """

    def __init__(self, books: Books, lines: Lines, backfill: Backfill) -> None:
        self._waiting = lines.waiting(books.gangs_taken())
        self._held, self._start_ms = backfill.held, backfill.starts_ms
        # What the books go on with into the next round, as it is now.
        self._fleet, self._policy, self._now_ms = books.fleet, books.policy, books.now_ms
        self._owner, self._until_ms = books.ownership
        self._seen, self._past, self._n_rows = books.view.seen(books.floor), books.past(), len(books.rows)
        self._rows, self._counts_of_row = books.rows, books.counts_of_row
        self._account_of_row, self._pool_of_row = books.account_of_row, books.pool_of_row
        self._placed_now = set(books.decided)
        self._owned, self._entitled, self._excess = list(books.owned_gpus), list(books.entitled), books.excess.copy()
        self._idle = [(books.free_gpus(pool), books.usable_gpus(pool)) for pool in range(books.n_pools)]
        self._opens, self._account_index = dict(books.opens), books.account_index
        self._leavers_gone_ms = _leavers_gone_ms(books)
        self._pools_for = books.pools_for
        self._rows_of: dict[tuple[int, int], list[tuple[int, Gang]]] | None = None
        self._known: dict[Key, Waiting] = {}
        self._of_shape: dict[Shape, Physical] = {}
        self._of_account: dict[tuple[int, str | None], tuple[tuple[str, int], ...]] = {}
        self._ends: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        self._lent: list[int] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Key]:
        return ((account, shape) for account, shapes in self._waiting.items() for shape in shapes)

    def __contains__(self, line: object) -> bool:
        return isinstance(line, tuple) and len(line) == 2 and line[1] in self._waiting.get(line[0], ())

    def __getitem__(self, line: Key) -> Waiting:
        if line not in self._known:
            if line not in self:
                raise KeyError(line)
            self._known[line] = self._reason(*line)
        return self._known[line]

    def __repr__(self) -> str:
        return repr(dict(self))

    def _reason(self, account: str, shape: Shape) -> Waiting:
        index = self._account_index[account]
        if shape not in self._of_shape:
            self._of_shape[shape] = self._physical(shape)
        physical, free, until_ms = self._of_shape[shape]
        if physical not in _WHATEVER_IS_OWNED:
            physical, free, until_ms = self._firm(index, shape) or self._of_shape[shape]
        else:
            return Waiting(physical, (("asked_gpus", shape.gpus), *free), None, REMEDIES[physical])
        least = (("least_gpus", shape.least_gpus),) if shape.is_elastic else ()
        numbers = (("asked_gpus", shape.gpus), *least, *self._numbers(index, shape.grade), *free)
        pools, gpus = self._pools_for(shape.grade), shape.least_gpus
        owned, entitled, used = self._owned[index], self._entitled[index], self._used(index)
        if any(entitled[pool] - used[pool] >= gpus for pool in pools):
            reason = Reason.FRAGMENTED if shape.preemptible else Reason.OUTLASTS_WINDOW
            return Waiting(reason, numbers, None, REMEDIES[reason])
        if any(owned[pool] - used[pool] >= gpus for pool in pools):
            return Waiting(Reason.UNHEALTHY_CELLS, numbers, None, REMEDIES[Reason.UNHEALTHY_CELLS])
        if (account, shape) in self._held:
            protected_gpus, start_ms = self._held[account, shape]
            told = (("protected_gpus", protected_gpus), ("protected_start_ms", start_ms))
            return Waiting(Reason.HELD_BACK, (*numbers, *told), None, REMEDIES[Reason.HELD_BACK])
        starts_ms = self._start_ms.get((account, shape))
        if physical is not None:
            at_ms = starts_ms if until_ms is None else until_ms
            return Waiting(physical, (*numbers, *_protected(starts_ms)), at_ms, REMEDIES[physical])
        opens = self._opens.get(account)
        if opens is not None and opens.gpus >= gpus + min(used[pool] for pool in pools):
            return Waiting(Reason.BEFORE_WINDOW, numbers, opens.at_ms, REMEDIES[Reason.BEFORE_WINDOW])
        own_ms = self._own_ends_ms(index, shape.least_gpus, pools)
        told = (*numbers, *(_protected(starts_ms) if own_ms is None or (starts_ms or own_ms) < own_ms else ()))
        expected_ms = min((at_ms for at_ms in (own_ms, starts_ms) if at_ms is not None), default=None)
        return Waiting(Reason.OVER_ENTITLEMENT, told, expected_ms, REMEDIES[Reason.OVER_ENTITLEMENT])

    def _used(self, account: int) -> list[int]:
        """By pool: how many GPUs the account uses."""
        return [
            entitled + int(more)
            for entitled, more in zip(self._entitled[account], self._excess[:, account], strict=True)
        ]

    def _numbers(self, account: int, grade: str | None) -> tuple[tuple[str, int], ...]:
        key = (account, grade)
        if key not in self._of_account:
            pools = self._pools_for(grade)
            owned, entitled, used = self._owned[account], self._entitled[account], self._used(account)
            self._of_account[key] = (
                ("entitled_gpus", sum(entitled[pool] for pool in pools)),
                ("unusable_gpus", sum(owned[pool] - entitled[pool] for pool in pools)),
                ("used_gpus", sum(used[pool] for pool in pools)),
                ("lent_gpus", self._lent_by(account)),
            )
        return self._of_account[key]

    def _lent_by(self, account: int) -> int:
        if self._lent is None:
            holders = np.array([*self._account_of_row[: self._n_rows], -1], dtype=np.int64)[self._seen.holder]
            owner = self._owner
            lent = (owner >= 0) & (holders >= 0) & (holders != owner)
            self._lent = np.bincount(owner[lent], minlength=len(self._owned)).tolist()
        return self._lent[account]

    def _physical(self, shape: Shape) -> Physical:
        """What the fleet itself says of the shape, whoever asks."""
        want, pools = least_demand(shape), self._pools_for(shape.grade)
        if not pools:
            return Reason.NO_SUCH_GRADE, (), None
        all_gpus = [self._in_pool(pool, np.diff(self._fleet.first_gpu)) for pool in pools]
        if want is None or not any(has_slots(self._fleet, each, want) for each in all_gpus):
            return Reason.LARGER_THAN_FLEET, (("fleet_gpus", max(int(each.sum()) for each in all_gpus)),), None
        # What cannot be preempted may borrow unsold GPUs only: others' idle ones are not free to it.
        by_node = self._seen.n_free if shape.preemptible else self._seen.n_unsold
        free = [self._in_pool(pool, by_node) for pool in pools]
        numbers = self._free_numbers(want, free)
        if not shape.preemptible:
            fits_unsold = any(has_slots(self._fleet, each, want) for each in free)
            return Reason.OUTLASTS_WINDOW if fits_unsold else None, numbers, None
        if any(has_slots(self._fleet, each, want) for each in free):
            roomy = not shape.reckless or any(self._keeps_idle(pool, shape.least_gpus) for pool in pools)
            return None if roomy else Reason.BORROWING_RESTRICTED, numbers, None
        opening = [self._in_pool(pool, self._seen.n_open) for pool in pools]
        if any(has_slots(self._fleet, each, want) for each in opening):
            return Reason.AWAITING_RECLAIM, numbers, self._leavers_gone_ms
        fragmented = any(int(each.sum()) >= want.gpus for each in free)
        return Reason.FRAGMENTED if fragmented else None, numbers, None

    def _firm(self, account: int, shape: Shape) -> Physical | None:
        """The same where what cannot be preempted may also stand on its account's own free GPUs; None elsewhere."""
        want = least_demand(shape)
        if shape.preemptible or want is None:
            return None
        open_pools = [
            pool
            for pool in self._pools_for(shape.grade)
            if self._firm_used(account, pool) + shape.least_gpus <= self._entitled[account][pool]
        ]
        if not open_pools:
            return None
        may = self._seen.free & ((self._owner < 0) | (self._owner == account))
        lasting = may & (self._until_ms >= self._now_ms + shape.runtime_ms)
        n_nodes = len(self._fleet.nodes)
        now, then = (np.bincount(self._fleet.node_of_gpu[gpus], minlength=n_nodes) for gpus in (may, lasting))
        free = [self._in_pool(pool, now) for pool in open_pools]
        fits = any(has_slots(self._fleet, each, want) for each in free)
        stays = any(has_slots(self._fleet, self._in_pool(pool, then), want) for pool in open_pools)
        return Reason.OUTLASTS_WINDOW if fits and not stays else None, self._free_numbers(want, free), None

    def _firm_used(self, account: int, pool: int) -> int:
        shapes = (gang.shape for _, gang in self._rows_in(account, pool))
        return sum(shape.gpus for shape in shapes if not shape.preemptible)

    def _free_numbers(self, want: Want, free: Sequence[IntArray]) -> tuple[tuple[str, int], ...]:
        return (
            ("free_gpus", sum(int(each.sum()) for each in free)),
            ("free_parts", max(parts_on(self._fleet, want, enumerate(each.tolist())) for each in free)),
            ("asked_parts", want.parts),
        )

    def _in_pool(self, pool: int, by_node: IntArray) -> IntArray:
        """(n_nodes): the same, and nothing on nodes of other pools."""
        return np.where(self._fleet.pool_of_node == pool, by_node, 0)

    def _keeps_idle(self, pool: int, gpus: int) -> bool:
        free, usable = self._idle[pool]
        return free - gpus >= idle_share(self._policy, usable)

    def _own_ends_ms(self, account: int, gpus: int, pools: Sequence[int]) -> int | None:
        """When enough of the account's own work has reached its declared end, were nobody served before."""
        entitled, used = self._entitled[account], self._used(account)
        if all(entitled[pool] < gpus for pool in pools):
            return None
        best: int | None = None
        for pool in pools:
            ends_ms, freed = self._ends_in(account, pool)
            at = bisect_left(freed, gpus - (entitled[pool] - used[pool]))
            if entitled[pool] >= gpus and at < len(freed):
                best = ends_ms[at] if best is None else min(best, ends_ms[at])
        return best

    def _ends_in(self, account: int, pool: int) -> tuple[list[int], list[int]]:
        """Declared ends of the account's placed work in the pool, ascending, with the GPUs freed up to each."""
        key = (account, pool)
        if key not in self._ends:
            ends: list[tuple[int, int]] = []
            for row, gang in self._rows_in(account, pool):
                if gang.status is not GangStatus.STOPPING and gang.spec.max_runtime_ms is not None:
                    began_ms = None if row in self._placed_now else gang.started_ms
                    ends.append(((began_ms or self._now_ms) + gang.spec.max_runtime_ms, gang.shape.gpus))
            ends.sort()
            self._ends[key] = ([end for end, _ in ends], list(accumulate(gpus for _, gpus in ends)))
        return self._ends[key]

    def _rows_in(self, account: int, pool: int) -> Sequence[tuple[int, Gang]]:
        """The account's placed work that counts in the pool, by row."""
        if self._rows_of is None:
            self._rows_of = {}
            for row in range(self._n_rows):
                gang, counts = self._past.at(row, (self._rows[row], self._counts_of_row[row]))
                if counts:
                    part = self._account_of_row[row], self._pool_of_row[row]
                    self._rows_of.setdefault(part, []).append((row, gang))
        return self._rows_of.get((account, pool), ())


def _leavers_gone_ms(books: Books) -> int:
    """The latest deadline of all gangs that are stopping and still on GPUs; now where there are none."""
    gone_ms = []
    for row in books.stopped:
        gang, gpus = books.rows[row], books.gpus_of_row[row]
        if (books.floor.gpus[list(gpus), LEAVER] == row).any():
            deadline_ms = gang.stop_deadline_ms if gang.status is GangStatus.STOPPING else None
            gone_ms.append(books.now_ms + gang.spec.grace_ms if deadline_ms is None else deadline_ms)
    return max(gone_ms, default=books.now_ms)


def _protected(starts_ms: int | None) -> tuple[tuple[str, int], ...]:
    """When a gang should start that others must not delay."""
    return () if starts_ms is None else (("protected_start_ms", starts_ms),)


_WHATEVER_IS_OWNED = frozenset({Reason.NO_SUCH_GRADE, Reason.LARGER_THAN_FLEET})
