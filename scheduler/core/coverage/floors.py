"""Which cells are fast enough for a position: what is slow covers it only where nothing else does.

Measured performance is in ppm of the reference, as the meter has it; a cell is as fast as its slowest GPU. A new
position is given the slowest cells that reach its floor where there are slower ones at all, so that fast ones are left
for the floors that need them; then any that reach it; then any. Where the future is planned anew for it, that is tried
first with cells that reach every floor, so that nobody's lots come to lie on cells that are slow for them. Law: the
last look is at all usable GPUs, so no position is refused for what is slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.standing import Mask
from scheduler.core.coverage.topology import topology_of


class Look(NamedTuple):
    """One look for cells: GPUs that may be given, (n_gpus) bool, and whether the future may be planned anew."""

    usable: Mask
    replan: bool = True


def cell_ppm(fleet: Fleet, level: Level, ppm: IntArray) -> IntArray:
    """(n_gpus) int64: the least performance in each GPU's cell of a level. `ppm` is (n_gpus), by GPU."""
    topology = topology_of(fleet)
    cells = topology.cell_of_rank[level]
    least = np.full(topology.n_cells(level), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(least, cells, ppm[topology.gpu_at])
    found = np.empty(fleet.n_gpus, dtype=np.int64)
    found[topology.gpu_at] = least[cells]
    return found


def looks(
    fleet: Fleet, level: Level, usable: Mask, ppm: IntArray, floor_ppm: int, floors_ppm: Iterable[int]
) -> tuple[Look, ...]:
    """The looks for a position of lots of `level` with a floor, beside positions with `floors_ppm`. One where no usable
    GPU is below any floor.
    """
    highest = max([floor_ppm, *floors_ppm])
    if not (usable & (ppm < highest)).any():
        return (Look(usable),)
    found: list[Look] = []
    least = cell_ppm(fleet, level, ppm)
    reaching = usable & (least >= floor_ppm)
    higher = [floor for floor in floors_ppm if floor > floor_ppm]
    if higher:
        found += [Look(reaching & (least < min(higher)), replan=False), Look(reaching, replan=False)]
    found += [Look(usable & (least >= highest)), Look(usable)]
    return tuple(look for look in found if look.usable.any())
