"""State is a fold over the journal's events. This is the fold: one method a kind of event, nothing else writes.

The state is mutable inside, for speed, and owned by one writer; what leaves it (`snapshot`, `contracts`) must not be
written to. Law: the same events in the same order give the same state, bit for bit (`dump` of both are equal).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet
from scheduler.core.events import (
    BindOverdue,
    CalendarTurned,
    CancelAsked,
    CellsSwapped,
    CoverageAssigned,
    CoverageRefused,
    DrainOrdered,
    Event,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    GangSubmitted,
    HealthChanged,
    InstrumentListed,
    IntervalClosed,
    NodeJoined,
    ObservationGap,
    PerformanceMeasured,
    PositionChanged,
    PositionsLoaded,
    ShortageDecided,
)
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import StepFunction
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.meter import Meter
from scheduler.core.placement.snapshot import Snapshot
from scheduler.core.positions import PositionBook
from scheduler.core.state.calendar import UNSOLD, Calendar
from scheduler.core.state.contracted import contracted_gpus
from scheduler.core.state.gangs import Gangs
from scheduler.core.state.health import FleetHealth
from scheduler.core.workloads import Gang

NOBODY = -1
CORRECTION_HORIZON_MS = 3_600_000
"""How long the meter's history is kept behind the last closed interval, for what the exchange tells late."""


