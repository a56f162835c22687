"""The meter records: intervals are closed, corrected and settled, disputes heard and answered.

The part of the loop that writes the log. It decides by the pure steps in `core.rounds`, appends leaves and emits the
events that say which; the loop makes both durable together. Every method is called with the scheduler's guard held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from scheduler.accrediting import Backing
from scheduler.core.errors import Conflict, Refused, UnknownName
from scheduler.core.events import (
    ClockChecked,
    DisputeAnswered,
    DisputeHeard,
    Event,
    IntervalClosed,
    IntervalCorrected,
    ObservationGap,
    RecordsPromoted,
)
from scheduler.core.intervals import Interval
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState, Losses, as_claimed, checked_losses
from scheduler.core.metering.estimation import bridged, sight_of_clock
from scheduler.core.metering.records import MeterRecord, RecordStatus, superseding
from scheduler.core.metering.versions import LateFact, Stage
from scheduler.core.rounds import closing, settling
from scheduler.core.rounds.certifying import certified, certified_again
from scheduler.core.state.closings import ClosedInterval
from scheduler.core.state.state import State
from scheduler.delivery import Issued, LogWriter
from scheduler.exchange.leaves import RecordLeaf, decode, encode_record
from scheduler.exchange.settling_leaves import encode_settling
from scheduler.ledger.journal import Journal

POOLS_ALONE = ""
"""Stands for the pools in what was learnt late, where it touches no position."""
NOT_ANSWERED = "nobody answered in time: the record stands"


@dataclass
class Outgoing:
    """Leaves that are not in the journal yet."""

    log: LogWriter
    journal: Journal
    leaves: list[bytes] = field(default_factory=list)

    @property
    def next_index(self) -> int:
        """The index of the next leaf."""
        return self.log.size(self.journal) + len(self.leaves)

    def append(self, leaves: Iterable[bytes]) -> tuple[int, int]:
        """More leaves: the index of the first, and how many they are."""
        first, before = self.next_index, len(self.leaves)
        self.leaves += leaves
        return first, len(self.leaves) - before


class MeterRecords:
    """See the module. `emit` folds an event in and keeps it for the journal; `alert` tells a person."""

    def __init__(
        self,
        state: State,
        outgoing: Outgoing,
        emit: Callable[[Event], None],
        alert: Callable[[str], None],
        reading_ms: int,
        spares: Sequence[str] = (),
    ) -> None:
        self._state = state
        self._outgoing = outgoing
        self._emit = emit
        self._alert = alert
        self._reading_ms = reading_ms
        self._spares = spares
        self._backing = Backing()
        self._next_due_ms: int | None = 0
        self._blind: list[Interval] = []
        """Stretches of the present blindness that were told of when intervals were closed, adjacent."""
        self._late: dict[str, tuple[int, bytes]] = {}
        """By position, since when something that was just learnt late holds, and what that is."""
        self.closing_listeners: list[Callable[[Closing], None]] = []

    # -- closing -------------------------------------------------------------------------------------------------------

    def close(self, now_ms: int, lag_ms: int, *, blind: bool) -> None:
        """Every interval that is due. `blind`: nobody sees the fleet, so that facts are missing."""
        for due in closing.due_intervals(self._state, now_ms, lag_ms):
            waits = blind and any(gap.overlaps(due.interval) for gap in self._blind)
            closed = closing.close(self._state, due, RecordStatus.PROVISIONAL if waits else RecordStatus.INITIAL)
            closed = certified(
                closed,
                self._backing.standings(self._state, now_ms, self._spares),
                self._backing.pledged.at(self._outgoing.journal, due.interval.end_ms),
                self._state.binds,
            )
            for heard in self.closing_listeners:
                heard(closed)
            first, count = self._outgoing.append(self._outgoing.log.leaves_of(closed, now_ms))
            self._emit(
                IntervalClosed(
                    at_ms=now_ms,
                    interval_ms=due.interval_ms,
                    end_ms=due.interval.end_ms,
                    first_leaf=first,
                    leaves=count,
                    planned=closing.planned_in(self._state, closed.records),
                    provisional=tuple(sorted({each.instrument for each in due.contracts})) if waits else (),
                )
            )
        self._next_due_ms = 0

    def still_blind(self, since_ms: int, now_ms: int) -> None:
        """Nobody has seen the fleet since an instant, and intervals are to be closed all the same."""
        self._emit(ObservationGap(at_ms=now_ms, from_ms=since_ms, bridged=False))
        if since_ms < now_ms:
            self._blind.append(Interval(since_ms, now_ms))

    def sees_again(self, since_ms: int, now_ms: int, *, same_state: bool) -> None:
        """The fleet is seen again, after a blindness of which the last part began at an instant. `same_state`: nothing
        was told that changed meanwhile. A short one is estimated, and what was provisional for it is initial.
        """
        gaps = [*self._blind, *([Interval(since_ms, now_ms)] if since_ms < now_ms else [])]
        self._blind = []
        if not gaps:
            return
        estimated = bridged(now_ms - gaps[0].start_ms, self._reading_ms, same_state=same_state)
        for gap in gaps if estimated else gaps[-1:]:
            self._emit(ObservationGap(at_ms=gap.end_ms, from_ms=gap.start_ms, bridged=estimated))
        if estimated:
            self._restate(now_ms)

    # -- correcting ----------------------------------------------------------------------------------------------------

    def note_late(self, event: Event, now_ms: int) -> None:
        """An observation that is about to be folded in holds from an instant in an interval that is closed."""
        if event.at_ms >= max(self._state.closed_ms.values(), default=0):
            return
        # Pools may be changed by what touches no position: unsold GPUs are used, idle or ill.
        for position in settling.touched_positions(self._state, event, now_ms) or (POOLS_ALONE,):
            before = self._late.get(position)
            if before is None or event.at_ms < before[0]:
                self._late[position] = (event.at_ms, event.model_dump_json().encode())

    def correct_late(self, now_ms: int) -> None:
        """What was noted corrects what was metered since."""
        late, self._late = self._late, {}
        by_fact: dict[tuple[int, bytes], list[str]] = {}
        for position, since in sorted(late.items()):
            by_fact.setdefault(since, []).append(position)
        for (from_ms, fact), names in sorted(by_fact.items()):
            self.correct([name for name in names if name != POOLS_ALONE], from_ms, now_ms, fact)

    def correct(self, names: Sequence[str], from_ms: int, now_ms: int, fact: bytes) -> int:
        """Records and certificates of closed intervals that something learnt late makes other than they were told; of
        how many intervals. `fact`: the event, as the journal has it.
        """
        corrected = 0
        horizon_ms = self._state.meter.history.horizon_ms
        if names and from_ms < horizon_ms:
            self._alert(
                f"learnt at {now_ms} of {', '.join(names)} from {from_ms} on: what was metered before {horizon_ms} "
                f"cannot be corrected"
            )
        digest = hashlib.sha256(fact).hexdigest()
        for interval_ms, closed in closing.closed_again(self._state, names, from_ms):
            told = self._told(interval_ms, closed.interval.end_ms)
            found = settling.again(self._state, closed, told.records, now_ms)
            for record in found.late:
                self._alert(
                    f"learnt at {now_ms} of {record.position}: its record of [{record.start_ms}, {record.end_ms}) is "
                    f"settled and cannot be corrected"
                )
            facts = [LateFact(position=name, from_ms=from_ms, fact=digest) for name in found.final]
            self._outgoing.append(encode_settling(each, now_ms) for each in facts)
            pools = certified_again(closed, told.pools, self._state.binds)
            self._tell_again(interval_ms, replace(closed, pools=pools), found, now_ms)
            corrected += bool(found.records)
        return corrected

    def _restate(self, now_ms: int) -> None:
        """What was provisional is initial, as it is known now."""
        settled = self._state.settled
        for instrument, starts in sorted(settled.provisional.items()):
            interval_ms = self._state.instruments[instrument].interval_ms
            names = [name for name, each in self._state.book.positions.items() if each.instrument == instrument]
            for start_ms in starts:
                if start_ms < self._state.meter.history.horizon_ms:
                    continue  # the calendar makes it initial, as it was seen
                closed = closing.close_for(self._state, names, Interval(start_ms, start_ms + interval_ms))
                told = self._told(interval_ms, start_ms + interval_ms)
                found = settling.again(self._state, closed, told.records, now_ms, RecordStatus.INITIAL)
                pools = certified_again(closed, told.pools, self._state.binds)
                self._tell_again(interval_ms, replace(closed, pools=pools), found, now_ms, (instrument,))

    def _tell_again(
        self,
        interval_ms: int,
        closed: Closing,
        found: settling.Again,
        now_ms: int,
        settled: tuple[str, ...] = (),
    ) -> None:
        if not found.records and not settled and not closed.pools:
            return
        leaves = self._outgoing.log.leaves_of(replace(closed, records=found.records), now_ms)
        first, count = self._outgoing.append(leaves)
        self._emit(
            IntervalCorrected(
                at_ms=now_ms,
                interval_ms=interval_ms,
                end_ms=closed.interval.end_ms,
                first_leaf=first,
                leaves=count,
                planned=closing.planned_in(self._state, found.records),
                first=found.first,
                settled=settled,
            )
        )
        self._next_due_ms = 0

    def _told(self, interval_ms: int, end_ms: int) -> Issued:
        out = self._outgoing
        return out.log.issued(out.journal, out.leaves, self._state.closings, interval_ms, end_ms)

    # -- settling ------------------------------------------------------------------------------------------------------

    def settle(self, now_ms: int) -> None:
        """Disputes that nobody answered expire; records become initial and final as their calendars say."""
        if self._next_due_ms is None or now_ms < self._next_due_ms:
            return
        for dispute in list(self._state.settled.open.values()):
            if dispute.answer_by_ms <= now_ms:
                self._answer(Answer(dispute=dispute.id, state=DisputeState.EXPIRED, reason=NOT_ANSWERED), now_ms)
        due = settling.due(self._state, now_ms)
        if due:
            first, _ = self._outgoing.append(encode_settling(each, now_ms) for each in due.promotions)
            self._emit(
                RecordsPromoted(
                    at_ms=now_ms,
                    first_leaf=first,
                    promotions=due.promotions,
                    final_until=due.final_until,
                    settled=due.settled,
                )
            )
        self._next_due_ms = settling.next_due_ms(self._state, now_ms)

    def next_due_ms(self) -> int | None:
        """When `settle` has something to do, as far as is known."""
        return self._next_due_ms

    def look_again(self) -> None:
        """Positions or terms have changed: what is due may be another."""
        self._next_due_ms = 0

    # -- the clock -----------------------------------------------------------------------------------------------------

    def check_clock(self, error_ms: int, since_ms: int, now_ms: int) -> None:
        """This clock is so far from the exchange's, seen since an instant: kept where that begins or ceases to make
        what is read suspect.
        """
        if sight_of_clock(error_ms) is not sight_of_clock(self._state.clock_error_ms):
            open_ms = max(self._state.closed_ms.values(), default=0)
            self._emit(ClockChecked(at_ms=min(now_ms, max(since_ms, open_ms)), error_ms=error_ms))

    # -- disputes ------------------------------------------------------------------------------------------------------

    def hear(self, seq: int, dispute: Dispute, now_ms: int) -> None:
        """A dispute, as the exchange tells of it; one that was heard changes nothing."""
        if seq <= self._state.settled.heard_seq:
            return
        if dispute.position not in self._state.book.positions:
            raise UnknownName("position", dispute.position, self._state.book.positions)
        self._outgoing.append([encode_settling(dispute, now_ms)])
        self._emit(DisputeHeard(at_ms=now_ms, seq=seq, dispute=dispute))
        self._next_due_ms = 0

    def answer(self, name: str, now_ms: int, *, accept: bool, reason: str, losses: Losses | None) -> Answer:
        """Accepts a dispute, with its claim or with other losses, or rejects it. The same answer again changes nothing.

        Raises UnknownName, InvalidValue for losses that cannot be, Refused where the log has no such record, Conflict
        where it is answered otherwise, or where the record has these losses already; then nothing changed.
        """
        heard = self._state.settled.disputes.get(name)
        if heard is None:
            raise UnknownName("dispute", name, self._state.settled.disputes)
        state = DisputeState.ACCEPTED if accept else DisputeState.REJECTED
        if heard.answer is not None:
            if (heard.answer.state, heard.answer.reason) != (state, reason):
                raise Conflict(f"dispute {name} is {heard.answer.state} already: {heard.answer.reason}")
            return heard.answer
        if not accept:
            return self._answer(Answer(dispute=name, state=state, reason=reason), now_ms)
        dispute = heard.dispute
        before, _ = self._last(dispute)
        wanted = dispute.losses if losses is None else checked_losses(losses, before.contracted_gpu_ms)
        corrected = superseding(before, as_claimed(before, wanted))
        if corrected is None:
            raise Conflict(f"the record that dispute {name} is about has these losses already")
        interval_ms = corrected.end_ms - corrected.start_ms
        first, count = self._outgoing.append([encode_record(corrected, now_ms)])
        self._emit(
            IntervalCorrected(
                at_ms=now_ms,
                interval_ms=interval_ms,
                end_ms=corrected.end_ms,
                first_leaf=first,
                leaves=count,
                planned=closing.planned_in(self._state, (corrected,)),
            )
        )
        return self._answer(Answer(dispute=name, state=state, reason=reason, version=corrected.version), now_ms)

    def _answer(self, answer: Answer, now_ms: int) -> Answer:
        self._outgoing.append([encode_settling(answer, now_ms)])
        self._emit(DisputeAnswered(at_ms=now_ms, answer=answer))
        self._next_due_ms = 0
        return answer

    def _last(self, dispute: Dispute) -> tuple[MeterRecord, Stage]:
        """The record that a dispute is about, as it stands now. Raises Refused where the log has none such there."""
        out = self._outgoing
        size, interval_ms = out.log.size(out.journal), dispute.end_ms - dispute.start_ms
        here = ClosedInterval(interval_ms, dispute.end_ms, dispute.leaf, 1)
        if dispute.leaf >= size:
            raise Refused(f"dispute {dispute.id} is about leaf {dispute.leaf}, the log has {size}")
        decoded = decode(next(leaf for _, leaf in out.journal.leaves(out.log.stream, dispute.leaf, 1)))
        about = (dispute.position, dispute.start_ms, dispute.end_ms)
        if not isinstance(decoded, RecordLeaf) or about != (
            decoded.record.position,
            decoded.record.start_ms,
            decoded.record.end_ms,
        ):
            raise Refused(f"dispute {dispute.id} is about leaf {dispute.leaf}, which holds no record of {about}")
        since = [each for each in self._state.settled.corrected if each.first_leaf > dispute.leaf]
        told = out.log.issued(out.journal, out.leaves, [here, *since], interval_ms, dispute.end_ms)
        last = told.records[dispute.position]
        return settling.as_stands(self._state, last.record, last.leaf)
