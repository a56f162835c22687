"""When is a gang inside its account's entitlement? The published rule, by counts and by cells.

A gang of k GPUs of account `a` is inside in a pool when

1. *count*: what `a` uses there on any basis, plus k, is at most its usable owned GPUs there. Used are the GPUs of its
   BINDING and RUNNING gangs, and of those being moved (STOPPING as CONSOLIDATED or RESIZED): a move never costs a gang
   its turn;
2. *cells*: the gangs that (1) counts and that can be preempted, plus this one, repack into `a`'s own usable GPUs
   that hold nothing non-preemptible, by `packs` below;
3. if it cannot be preempted: see `scheduler.core.placement.firm`.

`packs` is a fixed rule, so that everybody can recompute it: gangs bound to a cell first, by level from below, largest
first, each into the first cell with enough slots; then those whose parts must be apart, largest first, each part onto
the first node with room of every first cell; then all other parts, largest first, each into the first node with room. A
gang that is bound to a cell and apart in it takes the first cell that has enough distinct ones. For sizes of which each
divides the next larger (1, 2, 4, 8; whole nodes), and nothing apart, it succeeds exactly when any packing does, also
beside gangs that are bound to a domain, of as many GPUs in all; where some are bound to a domain and others to a block,
a packing may exist that the rule does not find. None of this depends on where an account's lots lie.

An elastic gang is inside when its least workers are; then k are the GPUs that it gets. A device that gangs of `a` share
is one GPU and one gang of one GPU, however many are on it; a share that joins one adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.placement.fits import cells_of_nodes
from scheduler.core.placement.wants import Want


def packing_order(want: Want) -> tuple[int, int, int, int, int]:
    """The order in which `packs` serves wants: bound to a cell, then apart, low levels first; then the largest."""
    if want.level is not None:
        return (0, int(want.level), -want.gpus, -want.size, int(want.apart or 0))
    if want.apart is not None:
        return (1, int(want.apart), -want.gpus, -want.size, 0)
    return (2, 0, -want.size, -want.parts, 0)


def packs(room: IntArray, wanted: Mapping[Want, int], fleet: Fleet) -> bool:
    """Whether so many gangs of each want fit into `room` ((n_nodes): GPUs of each node) by the rule."""
    return packed(room, ((want, number) for want, number in wanted.items() if number), fleet) is not None


def packed(
    room: IntArray, wanted: Iterable[tuple[Want, int]], fleet: Fleet, nodes: IntArray | None = None
) -> list[tuple[Want, IntArray]] | None:
    """The rule's packing: for each want, in packing order, its parts on each node; None where one is left out.

    The parts of gangs of one want are interchangeable; gangs bound to a cell come one by one. `room` is by node, or by
    these nodes, ascending, alone.
    """
    left = room.copy()
    steps: list[tuple[Want, IntArray]] = []
    for want, number in sorted(wanted, key=lambda pair: packing_order(pair[0])):
        cells = _cells_at(fleet, want.level, nodes)
        if cells is None and want.apart is None:
            taken = _first_fit(left, want.size, want.parts * number)
            if taken is None:
                return None
            left -= taken * want.size
            steps.append((want, taken))
            continue
        distinct = None if want.apart is None else _cells_at(fleet, want.apart, nodes)
        for _ in range(number):
            slots = left // want.size
            if want.apart is not None:
                slots = _firsts(slots, distinct)
            taken = _first_cell(slots, want.parts, cells)
            if taken is None:
                return None
            left -= taken * want.size
            steps.append((want, taken))
    return steps


def _first_fit(left: IntArray, size: int, parts: int) -> IntArray | None:
    slots = left // size
    before = slots.cumsum()
    if not len(before) or int(before[-1]) < parts:
        return None
    return np.clip(parts - (before - slots), 0, slots)


def _first_cell(slots: IntArray, parts: int, cells: IntArray | None) -> IntArray | None:
    """The parts in the first slots of the first cell that has enough; of all, where no cell binds."""
    if cells is not None:
        in_cell = np.bincount(np.repeat(cells, slots))
        enough = np.flatnonzero(in_cell >= parts)
        if not len(enough):
            return None
        slots = np.where(cells == enough[0], slots, 0)
    if int(slots.sum()) < parts:
        return None
    return np.clip(parts - (slots.cumsum() - slots), 0, slots)


def _firsts(slots: IntArray, cells: IntArray | None) -> IntArray:
    """One slot on the first node that has any of every cell; of every node, where there are no cells."""
    able = np.flatnonzero(slots)
    if cells is not None:
        able = able[np.unique(cells[able], return_index=True)[1]]
    only = np.zeros_like(slots)
    only[able] = 1
    return only


def _cells_at(fleet: Fleet, level: Level | None, nodes: IntArray | None) -> IntArray | None:
    """The cell around each node, or around each of these."""
    cells = cells_of_nodes(fleet, level)
    return cells if cells is None or nodes is None else cells[nodes]
