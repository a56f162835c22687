"""The loop: load, decide, persist, apply.

`Scheduler` owns the journal and the state that is its fold. Whatever it learns or decides becomes an event, is folded
in, and is committed before anything outside sees it; only then are gangs started and stopped. Every public method may
be called from any thread. Laws: persist, then act; persist, then tell; the same facts at the same instants give the
same events, byte for byte; what could not be saved was not done, and is tried again before anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from scheduler.collecting import collections_wait
from scheduler.core.cluster import Fleet
from scheduler.core.errors import Refused, Unavailable
from scheduler.core.events import (
    VERSION,
    CalendarTurned,
    CancelAsked,
    Event,
    ForceMajeureDeclared,
    GangEnded,
    GangStopAsked,
    GangSubmitted,
    HealthChanged,
    InstrumentListed,
    PositionChanged,
    PositionsLoaded,
    ScoreChosen,
    encode,
)
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Answer, Dispute, Losses
from scheduler.core.placement.snapshot import Plan, Policy
from scheduler.core.positions import Cursor, Position, PositionEvent
from scheduler.core.rounds import closing, covering, deadlines, observing, outages, placing, settling
from scheduler.core.rounds.making_room import make_room
from scheduler.core.state import observed
from scheduler.core.state.state import State
from scheduler.core.workloads import ENDED, Gang, GangSpec, GangStatus, StopCause
from scheduler.delivery import LogWriter
from scheduler.execution.protocol import Executor
from scheduler.ledger.journal import Entry, Journal
from scheduler.observations import events_of, launch_of
from scheduler.planners.planner import LocalPlanner, Planner
from scheduler.settling import MeterRecords, Outgoing

OBSERVED_CURSOR = "observed_ms"
PLANS_A_ROUND = 8
"""A plan that calls for another gets it in the same round; this many a pool at most, the rest comes with the next."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the loop runs; every time in ms."""

    policy: Policy = field(default_factory=Policy)
    close_lag_ms: int = 1_000
    """How long after an interval's end it is closed, so that what was observed late is in."""
    reading_ms: int = 5_000
    """How often the fleet must be seen for the meter to know it; gaps of up to two readings are estimated."""
    spares: tuple[str, ...] = ()
    """Nodes that are never sold: they stand in for nodes that fail."""


