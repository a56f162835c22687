"""Closing an interval: from segments to records and pool certificates, exact to the GPU-millisecond.

What a covered GPU-ms counts as is decided by the first of these that holds:

1. nobody saw the fleet: unknown (NOT_OBSERVED); a bridged gap keeps its state and is `estimated_gpu_ms` besides
2. the GPU is ill: its cause's state; else its cell is, where lots ask for whole cells: the lowest cause in the cell;
   what was declared of it, the contract's terms, and how long it has been so, say which cause that is (`declared.py`,
   `grace.py`)
3. its grade is not deliverable, or only with a consent that was not given by then: out_forced (WRONG_GRADE)
4. the owner's gang waits for it beyond the bind limit: out_forced (LATE_BIND)
5. it is slower than `reject_below_ppm`: out_forced (UNDER_PERFORMANCE)
6. a gang of its owner runs there: used; otherwise available_unused, idle or lent

What is contracted and not covered counts as its cause's state. Of used and unused time below the floor a part is
derated, once for each (position, interval, grade, performance, used or not), so that rounding does not depend on how
events cut time. With a floor on the total, steps 5 and the derate go by the position's mean performance in the
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.intervals import Interval
from scheduler.core.metering.declared import Declaration, Judge, with_declared
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.fleet_history import PPM_BITS, FleetHistory
from scheduler.core.metering.grace import Graces
from scheduler.core.metering.records import MeterRecord, PoolRecord, RecordStatus
from scheduler.core.metering.segments import Segments, cut
from scheduler.core.metering.tally import AVAILABLE, USED, Tally
from scheduler.core.metering.terms import Contract, Counted
from scheduler.core.metering.uncovered import Coverage, covered_and_contracted
from scheduler.core.quantities import ONE_PPM

PPM_MASK = (1 << PPM_BITS) - 1
_NEVER_MS = 2**62


@dataclass(frozen=True, slots=True)
class Closing:
    """What one interval of the fleet's history says: `records` by position, `pools` in the fleet's order."""

    interval: Interval
    records: tuple[MeterRecord, ...]
    pools: tuple[PoolRecord, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The contracts as arrays, (n_contracts) each, and where to find them."""

    contract_of_owner: IntArray
    """[position index + 1]: the contract's row; -1: none."""
    level_of_owner: IntArray
    account: IntArray
    reject_below_ppm: IntArray
    conversion_ppm: IntArray
    """(n_contracts, n_grades): 0 where the grade is not deliverable."""
    accepted_from_ms: IntArray
    """(n_contracts, n_grades): from when on the grade counts as delivered; `_NEVER_MS` where it does not."""
    grade_of_gpu: IntArray
    pool_of_gpu: IntArray


def close_interval(
    history: FleetHistory,
    interval: Interval,
    contracts: Sequence[Contract],
    fleet: Fleet,
    status: RecordStatus,
    declarations: Sequence[Declaration] = (),
    others: Sequence[Counted] = (),
) -> Closing:
    """The records and certificates of one interval; see `Meter.close`."""
    ordered = sorted(contracts, key=lambda contract: contract.position)
    grades = tuple(dict.fromkeys(grade for grade, _ in fleet.pools))
    columns = _columns(history, ordered, fleet, grades)
    counted = _counted(columns.contract_of_owner, others)
    coverage = covered_and_contracted(history.owner, interval, ordered, columns.contract_of_owner)
    tally = Tally(ordered, grades, columns.conversion_ppm)
    pools = np.zeros((len(fleet.pools), _POOL_PARTS), dtype=np.int64)
    causes = with_declared(history.cause, declarations, fleet, interval)
    judge, graces = Judge(ordered, declarations), Graces(ordered)
    ages = graces.ages(history.cause, interval)
    for span, sight in _spans(history, interval, _consents(ordered)):
        segments = cut(history, fleet, span, columns.level_of_owner, causes, ages)
        _add_pools(pools, segments, columns, counted, sight)
        _add_covered(tally, segments, columns, sight, judge, graces)
    tally.add_uncovered(coverage.uncovered)
    records = tally.records(interval, coverage.contracted_gpu_ms, history.suites, status)
    return Closing(interval, records, _pool_records(pools, ordered, others, coverage, fleet, interval))


