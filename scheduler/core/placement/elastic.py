"""How many workers an elastic gang gets: the most that its account's count and cells hold, or that fit when it borrows.

It is inside its entitlement when its least size is. From there on more is better, and one binary search finds how much:
what holds so many workers is taken to hold fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from scheduler.core.placement.books import Books
from scheduler.core.placement.search import Tiers
from scheduler.core.placement.wants import demand
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import Gang, Shape

TRIED_SIZES = 16


def sized(gang: Gang, workers: int) -> Gang:
    """The gang as one of exactly so many workers."""
    return replace(gang, shape=gang.shape.sized(workers))


def most_inside(books: Books, shape: Shape, account: int, pool: int) -> int | None:
    """How many workers the account's count holds now, in cells that repack; None: not even the least."""
    most = min(shape.workers, floor_div(books.headroom(account, pool), shape.gpus_per_worker))

    def holds(workers: int) -> bool:
        want = demand(shape.sized(workers))
        return want is not None and books.repacks(account, pool, want)

    return _largest(shape.min_workers, most, holds)


def most_free(books: Books, shape: Shape, where: Tiers, most: int) -> int | None:
    """How many workers, `most` at most, fit into one of the tiers; None: not even the least."""

    def fits(workers: int) -> bool:
        want = demand(shape.sized(workers))
        return want is not None and books.has_room(want, where)

    gpus = min(most * shape.gpus_per_worker, books.free_gpus(where.pool))
    return _largest(shape.min_workers, floor_div(gpus, shape.gpus_per_worker), fits)


def tried_sizes(shape: Shape, most: int) -> Iterator[int]:
    """Possible numbers of workers to try one by one, the largest first and the least last: 16 at most, evenly apart."""
    span = most - shape.min_workers
    steps = min(span, TRIED_SIZES - 1)
    for step in range(steps + 1):
        workers = most - floor_div(span * step, max(1, steps))
        if demand(shape.sized(workers)) is not None:
            yield workers


def _largest(least: int, most: int, holds: Callable[[int], bool]) -> int | None:
    if most < least or not holds(least):
        return None
    if holds(most):
        return most
    low, high = least, most
    while high - low > 1:
        middle = floor_div(low + high, 2)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
