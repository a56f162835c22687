"""New positions whose lots may stand in several pools: the par grade first, then what the terms let stand in for it.

An instrument may name grades that are delivered in place of its own without asking anybody. A position that does not
fit into the pool of its par grade is given as many lots there as can be, the rest in the next pool, and so on; all of
it or nothing. Lots are not cut: one is of one grade. Where cells are slower than the position's floor, all its pools
are looked at without them first (see `floors`). Laws: every lot has a cell in one of the pools of its position; a
position that fits as one into its first pool stays there; who is covered already stays covered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count

from scheduler.core.cluster import Fleet
from scheduler.core.coverage.columns import Holdings, merged, moved, rows_of
from scheduler.core.coverage.floors import Look
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.replace import TRADE_ROUNDS, Covering, cover, lots_by_position
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import floor_div


def cover_grades(
    fleet: Fleet,
    demands: Sequence[Demand],
    holdings: Holdings,
    now_ms: int,
    looks: Sequence[Look],
    stand_ins: Mapping[str, Sequence[int]],
    *,
    cells_per_lot: Mapping[str, int] | None = None,
    account_of: Mapping[str, str] | None = None,
    rounds: int = TRADE_ROUNDS,
    calendar: OpenCalendar | None = None,
    handovers: Collection[str] = (),
) -> Covering:
    """`cover`, over several pools, looking at one set of GPUs after the other until every position is covered.

    `demands` are of their positions' first pools, `stand_ins` are the further ones, by position, in order; missing:
    none. `cells_per_lot` (by position; missing: 1) are not parted.
    """
    asked = [demand for demand in demands if demand.end_ms > now_ms and demand.lots]
    work = _Work(fleet, holdings, now_ms, account_of or {}, rounds, calendar, frozenset(handovers))
    for look in looks:
        refused = work.ask(asked, look)
        for name in sorted(refused.keys() & stand_ins.keys()):
            theirs = [demand for demand in asked if demand.position == name]
            cells = (cells_per_lot or {}).get(name, 1)
            if work.spread(theirs, look, stand_ins[name], cells):
                del refused[name]
        asked = [demand for demand in asked if demand.position in refused]
        if not asked:
            break
    return work.covering(lots_by_position(asked))


class _Work:
    """What is planned so far. `covering` says what has changed."""

    def __init__(
        self,
        fleet: Fleet,
        holdings: Holdings,
        now_ms: int,
        account_of: Mapping[str, str],
        rounds: int,
        calendar: OpenCalendar | None,
        handovers: frozenset[str],
    ) -> None:
        self._fleet, self._now_ms, self._rounds, self._calendar = fleet, now_ms, rounds, calendar
        self._account_of, self._handovers = dict(account_of), handovers
        self._rows: Holdings = holdings
        self._changed: frozenset[str] = frozenset()

    def ask(self, demands: Sequence[Demand], look: Look) -> dict[str, int]:
        """Cells for what they may have; (the most lots of each position that is refused)."""
        made = cover(
            self._fleet,
            demands,
            self._rows,
            self._now_ms,
            look.usable,
            account_of=self._account_of or None,
            rounds=self._rounds,
            calendar=None if self._changed else self._calendar,
            handovers=self._handovers,
            replan=look.replan,
        )
        if made.positions:
            self._changed |= set(made.positions)
            named = frozenset(made.positions)
            self._rows = [*(held for held in rows_of(self._rows) if held.position not in named), *made.holdings]
        return dict(made.refused)

    def spread(self, demands: Sequence[Demand], look: Look, stand_ins: Sequence[int], cells: int) -> bool:
        """Cells for one position that does not fit into its first pool; whether all of it found some."""
        before = self._rows, self._changed
        name, pools = demands[0].position, (demands[0].pool, *stand_ins)
        rest = list(demands)
        standing: list[str] = []
        for pool in pools:
            here = [demand._replace(pool=pool) for demand in rest]
            most = self._most(here, look, cells, whole=pool != pools[0])
            rest = [d._replace(lots=d.lots - most) for d in rest if d.lots > most]
            if most and rest:  # a position that stands somewhere would be in the way of itself: its part has a name
                standing.append(self._renamed(name))
            if not rest:
                self._named_back(standing, name)
                return True
        self._rows, self._changed = before
        return False

    def _most(self, demands: Sequence[Demand], look: Look, cells: int, *, whole: bool) -> int:
        """Have as many lots of each demand as find cells, up to a number; the greatest such number, in cells.

        `whole`: whether all of them have not been asked for yet.
        """
        lowest, highest = 0, floor_div(max(demand.lots for demand in demands), cells)
        if whole and not self._refused(demands, highest * cells, look):
            return highest * cells
        kept = before = (self._rows, self._changed)
        while lowest + 1 < highest:  # `highest` is known not to fit
            lots = floor_div(lowest + highest, 2)
            self._rows, self._changed = before
            if self._refused(demands, lots * cells, look):
                highest = lots
            else:
                lowest, kept = lots, (self._rows, self._changed)
        self._rows, self._changed = kept
        return lowest * cells

    def _refused(self, demands: Sequence[Demand], cells: int, look: Look) -> bool:
        fewer = [demand._replace(lots=min(demand.lots, cells)) for demand in demands]
        return bool(self.ask(fewer, look))

    def _renamed(self, name: str) -> str:
        """What the position holds so far is held under a name that nobody has."""
        taken = {held.position for held in rows_of(self._rows)} | self._account_of.keys()
        part = next(part for k in count() if (part := f"part-{k}") not in taken)
        if name in self._handovers:
            self._handovers |= {part}
        self._account_of[part] = self._account_of.get(name, name)
        self._rename({name}, part)
        return part

    def _named_back(self, parts: Sequence[str], name: str) -> None:
        if parts:
            self._rename(set(parts), name)

    def _rename(self, names: set[str], to: str) -> None:
        self._rows = [moved(h, position=to) if h.position in names else h for h in rows_of(self._rows)]
        self._changed = (self._changed - names) | {to}

    def covering(self, refused: Mapping[str, int]) -> Covering:
        """All that has changed."""
        rows: list[Holding] = [held for held in rows_of(self._rows) if held.position in self._changed]
        return Covering(tuple(sorted(self._changed)), merged(rows), tuple(sorted(refused.items())))
