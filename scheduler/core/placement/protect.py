"""A gang that has waited long is not delayed by those behind it: backfill as in EASY.

Of each pool the first borrower that has waited longer than `protect_after_ms`, and does not fit now, is *protected*: by
declared ends it should start at a known instant, on nodes that are chosen now. A borrower behind it starts only if it
has ended by then, as it declares, or leaves those nodes what the protected gang needs; so short work fills the gap.
Gangs inside their entitlement are served before all of this, and what cannot be preempted or never checkpoints is not
protected. Which gang that is and when it should start is worked out anew in each round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.profile import Profile, expected_start
from scheduler.core.placement.scan import spread_over
from scheduler.core.placement.wants import least_demand
from scheduler.core.workloads import Gang

MOST_TRIED = 8
"""So many gangs are looked at for each pool's protection."""


@dataclass(frozen=True, slots=True, eq=False)
class Protected:
    """The gang that waits first for a pool, when it should start, and what the others may have."""

    gang: Gang
    start_ms: int
    spare: IntArray
    """(n_nodes) int64: GPUs of each node that may be taken beyond its start."""

    def allows(self, books: Books, gpus: IntArray) -> bool:
        """Whether a gang that outlasts the start may have these GPUs."""
        taken = Counter(books.floor.node_of_gpu[gpus].tolist())
        return all(number <= self.spare[node] for node, number in taken.items())

    def take(self, books: Books, gpus: IntArray) -> None:
        """A gang that outlasts the start got these GPUs."""
        np.subtract.at(self.spare, books.floor.node_of_gpu[gpus], 1)


def protected(books: Books, waiting: Iterable[Gang]) -> dict[int, Protected]:
    """By pool: who is protected there, of gangs in the order of borrowing. Of a pool where nothing is free nobody can
    take anything, and nobody is.
    """
    found: dict[int, Protected] = {}
    profiles: dict[int, Profile] = {}
    tries = {pool: MOST_TRIED for pool in range(books.n_pools) if books.free_gpus(pool)}
    for gang in waiting:
        if not tries:
            break
        pools = [pool for pool in books.pools_for(gang.shape.grade) if pool in tries]
        offers = [offer for pool in pools if (offer := _offer(books, gang, pool, profiles)) is not None]
        for pool in pools:
            tries[pool] -= 1
        if offers:
            start_ms, pool, spare = min(offers, key=lambda offer: offer[:2])
            found[pool] = Protected(gang, start_ms, spare)
            tries[pool] = 0
        tries = {pool: left for pool, left in tries.items() if left} if pools else tries
    return found


def _offer(books: Books, gang: Gang, pool: int, profiles: dict[int, Profile]) -> tuple[int, int, IntArray] | None:
    """(when it should start, the pool, what others may have); None: nobody knows, or it has room now."""
    shape = gang.shape
    want = least_demand(shape)
    if want is None:
        return None
    if pool not in profiles:
        profiles[pool] = books.releases.profile(books, pool)
    start = expected_start(books.fleet, profiles[pool], want, compiled=books.compiled)
    if start is None or start[0] == 0:
        return None
    spare = start[1].copy()
    for node, parts in spread_over(books.fleet, want, start[1], start[1]) or ():
        spare[node] -= parts * want.size
    return start[0], pool, spare