class Scheduler:
    """See the module. Made on a journal that may hold a past: `recovery.reconcile` brings it up to date first."""

    def __init__(
        self,
        journal: Journal,
        executor: Executor,
        log: LogWriter,
        clock_ms: Callable[[], int],
        settings: ServiceSettings | None = None,
        state: State | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.state = state or State()
        self.settings = settings or ServiceSettings()
        self.guard = threading.RLock()
        self.woken = threading.Event()
        self.last_plan: Plan | None = None
        self.planned_by = ""
        """Who made the last plan, for people; empty before the first."""
        self.paused = ""
        """Why nothing is decided at present; empty while all is well."""
        self.alerts: list[str] = []
        """What a person must know of: facts that came too late to correct what was metered."""
        self._journal = journal
        self._executor = executor
        self._log = log
        self._planner = planner or LocalPlanner()
        self._opinion: tuple[tuple[Policy, ScoreChosen | None, Fleet], Policy] = (
            (self.settings.policy, None, Fleet()),
            self.settings.policy,
        )
        """The policy in use, behind what it was made of."""
        self._clock_ms = clock_ms
        self._unsaved: list[Entry] = []
        self._outgoing = Outgoing(log, journal)
        reading_ms, spares = self.settings.reading_ms, self.settings.spares
        self.meter_records = MeterRecords(
            self.state, self._outgoing, self._emit, self.alerts.append, reading_ms, spares
        )
        self._launched: set[tuple[str, int]] = set()
        self._stop_sent: dict[tuple[str, int], int | None] = {}
        """Attempts that were told to stop, with the deadline that they know of."""
        self._blind_since_ms: int | None = None
        self._checkpoint_due = True
        self._next_close_ms: int | None = None
        self._positions_changed = True
        self._turn_coverage = False
        self._shutting_down = False
        self.listeners: list[Callable[[Event], None]] = []
        """Told of every event as it is folded in, before it is durable: for figures and displays, never for acts."""
        self.closing_listeners = self.meter_records.closing_listeners

    # -- what others tell ----------------------------------------------------------------------------------------------

    def learn_instruments(self, terms: Iterable[InstrumentTerms]) -> None:
        """Terms that the exchange lists; known ones change nothing."""
        with self.guard:
            self._save_or_raise()
            for each in terms:
                if self.state.instruments.get(each.id) != each:
                    self._emit(InstrumentListed(at_ms=self._clock_ms(), terms=each))
            self._save_or_raise()

    def learn_positions(self, cursor: Cursor, positions: Sequence[Position]) -> None:
        """All positions as of a cursor, from the exchange's snapshot. Raises as `PositionBook.check_snapshot`."""
        with self.guard:
            self._save_or_raise()
            self.state.book.check_snapshot(cursor, positions)
            now_ms = self._clock_ms()
            self._turn_calendar(now_ms)
            before = settling.owned(self.state)
            loaded = PositionsLoaded(at_ms=now_ms, cursor=cursor, positions=tuple(positions))
            self._emit(loaded)
            self._emit_all(covering.after_snapshot(self.state, now_ms, self.settings.spares))
            for name, since_ms in settling.changed_since(before, settling.owned(self.state), now_ms):
                self.meter_records.correct((name,), since_ms, now_ms, encode(loaded))
            self._save_or_raise()
            self.woken.set()

    def learn_event(self, event: PositionEvent) -> None:
        """One position event with its cursor: committed together with what it does to coverage.

        Raises Conflict where the exchange contradicts itself (gap, equivocation, oversold); then nothing changed.
        """
        with self.guard:
            self._save_or_raise()
            now_ms = self._clock_ms()
            cursor = self.state.book.cursor
            if cursor is not None and cursor.epoch == event.cursor.epoch and event.cursor.seq <= cursor.seq:
                self.state.book.apply(event)  # a repeat changes nothing; one with other content raises
                return
            self._turn_calendar(now_ms)
            changed = PositionChanged(at_ms=now_ms, event=event)
            self._emit(changed)
            self._emit_all(covering.after_position_event(self.state, event, now_ms, self.settings.spares))
            self._turn_coverage = True  # owners may have changed: the next round lets coverage follow the work
            if event.effective_ms < now_ms:
                names = (event.position, *filter(None, (event.source,)))
                self.meter_records.correct(names, event.effective_ms, now_ms, encode(changed))
            self._save_or_raise()
            self.woken.set()

    def submit(self, spec: GangSpec, request: str = "") -> Gang:
        """A new gang in the queue, durable when this returns. The same `request` gives the same gang again."""
        with self.guard:
            self._save_or_raise()
            known = self.state.gangs.requests.get(request) if request else None
            if known is not None:
                return self._same_request(known, spec, request)
            gang_id = f"gang-{len(self.state.gangs.ids) + 1}"
            self._emit(GangSubmitted(at_ms=self._clock_ms(), gang=gang_id, spec=spec, request=request))
            self._save_or_raise()
            self.woken.set()
            return self.state.gangs.get(gang_id)

    def cancel(self, gang_id: str) -> Gang:
        """End a gang: at once where it waits, with its grace where it runs. Ended gangs stay as they are."""
        with self.guard:
            self._save_or_raise()
            gang = self.state.gangs.get(gang_id)
            if gang.status in ENDED or gang.stop_cause is StopCause.CANCELLED:
                return gang
            now_ms = self._clock_ms()
            self._emit(CancelAsked(at_ms=now_ms, gang=gang_id))
            if gang.number in self.state.gangs.placed:
                self._stop(gang, StopCause.CANCELLED, now_ms, now_ms + gang.spec.grace_ms)
            self._save_or_raise()
            self.woken.set()
            return self.state.gangs.get(gang_id)

    def drain(self, node: str, by_ms: int | None) -> None:
        """Empty a node by an instant (None: call it off): it takes no new work, its promises move where they can."""
        spares = self.settings.spares
        self.carry_out(lambda state, now_ms: covering.drained(state, node, by_ms, now_ms, spares))

    def carry_out(self, order: Callable[[State, int], Iterable[Event]]) -> int:
        """What somebody who may orders, as the events that `order` makes of it at this instant; durable when this
        returns, with the number of closed intervals that it corrected. Raises what `order` raises, which does so before
        its first event: then nothing changed.
        """
        corrected = 0
        with self.guard:
            self._save_or_raise()
            now_ms = self._clock_ms()
            self._turn_calendar(now_ms)
            for event in order(self.state, now_ms):
                self._emit(event)
                if isinstance(event, HealthChanged):
                    self._after_health(event, now_ms)
                elif isinstance(event, ForceMajeureDeclared) and event.from_ms < now_ms:
                    names = outages.touched_by(self.state, event)
                    corrected += self.meter_records.correct(names, event.from_ms, now_ms, encode(event))
            self._save_or_raise()
            self.woken.set()
            return corrected

    def learn_dispute(self, seq: int, dispute: Dispute) -> None:
        """A dispute, as the exchange tells of it. Raises as `MeterRecords.hear`; then nothing changed."""
        with self._telling() as now_ms:
            self.meter_records.hear(seq, dispute, now_ms)

    def answer_dispute(self, name: str, *, accept: bool, reason: str, losses: Losses | None = None) -> Answer:
        """See `MeterRecords.answer`; in the log when this returns."""
        with self._telling() as now_ms:
            return self.meter_records.answer(name, now_ms, accept=accept, reason=reason, losses=losses)

    def learn_clock(self, error_ms: int, since_ms: int) -> None:
        """See `MeterRecords.check_clock`."""
        with self._telling() as now_ms:
            self.meter_records.check_clock(error_ms, since_ms, now_ms)

    def choose_score(self, choice: ScoreChosen) -> bool:
        """From the next round on partly used nodes are filled by this score. False where that changes nothing."""
        with self.guard:
            known = self.state.score
            if known is not None and (known.score, known.mix, known.values) == (
                choice.score,
                choice.mix,
                choice.values,
            ):
                return False
            self._save_or_raise()
            self._emit(choice)
            self._save_or_raise()
            return True

    # -- the loop ------------------------------------------------------------------------------------------------------

    def round(self) -> int | None:
        """One round at the clock's instant. Gives the next instant at which something falls due by itself."""
        with self.guard:
            now_ms = self._clock_ms()
            self.woken.clear()
            if not self._save():
                return now_ms + 1_000
            self._turn_calendar(now_ms)
            self._observe(now_ms)
            self._fall_due(now_ms)
            if not self.paused and not self._shutting_down:
                with collections_wait():
                    self._place(now_ms)
            self._close_intervals(now_ms)
            self.meter_records.settle(now_ms)
            if self._save(observed_ms=now_ms):
                self._act(now_ms)
            return self.next_due_ms()

    def shut_down(self) -> int:
        """Stop every gang with its grace and place none any more; they wait for the next start. The longest grace,
        in ms.
        """
        with self.guard:
            self._shutting_down = True
            now_ms = self._clock_ms()
            placed = [gang for _, gang in sorted(self.state.gangs.placed.items())]
            for gang in placed:
                self._stop(gang, StopCause.SHUTDOWN, now_ms, now_ms + gang.spec.grace_ms)
            self._save_or_raise()
            self.woken.set()
            return max((gang.spec.grace_ms for gang in placed), default=0)

    def next_due_ms(self) -> int | None:
        """The next instant at which a round is needed though nobody says anything."""
        if self._positions_changed:
            self._next_close_ms = closing.next_close_ms(self.state)
            self._positions_changed = False
        close_ms = None if self._next_close_ms is None else self._next_close_ms + self.settings.close_lag_ms
        turn_ms = self.state.calendar.turns[0] if self.state.calendar.turns else None
        return min(
            (
                at_ms
                for at_ms in (close_ms, turn_ms, deadlines.next_due_ms(self.state), self.meter_records.next_due_ms())
                if at_ms is not None
            ),
            default=None,
        )

    def note_observed(self) -> None:
        """Make durable that the fleet was seen until now: what a restart measures its gap from."""
        with self.guard:
            if self._blind_since_ms is None and not self._unsaved:
                self._journal.commit((), cursors={OBSERVED_CURSOR: str(self._clock_ms()).encode()})

    def adopt(self, events: Iterable[Event], launched: Iterable[tuple[str, int]]) -> None:
        """What recovery found: facts to fold in and attempts that execution already knows."""
        with self.guard:
            self._launched.update(launched)
            self._emit_all(events)
            self._save_or_raise()

    # -- steps of a round ----------------------------------------------------------------------------------------------

    def _observe(self, now_ms: int) -> None:
        blind = "" if self._executor.healthy else self._executor.detail or "execution does not answer"
        observations = self._executor.observe()
        self.paused = blind
        if blind and self._blind_since_ms is None:
            self._blind_since_ms = now_ms
        told = False
        for observation in observations:
            for event in events_of(observation, self.state, now_ms):
                told = True
                self.meter_records.note_late(event, now_ms)
                self._emit(event)
                self._after_health(event, now_ms)
        if not blind and self._blind_since_ms is not None:
            self.meter_records.sees_again(self._blind_since_ms, now_ms, same_state=not told)
            self._blind_since_ms = None
        self.meter_records.correct_late(now_ms)

    def _turn_calendar(self, now_ms: int) -> None:
        while self.state.calendar.turns and self.state.calendar.turns[0] <= now_ms:
            self._emit(CalendarTurned(at_ms=self.state.calendar.turns[0]))
            self._turn_coverage = True

    def _fall_due(self, now_ms: int) -> None:
        if self._turn_coverage:
            self._turn_coverage = False
            self._emit_all(covering.retry(self.state, now_ms, self.settings.spares))
            self._emit_all(covering.follow(self.state, now_ms))
        for event in deadlines.due(self.state, now_ms):
            if isinstance(event, GangStopAsked):
                self._stop(self.state.gangs.get(event.gang), event.cause, event.at_ms, event.deadline_ms)
                continue
            self._emit(event)
            self._after_health(event, now_ms)

    def _place(self, now_ms: int) -> None:
        for gang in observing.outlived_rights(self.state):
            self._stop(gang, StopCause.WINDOW_ENDED, now_ms, now_ms + gang.spec.grace_ms)
        for gang in observing.withheld_work(self.state, now_ms):
            self._stop(gang, StopCause.RECALLED, now_ms, now_ms + gang.spec.grace_ms)
        for number in range(PLANS_A_ROUND * max(1, len(self.state.fleet.pools))):
            self._emit_all(make_room(self.state, now_ms))
            if not self._plan(now_ms, first=number == 0):
                return

    def _plan(self, now_ms: int, *, first: bool) -> bool:
        """One plan as events. Whether it calls for another: a victim that was never launched waits again at once and
        may be inside its entitlement, swaps change which cells an account's work must fit, and a gang that one pool
        refused may be for another.
        """
        planned = self._planner.plan(self.state, now_ms, self.settings.spares, self._policy(), first=first)
        self.last_plan, self.planned_by = planned.plan, planned.by
        if not self.last_plan.actions:
            return planned.unfinished
        returned = False
        for event in placing.events_of(self.last_plan, self.state, now_ms):
            self._emit(event)
            if isinstance(event, GangStopAsked):
                returned |= (event.gang, event.attempt) not in self._launched
                self._forget_unstarted(event)
        swaps = covering.follow(self.state, now_ms)
        self._emit_all(swaps)
        return returned or bool(swaps) or planned.unfinished

    def _policy(self) -> Policy:
        """The policy with what the score in use says of partly used nodes, asked for when one of them changes."""
        made_of = (self.settings.policy, self.state.score, self.state.fleet)
        if any(was is not now for was, now in zip(self._opinion[0], made_of, strict=True)):
            said = observed.preferences_in_use(self.state)
            self._opinion = made_of, replace(made_of[0], preferences=said) if said else made_of[0]
        return self._opinion[1]

    def _after_health(self, event: Event, now_ms: int) -> None:
        """What a change of the fleet's health entails: work leaves sick GPUs, promises move to healthy ones."""
        for gang, cause in observing.to_stop_after(event, self.state):
            self._stop(gang, cause, now_ms, now_ms + gang.spec.grace_ms)
        self._emit_all(covering.after_health(self.state, event, now_ms, self.settings.spares))

    def _close_intervals(self, now_ms: int) -> None:
        if self._positions_changed:
            self.next_due_ms()
        if self._next_close_ms is None or self._next_close_ms + self.settings.close_lag_ms > now_ms:
            return
        blind = self._blind_since_ms is not None
        if self._blind_since_ms is not None:
            self.meter_records.still_blind(self._blind_since_ms, now_ms)
            self._blind_since_ms = now_ms
        self.meter_records.close(now_ms, self.settings.close_lag_ms, blind=blind)
        self._positions_changed = True

    def _act(self, now_ms: int) -> None:
        """Apply what is durable: stop what must stop, start what may start."""
        for number in sorted(self.state.gangs.in_motion):
            gang = self.state.gangs.by_number(number)
            key = (gang.id, gang.attempt)
            if gang.status is GangStatus.STOPPING and self._stop_sent.get(key, -1) != gang.stop_deadline_ms:
                self._stop_sent[key] = gang.stop_deadline_ms
                grace_ms = max(0, (gang.stop_deadline_ms or now_ms) - now_ms)
                self._executor.stop(gang.id, gang.attempt, grace_ms)
            elif gang.status is GangStatus.BINDING and not gang.waits_for and key not in self._launched:
                self._launched.add(key)
                self._executor.start(launch_of(gang))

    # -- events and their durability -----------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        leaves = self._log.leaves_of_event(event, self.state)
        self.state.apply(event)
        self._planner.heard(event)
        self._unsaved.append(Entry(at_ms=event.at_ms, kind=event.kind, version=VERSION, body=encode(event)))
        if leaves:
            self._outgoing.append(leaves)
        match event:
            case PositionChanged() | PositionsLoaded() | InstrumentListed():
                self._positions_changed = True
                self.meter_records.look_again()
            case GangEnded():
                self._launched.discard((event.gang, event.attempt))
                self._stop_sent.pop((event.gang, event.attempt), None)
            case _:
                pass
        for listener in self.listeners:
            listener(event)

    def _emit_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._emit(event)
            if isinstance(event, GangStopAsked):
                self._forget_unstarted(event)

    def _save(self, observed_ms: int | None = None) -> bool:
        """Commit everything emitted since the last time. False where the disk refuses: the loop pauses and tries
        again. `observed_ms`: until when the fleet was seen, which is kept with it.
        """
        blind = observed_ms is None or self._blind_since_ms is not None
        cursors = {} if blind else {OBSERVED_CURSOR: str(observed_ms).encode()}
        try:
            if self._unsaved:
                self._log.commit(self._journal, self._unsaved, self._outgoing.leaves, cursors)
                self._checkpoint_due |= bool(self._outgoing.leaves)
                self._unsaved = []
                self._outgoing.leaves.clear()
            if self._checkpoint_due:
                self._log.checkpoint(self._journal)
                self._checkpoint_due = False
        except Unavailable as error:
            self.paused = str(error)
        return not self._unsaved

    @contextmanager
    def _telling(self) -> Iterator[int]:
        """Something is told now: durable when this ends, and the next round comes at once."""
        with self.guard:
            self._save_or_raise()
            yield self._clock_ms()
            self._save_or_raise()
            self.woken.set()

    def _save_or_raise(self) -> None:
        if not self._save():
            raise Unavailable(f"not saved yet, and so not acted on: {self.paused}")

    def _same_request(self, gang_id: str, spec: GangSpec, request: str) -> Gang:
        gang = self.state.gangs.get(gang_id)
        if gang.spec != spec:
            raise Refused(f"request {request!r} was already used for {gang_id}, with another content")
        return gang

    def _stop(self, gang: Gang, cause: StopCause, at_ms: int, deadline_ms: int) -> None:
        event = GangStopAsked(at_ms=at_ms, gang=gang.id, attempt=gang.attempt, cause=cause, deadline_ms=deadline_ms)
        self._emit(event)
        self._forget_unstarted(event)

    def _forget_unstarted(self, event: GangStopAsked) -> None:
        """An attempt that was never launched has nothing to stop: it is over at once."""
        if (event.gang, event.attempt) not in self._launched:
            self._emit(observing.never_started(event))
