"""Accounts stay on their cells from one window to the next, in whatever order their lots are traded.

A trade may find a cell of its account's promised already to another account, whose lot was traded first and begins
just as long, just then. As long as neither window has begun, the two lots may trade places: nobody works there yet in
that window. They do where more lots then lie on cells that their accounts hold right before or right after. Laws: every
lot keeps its window, its level and the size of its cell; no exchange makes fewer lots stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of, moved, order
from scheduler.core.coverage.standing import Mask
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Holding


class Edges:
    """Who holds a cell until an instant, and who from one on. Holds its own state: `put` and `drop` change it."""

    def __init__(self, holdings: Holdings = ()) -> None:
        columns = columns_of(holdings)
        self._until = _Side(columns, columns.end_ms)
        self._since = _Side(columns, columns.start_ms)

    def until(self, level: Level, at_ms: int) -> Mapping[int, Holding]:
        """By cell, what ends at the instant."""
        return self._until.at(level, at_ms)

    def since(self, level: Level, at_ms: int) -> Mapping[int, Holding]:
        """By cell, what begins at the instant."""
        return self._since.at(level, at_ms)

    def beside(self, level: Level, cell: int, start_ms: int, end_ms: int) -> tuple[Holding | None, Holding | None]:
        """What holds a cell until a window begins, and what from its end on; quick where few cells are asked for."""
        return self._until.one(level, start_ms, cell), self._since.one(level, end_ms, cell)

    def put(self, holdings: Iterable[Holding]) -> None:
        """More holdings, on cells that nobody else holds then."""
        for held in holdings:
            self._until.set(held.level, held.end_ms, held.cell, held)
            self._since.set(held.level, held.start_ms, held.cell, held)

    def drop(self, holdings: Iterable[Holding]) -> None:
        """Holdings that were put are no more."""
        for held in holdings:
            self._until.set(held.level, held.end_ms, held.cell, None)
            self._since.set(held.level, held.start_ms, held.cell, None)


class _Side:
    """Holdings by one of their instants. Those of an instant are gathered when somebody first asks for it."""

    def __init__(self, columns: Columns, at_ms: IntArray) -> None:
        self._columns = columns
        rows = [np.flatnonzero(columns.level == level) for level in Level]
        self._rows = [theirs[np.lexsort((columns.cell[theirs], at_ms[theirs]))] for theirs in rows]
        self._instants = [at_ms[theirs] for theirs in self._rows]
        self._cells = [columns.cell[theirs] for theirs in self._rows]
        self._known: dict[tuple[Level, int], dict[int, Holding]] = {}
        self._waiting: dict[tuple[Level, int], list[tuple[int, Holding | None]]] = {}

    def at(self, level: Level, at_ms: int) -> Mapping[int, Holding]:
        """By cell."""
        known = self._known.get((level, at_ms))
        if known is None:
            first, end = np.searchsorted(self._instants[level], (at_ms, at_ms + 1)).tolist()
            theirs = (self._columns.holdings[row] for row in self._rows[level][first:end].tolist())
            known = self._known[level, at_ms] = {held.cell: held for held in theirs}
            for cell, held in self._waiting.pop((level, at_ms), ()):
                self.set(level, at_ms, cell, held)
        return known

    def one(self, level: Level, at_ms: int, cell: int) -> Holding | None:
        """What holds that cell."""
        if (level, at_ms) in self._known or (level, at_ms) in self._waiting:
            return self.at(level, at_ms).get(cell)
        first, end = np.searchsorted(self._instants[level], (at_ms, at_ms + 1)).tolist()
        at = first + int(np.searchsorted(self._cells[level][first:end], cell))
        return self._columns.holdings[self._rows[level][at]] if at < end and self._cells[level][at] == cell else None

    def set(self, level: Level, at_ms: int, cell: int, held: Holding | None) -> None:
        """What holds the cell at the instant from now on."""
        known = self._known.get((level, at_ms))
        if known is None:
            self._waiting.setdefault((level, at_ms), []).append((cell, held))
        elif held is None:
            del known[cell]
        else:
            known[cell] = held


@dataclass(frozen=True, slots=True)
class Regained:
    """What new lots hold once they traded places with planned ones, and what each of those that gave way holds then."""

    found: tuple[Holding, ...]
    gave: Mapping[Holding, Holding]


def regained(
    fleet: Fleet,
    edges: Edges,
    found: Sequence[Holding],
    theirs: Iterable[Holding],
    usable: Mask,
    now_ms: int,
    account_of: Mapping[str, str],
) -> Regained:
    """New holdings, each on a cell of its account's where a planned holding of the same window could give way.

    `edges` are those of everything planned, of which `theirs` are all holdings of the accounts that trade. `usable` is
    (n_gpus) bool. `account_of`: account by position; missing: the position itself.
    """
    if all(held.start_ms <= now_ms for held in found):
        return Regained(tuple(found), {})
    work = _Exchanges(fleet, edges, found, account_of)
    own = [*theirs, *found]
    for position, level, start_ms, end_ms in sorted({(h.position, h.level, h.start_ms, h.end_ms) for h in found}):
        if start_ms <= now_ms:
            continue
        account = work.account(position)
        beside = {
            held.cell
            for held in own
            if held.level == level
            and (held.end_ms == start_ms or held.start_ms == end_ms)
            and work.account(held.position) == account
        }
        window = position, level, start_ms, end_ms
        mine = {h.cell for h in found if (h.position, h.level, h.start_ms, h.end_ms) == window}
        for cell in sorted(beside - mine):
            if usable[fleet.gpus_of_cell(level, cell)].all():
                work.take(position, level, cell, start_ms, end_ms)
    return Regained(tuple(sorted(work.found, key=order)), work.gave)


class _Exchanges:
    """New holdings while they trade places with planned ones, one pair after the other."""

    def __init__(self, fleet: Fleet, edges: Edges, found: Sequence[Holding], account_of: Mapping[str, str]) -> None:
        self._topology = topology_of(fleet)
        self._planned = edges
        self._new = Edges(found)
        self._account_of = account_of
        self.found = set(found)
        self.gave: dict[Holding, Holding] = {}

    def account(self, position: str) -> str:
        """Whose a position is."""
        return self._account_of.get(position, position)

    def take(self, position: str, level: Level, cell: int, start_ms: int, end_ms: int) -> None:
        """Give the position a cell for one of its own, if its planned holder may have that and more lots stay."""
        held = self._planned.since(level, start_ms).get(cell)
        if held is None or held.end_ms != end_ms or held in self.gave:
            return
        best: tuple[int, int, Holding] | None = None
        for mine in self._new.since(level, start_ms).values():
            if mine.position == position and mine.end_ms == end_ms and self._alike(level, mine.cell, cell):
                key = (-self._gain(mine, held), mine.cell, mine)
                best = key if best is None or key[:2] < best[:2] else best
        if best is not None and best[0] < 0:
            self._trade(best[2], held)

    def _gain(self, mine: Holding, held: Holding) -> int:
        """How many more edges lie inside one account once the two have traded places."""
        ours, others = self.account(mine.position), self.account(held.position)
        there = self._bound(ours, held, held.cell) - self._bound(others, held, held.cell)
        return there + self._bound(others, mine, mine.cell) - self._bound(ours, mine, mine.cell)

    def _bound(self, account: str, window: Holding, cell: int) -> int:
        """0 to 2: at how many edges of the window the account holds the cell outside it too."""
        beside = [
            edge.get(cell)
            for edges in (self._planned, self._new)
            for edge in (edges.until(window.level, window.start_ms), edges.since(window.level, window.end_ms))
        ]
        return sum(held is not None and self.account(held.position) == account for held in beside)

    def _alike(self, level: Level, left: int, right: int) -> bool:
        """Whether two cells are of one pool and size."""
        pool, size = self._topology.pool[level], self._topology.end_gpu[level] - self._topology.first_gpu[level]
        return bool(pool[left] == pool[right] and size[left] == size[right])

    def _trade(self, mine: Holding, held: Holding) -> None:
        new = moved(mine, cell=held.cell)
        self.gave[held] = moved(held, cell=mine.cell)
        self._new.drop([mine])
        self._new.put([new])
        self.found.remove(mine)
        self.found.add(new)
