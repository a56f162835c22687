"""One pool without contracts: who came first, starts first, wherever it fits; whoever fits meanwhile starts too.

Nobody is ever stopped. With `reserving`, nobody may delay the expected start of the oldest gang that does not fit
(EASY backfill, by declared ends); without, a large gang waits until there happens to be room.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from tests.benchmarks.sharing.fitting import best_fit
from tests.benchmarks.sharing.site import Ints, Site, Where

Fit = Callable[[Ints, int, int], Where | None]


class Pool:
    """See the module. `fit` chooses the nodes."""

    def __init__(self, fit: Fit = best_fit, *, reserving: bool = False) -> None:
        self._fit = fit
        self._reserving = reserving

    def line_of(self, site: Site, gang: int) -> Hashable:
        """Gangs of one shape; those that cannot be preempted are like any other here."""
        if self._reserving:
            # Whether it fits before the reservation depends on its end: equal only to itself, nearly.
            return site.workers[gang], site.size[gang], site.declared_ms[gang].bit_length()
        return site.workers[gang], site.size[gang]

    def turn(self, site: Site) -> None:
        """Nobody owns anything."""

    def serve(self, site: Site) -> None:
        """Oldest first."""
        if not site.free.any():
            return
        reserved: tuple[int, Ints] | None = None
        for gang in site.in_order(lambda head: self._reserving or site.gpus[head] <= int(site.free.sum())):
            if reserved is None:
                where = self._fit(site.free, site.workers[gang], site.size[gang])
            else:
                where = self._beside(site, gang, *reserved)
            if where is not None:
                site.place(gang, where)
            elif self._reserving and reserved is None:
                reserved = self._reservation(site, gang)

    def _beside(self, site: Site, gang: int, at_ms: int, kept: Ints) -> Where | None:
        """On what is free now and is not needed at the reserved instant, or on anything if it ends before."""
        if site.now_ms + site.declared_ms[gang] <= at_ms:
            return self._fit(site.free, site.workers[gang], site.size[gang])
        return self._fit(np.minimum(site.free, kept), site.workers[gang], site.size[gang])

    def _reservation(self, site: Site, gang: int) -> tuple[int, Ints]:
        """When the gang fits at the latest, by declared ends, and what is left of each node beside it then."""
        free = site.free.copy()
        ends = sorted(
            ((standing.started_ms or 0) + site.declared_ms[other], other) for other, standing in site.placed.items()
        )
        for end_ms, other in ends:
            for node, gpus in site.placed[other].where.items():
                free[node] += gpus
            where = self._fit(free, site.workers[gang], site.size[gang])
            if where is not None:
                for node, gpus in where.items():
                    free[node] -= gpus
                return end_ms, free
        return 0, free
