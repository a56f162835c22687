"""Where more lots would be put: an order through a pool's free cells, and how far one may go before a loss is no longer
survived.

Lots of a level first fill what lies in cells that are broken already, then open free cells one after the other. The
order that breaks fewest, at all levels at once, goes by how high a free cell reaches and fills each before the next. A
level below the failure domains' own may allow more if cells are broken where most would be lost: that takes from the
worst loss too. That order always opens the domain that would lose most, which leaves the least unequal losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.losses import Outlook, largest
from scheduler.core.coverage.standing import Mask, Standing
from scheduler.core.coverage.topology import LEVELS
from scheduler.core.quantities import floor_div


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """The offered cells of a level in *units*: the free cells of the level above that hold them."""

    total: int
    """Offered cells."""
    loose: int
    """Those of them outside all units: what is above them is broken already."""
    inside: IntArray
    """(units) int64: offered cells in each."""
    first: IntArray
    """(units) int64: the rank of each one's first GPU."""
    height: IntArray
    """(units) int64: the highest level at which the cell over the unit is still free."""
    within: IntArray
    """(units) int64: offered cells in that highest cell."""
    above: dict[Level, IntArray]
    """(units) int64, by level: the place of the free cell that the unit is or lies in; -1: it is not free."""

    def fewest_broken(self) -> IntArray:
        """The units in the order that breaks fewest cells at every level."""
        return np.lexsort((self.first, -self.within, self.height))

    def most_lost_first(self, level: Level, taken: IntArray, places: IntArray) -> IntArray:
        """The units in the order that opens cells of a level where most would be lost. `taken` and `places` are
        those of `Outlook.taken` and `losses.domain_places`.
        """
        at = self.above[level]
        there = np.flatnonzero(at >= 0)
        cells, where = np.unique(at[there], return_index=True)
        height, domain = self.height[there[where]], places[cells]
        by_domain = np.lexsort((cells, height, domain))
        starts = np.flatnonzero(np.diff(domain[by_domain], prepend=-1))
        sizes = np.diff(np.append(starts, len(by_domain)))
        opened_before = np.empty(len(cells), dtype=np.int64)
        opened_before[by_domain] = np.arange(len(cells)) - np.repeat(starts, sizes)
        by_loss = np.lexsort((cells, height, opened_before - taken[domain]))
        turn = np.full(len(places) + 1, -1, dtype=np.int64)  # the last entry is what -1 picks: before all others
        turn[cells[by_loss]] = np.arange(len(cells))
        return np.lexsort((self.first, self.height, turn[at]))

    def limit(self, order: IntArray, view: Outlook, level: Level, places: IntArray) -> int:
        """How many of the offered cells may be filled in that order before the level's condition breaks."""
        at = self.above[level][order]
        there = np.flatnonzero(at >= 0)
        cells, where = np.unique(at[there], return_index=True)
        by_turn = np.argsort(where)
        opened = there[where[by_turn]]
        counts_in = places[cells[by_turn]]
        lowest, highest = 0, len(opened)
        spare = view.margin(level) + view.lost(level)
        while lowest < highest:
            broken = floor_div(lowest + highest + 1, 2)
            left = view.taken[level] - np.bincount(counts_in[:broken], minlength=len(view.taken[level]))
            if spare - broken >= largest(left, view.losses):
                lowest = broken
            else:
                highest = broken - 1
        if lowest == len(opened):
            return self.total
        return self.loose + int(self.inside[order[: opened[lowest]]].sum())


def filling(state: Standing, level: Level, offered: Mask) -> Filling:
    """The units of the offered cells of a level below SITE. `offered` is (cells of the level) bool: free ones."""
    cells, parent = state.cells, Level(level + 1)
    place = cells.outer(level, parent)[offered]
    count = np.bincount(place[place >= 0], minlength=len(cells.cells[parent])).astype(np.int64)
    units = np.flatnonzero(state.free[parent] & (count > 0))
    inside, first = count[units], cells.first[parent][units]
    height = np.full(len(units), int(parent), dtype=np.int64)
    within = inside.copy()
    above: dict[Level, IntArray] = {}
    for higher in LEVELS[parent:]:
        at = cells.at_rank[higher][first].copy()
        at[at >= 0] = np.where(state.free[higher][at[at >= 0]], at[at >= 0], -1)
        there = at >= 0
        sums = np.zeros(len(cells.cells[higher]), dtype=np.int64)
        np.add.at(sums, at[there], inside[there])
        height[there], within[there] = int(higher), sums[at[there]]
        above[higher] = at
    total = int(offered.sum())
    return Filling(total, total - int(inside.sum()), inside, first, height, within, above)