def _consents(contracts: Sequence[Contract]) -> set[int]:
    """The instants from which on an owner agrees to a grade."""
    return {since_ms for each in contracts for _, since_ms in each.consented_since_ms if since_ms is not None}


def _spans(history: FleetHistory, interval: Interval, consents: set[int]) -> list[tuple[Interval, Sight]]:
    """The parts of the interval through which the fleet was seen alike, and the same grades were accepted."""
    instants, _, _ = history.sight.between(interval.start_ms, interval.end_ms)
    inside = {at_ms for at_ms in consents if interval.start_ms < at_ms < interval.end_ms}
    cuts = sorted({interval.start_ms, *instants.tolist(), *inside})
    return [
        (Interval(start_ms, end_ms), Sight(int(history.sight.at(start_ms)[0])))
        for start_ms, end_ms in pairwise([*cuts, interval.end_ms])
    ]


def _columns(history: FleetHistory, contracts: Sequence[Contract], fleet: Fleet, grades: Sequence[str]) -> _Columns:
    highest = max([-1, *(contract.index for contract in contracts)])
    for told in (history.owner.folded, history.owner.rows[2]):
        highest = max(highest, int(told.max(initial=-1)))
    contract_of_owner = np.full(highest + 2, -1, dtype=np.int64)
    level_of_owner = np.zeros(highest + 2, dtype=np.int64)
    conversion = np.full((len(contracts), len(grades)), ONE_PPM, dtype=np.int64)
    accepted_from_ms = np.zeros_like(conversion)
    for row, contract in enumerate(contracts):
        contract_of_owner[contract.index + 1] = row
        level_of_owner[contract.index + 1] = contract.terms.cell
        if contract.terms.deliverables:
            known = dict(contract.terms.deliverables)
            asked = dict(contract.consented_since_ms)
            conversion[row] = [known.get(grade, 0) for grade in grades]
            since_ms = [asked.get(grade, 0) if grade in known else None for grade in grades]
            accepted_from_ms[row] = [_NEVER_MS if each is None else each for each in since_ms]
    grade_of_pool = np.array([grades.index(grade) for grade, _ in fleet.pools], dtype=np.int64)
    pool_of_gpu = fleet.pool_of_node[fleet.node_of_gpu]
    return _Columns(
        contract_of_owner,
        level_of_owner,
        np.array([contract.account for contract in contracts], dtype=np.int64),
        np.array([0 if c.terms.total else c.terms.reject_below_ppm for c in contracts], dtype=np.int64),
        conversion,
        accepted_from_ms,
        grade_of_pool[pool_of_gpu],
        pool_of_gpu,
    )


