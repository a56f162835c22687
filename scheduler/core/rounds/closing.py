"""Closing metering intervals: which are due, what was contracted in them, and what the meter says of it.

All instruments with one interval length close together. Intervals are aligned to the epoch (00:00:00Z is a multiple of
every length), so that everybody who knows the length knows the edges. Law: for each position the intervals that close
tile its delivery intervals, without gap or overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from scheduler.core.causes import Cause
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.terms import Contract, Counted, MeteringTerms
from scheduler.core.quantities import floor_div
from scheduler.core.rounds.excusing import excused_gpus
from scheduler.core.state.contracted import next_contracted_ms
from scheduler.core.state.state import State
from scheduler.core.state.withheld import gpus_withheld
from scheduler.core.substitution import asked_since_ms


@dataclass(frozen=True, slots=True)
class DueInterval:
    """One interval to close, and the positions that contracted something in it."""

    interval_ms: int
    interval: Interval
    contracts: tuple[Contract, ...]


def due_intervals(state: State, now_ms: int, lag_ms: int) -> Iterator[DueInterval]:
    """Every interval that ended `lag_ms` ago or more and is not closed, shortest length first, each in order of
    time.
    """
    for interval_ms, positions in _by_length(state).items():
        start_ms = state.closed_ms.get(interval_ms)
        while True:
            start_ms = _next_start_ms(state, positions, interval_ms, start_ms)
            if start_ms is None or start_ms + interval_ms + lag_ms > now_ms:
                break
            interval = Interval(start_ms, start_ms + interval_ms)
            names = [name for name in positions if state.contracted[name].maximum(interval) > 0]
            contracts = tuple(_contracts(state, names, interval))
            yield DueInterval(interval_ms, interval, contracts)
            start_ms = interval.end_ms


def next_close_ms(state: State) -> int | None:
    """When the next interval ends; None where nothing is contracted any more."""
    ends = []
    for interval_ms, positions in _by_length(state).items():
        start_ms = _next_start_ms(state, positions, interval_ms, state.closed_ms.get(interval_ms))
        if start_ms is not None:
            ends.append(start_ms + interval_ms)
    return min(ends, default=None)


def close(state: State, due: DueInterval, status: RecordStatus = RecordStatus.INITIAL) -> Closing:
    """The records of a due interval, and one for each pool."""
    return _closed(state, due.interval, due.contracts, status)


def closed_again(state: State, names: Iterable[str], from_ms: int) -> Iterator[tuple[int, Closing]]:
    """(interval length, what is now known of it) of every interval from an instant on that is closed already, for
    positions of which something was learnt late, and for all pools. As far as the meter remembers.
    """
    names = frozenset(names)
    for interval_ms, positions in _by_length(state).items():
        theirs = [name for name in positions if name in names]
        start_ms = floor_div(max(from_ms, state.meter.history.horizon_ms, 0), interval_ms) * interval_ms
        if start_ms < state.meter.history.horizon_ms:
            start_ms += interval_ms
        while start_ms + interval_ms <= state.closed_ms.get(interval_ms, 0):
            interval = Interval(start_ms, start_ms + interval_ms)
            yield interval_ms, close_for(state, theirs, interval)
            start_ms = interval.end_ms


def close_for(state: State, names: Iterable[str], interval: Interval) -> Closing:
    """What is now known of an interval, for some positions."""
    return _closed(state, interval, _contracts(state, names, interval), RecordStatus.INITIAL)


def planned_in(state: State, records: Iterable[MeterRecord]) -> tuple[tuple[str, int], ...]:
    """What the records have of planned outages, by position; of those without, where an earlier version had some."""
    found: list[tuple[str, int]] = []
    for record in records:
        planned_gpu_ms = dict(record.losses).get(Cause.PLANNED_MAINTENANCE, 0)
        if planned_gpu_ms or state.outages.planned.get(record.position, {}).get(record.end_ms):
            found.append((record.position, planned_gpu_ms))
    return tuple(found)


def _closed(state: State, interval: Interval, contracts: Sequence[Contract], status: RecordStatus) -> Closing:
    declarations, others = state.outages.declarations, _others(state, interval, contracts)
    return state.meter.close(interval, contracts, state.fleet, status, declarations, others)


def _others(state: State, interval: Interval, contracts: Sequence[Contract]) -> list[Counted]:
    """All other positions that contract something in the interval, whatever the length of their own."""
    metered = {contract.position for contract in contracts}
    found = []
    for name in sorted(state.contracted.keys() - metered):
        contracted_gpu_ms = state.contracted[name].integral(interval)
        if contracted_gpu_ms:
            terms = state.instruments[state.book.positions[name].instrument]
            found.append(Counted(state.position_index[name], terms.grade.klass, terms.site, contracted_gpu_ms))
    return found


def _by_length(state: State) -> dict[int, list[str]]:
    """Positions by the length of their metering interval, both ascending."""
    by_length: dict[int, list[str]] = {}
    for position in sorted(state.contracted):
        interval_ms = state.instruments[state.book.positions[position].instrument].interval_ms
        by_length.setdefault(interval_ms, []).append(position)
    return dict(sorted(by_length.items()))


def _next_start_ms(state: State, positions: Iterable[str], interval_ms: int, from_ms: int | None) -> int | None:
    """The start of the first aligned interval at or after `from_ms` (None: any) in which something is contracted."""
    nexts = (next_contracted_ms(state.contracted[position], from_ms) for position in positions)
    start_ms = min((next_ms for next_ms in nexts if next_ms is not None), default=None)
    return None if start_ms is None else floor_div(start_ms, interval_ms) * interval_ms


def _contracts(state: State, names: Iterable[str], interval: Interval) -> list[Contract]:
    excused = excused_gpus(state, interval)
    return [_contract(state, name, interval, excused.get(name, StepFunction())) for name in names]


def _contract(state: State, name: str, interval: Interval, excused: StepFunction) -> Contract:
    position, contracted = state.book.positions[name], state.contracted[name]
    terms, left_gpu_ms = state.instruments[position.instrument], 0
    if terms.maintenance.budget_ms and state.outages.declarations:
        left_gpu_ms = state.outages.planned_left_gpu_ms(name, terms, contracted, interval)
    return Contract(
        index=state.position_index[name],
        position=name,
        instrument=position.instrument,
        account=state.accounts[position.account],
        terms=MeteringTerms.of(terms),
        contracted_gpus=contracted,
        uncovered_cause=state.refusals.get(name, Cause.OVERSOLD),
        withheld_gpus=gpus_withheld(state.withheld.get(name, ()), terms.lot.gpus),
        planned_left_gpu_ms=left_gpu_ms,
        excused_gpus=excused,
        consented_since_ms=asked_since_ms(terms, position),
    )
