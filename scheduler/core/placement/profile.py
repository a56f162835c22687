"""What a pool's GPUs will be free for, by declared ends: when a gang that waits should start, and what it needs kept.

A *profile* says how many GPUs each node has free now and how many more at which instants, should every gang end as it
declared and every stopping one by its deadline; what declares no end never becomes free. It is a promise of nobody:
owners may come meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.fits import has_slots
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import INT64_MAX

Freed = tuple[int, int, int]
"""(instant, node, GPUs that become free there)."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Free GPUs of a pool by node over time (see the module)."""

    now: IntArray
    """(n_nodes) int64: free GPUs now."""
    freed: tuple[Freed, ...]
    """What becomes free, ascending."""

    @classmethod
    def of(cls, n_nodes: int, nodes: IntArray, free_ms: IntArray, now_ms: int) -> Profile:
        """The profile of GPUs on these `nodes` that are free from `free_ms` on (both by GPU); INT64_MAX: never."""
        now = np.bincount(nodes[free_ms <= now_ms], minlength=n_nodes)
        later = (free_ms > now_ms) & (free_ms < INT64_MAX)
        # Gangs hold neighbouring GPUs: runs of equals are few, and sorting only them is quick.
        at_ms, there, numbers = _runs(free_ms[later], nodes[later], np.ones(np.count_nonzero(later), dtype=np.int64))
        order = np.lexsort((there, at_ms))
        at_ms, there, numbers = _runs(at_ms[order], there[order], numbers[order])
        return cls(now, tuple(zip(at_ms.tolist(), there.tolist(), numbers.tolist(), strict=True)))


def _runs(at_ms: IntArray, nodes: IntArray, numbers: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Neighbours of one instant and node as one entry, their numbers added up."""
    if not len(nodes):
        return at_ms, nodes, numbers
    starts = np.flatnonzero(np.append(True, (at_ms[1:] != at_ms[:-1]) | (nodes[1:] != nodes[:-1])))
    return at_ms[starts], nodes[starts], np.add.reduceat(numbers, starts)


def expected_start(fleet: Fleet, profile: Profile, want: Want) -> tuple[int, IntArray] | None:
    """(the first instant at which the want has room, free GPUs of each node then); None: it never has. An instant of 0
    says that it has room now.
    """
    if has_slots(fleet, profile.now, want):
        return 0, profile.now
    left = profile.now.copy()
    missing = want.gpus - int(left.sum())
    for at_ms, together in groupby(profile.freed, key=lambda freed: freed[0]):
        grown = _freed(left, list(together), want.size)
        missing -= grown[1]
        if grown[0] and missing <= 0 and has_slots(fleet, left, want):
            return at_ms, left
    return None


def _freed(left: IntArray, freed: Sequence[Freed], size: int) -> tuple[bool, int]:
    """Add what becomes free. (whether some node has a part more, GPUs that became free)."""
    grown, gpus = False, 0
    for _, node, number in freed:
        before = int(left[node])
        left[node] += number
        gpus += number
        grown = grown or (before + number) // size > before // size
    return grown, gpus
