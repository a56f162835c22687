"""The published packing rule of `scheduler.core.placement.inside` for one account's units, as a kernel.

`Counts` keeps how many gangs of each want an account's count holds in a pool, in packing order, as the kernel reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.kernels import kernel
from scheduler.core.placement.cells import Cells
from scheduler.core.placement.floor import MARK_HERE, ON_NODE, ROOM_HERE, UNIT, Floor, Units
from scheduler.core.placement.inside import packed, packing_order
from scheduler.core.placement.wants import Want

LEVELS = {0: None, **{int(level): level for level in (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)}}
NO_WANTS: IntArray = np.zeros((0, 4), dtype=np.int64)

LEVEL, PARTS, SIZE, NUMBER = range(4)
"""Columns of a table of counts."""
DOMAIN = int(Level.NVLINK_DOMAIN)
"""The lowest level whose cells bind."""
KEPT = 0
"""Column of `Tables.state`."""


class Tables(NamedTuple):
    """The counts of all accounts in all pools, one behind the other, for machine code. A *part* is account × n_pools +
    pool.
    """

    table: IntArray
    """(n, 4): level (0: none), parts, size, how many; in packing order within a part."""
    first: IntArray
    """(n_parts + 1): where each part begins."""
    state: IntArray
    """(n_parts, 1): whether the part's counts are those of the table; else they stand elsewhere (`Counts`)."""
    first_unit: IntArray
    """(n_parts + 1): where the units of each part begin on the floor."""
    first_gpu: IntArray
    """(n_parts + 1): where its GPUs begin in `gpus`."""
    gpus: IntArray
    """(n): owned GPUs by part and number."""

    @classmethod
    def of(
        cls, wants: Sequence[Want], held: tuple[IntArray, IntArray], asked: tuple[IntArray, IntArray], units: Units
    ) -> Tables:
        """Held gangs, counted, and room for those that ask: (part, which of the wants) of each.

        Parts that hold gangs that must be apart are not kept here.
        """
        n_parts, n_wants = len(units.first_unit) - 1, max(1, len(wants))
        order = sorted(range(len(wants)), key=lambda at: packing_order(wants[at]))
        place = np.empty(len(wants), dtype=np.int64)
        place[order] = np.arange(len(wants))
        apart = np.array([want.apart is not None for want in wants], dtype=np.bool_)
        state = np.ones((n_parts, 1), dtype=np.int64)
        state[held[0][apart[held[1]]], KEPT] = 0
        here, there = (part[~apart[want]] * n_wants + place[want[~apart[want]]] for part, want in (held, asked))
        keys, at = np.unique(np.concatenate([here, there]), return_inverse=True)
        numbers = np.bincount(at[: len(here)], minlength=len(keys))
        rows = np.array([(int(want.level or 0), want.parts, want.size) for want in wants], dtype=np.int64)
        table = np.empty((len(keys), 4), dtype=np.int64)
        table[:, :NUMBER] = rows.reshape(-1, 3)[np.array(order, dtype=np.int64)[keys % n_wants]]
        table[:, NUMBER] = numbers
        first = (keys // n_wants).searchsorted(np.arange(n_parts + 1))
        owned = (np.array(units.first_unit, dtype=np.int64), np.array(units.first_gpu, dtype=np.int64), units.gpus)
        return cls(table, first, state, *owned)


class Counts:
    """Gangs by want; `table` (n_wants, 4): level (0: none), parts, size, how many; in packing order. Those whose parts
    must be apart, which are few, are in `apart` alone: the kernel does not know them.
    """

    __slots__ = ("_at", "_kept", "apart", "table")

    def __init__(self, wants: Sequence[Want] = (), numbers: Sequence[int] = ()) -> None:
        """So many of each want; the wants in packing order."""
        self._at: dict[Want, int] | None = None
        self._kept: tuple[Tables, int] | None = None
        known = list(zip(wants, numbers, strict=True))
        self.apart: Counter[Want] = Counter({want: n for want, n in known if want.apart is not None})
        rows = [(int(want.level or 0), want.parts, want.size, n) for want, n in known if want.apart is None]
        self.table: IntArray = np.array(rows, dtype=np.int64) if rows else NO_WANTS

    @classmethod
    def of(cls, wants: Iterable[Want]) -> Counts:
        """One gang of each of these."""
        numbers = Counter(wants)
        ordered = sorted(numbers, key=packing_order)
        return cls(ordered, [numbers[want] for want in ordered])

    @classmethod
    def kept(cls, tables: Tables, part: int) -> Counts | None:
        """The part's counts, on the memory of the tables; None where they are not kept there."""
        if part >= len(tables.state) or not tables.state[part, KEPT]:
            return None
        counts = cls()
        counts.table = tables.table[tables.first[part] : tables.first[part + 1]]
        counts._kept = (tables, part)
        return counts

    def add(self, want: Want, number: int) -> None:
        """So many more gangs of the want."""
        if want.apart is not None:
            self._leave()
            self.apart[want] += number
            if not self.apart[want]:
                del self.apart[want]
            return
        at = self._index().get(want)
        if at is None:
            self._insert(want)
            at = self._index()[want]
        self.table[at, 3] += number

    def repack_on(self, fleet: Fleet, nodes: IntArray) -> bool:
        """Whether all gangs fit by the rule, also those whose workers must be apart, on GPUs of these nodes."""
        room = np.bincount(nodes, minlength=len(fleet.nodes))
        return packed(room, ((want, number) for want, number in self._all() if number), fleet) is not None

    def _all(self) -> Iterator[tuple[Want, int]]:
        for level, parts, size, number in self.table.tolist():
            yield Want(parts, size, LEVELS[level]), number
        yield from self.apart.items()

    def _index(self) -> dict[Want, int]:
        if self._at is None:
            rows = enumerate(self.table.tolist())
            self._at = {Want(parts, size, LEVELS[level]): at for at, (level, parts, size, _) in rows}
        return self._at

    def _leave(self) -> None:
        """The tables know less than this from now on."""
        if self._kept is not None:
            tables, part = self._kept
            tables.state[part, KEPT] = 0
            self.table, self._kept = self.table.copy(), None

    def _insert(self, want: Want) -> None:
        self._leave()
        wants = list(self._index())
        at = bisect_left(wants, packing_order(want), key=packing_order)
        row = np.array([[int(want.level or 0), want.parts, want.size, 0]], dtype=np.int64)
        self.table = np.concatenate([self.table[:at], row, self.table[at:]])
        wants.insert(at, want)
        self._at = dict(zip(wants, range(len(wants)), strict=True))


@kernel
def repacks(
    floor: Floor,
    low: int,
    high: int,
    table: IntArray,
    taken: IntArray,
    cells: Cells,
    by_cell: IntArray,
) -> bool:
    """Whether the table's gangs fit by the rule the room of units `low .. high`, less these taken GPUs. `by_cell` are
    zeros, and are left so.
    """
    units = floor.units
    for unit in range(low, high):
        units[unit, MARK_HERE] = units[unit, ROOM_HERE]
    for gpu in taken:
        unit = floor.gpus[gpu, UNIT]
        if low <= unit < high:
            units[unit, MARK_HERE] -= 1
    for i in range(len(table)):
        level, parts, size, number = table[i, LEVEL], table[i, PARTS], table[i, SIZE], table[i, NUMBER]
        if level == 0:
            if not first_fit(units, low, high, parts * number, size):
                return False
            continue
        for _ in range(number):
            if not first_cell(units, low, high, parts, size, cells.of_node[level - DOMAIN], by_cell):
                return False
    return True


@kernel
def first_fit(units: IntArray, low: int, high: int, parts: int, size: int) -> bool:
    """Put the parts into the first units with room, at their marks; whether all have some."""
    for unit in range(low, high):
        if parts == 0:
            break
        here = min(units[unit, MARK_HERE] // size, parts)
        units[unit, MARK_HERE] -= here * size
        parts -= here
    return parts == 0


@kernel
def first_cell(units: IntArray, low: int, high: int, parts: int, size: int, cells: IntArray, by_cell: IntArray) -> bool:
    """Put one gang into the first cell with enough parts; whether there is one."""
    chosen = -1
    for unit in range(low, high):
        cell = cells[units[unit, ON_NODE]]
        by_cell[cell] += units[unit, MARK_HERE] // size
        if by_cell[cell] >= parts and (chosen < 0 or cell < chosen):
            chosen = cell
    for unit in range(low, high):
        cell = cells[units[unit, ON_NODE]]
        by_cell[cell] = 0
        if cell == chosen:
            here = min(units[unit, MARK_HERE] // size, parts)
            units[unit, MARK_HERE] -= here * size
            parts -= here
    return chosen >= 0
