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
from scheduler.core.coverage.ownership import check as overlaps
from scheduler.core.errors import Conflict, Equivocation, Fenced, InvalidValue, UnknownName
from scheduler.core.events import (
    BindOverdue,
    CalendarTurned,
    CancelAsked,
    CellsSwapped,
    ClockChecked,
    CoverageAssigned,
    CoverageRefused,
    DeviceProbed,
    DevicesSeen,
    DisputeAnswered,
    DisputeHeard,
    DrainOrdered,
    Event,
    ForceMajeureDeclared,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    GangSubmitted,
    GpusMarked,
    HealthChanged,
    InstrumentListed,
    IntervalClosed,
    IntervalCorrected,
    LotsRecalled,
    LotsReleased,
    MaintenanceAnnounced,
    NodeJoined,
    ObservationGap,
    PerformanceMeasured,
    PositionChanged,
    PositionsLoaded,
    RecordsPromoted,
    ScoreChosen,
    ShortageDecided,
    ShortageOver,
)
from scheduler.core.holdings import Holding
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import StepFunction
from scheduler.core.metering.estimation import Sight, sight_of_clock
from scheduler.core.metering.meter import Meter
from scheduler.core.placement.snapshot import Opening, Snapshot, Touched
from scheduler.core.positions import Position, PositionBook
from scheduler.core.quantities import floor_div
from scheduler.core.settlement_times import unchangeable_until_ms
from scheduler.core.state.calendar import UNSOLD, Calendar
from scheduler.core.state.closings import Bind, ClosedInterval
from scheduler.core.state.contracted import contracted_gpus, is_whole, next_contracted_ms, openings
from scheduler.core.state.gangs import NOBODY, Gangs
from scheduler.core.state.health import FleetHealth
from scheduler.core.state.outages import Outages
from scheduler.core.state.reciprocity import Balances
from scheduler.core.state.settled import Settled
from scheduler.core.state.shortages import Shortage, Waits
from scheduler.core.state.shortages import after as after_shortage
from scheduler.core.state.withheld import Withheld, due, told
from scheduler.core.workloads import Gang

CORRECTION_HORIZON_MS = 3_600_000
"""How long the meter's history is kept behind the last closed interval, for what the exchange tells late."""


