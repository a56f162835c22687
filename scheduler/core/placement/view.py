"""What reasons read of a round's books, kept beside them so that it outlasts the round at little cost.

An answer tells of its round however late it is asked, and the books go on. What there is of each GPU and node is kept
as arrays that are handed out and not written to again: the next round's are a copy, in which only nodes that were
touched since are read anew. Of rows, what they were is remembered when they change, by the last round's `Past`; so a
round that changes little costs little, and nobody who is gone is remembered for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.placement.floor import FIRST_GPU, HOLDER, IS_FREE, N_FREE, N_OPEN, N_UNSOLD, RING, BoolArray, Floor
from scheduler.core.workloads import Gang

MANY_NODES = 8
"""Where one node in so many was touched, all are read anew."""


class Seen(NamedTuple):
    """Who was where; nobody writes to it."""

    holder: npt.NDArray[np.int32]
    """(n_gpus): the row that has the GPU or has claimed it, -1 none."""
    free: BoolArray
    """(n_gpus): usable, nobody's and nobody there."""
    n_free: IntArray
    """(n_nodes): free GPUs."""
    n_unsold: IntArray
    """(n_nodes): those that nobody owns."""
    n_open: IntArray
    """(n_nodes): usable GPUs without a holder."""


class View:
    """See the module: of one floor."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._touched = 0
        """How many touched nodes were taken in."""

    def seen(self, floor: Floor) -> Seen:
        """Who is where now."""
        touched, known, seen = int(floor.ring[RING]), self._touched, self._seen
        self._touched = touched
        if seen is None or (touched - known) * MANY_NODES > min(RING, len(floor.nodes)):
            free, unsold, is_open = (floor.nodes[:-1, column].copy() for column in (N_FREE, N_UNSOLD, N_OPEN))
            self._seen = seen = Seen(floor.holder.astype(np.int32), floor.free, free, unsold, is_open)
        elif touched > known:
            nodes = floor.ring[np.arange(known, touched) % RING]
            firsts = floor.nodes[nodes, FIRST_GPU]
            sizes = floor.nodes[nodes + 1, FIRST_GPU] - firsts
            gpus = np.repeat(firsts - (sizes.cumsum() - sizes), sizes) + np.arange(sizes.sum())
            counts = (array.copy() for array in (seen.n_free, seen.n_unsold, seen.n_open))
            self._seen = seen = Seen(seen.holder.copy(), seen.free.copy(), *counts)
            there, counts_there = floor.gpus[gpus], floor.nodes[nodes]
            seen.holder[gpus], seen.free[gpus] = there[:, HOLDER], there[:, IS_FREE]
            seen.n_free[nodes], seen.n_unsold[nodes] = counts_there[:, N_FREE], counts_there[:, N_UNSOLD]
            seen.n_open[nodes] = counts_there[:, N_OPEN]
        return seen


class Past:
    """Rows as they were when this was made: what changed since, until the next one was made."""

    __slots__ = ("after", "changed")

    def __init__(self) -> None:
        self.changed: dict[int, tuple[Gang, bool]] = {}
        """By row: its gang, and whether it counted."""
        self.after: Past | None = None

    def at(self, row: int, now: tuple[Gang, bool]) -> tuple[Gang, bool]:
        """What the row was; `now`: what it is, read before. Others may change it meanwhile, who remember first."""
        past: Past | None = self
        while past is not None:
            if row in past.changed:
                return past.changed[row]
            past = past.after
        return now
