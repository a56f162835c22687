"""The tally of one interval: exact sums by contract, and from them the records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import IntArray
from scheduler.core.intervals import Interval
from scheduler.core.metering.cells import CODES
from scheduler.core.metering.derate import derated_gpu_ms
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.fleet_history import PPM_BITS
from scheduler.core.metering.records import MeterRecord, Quality, RecordStatus
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.metering.terms import Contract
from scheduler.core.quantities import ONE_PPM, floor_div

AVAILABLE, USED = 0, 1
"""The outcomes that are no `Cause`."""

_OUTCOMES: IntArray = np.concatenate([[AVAILABLE, USED], CODES[1:]])
_RELEASE = int(np.searchsorted(_OUTCOMES, Cause.BUYER_RELEASE))
_SLOW = int(np.searchsorted(_OUTCOMES, Cause.UNDER_PERFORMANCE))
_PLANNED = int(np.searchsorted(_OUTCOMES, Cause.PLANNED_MAINTENANCE))
_OVER_BUDGET = int(np.searchsorted(_OUTCOMES, Cause.MAINTENANCE_OVER_BUDGET))
_STATE_FIELDS = tuple(f"{state}_gpu_ms" for state in State)
_DERATED = list(State).index(State.DERATED)
_LOSS_CAUSES = tuple(Cause(int(code)) for code in CODES[1:])
_STATE_OF_OUTCOME: IntArray = np.array(
    [
        [int(state is of_outcome) for state in State]
        for of_outcome in (State.AVAILABLE_UNUSED, State.USED, *(STATE_OF_CAUSE[cause] for cause in _LOSS_CAUSES))
    ],
    dtype=np.int64,
)
"""(outcomes, states): 1 where the outcome's quantity belongs to the state."""
_HALF_BITS = 15
"""Sums of quantity × ppm are kept in two halves of the ppm, so that each fits 64 bits."""