def _add_covered(
    tally: Tally, segments: Segments, columns: _Columns, sight: Sight, judge: Judge, graces: Graces
) -> None:
    """Count what stood behind the contracts; the order of the steps is the precedence of the module, from last to
    first.
    """
    contract_of_segment = columns.contract_of_owner[segments.owner + 1]
    mine = np.flatnonzero((contract_of_segment >= 0) & (segments.length_ms > 0))
    contract, length_ms = contract_of_segment[mine], segments.length_ms[mine]
    grade = columns.grade_of_gpu[segments.gpu[mine]]
    performance = segments.performance[mine]
    ppm = performance & PPM_MASK
    ill = np.where(segments.cause[mine] != 0, segments.cause[mine], segments.cell_cause[mine])

    outcome = np.where(segments.occupant[mine] == columns.account[contract], USED, AVAILABLE)
    outcome = np.where(ppm < columns.reject_below_ppm[contract], int(Cause.UNDER_PERFORMANCE), outcome)
    outcome = np.where(segments.late[mine] != 0, int(Cause.LATE_BIND), outcome)
    unaccepted = segments.start_ms[mine] < columns.accepted_from_ms[contract, grade]
    outcome = np.where(unaccepted, int(Cause.WRONG_GRADE), outcome)
    judged = graces.outcome(contract, judge.outcome(contract, ill), segments.age[mine])
    outcome = np.where(ill != 0, judged, outcome)
    drained_ms = judge.drained_ms(contract, ill, segments.start_ms[mine], length_ms)
    if sight is Sight.NOT_OBSERVED:
        outcome = np.full(len(mine), int(Cause.NOT_OBSERVED), dtype=np.int64)
    elif drained_ms.any():
        in_term = np.flatnonzero(drained_ms)
        drain = np.full(len(in_term), int(Cause.DRAIN), dtype=np.int64)
        tally.add_covered(contract[in_term], drain, grade[in_term], performance[in_term], drained_ms[in_term], sight)
        length_ms = length_ms - drained_ms
    tally.add_covered(contract, outcome, grade, performance, length_ms, sight)


# -- pools -------------------------------------------------------------------------------------------------------------

_COVERED, _UNSOLD_USED, _UNSOLD_IDLE, _UNSOLD_UNHEALTHY, _UNKNOWN, _OF_OTHERS = range(6)
_POOL_PARTS = 6


def _counted(contract_of_owner: IntArray, others: Sequence[Counted]) -> npt.NDArray[np.bool_]:
    """[position index + 1]: whether what is sold counts its contract, not what covers it."""
    counted = contract_of_owner >= 0
    owners = np.array([each.index for each in others], dtype=np.int64) + 1
    counted[owners[owners < len(counted)]] = True  # who is not among them owns nothing
    return counted


def _add_pools(
    pools: IntArray, segments: Segments, columns: _Columns, counted: npt.NDArray[np.bool_], sight: Sight
) -> None:
    part = np.where(segments.occupant >= 0, _UNSOLD_USED, _UNSOLD_IDLE)
    part = np.where(segments.cause != 0, _UNSOLD_UNHEALTHY, part)
    if sight is Sight.NOT_OBSERVED:
        part = np.full(len(part), _UNKNOWN, dtype=np.int64)
    covered = np.where(counted[segments.owner + 1], _COVERED, _OF_OTHERS)
    part = np.where(segments.owner >= 0, covered, part)
    np.add.at(pools, (columns.pool_of_gpu[segments.gpu], part), segments.length_ms)


def _pool_records(
    pools: IntArray,
    contracts: Sequence[Contract],
    others: Sequence[Counted],
    coverage: Coverage,
    fleet: Fleet,
    interval: Interval,
) -> tuple[PoolRecord, ...]:
    sold = dict.fromkeys(fleet.pools, 0)
    for other in others:
        if (other.grade, other.site) in sold:
            sold[other.grade, other.site] += other.contracted_gpu_ms
    for contract, contracted_gpu_ms in zip(contracts, coverage.contracted_gpu_ms, strict=True):
        pool = (contract.terms.grade, contract.terms.site)
        if pool in sold:
            sold[pool] += contracted_gpu_ms
    found = []
    for pool, parts in zip(fleet.pools, pools.tolist(), strict=True):
        found.append(
            PoolRecord(
                grade=pool[0],
                site=pool[1],
                start_ms=interval.start_ms,
                end_ms=interval.end_ms,
                total_gpu_ms=sum(parts),
                sold_gpu_ms=sold[pool] + parts[_OF_OTHERS],
                covered_gpu_ms=parts[_COVERED] + parts[_OF_OTHERS],
                unsold_used_gpu_ms=parts[_UNSOLD_USED],
                unsold_idle_gpu_ms=parts[_UNSOLD_IDLE],
                unsold_unhealthy_gpu_ms=parts[_UNSOLD_UNHEALTHY],
                unknown_gpu_ms=parts[_UNKNOWN],
            )
        )
    return tuple(found)
