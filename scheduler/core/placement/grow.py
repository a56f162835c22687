"""Elastic gangs that run with fewer workers than they ask for get more, by a restart, where that is worth it.

One gang of each pool a round, the first in the published order: stopped as RESIZED, it counts meanwhile as if it
stayed, comes back to the queue and gets what was found for it here. It grows only if

- it has run for as long as it wished, and for `grow_after_ms`;
- nothing of its account waits for the pool, and nobody at all if it borrows; nobody there is being moved;
- with its own GPUs free, the rules by which it will be placed give it more workers than it has;
- the work lost by it, and by borrowers who would make way, is under `grow_gain_ppm` of what the new workers do in an
  hour, or in what it declares, if that is less.

So it never shrinks by this, and with unchanged facts it comes to rest: what it gets is what it would be given again.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.placement.books import Books
from scheduler.core.placement.borrowed import borrowing_tiers, spare_gpus
from scheduler.core.placement.elastic import most_free, most_inside, sized
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.owned import INSIDE
from scheduler.core.placement.room import room_from_accounts_over_count
from scheduler.core.placement.search import Tiers
from scheduler.core.placement.wants import demand
from scheduler.core.quantities import MS_PER_HOUR, ONE_PPM, floor_div
from scheduler.core.workloads import Gang, GangStatus, StopCause, asked_shape, lost_work_ms, ran_for_ms


def grow(books: Books, lines: Lines) -> None:
    """Stop one gang of each pool that comes back with more workers."""
    growing = set(books.snapshot.growing)
    if not growing:
        return
    rows = [row for row, gang in enumerate(books.rows) if gang.number in growing and _may_grow(books, row)]
    busy = {books.pool_of_row[row] for row in books.stopped if books.counts_of_row[row]}
    for row in sorted(rows, key=lambda row: books.rows[row].order):
        pool = books.pool_of_row[row]
        if pool not in busy and _is_worth_it(books, row, _waiting(books, lines, pool)):
            books.stop(row, None, StopCause.RESIZED)
            busy.add(pool)


def _may_grow(books: Books, row: int) -> bool:
    gang = books.rows[row]
    ran_ms = ran_for_ms(gang, books.now_ms)
    # A row that ended in an earlier round over the same books holds nothing.
    stands = books.is_placed(row) and int(books.floor.holder[books.gpus_of_row[row][0]]) == row
    runs = stands and gang.status is GangStatus.RUNNING and gang.shape.preemptible
    return runs and ran_ms >= max(gang.spec.min_runtime_ms, books.policy.grow_after_ms)


def _waiting(books: Books, lines: Lines, pool: int) -> set[str]:
    """Accounts of which something waits that might use the pool."""
    return {
        account
        for shape, of_shape in lines.by_shape().items()
        if pool in books.pools_for(shape.grade)
        for account, line in of_shape.items()
        if line.head() is not None
    }


def _is_worth_it(books: Books, row: int, waiting: set[str]) -> bool:
    gang, account = books.rows[row], books.account_of_row[row]
    if gang.spec.account in waiting:
        return False
    asked = replace(gang, shape=asked_shape(gang))
    gpus = books.lift(row)
    inside = books.headroom(account, books.pool_of_row[row]) >= asked.shape.least_gpus
    may = inside or not waiting
    workers, price = _offer(books, asked, account, books.pool_of_row[row], inside=inside) if may else (0, 0)
    books.put_back(row, gpus)
    added = (workers - gang.shape.workers) * gang.shape.gpus_per_worker
    lost_gpu_ms = price + lost_work_ms(gang, books.now_ms)
    remaining_ms = min(MS_PER_HOUR, gang.spec.max_runtime_ms or MS_PER_HOUR)
    return lost_gpu_ms * ONE_PPM < books.policy.grow_gain_ppm * added * remaining_ms


def _offer(books: Books, gang: Gang, account: int, pool: int, *, inside: bool) -> tuple[int, int]:
    """(workers that it will be placed with, work that others lose by it), by the rules of `owned` and `borrowed`."""
    shape = gang.shape
    if not inside:
        where = borrowing_tiers(books, gang, pool)
        most = min(shape.workers, floor_div(max(0, spare_gpus(books, shape, pool)), shape.gpus_per_worker))
        return most_free(books, shape, where, most) or 0, 0
    where = Tiers(INSIDE, pool, account)
    most_held = most_inside(books, shape, account, pool)
    if most_held is None:
        return 0, 0
    want = demand(sized(gang, most_held).shape)
    if want is not None and not books.has_room(want, where):
        room = room_from_accounts_over_count(books, want, pool)
        if room is not None:
            return most_held, sum(books.price(row) for row in room.victims)
    return most_free(books, shape, where, most_held) or 0, 0