class Tally:
    """Adds up segments and shortfalls, in any order, and makes the records once. Rows are contracts, in their order."""

    def __init__(self, contracts: Sequence[Contract], grades: Sequence[str], conversion_ppm: IntArray) -> None:
        self._contracts = contracts
        self._grades = grades
        self._conversion_ppm = conversion_ppm
        n = len(contracts)
        self._outcomes = np.zeros((n, len(_OUTCOMES)), dtype=np.int64)
        self._derated = np.zeros(n, dtype=np.int64)
        self._released_uncovered = np.zeros(n, dtype=np.int64)
        self._by_grade = np.zeros((n, len(grades)), dtype=np.int64)
        """Delivered by covering GPUs."""
        self._estimated = np.zeros(n, dtype=np.int64)
        self._suspect = False
        self._parts: list[tuple[IntArray, IntArray, IntArray, IntArray, IntArray]] = []

    def add_covered(
        self,
        contract: IntArray,
        outcome: IntArray,
        grade: IntArray,
        performance: IntArray,
        length_ms: IntArray,
        sight: Sight,
    ) -> None:
        """Parallel arrays, a row for each segment; `outcome` is USED, AVAILABLE or a `Cause`."""
        self._suspect |= sight is Sight.SUSPECT
        if sight is Sight.ESTIMATED:
            np.add.at(self._estimated, contract, length_ms)
        self._parts.append((contract, np.searchsorted(_OUTCOMES, outcome), grade, performance, length_ms))

    def add_uncovered(self, uncovered: Sequence[tuple[int, Cause, int]]) -> None:
        """(contract, cause, gpu_ms) of what had no GPU behind it."""
        for row, cause, gpu_ms in uncovered:
            self._outcomes[row, np.searchsorted(_OUTCOMES, int(cause))] += gpu_ms
            if cause is Cause.BUYER_RELEASE:
                self._released_uncovered[row] += gpu_ms

    def records(
        self, interval: Interval, contracted_gpu_ms: Sequence[int], suites: Sequence[str], status: RecordStatus
    ) -> tuple[MeterRecord, ...]:
        """One record a contract, in their order."""
        contract, outcome, grade, performance, gpu_ms = self._grouped()
        ppm = performance & ((1 << PPM_BITS) - 1)
        mean_ppm, min_ppm = self._performance(contract, outcome, ppm, gpu_ms)
        outcome = self._judged_by_total(contract, outcome, mean_ppm)
        np.add.at(self._outcomes, (contract, outcome), gpu_ms)
        self._hold_to_budget()
        delivered = np.flatnonzero((outcome <= USED) | (outcome == _RELEASE))
        np.add.at(self._by_grade, (contract[delivered], grade[delivered]), gpu_ms[delivered])
        self._derate(contract, outcome, grade, self._effective(contract, ppm, mean_ppm), gpu_ms)
        suite = self._suites(contract, outcome, performance >> PPM_BITS, suites)
        states = self._outcomes @ _STATE_OF_OUTCOME
        states[:, _DERATED] += self._derated
        losses = self._outcomes[:, USED + 1 :].copy()
        losses[:, _RELEASE - USED - 1] = 0
        losses[:, _SLOW - USED - 1] += self._derated
        columns = zip(contracted_gpu_ms, states.tolist(), losses.tolist(), mean_ppm, min_ppm, strict=True)
        return tuple(
            self._record(row, interval, contracted, in_states, lost, mean, least, suite.get(row, ""), status)
            for row, (contracted, in_states, lost, mean, least) in enumerate(columns)
        )

    def _grouped(self) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """Equal (contract, outcome, grade, performance) added up, whatever way events had cut them."""
        if not self._parts:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing, nothing, nothing
        contract, outcome, grade, performance, length_ms = (
            np.concatenate(each) for each in zip(*self._parts, strict=True)
        )
        order = np.lexsort((performance, (contract * len(_OUTCOMES) + outcome) * len(self._grades) + grade))
        columns = [each[order] for each in (contract, outcome, grade, performance)]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = np.any([each[1:] != each[:-1] for each in columns], axis=0)
        firsts = np.flatnonzero(new)
        contract, outcome, grade, performance = (each[firsts] for each in columns)
        sums = np.add.reduceat(length_ms[order], firsts) if len(firsts) else length_ms
        return contract, outcome, grade, performance, sums

    def _performance(
        self, contract: IntArray, outcome: IntArray, ppm: IntArray, gpu_ms: IntArray
    ) -> tuple[list[int], list[int]]:
        """Mean and least ppm by contract, over what was healthy, seen, of the right grade and not late."""
        n = len(self._contracts)
        judged = np.flatnonzero((outcome <= USED) | (outcome == _SLOW))
        rows, ppm, gpu_ms = contract[judged], ppm[judged], gpu_ms[judged]
        weight, high, low = (np.zeros(n, dtype=np.int64) for _ in range(3))
        least = np.full(n, 1 << PPM_BITS, dtype=np.int64)
        np.add.at(weight, rows, gpu_ms)
        np.add.at(high, rows, gpu_ms * (ppm >> _HALF_BITS))
        np.add.at(low, rows, gpu_ms * (ppm & ((1 << _HALF_BITS) - 1)))
        np.minimum.at(least, rows, ppm)
        mean = [
            floor_div((upper << _HALF_BITS) + lower, whole) if whole else 0
            for upper, lower, whole in zip(high.tolist(), low.tolist(), weight.tolist(), strict=True)
        ]
        return mean, np.where(weight > 0, least, 0).tolist()

    def _judged_by_total(self, contract: IntArray, outcome: IntArray, mean_ppm: Sequence[int]) -> IntArray:
        rejected = [
            each.terms.total and mean < each.terms.reject_below_ppm
            for each, mean in zip(self._contracts, mean_ppm, strict=True)
        ]
        if not any(rejected):
            return outcome
        return np.where(np.array(rejected)[contract] & (outcome <= USED), _SLOW, outcome)

    def _effective(self, contract: IntArray, ppm: IntArray, mean_ppm: Sequence[int]) -> IntArray:
        total = np.array([each.terms.total for each in self._contracts], dtype=np.bool_)
        return np.where(total[contract], np.array(mean_ppm, dtype=np.int64)[contract], ppm) if total.any() else ppm

    def _derate(self, contract: IntArray, outcome: IntArray, grade: IntArray, ppm: IntArray, gpu_ms: IntArray) -> None:
        """Move what is lost below the floor from used and unused to derated."""
        floor_ppm = np.array([each.terms.floor_ppm for each in self._contracts], dtype=np.int64)
        slow = np.flatnonzero((outcome <= USED) & (ppm < floor_ppm[contract]))
        groups: dict[tuple[int, int, int, int], int] = {}
        for i in slow.tolist():
            key = (int(contract[i]), int(outcome[i]), int(grade[i]), int(ppm[i]))
            groups[key] = groups.get(key, 0) + int(gpu_ms[i])
        for (row, state, of_grade, at_ppm), quantity in groups.items():
            terms = self._contracts[row].terms
            lost = derated_gpu_ms(quantity, ppm=at_ppm, floor_ppm=terms.floor_ppm, slope_ppm=terms.discount_slope_ppm)
            self._outcomes[row, state] -= lost
            self._by_grade[row, of_grade] -= lost
            self._derated[row] += lost

    def _hold_to_budget(self) -> None:
        """What was planned beyond the budget is the seller's."""
        left = np.array([each.planned_left_gpu_ms for each in self._contracts], dtype=np.int64)
        over = np.maximum(0, self._outcomes[:, _PLANNED] - left)
        self._outcomes[:, _PLANNED] -= over
        self._outcomes[:, _OVER_BUDGET] += over

    def _suites(self, contract: IntArray, outcome: IntArray, suite: IntArray, names: Sequence[str]) -> dict[int, str]:
        """The suites whose measurements a contract's record rests on, joined, by row."""
        judged = (outcome <= USED) | (outcome == _SLOW)
        found: dict[int, list[str]] = {}
        for pair in np.unique(contract[judged] * len(names) + suite[judged]).tolist():
            row, number = divmod(pair, len(names))
            if number:
                found.setdefault(row, []).append(names[number])
        return {row: "+".join(sorted(each)) for row, each in found.items()}

    def _record(
        self,
        row: int,
        interval: Interval,
        contracted_gpu_ms: int,
        states: Sequence[int],
        losses: Sequence[int],
        mean_ppm: int,
        min_ppm: int,
        suite: str,
        status: RecordStatus,
    ) -> MeterRecord:
        contract = self._contracts[row]
        return MeterRecord(
            position=contract.position,
            instrument=contract.instrument,
            start_ms=interval.start_ms,
            end_ms=interval.end_ms,
            status=status,
            contracted_gpu_ms=contracted_gpu_ms,
            **dict(zip(_STATE_FIELDS, states, strict=True)),
            losses=tuple((_LOSS_CAUSES[i], gpu_ms) for i, gpu_ms in enumerate(losses) if gpu_ms),
            par_gpu_ms=self._par_gpu_ms(row),
            measured_mean_ppm=mean_ppm,
            measured_min_ppm=min_ppm,
            suite=suite,
            quality=self._quality(row),
            estimated_gpu_ms=int(self._estimated[row]),
        )

    def _par_gpu_ms(self, row: int) -> int:
        by_grade = zip(self._by_grade[row].tolist(), self._conversion_ppm[row].tolist(), strict=True)
        worth = sum(gpu_ms * conversion_ppm for gpu_ms, conversion_ppm in by_grade if gpu_ms)
        return floor_div(worth, ONE_PPM) + int(self._released_uncovered[row])

    def _quality(self, row: int) -> Quality:
        par = self._contracts[row].terms.grade
        if self._suspect:
            return Quality.SUSPECT
        if self._estimated[row]:
            return Quality.ESTIMATED
        substituted = any(
            gpu_ms and par and grade != par
            for grade, gpu_ms in zip(self._grades, self._by_grade[row].tolist(), strict=True)
        )
        return Quality.SUBSTITUTED if substituted else Quality.MEASURED
