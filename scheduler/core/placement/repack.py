"""The published packing rule of `scheduler.core.placement.inside` for one account's units, as a kernel.

`Counts` keeps how many gangs of each want an account's count holds in a pool, in packing order, as the kernel reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.kernels import kernel
from scheduler.core.placement.floor import ON_NODE, ROOM_HERE, UNIT, Floor
from scheduler.core.placement.inside import packed, packing_order
from scheduler.core.placement.wants import Want

DOMAIN, BLOCK = 2, 3
"""Levels whose cells bind, as `scheduler.core.cluster.Level` numbers them."""

LEVELS = {0: None, **{int(level): level for level in (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)}}
NO_WANTS: IntArray = np.zeros((0, 4), dtype=np.int64)


class Counts:
    """Gangs by want; `table` (n_wants, 4): level (0: none), parts, size, how many; in packing order. Those whose parts
    must be apart, which are few, are in `apart` alone: the kernel does not know them.
    """

    __slots__ = ("_at", "apart", "table")

    def __init__(self, wants: Sequence[Want] = (), numbers: Sequence[int] = ()) -> None:
        """So many of each want; the wants in packing order."""
        self._at: dict[Want, int] | None = None
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

    def add(self, want: Want, number: int) -> None:
        """So many more gangs of the want."""
        if want.apart is not None:
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

    def _insert(self, want: Want) -> None:
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
    domain_of_node: IntArray,
    block_of_node: IntArray,
    left: IntArray,
    by_cell: IntArray,
) -> bool:
    """Whether the table's gangs fit by the rule the room of units `low .. high`, less these taken GPUs.

    `left` (n_units) is scratch; `by_cell` are zeros, and are left so.
    """
    for unit in range(low, high):
        left[unit] = floor.units[unit, ROOM_HERE]
    for gpu in taken:
        unit = floor.gpus[gpu, UNIT]
        if low <= unit < high:
            left[unit] -= 1
    for i in range(len(table)):
        level, parts, size, number = table[i, 0], table[i, 1], table[i, 2], table[i, 3]
        if level == 0:
            if not first_fit(left, low, high, parts * number, size):
                return False
            continue
        cells = domain_of_node if level == DOMAIN else block_of_node
        for _ in range(number):
            if not first_cell(floor, left, low, high, parts, size, cells, by_cell):
                return False
    return True


@kernel
def first_fit(left: IntArray, low: int, high: int, parts: int, size: int) -> bool:
    """Put the parts into the first units with room; whether all have some."""
    for unit in range(low, high):
        if parts == 0:
            break
        here = min(left[unit] // size, parts)
        left[unit] -= here * size
        parts -= here
    return parts == 0


@kernel
def first_cell(
    floor: Floor, left: IntArray, low: int, high: int, parts: int, size: int, cells: IntArray, by_cell: IntArray
) -> bool:
    """Put one gang into the first cell with enough parts; whether there is one."""
    chosen = -1
    for unit in range(low, high):
        cell = cells[floor.units[unit, ON_NODE]]
        by_cell[cell] += left[unit] // size
        if by_cell[cell] >= parts and (chosen < 0 or cell < chosen):
            chosen = cell
    for unit in range(low, high):
        cell = cells[floor.units[unit, ON_NODE]]
        by_cell[cell] = 0
        if cell == chosen:
            here = min(left[unit] // size, parts)
            left[unit] -= here * size
            parts -= here
    return chosen >= 0
