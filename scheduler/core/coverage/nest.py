"""What the inner loops of planning work on: the cells of one pool, what is taken of them, and lots, all as arrays.

Cells are numbered flat: the pool's nodes by rank, then its domains, blocks and sites. Every cell is a range of nodes,
and a GPU lot stands on a node.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Nest(NamedTuple):
    """The cells of one pool, and how long each slot lasts."""

    size: Int64s
    """(n_nodes): GPUs."""
    first: Int64s
    """(n_cells): the cell's first node."""
    end: Int64s
    """(n_cells): after its last node."""
    above: Int64s
    """(levels, n_nodes): the cell of each level that each node lies in; itself at GPU and NODE."""
    offset: Int64s
    """(levels + 1): the first cell of each level; those of GPU are those of NODE."""
    gpus: Int64s
    """(n_cells): GPUs in all its nodes."""
    least: Int64s
    """(levels): GPUs of the smallest cell of each level that can be given."""
    whole: Bools
    """(n_cells): whether all of the cell lies in the pool: only such cells can be given."""
    length: Int64s
    """(n_slots): in milliseconds."""
    first_row: Int64s
    """(n_nodes + 1): each node's first row in `pinned`."""
    pinned: Bools
    """(GPUs by rank, n_slots): where a pinned holding or ill health takes each; no rows where counts alone decide."""


class Taken(NamedTuple):
    """What is taken, by slot."""

    used: npt.NDArray[np.int8]
    """(n_nodes, n_slots): GPUs taken or unusable."""
    held: npt.NDArray[np.int32]
    """(n_cells - n_nodes, n_slots): the same for each cell above the nodes."""


class Lots(NamedTuple):
    """Every lot by itself: (n_lots) int64 each."""

    level: Int64s
    i: Int64s
    j: Int64s
    cell: Int64s
    """The cell (the node of a GPU lot), or -1."""
    weight: Int64s
    """What leaving it out, or pushing it out, costs."""


class Spans(NamedTuple):
    """An index of lots by time: lots of like length together, by start."""

    lot: Int64s
    start: Int64s
    first: Int64s
    """(n_classes + 1): where each class begins."""
    longest: Int64s
    """(n_classes): the most slots that a lot of the class lasts."""
