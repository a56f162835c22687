"""The calendar as it is known now: all holdings, and the owner of every GPU at this instant.

Folded from coverage events. `owner_position` changes only by an event (an assignment, a swap, a turn of the calendar),
so that metering is an integral over events and nothing else. What is over is kept for as long as the exchange may still
correct it: an assignment may reach into the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import clipped, columns_of
from scheduler.core.coverage.exchange import Whole, whole_of
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.ownership import owner_at, swap_cells, tied_cells
from scheduler.core.coverage.topology import topology_of
from scheduler.core.events import CoverageAssigned
from scheduler.core.holdings import Holding

UNSOLD = -1
FOREVER_MS = 2**63 - 1
NEVER_MS = -1


class Calendar:
    """See the module. `holdings` end after the last turn, what is over by then is in `past`."""

    def __init__(self) -> None:
        self.holdings: tuple[Holding, ...] = ()
        self.past: tuple[Holding, ...] = ()
        self.owner_position: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self.owner_account: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self.until_ms: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.turns: tuple[int, ...] = ()
        """Instants, ascending, at which some holding starts or ends."""
        self._open: OpenCalendar | None = None
        self._untied: dict[Level, npt.NDArray[np.bool_]] = {}
        self._levels: frozenset[Level] | None = None
        self._gpus_of: dict[int, IntArray] = {}
        self._whole: Whole | None = None

    def grow(self, fleet: Fleet) -> None:
        """New GPUs are unsold for ever."""
        more = fleet.n_gpus - len(self.owner_position)
        nobody = np.full(more, UNSOLD, dtype=np.int32)
        self.owner_position = np.concatenate([self.owner_position, nobody])
        self.owner_account = np.concatenate([self.owner_account, nobody])
        self.until_ms = np.concatenate([self.until_ms, np.full(more, FOREVER_MS, dtype=np.int64)])
        self._untied.clear()
        self._open = None
        self._own_anew()

    def opened(self, fleet: Fleet) -> OpenCalendar:
        """The same holdings, past ones too, as trades look at them; kept from one trade to the next."""
        if self._open is None:
            self._open = OpenCalendar(fleet, (*self.past, *self.holdings))
        return self._open

    def gpus_of(self, account: int) -> IntArray:
        """Numbers of the GPUs that an account (its index) owns now, ascending; kept until owners change."""
        gpus = self._gpus_of.get(account)
        if gpus is None:
            gpus = self._gpus_of[account] = np.flatnonzero(self.owner_account == account)
        return gpus

    def whole(self, fleet: Fleet) -> Whole:
        """Nodes as they are owned now; kept until owners change."""
        if self._whole is None:
            self._whole = whole_of(fleet, self.owner_account, self.until_ms)
        return self._whole

    def _own_anew(self) -> None:
        self._gpus_of, self._whole = {}, None

    def of(self, position: str) -> tuple[Holding, ...]:
        """The holdings of one position."""
        return tuple(holding for holding in self.holdings if holding.position == position)

    def assigned(self, positions: Iterable[str], holdings: Iterable[Holding], at_ms: int) -> tuple[Holding, ...]:
        """All holdings, past too, where from `at_ms` on these positions have exactly these; parts before are kept."""
        named = set(positions)
        kept: list[Holding] = []
        for holding in (*self.past, *self.holdings):
            if holding.position not in named or holding.end_ms <= at_ms:
                kept.append(holding)
            elif holding.start_ms < at_ms:
                kept.append(_ending(holding, at_ms))
        return _sorted((*kept, *holdings))

    def keep(self, holdings: tuple[Holding, ...], change: CoverageAssigned | None = None) -> None:
        """Have these holdings, as `assigned` gave them for a change; a turn follows, which tells past ones apart."""
        self.past, self.holdings = (), holdings
        if change is None:
            self._open = None
        elif self._open is not None:
            self._open.changed(change.positions, change.holdings, change.from_ms)

    def forget(self, before_ms: int) -> None:
        """Drop what was over by then."""
        if self.past and min(holding.end_ms for holding in self.past) <= before_ms:
            self.past = tuple(holding for holding in self.past if holding.end_ms > before_ms)
            self._open = None

    def owners(self, fleet: Fleet, at_ms: int, position_index: Mapping[str, int]) -> npt.NDArray[np.int32]:
        """(n_gpus): the index of the position that each GPU covered at an instant, past ones too; UNSOLD: none."""
        then = [holding for holding in (*self.past, *self.holdings) if holding.start_ms <= at_ms < holding.end_ms]
        return owner_at(fleet, then, at_ms, position_index)[0]

    def swap(self, fleet: Fleet, level: Level, left: int, right: int, at_ms: int) -> None:
        """Two cells trade places from `at_ms`, owners included."""
        swapped = swap_cells(fleet, self.holdings, level, left, right, at_ms)
        if self._open is not None:
            # What did not move is the very same holding.
            moved = {new.position for old, new in zip(self.holdings, swapped, strict=False) if new is not old}
            theirs = (clipped(held, at_ms, FOREVER_MS) for held in swapped if held.position in moved)
            self._open.changed(moved, [held for held in theirs if held is not None], at_ms)
        self.past = (*self.past, *(holding for holding in swapped if holding.end_ms <= at_ms))
        self.holdings = _sorted(holding for holding in swapped if holding.end_ms > at_ms)
        # By rank: of two equal blocks, GPUs that stand for each other need not come in the order of their numbers.
        a, b = (topology_of(fleet).gpus(level, cell) for cell in (left, right))
        for array in (self.owner_position, self.owner_account, self.until_ms):
            array[a], array[b] = array[b].copy(), array[a].copy()
        self._own_anew()
        for below in Level:  # what lies over smaller cells has moved with this one
            if below < level:
                self._untied.pop(below, None)

    def untied(self, fleet: Fleet, level: Level) -> npt.NDArray[np.bool_]:
        """(n_cells): the cells over which no lot of a higher level lies, now or later: they may trade places."""
        if level not in self._untied:
            higher = [holding for holding in self.holdings if holding.level > level]
            self._untied[level] = ~tied_cells(topology_of(fleet), columns_of(higher), level, NEVER_MS)
        return self._untied[level]

    @property
    def levels(self) -> frozenset[Level]:
        """The levels of which lots are held, now or later; kept until the calendar turns."""
        if self._levels is None:
            self._levels = frozenset(holding.level for holding in self.holdings)
        return self._levels

    def turn(
        self, fleet: Fleet, now_ms: int, position_index: Mapping[str, int], account_of: Mapping[str, int]
    ) -> npt.NDArray[np.int64]:
        """Make owners what the calendar says at `now_ms`; the GPUs whose owner changed."""
        self.past = (*self.past, *(holding for holding in self.holdings if holding.end_ms <= now_ms))
        self.holdings = tuple(holding for holding in self.holdings if holding.end_ms > now_ms)
        before = self.owner_position
        self.owner_position, _ = owner_at(fleet, self.holdings, now_ms, position_index)
        accounts = np.full(len(position_index) + 1, UNSOLD, dtype=np.int32)  # the last entry is what -1 picks
        for position, account in account_of.items():
            accounts[position_index[position]] = account
        self.owner_account = accounts[self.owner_position]
        self.until_ms = _until_ms(fleet, self.holdings, now_ms, self.owner_account, account_of)
        self._untied.clear()
        self._levels = None
        instants = {holding.start_ms for holding in self.holdings} | {holding.end_ms for holding in self.holdings}
        self.turns = tuple(sorted(at_ms for at_ms in instants if at_ms > now_ms))
        self._own_anew()
        return np.flatnonzero(before != self.owner_position)


def _ending(holding: Holding, end_ms: int) -> Holding:
    return Holding(
        position=holding.position, level=holding.level, cell=holding.cell, start_ms=holding.start_ms, end_ms=end_ms
    )


def _sorted(holdings: Iterable[Holding]) -> tuple[Holding, ...]:
    return tuple(sorted(holdings, key=lambda h: (h.start_ms, h.position, h.level, h.cell, h.end_ms)))


def _until_ms(
    fleet: Fleet,
    holdings: Iterable[Holding],
    now_ms: int,
    owner_account: npt.NDArray[np.int32],
    account_of: Mapping[str, int],
) -> npt.NDArray[np.int64]:
    """(n_gpus): when an account other than the owner gets each GPU; of unsold ones, when anybody does."""
    until_ms = np.full(fleet.n_gpus, FOREVER_MS, dtype=np.int64)
    gpus_of: dict[tuple[Level, int], npt.NDArray[np.int64]] = {}
    for holding in holdings:
        if holding.start_ms > now_ms:
            cell = (holding.level, holding.cell)
            gpus = gpus_of.setdefault(cell, fleet.gpus_of_cell(*cell))
            others = gpus[owner_account[gpus] != account_of[holding.position]]
            until_ms[others] = np.minimum(until_ms[others], holding.start_ms)
    return until_ms