class State:
    """See the module."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.health = FleetHealth()
        self.gangs = Gangs()
        self.calendar = Calendar()
        self.book = PositionBook()
        self.meter = Meter()
        self.instruments: dict[str, InstrumentTerms] = {}
        self.accounts: dict[str, int] = {}
        """Index by account name, in order of first appearance."""
        self.position_index: dict[str, int] = {}
        """Index by position, in order of first appearance: what `owner_position` holds."""
        self.contracted: dict[str, StepFunction] = {}
        """GPUs contracted over time, of every position whose instrument is known."""
        self.refused: dict[str, Cause] = {}
        """Positions that are not covered as sold, and what their shortfall is metered as."""
        self.closed_ms: dict[int, int] = {}
        """The end of the last closed metering interval, by interval length."""
        self.now_ms = 0

    # -- reading -------------------------------------------------------------------------------------------------------

    def account_of_position(self) -> dict[str, int]:
        """Account index by position."""
        return {name: self.accounts[position.account] for name, position in self.book.positions.items()}

    def snapshot(self, now_ms: int, spares: Iterable[str] = ()) -> Snapshot:
        """What a round sees. Shares the state's arrays. `spares` are nodes that may be taken for a failed one at any
        instant: nothing that cannot be preempted fits there.
        """
        until_ms = self.calendar.until_ms
        reserved = [gpu for name in spares for gpu in self.gpus_of(name)]
        if reserved:
            until_ms = until_ms.copy()
            until_ms[[gpu for gpu in reserved if self.calendar.owner_position[gpu] == UNSOLD]] = now_ms
        return Snapshot(
            now_ms=now_ms,
            fleet=self.fleet,
            accounts=tuple(self.accounts),
            usable=self.health.usable,
            owner=self.calendar.owner_account,
            until_ms=until_ms,
            swappable=self.calendar.swappable,
            occupant=self.gangs.occupant,
            claimant=self.gangs.claimant,
            placed=self.gangs.placed,
            queue=self.gangs.queue,
        )

    def gpus_of(self, node: str) -> range:
        """The numbers of a node's GPUs; none where it has not joined."""
        number = self.fleet.index_of_node.get(node)
        return range(0) if number is None else self.fleet.gpus_of_node(number)

    def refresh_contracted(self) -> None:
        """Derive `contracted` anew, after positions were restored."""
        self._index_positions(self.book.positions)

    # -- the fold ------------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:  # noqa: C901, PLR0912 - one line a kind of event
        """Fold one event in. Raises a TenorError where the event contradicts the state; then nothing changed."""
        match event:
            case GangSubmitted():
                self._account(event.spec.account)
                self.gangs.on_submitted(event)
            case GangPlaced():
                self.gangs.on_placed(event, self.fleet)
            case GangStarted():
                self._on_started(event)
            case GangEnded():
                self._on_ended(event)
            case GangStopAsked():
                self.gangs.on_stop_asked(event)
            case CancelAsked():
                self.gangs.on_cancelled(event.gang, event.at_ms)
            case BindOverdue():
                self._on_overdue(event)
            case CellsSwapped():
                self._on_swapped(event)
            case CalendarTurned():
                self._turn(event.at_ms)
            case CoverageAssigned():
                self._on_assigned(event)
            case CoverageRefused():
                self.refused[event.position] = event.cause
            case HealthChanged():
                gpus = self.health.on_health(event, self.fleet)
                self.meter.set_cause(event.at_ms, gpus, 0 if event.cause is None else int(event.cause))
            case PerformanceMeasured():
                gpus = self.health.on_performance(event, self.fleet)
                self.meter.set_ppm(event.at_ms, gpus, event.ppm, event.suite)
            case DrainOrdered():
                self.health.on_drain(event, self.fleet)
            case NodeJoined():
                self._on_joined(event)
            case PositionChanged():
                self.book.apply(event.event, self.instruments)
                self._account(event.event.account)
                source = () if event.event.source is None else (event.event.source,)
                self._index_positions((*source, event.event.position))
            case PositionsLoaded():
                self._on_loaded(event)
            case InstrumentListed():
                self.instruments[event.terms.id] = event.terms
                self._index_positions(
                    name for name, held in self.book.positions.items() if held.instrument == event.terms.id
                )
            case ObservationGap():
                self._on_gap(event)
            case IntervalClosed():
                self._on_closed(event)
            case ShortageDecided():
                pass
            case _:
                assert_never(event)
        self.now_ms = max(self.now_ms, event.at_ms)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _account(self, name: str) -> int:
        return self.accounts.setdefault(name, len(self.accounts))

    def _index_positions(self, names: Iterable[str]) -> None:
        for name in names:
            self.position_index.setdefault(name, len(self.position_index))
            terms = self.instruments.get(self.book.positions[name].instrument)
            if terms is not None:
                self.contracted[name] = contracted_gpus(terms, self.book.positions[name])

    def _on_joined(self, event: NodeJoined) -> None:
        self.fleet = self.fleet.joined(event.node)
        self.health.grow(self.fleet.n_gpus)
        self.gangs.grow(self.fleet.n_gpus)
        self.calendar.grow(self.fleet)
        self.meter.grow(self.fleet.n_gpus, event.at_ms)

    def _on_loaded(self, event: PositionsLoaded) -> None:
        self.book = PositionBook.of(event.cursor, event.positions)
        for position in event.positions:
            self._account(position.account)
        self._index_positions(position.id for position in event.positions)

    def _on_started(self, event: GangStarted) -> None:
        gang = self.gangs.on_started(event)
        self.meter.set_occupant(event.at_ms, _gpus(gang), self.accounts[gang.account])
        self.meter.set_late(event.at_ms, _gpus(gang), late=False)

    def _on_ended(self, event: GangEnded) -> None:
        before = self.gangs.get(event.gang)
        gpus = _gpus(before)
        self.gangs.on_ended(event)
        if before.started_ms is not None:
            self.meter.set_occupant(event.at_ms, gpus, NOBODY)
        else:
            self.meter.set_late(event.at_ms, gpus, late=False)

    def _on_overdue(self, event: BindOverdue) -> None:
        gang = self.gangs.on_overdue(event)
        gpus = _gpus(gang)
        own = gpus[self.calendar.owner_account[gpus] == self.accounts[gang.account]]
        self.meter.set_late(event.at_ms, own, late=True)

    def _on_swapped(self, event: CellsSwapped) -> None:
        self.calendar.swap(self.fleet, event.level, event.left, event.right, event.at_ms)
        gpus = np.concatenate(
            [self.fleet.gpus_of_cell(event.level, event.left), self.fleet.gpus_of_cell(event.level, event.right)]
        )
        self.meter.set_owner(event.at_ms, gpus, self.calendar.owner_position[gpus])

    def _on_assigned(self, event: CoverageAssigned) -> None:
        self.calendar.assign(event.positions, event.holdings, event.from_ms)
        for position in event.positions:
            self.refused.pop(position, None)
        now_ms = max(self.now_ms, event.at_ms)
        for holding in event.holdings:
            if holding.start_ms < now_ms:
                # Learnt late: the meter integrates from when it held, not from when we heard.
                gpus = self.fleet.gpus_of_cell(holding.level, holding.cell)
                self.meter.set_owner(holding.start_ms, gpus, self.position_index[holding.position])
        self._turn(now_ms)

    def _turn(self, at_ms: int) -> None:
        changed = self.calendar.turn(self.fleet, at_ms, self.position_index, self.account_of_position())
        if len(changed):
            self.meter.set_owner(at_ms, changed, self.calendar.owner_position[changed])

    def _on_closed(self, event: IntervalClosed) -> None:
        self.closed_ms[event.interval_ms] = event.end_ms
        self.meter.forget(min(self.closed_ms.values()) - CORRECTION_HORIZON_MS)

    def _on_gap(self, event: ObservationGap) -> None:
        self.meter.set_seen(event.from_ms, Sight.ESTIMATED if event.bridged else Sight.NOT_OBSERVED)
        self.meter.set_seen(event.at_ms, Sight.OBSERVED)


def _gpus(gang: Gang) -> npt.NDArray[np.int64]:
    return np.array(gang.gpu_numbers, dtype=np.int64)
