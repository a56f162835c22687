"""Settling by the calendar: which records become initial or final at an instant, and which record a version follows.

Law: a record is promoted once to each status; one that is disputed is not final before its answer; of two promotions
that are due the later status alone is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Level
from scheduler.core.events import Event, GangEnded, GangStarted, HealthChanged, PerformanceMeasured
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.cells import cell_of_gpu
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import MeterRecord, RecordStatus, superseding
from scheduler.core.metering.versions import STATUS_OF_STAGE, Promotion, Stage, stage_after
from scheduler.core.quantities import floor_div
from scheduler.core.settlement_times import final_through_ms, initial_ms, last_change_ms, next_final_ms
from scheduler.core.state.health import gpus_named
from scheduler.core.state.state import State


@dataclass(frozen=True, slots=True)
class Due:
    """Promotions that are due. `final_until`: (position, until when its records are final, the starts of those that are
    not); `settled`: (instrument, start) of intervals that are provisional no longer.
    """

    promotions: tuple[Promotion, ...] = ()
    final_until: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    settled: tuple[tuple[str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.promotions or self.final_until or self.settled)


def due(state: State, now_ms: int) -> Due:
    """What is due at an instant, by position; FINAL after INITIAL."""
    disputed = state.settled.disputed()
    through = {name: _through_ms(state, name, now_ms) for name in state.instruments}
    promotions, final_until = [], []
    settled = tuple(
        (instrument, start_ms)
        for instrument, starts in sorted(state.settled.provisional.items())
        for start_ms in starts
        if initial_ms(state.instruments[instrument], start_ms + state.instruments[instrument].interval_ms) <= now_ms
    )
    waited: dict[str, list[int]] = defaultdict(list)
    for instrument, start_ms in settled:
        if start_ms >= through[instrument]:
            waited[instrument].append(start_ms)
    for position in sorted(state.contracted):
        instrument = state.book.positions[position].instrument
        length_ms = state.instruments[instrument].interval_ms
        known_ms, until_ms = state.settled.final_until.get(position, 0), through[instrument]
        steps = state.contracted[position].steps
        is_final = bool(until_ms > known_ms and steps and steps[0][0] < until_ms)
        if not (is_final or instrument in waited or position in state.settled.left):
            continue  # nearly all, after most closes
        ranges = _runs(waited.get(instrument, []), length_ms)
        promotions += list(_of(state, position, ranges, RecordStatus.INITIAL))
        theirs = disputed.get(position, frozenset())
        left = [start_ms for start_ms in state.settled.left.get(position, ()) if start_ms not in theirs]
        ranges = _runs(left, length_ms)
        if is_final:
            from_ms = max(known_ms, floor_div(steps[0][0], length_ms) * length_ms)
            inside = sorted(start_ms for start_ms in theirs if from_ms <= start_ms < until_ms)
            ranges += list(_without(from_ms, until_ms, inside, length_ms))
            final_until.append((position, until_ms, tuple(inside)))
        promotions += list(_of(state, position, ranges, RecordStatus.FINAL))
    return Due(tuple(promotions), tuple(final_until), settled)


def next_due_ms(state: State, now_ms: int) -> int | None:
    """The next instant after `now_ms` at which something is due by itself, disputes among it."""
    used = {state.book.positions[position].instrument for position in state.contracted}
    instants = [next_final_ms(state.instruments[name], now_ms) for name in used]
    for name, starts in state.settled.provisional.items():
        terms = state.instruments[name]
        instants += [initial_ms(terms, start_ms + terms.interval_ms) for start_ms in starts]
    instants += [dispute.answer_by_ms for dispute in state.settled.open.values()]
    return min((at_ms for at_ms in instants if at_ms is not None and at_ms > now_ms), default=None)


def as_stands(state: State, told: MeterRecord, leaf: int) -> tuple[MeterRecord, Stage]:
    """The last record that was told in full, at a leaf, as the version that it is by now, and its stage."""
    promoted = state.settled.promotions(told.position, told.start_ms, told.end_ms)
    before = [each.promotion.stage for each in promoted if each.leaf < leaf]
    stage = stage_after(told.status, max(before, default=None))
    version, first = told.version, stage
    for each in promoted:
        if each.leaf > leaf and each.promotion.stage > stage:
            version, stage = version + 1, each.promotion.stage
    if version == told.version:
        return told, first
    versions = {"version": version, "supersedes": version - 1, "status": STATUS_OF_STAGE[stage]}
    return MeterRecord.model_validate(dict(told) | versions), stage


def may_change(state: State, record: MeterRecord, now_ms: int) -> bool:
    """Whether something learnt late may still correct a record."""
    return now_ms <= last_change_ms(state.instruments[record.instrument], record.end_ms)


@dataclass(frozen=True, slots=True)
class Told:
    """The last record of an interval that was told in full, and its leaf."""

    record: MeterRecord
    leaf: int


@dataclass(frozen=True, slots=True)
class Again:
    """What an interval closed again says that is new. `first`: positions that have no record of it yet; `final`: those
    whose records were final; `late`: records that differ and may change no more, by their calendar or because a dispute
    has settled them.
    """

    records: tuple[MeterRecord, ...] = ()
    first: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    late: tuple[MeterRecord, ...] = ()


def again(
    state: State,
    closing: Closing,
    told: Mapping[str, Told],
    now_ms: int,
    status: RecordStatus = RecordStatus.CORRECTED,
) -> Again:
    """The records of an interval closed again, as the next versions of what was told of it, where they differ or are of
    a later status.
    """
    records, first, final, late = [], [], [], []
    agreed = {
        heard.dispute.position
        for heard in state.settled.disputes.values()
        if heard.answer is not None and heard.answer.version and heard.dispute.start_ms == closing.interval.start_ms
    }
    for record in closing.records:
        known = told.get(record.position)
        if known is None:
            if record.contracted_gpu_ms:
                records.append(record)
                first.append(record.position)
            continue
        before, stage = as_stands(state, known.record, known.leaf)
        following = superseding(before, record, status if stage is Stage.PROVISIONAL else RecordStatus.CORRECTED)
        if following is None:
            continue
        if record.position in agreed or not may_change(state, record, now_ms):
            late.append(record)
            continue
        records.append(following)
        final += [record.position] if stage is Stage.FINAL else []
    return Again(tuple(records), tuple(first), tuple(final), tuple(late))


def touched_positions(state: State, event: Event, now_ms: int) -> tuple[str, ...]:
    """The positions whose records of the past an observation may change: owners, since then, of the GPUs that it is
    about, and of the cells around those as far up as lots go.
    """
    match event:
        case HealthChanged() | PerformanceMeasured():
            gpus = gpus_named(state.fleet, event.node, event.gpus)
        case GangStarted() | GangEnded():
            gpus = np.array(state.gangs.get(event.gang).gpu_numbers, dtype=np.int64)
        case _:
            return ()
    for level in sorted({terms.lot.cell for terms in state.instruments.values()} - {Level.GPU}):
        cells = cell_of_gpu(state.fleet, level)
        gpus = np.flatnonzero(np.isin(cells, cells[gpus]))
    owners = state.meter.history.owner
    from_ms = max(event.at_ms, state.meter.history.horizon_ms)
    _, changed, later = owners.between(from_ms, now_ms + 1)
    numbers = {*owners.at(from_ms)[gpus].tolist(), *later[np.isin(changed, gpus)].tolist()}
    return tuple(name for name, number in state.position_index.items() if number in numbers)


class Owned(NamedTuple):
    """GPUs contracted over time, and the consents of the owner."""

    contracted: StepFunction
    consents: tuple[tuple[str, int], ...]


def owned(state: State) -> dict[str, Owned]:
    """What is known of all positions, by name."""
    return {name: Owned(gpus, state.book.positions[name].consents) for name, gpus in state.contracted.items()}


def changed_since(before: Mapping[str, Owned], after: Mapping[str, Owned], now_ms: int) -> Iterator[tuple[str, int]]:
    """(position, the first instant that is past and of which something else is known), by position."""
    for name, now in sorted(after.items()):
        then = before.get(name, Owned(StepFunction(), ()))
        since_ms = now.contracted.differs_from_ms(then.contracted)
        instants = [from_ms for _, from_ms in set(now.consents) ^ set(then.consents)]
        first_ms = min([*instants, *([] if since_ms is None else [since_ms])], default=now_ms)
        if first_ms < now_ms:
            yield name, first_ms


# -- inside ------------------------------------------------------------------------------------------------------------


def _through_ms(state: State, instrument: str, now_ms: int) -> int:
    """Until when an instrument's records are due to be final and are told of."""
    terms = state.instruments[instrument]
    return min(final_through_ms(terms, now_ms), state.closed_ms.get(terms.interval_ms, 0))


def _runs(starts: Iterable[int], length_ms: int) -> list[tuple[int, int]]:
    """Intervals as ranges: those that touch are one."""
    runs: list[tuple[int, int]] = []
    for start_ms in sorted(starts):
        if runs and runs[-1][1] == start_ms:
            runs[-1] = (runs[-1][0], start_ms + length_ms)
        else:
            runs.append((start_ms, start_ms + length_ms))
    return runs


def _without(start_ms: int, end_ms: int, left_out: Iterable[int], length_ms: int) -> Iterator[tuple[int, int]]:
    """A range without some of its intervals."""
    for hole_ms in left_out:
        if start_ms < hole_ms:
            yield start_ms, hole_ms
        start_ms = hole_ms + length_ms
    if start_ms < end_ms:
        yield start_ms, end_ms


def _of(state: State, position: str, ranges: Iterable[tuple[int, int]], status: RecordStatus) -> Iterator[Promotion]:
    """The promotions of ranges in which the position has something contracted."""
    contracted = state.contracted[position]
    for start_ms, end_ms in sorted(ranges):
        if contracted.maximum(Interval(start_ms, end_ms)) > 0:
            yield Promotion(position=position, start_ms=start_ms, end_ms=end_ms, status=status)
