"""Which partly used node a worker prefers, as a table by its size and the node's free GPUs: a score made quick.

Without CPU and memory, a score tells nodes of one grade apart by their free GPUs alone, so its whole opinion fits a
table of a few numbers, and no node has to be weighed for a gang. A table only orders places that are lawful already.
Without one, the node with the fewest free GPUs goes first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.scores.choice import choose
from scheduler.core.placement.scores.pool import WHOLE_MILLI, Ask, PoolState
from scheduler.core.placement.scores.table import Score

Preference = tuple[tuple[int, ...], ...]
"""By size of a worker, then by free GPUs of a node: its rank. Lower goes first; all of one size differ."""
LARGEST_NODE = 16
"""Nodes with more GPUs than this take the fewest free GPUs first: their tables would be large, and say little more."""


def preferences(score: Score, grades: Sequence[str], largest_node: int) -> tuple[tuple[str, Preference], ...]:
    """The score's table of each grade, in the order of the score's models, for nodes of up to so many GPUs."""
    if largest_node > LARGEST_NODE:
        return ()
    return tuple((grade, _table(score, model, largest_node)) for model, grade in enumerate(grades))


def ranks(preference: Preference, largest_node: int) -> IntArray:
    """(largest_node + 1, largest_node + 1) int64 by size and free GPUs; where the table is silent, the count itself."""
    table = np.tile(np.arange(largest_node + 1, dtype=np.int64), (largest_node + 1, 1))
    for size, row in enumerate(preference[: largest_node + 1]):
        known = row[: largest_node + 1]
        table[size, : len(known)] = known
    return table


def _table(score: Score, model: int, largest_node: int) -> Preference:
    return tuple(_row(score, model, largest_node, size) for size in range(largest_node + 1))


def _row(score: Score, model: int, largest_node: int, size: int) -> tuple[int, ...]:
    """The ranks of all counts of free GPUs: those that fit in the order in which the score would take them."""
    counts = np.arange(largest_node + 1)
    free = np.where(counts[None, :largest_node] < counts[:, None], WHOLE_MILLI, 0).astype(np.int64)
    nothing = np.zeros(largest_node + 1, dtype=np.int64)
    state = PoolState(free, nothing, nothing, np.full(largest_node + 1, model, dtype=np.int64))
    row = counts.tolist()
    if size:
        left = counts >= size
        for rank in range(size, largest_node + 1):
            found = choose(state, Ask(size, WHOLE_MILLI), score, left)
            if found is None:
                break
            row[found[0]] = rank
            left[found[0]] = False
    return tuple(row)