class State:
    """See the module."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.health = FleetHealth()
        self.outages = Outages()
        self.gangs = Gangs()
        self.calendar = Calendar()
        self.book = PositionBook()
        self.meter = Meter()
        self.instruments: dict[str, InstrumentTerms] = {}
        self.floors_ppm: set[int] = set()  # of all of them
        self.accounts: dict[str, int] = {}
        """Index by account name, in order of first appearance."""
        self.position_index: dict[str, int] = {}
        """Index by position, in order of first appearance: what `owner_position` holds."""
        self.account_of_position: dict[str, int] = {}
        """Account index by position, of every position there ever was."""
        self.contracted: dict[str, StepFunction] = {}
        """GPUs contracted over time, of every position in the book."""
        self.due: dict[str, StepFunction] = {}
        """GPUs that are to stand behind it over time: the same, less what is withheld."""
        self.withheld: dict[str, tuple[Withheld, ...]] = {}
        """Recalled and released lots, by position, in the order in which they were told."""
        self.opens: dict[str, Opening] = {}
        """When each account that will own more than now does so, and how much it owns then."""
        self.refused: dict[str, Cause] = {}
        """Positions that are not covered as sold, and what their shortfall is metered as."""
        self.refusals: dict[str, StepFunction] = {}
        """The causes in `refused` over time, by position; 0: none. As far back as the meter remembers."""
        self.shortages: dict[Shortage, Waits] = {}
        """Who waits for cells, by the certificates of the shortages that last."""
        self.closed_ms: dict[int, int] = {}
        """The end of the last closed metering interval, by interval length."""
        self.closings: tuple[ClosedInterval, ...] = ()
        """Which leaves hold the records of closed intervals that may still be corrected, in order of writing."""
        self.settled = Settled()
        """What of the log is settled, and disputed."""
        self.clock_error_ms = 0
        """How far the clock was from the exchange's when it was last checked."""
        self.binds: list[Bind] = []
        """As far back as the meter remembers."""
        self.score: ScoreChosen | None = None
        """The score that a rehearsal chose last; None: the default."""
        self.balances = Balances()
        """What each account lent less what it borrowed."""
        self.now_ms = 0

    # -- reading -------------------------------------------------------------------------------------------------------

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
            occupant=self.gangs.occupant,
            claimant=self.gangs.claimant,
            shares=self.gangs.shares.by_gpu,
            growing=self.gangs.growing,
            balance_gpu_ms=self.balances.by_account,
            placed=self.gangs.placed,
            queue=self.gangs.queue,
            opens=self.opens,
        )

    def take_touched(self) -> Touched:
        """What changed since this was called last, for a planner that keeps its books (`placement.standing`)."""
        touched, self.gangs.touched = self.gangs.touched, Touched()
        return touched

    def gpus_of(self, node: str) -> range:
        """The numbers of a node's GPUs; none where it has not joined."""
        return self.fleet.gpus_of_name.get(node, range(0))

    def refresh_contracted(self) -> None:
        """Derive `contracted` and `opens` anew, after positions were restored."""
        self._index_positions(self.book.positions)
        self._look_ahead(self.now_ms)

    # -- the fold ------------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:  # noqa: C901, PLR0912 - one line a kind of event
        """Fold one event in. Raises a TenorError where the event contradicts the state; then nothing changed."""
        match event:
            case GangSubmitted():
                self.gangs.on_submitted(event)
                self._account(event.spec.account)
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
                self._turn_until(event.at_ms)
                self._turn(event.at_ms)
            case CoverageAssigned():
                self._on_assigned(event)
            case CoverageRefused():
                self._require_positions((event.position,))
                self._refuse(event.position, event.cause, event.at_ms)
            case HealthChanged():
                gpus = self.health.on_health(event, self.fleet)
                self.gangs.touched.gpus.update(gpus.tolist())
                self.meter.set_cause(event.at_ms, gpus, 0 if event.cause is None else int(event.cause))
            case GpusMarked() | DevicesSeen() | DeviceProbed():
                self.health.on_said(event, self.fleet)
            case PerformanceMeasured():
                gpus = self.health.on_performance(event, self.fleet)
                self.meter.set_ppm(event.at_ms, gpus, event.ppm, event.suite)
            case DrainOrdered():
                self.health.on_drain(event, self.fleet)
                self.outages.on_drain(event)
                self.gangs.touched.gpus.update(self.gpus_of(event.node))
            case MaintenanceAnnounced() | ForceMajeureDeclared():
                self.outages.on_declared(event)
            case LotsRecalled() | LotsReleased():
                self._on_withheld(event)
            case NodeJoined():
                self._on_joined(event)
            case PositionChanged():
                self.book.apply(event.event, self.instruments)
                source = () if event.event.source is None else (event.event.source,)
                self._index_positions((*source, event.event.position))
            case PositionsLoaded():
                self._on_loaded(event)
            case InstrumentListed():
                self._on_listed(event)
            case ObservationGap():
                self._on_gap(event)
            case IntervalClosed():
                self._on_closed(event)
            case IntervalCorrected() | RecordsPromoted() | DisputeHeard() | DisputeAnswered() | ClockChecked():
                self._on_settled(event)
            case ShortageDecided() | ShortageOver():
                self.shortages = after_shortage(self.shortages, event)
            case ScoreChosen():
                self.score = event
            case _:
                assert_never(event)
        self.now_ms = max(self.now_ms, event.at_ms)
        self._settle_balances(self.now_ms)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _account(self, name: str) -> int:
        return self.accounts.setdefault(name, len(self.accounts))

    def _index_positions(self, names: Iterable[str]) -> None:
        for name in names:
            position = self.book.positions[name]
            self.position_index.setdefault(name, len(self.position_index))
            self.account_of_position[name] = self._account(position.account)
            self.contracted[name] = contracted_gpus(self.instruments[position.instrument], position)
            self._withhold(name, self.withheld.get(name, ()))

    def due_position(self, name: str) -> Position:
        """A position less what is withheld of it."""
        return due(self.book.positions[name], self.withheld.get(name, ()))

    def _withhold(self, name: str, withheld: tuple[Withheld, ...]) -> None:
        self.due[name] = self.contracted[name]
        if withheld:
            self.withheld[name] = withheld
            terms = self.instruments[self.book.positions[name].instrument]
            self.due[name] = contracted_gpus(terms, self.due_position(name))

    def _on_withheld(self, event: LotsRecalled | LotsReleased) -> None:
        self._require_positions((event.position,))
        self._withhold(event.position, (*self.withheld.get(event.position, ()), told(event)))
        self._look_ahead(event.at_ms)

    def _settle_balances(self, now_ms: int) -> None:
        if self.balances.is_due(now_ms):
            owners = [self.account_of_position[name] for name in self.position_index]
            self.balances.settle(now_ms, self.meter.history, self.fleet, tuple(self.accounts), owners)

    def _require_positions(self, names: Iterable[str]) -> None:
        unknown = sorted(set(names) - self.position_index.keys())
        if unknown:
            raise UnknownName("position", unknown[0], self.position_index)

    def _on_listed(self, event: InstrumentListed) -> None:
        if self.instruments.setdefault(event.terms.id, event.terms) != event.terms:
            raise Equivocation(f"instrument {event.terms.id} was listed again with other terms")
        self.floors_ppm.add(event.terms.throughput.floor_ppm)

    def _on_joined(self, event: NodeJoined) -> None:
        self.fleet = self.fleet.joined(event.node)
        self.gangs.touched.ownership = True
        self.health.grow(self.fleet.n_gpus)
        self.gangs.grow(self.fleet.n_gpus)
        self.calendar.grow(self.fleet)
        self.meter.grow(self.fleet.n_gpus, event.at_ms)

    def _on_loaded(self, event: PositionsLoaded) -> None:
        cursor = self.book.cursor
        if cursor is not None and cursor.stream != event.cursor.stream:
            raise Conflict(f"a snapshot was of stream {event.cursor.stream!r}, expected {cursor.stream!r}")
        if cursor is not None and (event.cursor.epoch, event.cursor.seq) < (cursor.epoch, cursor.seq):
            raise Fenced(f"a snapshot was at {event.cursor}, expected {cursor} or later")
        for position in event.positions:
            if position.instrument not in self.instruments:
                raise UnknownName(f"instrument of {position.id}", position.instrument, self.instruments)
            known = self.account_of_position.get(position.id)
            if known is not None and known != self.accounts.get(position.account):
                raise Conflict(f"position {position.id!r} is of {position.account!r} now, and was another's")
        self.book = PositionBook.of(event.cursor, event.positions)
        self.contracted.clear()
        self.due.clear()
        self.withheld = {name: told for name, told in self.withheld.items() if name in self.book.positions}
        self.refused = {name: cause for name, cause in self.refused.items() if name in self.book.positions}
        self.refusals = {name: causes for name, causes in self.refusals.items() if name in self.book.positions}
        self._index_positions(position.id for position in event.positions)

    def _on_started(self, event: GangStarted) -> None:
        gang = self.gangs.on_started(event)
        self.meter.set_occupant(event.at_ms, _gpus(gang), self.accounts[gang.account])
        self.meter.set_late(event.at_ms, _gpus(gang), late=False)
        if gang.inside:
            pool = int(self.fleet.pool_of_node[self.fleet.node_of_gpu[gang.gpu_numbers[0]]])
            self.binds.append(Bind(event.at_ms, pool, event.at_ms - gang.placed_ms))
        if gang.shape.is_share and event.at_ms < self.now_ms:
            # Learnt late: another share may have left since, and that did not leave the device idle.
            self.meter.set_occupant(self.now_ms, _gpus(gang), self.accounts[gang.account])

    def _on_ended(self, event: GangEnded) -> None:
        before = self.gangs.get(event.gang)
        self.gangs.on_ended(event)
        others = self._sharing(before)
        if before.started_ms is not None:
            # A shared device is used by its account, as one GPU, as long as any of its gangs runs there.
            if all(other.started_ms is None or other.started_ms > event.at_ms for other in others):
                self.meter.set_occupant(event.at_ms, _gpus(before), NOBODY)
        elif not any(other.overdue for other in others):
            self.meter.set_late(event.at_ms, _gpus(before), late=False)

    def _on_overdue(self, event: BindOverdue) -> None:
        gang = self.gangs.on_overdue(event)
        if any(other.started_ms is not None for other in self._sharing(gang)):
            return  # the device is used: its owner has it
        gpus = _gpus(gang)
        own = gpus[self.calendar.owner_account[gpus] == self.accounts[gang.account]]
        self.meter.set_late(event.at_ms, own, late=True)

    def _sharing(self, gang: Gang) -> list[Gang]:
        """The other gangs on a share's device; none of a gang of whole GPUs."""
        if not gang.shape.is_share:
            return []
        numbers = self.gangs.shares.of(gang.gpu_numbers[0])
        return [self.gangs.by_number(number) for number in numbers if number != gang.number]

    def _on_swapped(self, event: CellsSwapped) -> None:
        self.calendar.swap(self.fleet, event.level, event.left, event.right, event.at_ms)
        gpus = np.concatenate(
            [self.fleet.gpus_of_cell(event.level, event.left), self.fleet.gpus_of_cell(event.level, event.right)]
        )
        self.gangs.touched.traded.update(self.fleet.node_of_gpu[gpus].tolist())
        self.meter.set_owner(event.at_ms, gpus, self.calendar.owner_position[gpus])

    def _on_assigned(self, event: CoverageAssigned) -> None:
        self._require_positions((*event.positions, *(holding.position for holding in event.holdings)))
        now_ms = max(self.now_ms, event.at_ms)
        holdings = self.calendar.assigned(event.positions, event.holdings, event.from_ms)
        faults = self._faults(event, holdings)
        if faults:
            raise Conflict(f"coverage of {', '.join(event.positions)} from {event.from_ms}: {faults[0]}")
        self._turn_until(now_ms)
        # A turn only tells past ones apart: they are the same after it.
        self.calendar.keep(holdings, event)
        if event.why in {"traded", "planned", "ended"}:
            for position in sorted(self.refused.keys() & set(event.positions)):
                if self._is_whole(position, now_ms):  # else others only moved its future, or it is short until later
                    self._refuse(position, None, event.at_ms)
        self._turn(now_ms)
        if event.from_ms < now_ms:
            self._retell(event, now_ms)

    def _refuse(self, position: str, cause: Cause | None, at_ms: int) -> None:
        """From an instant on the position is short for a cause; None: it is not."""
        steps = self.refusals.get(position, StepFunction()).steps
        self.refusals[position] = StepFunction.of((*steps, (at_ms, 0 if cause is None else int(cause))))
        if cause is None:
            del self.refused[position]
        else:
            self.refused[position] = cause

    def _is_whole(self, position: str, now_ms: int) -> bool:
        held = [
            (holding.start_ms, holding.end_ms, len(self.fleet.gpus_of_cell(holding.level, holding.cell)))
            for holding in self.calendar.of(position)
        ]
        return is_whole(self.due.get(position, StepFunction()), held, now_ms)

    def _faults(self, event: CoverageAssigned, holdings: tuple[Holding, ...]) -> tuple[str, ...]:
        named = set(event.positions)
        for holding in event.holdings:
            if holding.position not in named:
                return (f"{holding.position} is not among the positions",)
            if holding.start_ms < event.from_ms:
                return (f"{holding.position} is covered from {holding.start_ms} on, expected {event.from_ms} or later",)
        return overlaps(self.fleet, [holding for holding in holdings if holding.end_ms > event.from_ms])

    def _retell(self, event: CoverageAssigned, now_ms: int) -> None:
        """Learnt late: the meter integrates from when it held, not from when we heard."""
        owners = self.meter.history.owner
        named = {self.position_index[position] for position in event.positions}
        instants, gpus, told = owners.between(event.from_ms, now_ms)
        then = owners.at(max(event.from_ms, self.meter.history.horizon_ms))
        touched = set(np.flatnonzero(np.isin(then, sorted(named))).tolist())
        touched |= set(gpus[np.isin(told, sorted(named))].tolist())
        for holding in event.holdings:
            if holding.start_ms < now_ms:
                touched |= set(self.fleet.gpus_of_cell(holding.level, holding.cell).tolist())
        theirs = np.array(sorted(touched), dtype=np.int64)
        cuts = {event.from_ms} | set(instants[np.isin(gpus, theirs)].tolist())
        cuts |= {edge_ms for holding in event.holdings for edge_ms in (holding.start_ms, holding.end_ms)}
        for at_ms in sorted(cut_ms for cut_ms in cuts if event.from_ms <= cut_ms < now_ms):
            self.meter.set_owner(at_ms, theirs, self.calendar.owners(self.fleet, at_ms, self.position_index)[theirs])

    def _turn_until(self, at_ms: int) -> None:
        """Windows that opened or closed before an instant did so at theirs."""
        while self.calendar.turns and self.calendar.turns[0] < at_ms:
            self._turn(self.calendar.turns[0])

    def _turn(self, at_ms: int) -> None:
        owner, until_ms = self.calendar.owner_account, self.calendar.until_ms
        changed = self.calendar.turn(self.fleet, at_ms, self.position_index, self.account_of_position)
        same = np.array_equal(owner, self.calendar.owner_account) and np.array_equal(until_ms, self.calendar.until_ms)
        self.gangs.touched.ownership |= not same
        if len(changed):
            self.meter.set_owner(at_ms, changed, self.calendar.owner_position[changed])
        self._look_ahead(at_ms)

    def _look_ahead(self, at_ms: int) -> None:
        accounts = {name: position.account for name, position in self.book.positions.items()}
        self.opens = openings(self.due, accounts, at_ms)

    def _on_closed(self, event: IntervalClosed) -> None:
        last_ms = self.closed_ms.get(event.interval_ms, 0)
        if event.end_ms <= last_ms:
            raise Conflict(f"an interval that ends {event.end_ms} was closed, and all until {last_ms} were already")
        self.closed_ms[event.interval_ms] = event.end_ms
        before_ms = self._open_from_ms() - CORRECTION_HORIZON_MS
        self._settle_balances(max(self.now_ms, event.at_ms))  # while the meter still knows what is to be forgotten
        kept = (closed for closed in self.closings if closed.end_ms > before_ms)
        self.closings = (*kept, ClosedInterval.of(event))
        self.outages.on_metered(event)
        self.outages.forget(before_ms)
        self.settled.on_closed(event)
        self.binds = [bind for bind in self.binds if bind.at_ms > before_ms]
        self.meter.forget(before_ms)
        self.calendar.forget(before_ms)
        since = {name: causes.since(before_ms) for name, causes in self.refusals.items()}
        self.refusals = {name: causes for name, causes in since.items() if causes.steps}

    def _open_from_ms(self) -> int:
        """The start of the earliest interval, of all lengths in which something is contracted, that is still open."""
        earliest_ms = max(self.closed_ms.values())
        for name, contracted in self.contracted.items():
            length_ms = self.instruments[self.book.positions[name].instrument].interval_ms
            next_ms = next_contracted_ms(contracted, self.closed_ms.get(length_ms))
            if next_ms is not None:
                earliest_ms = min(earliest_ms, floor_div(next_ms, length_ms) * length_ms)
        return earliest_ms

    def _on_gap(self, event: ObservationGap) -> None:
        if event.from_ms > event.at_ms:
            raise InvalidValue("from_ms", "an observation gap", event.from_ms, f"{event.at_ms} or earlier")
        self.meter.set_seen(event.from_ms, Sight.ESTIMATED if event.bridged else Sight.NOT_OBSERVED)
        self.meter.set_seen(event.at_ms, sight_of_clock(self.clock_error_ms))

    def _on_settled(
        self, event: IntervalCorrected | RecordsPromoted | DisputeHeard | DisputeAnswered | ClockChecked
    ) -> None:
        match event:
            case IntervalCorrected():
                self.closings = (*self.closings, ClosedInterval.of(event))
                self.outages.on_metered(event)
                self.settled.on_corrected(event)
            case ClockChecked():
                self.clock_error_ms = event.error_ms
                self.meter.set_seen(event.at_ms, sight_of_clock(event.error_ms))
            case DisputeHeard():
                self._require_positions((event.dispute.position,))
                self.settled.on_heard(event)
            case DisputeAnswered():
                self.settled.on_answered(event)
            case RecordsPromoted():
                self._require_positions(promotion.position for promotion in event.promotions)
                self.settled.on_promoted(event)
                terms = {name: self.instruments[each.instrument] for name, each in self.book.positions.items()}
                until_ms = {name: unchangeable_until_ms(each, event.at_ms) for name, each in terms.items()}
                self.settled.forget({name: each for name, each in until_ms.items() if each is not None})


def _gpus(gang: Gang) -> npt.NDArray[np.int64]:
    return np.array(gang.gpu_numbers, dtype=np.int64)
