"""Outages that somebody declared: announced maintenance and force majeure, and what an ill GPU counts as under them.

Health says that a GPU is ill and why; a declaration says of some nodes and a stretch of time that it was announced, or
beyond control. What that is worth is each contract's to say: its notice, its budget, its drain term, whether force
majeure excuses. So the meter keeps plain causes, and lays declarations over them when an interval is closed: one that
comes late corrects the past like any other late fact.

A GPU that was drained is `PLANNED_MAINTENANCE` where the outage was announced as early as the contract asks, `DRAIN` in
the drain term at the window's end, and `MAINTENANCE_OVER_BUDGET` otherwise, which the seller bears. A fault within what
was announced in time is planned too: a node that is being repaired is switched off. A fault that the seller bears is
`FORCE_MAJEURE` where one is declared and the contract is excused by it, and stays what it is otherwise.
Of several declarations of one GPU at one instant the first holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Bearer, Cause
from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.intervals import Interval
from scheduler.core.metering.history import FieldHistory
from scheduler.core.metering.terms import Contract

NUMBER_BITS = 20
"""A cause and a declaration share one value, `cause << NUMBER_BITS | 1 + number`, so that the seller's come first."""
_NUMBER_MASK = (1 << NUMBER_BITS) - 1
_NEVER_MS = 2**62


class DeclaredKind(StrEnum):
    """What was declared."""

    MAINTENANCE = "maintenance"
    FORCE_MAJEURE = "force_majeure"


@dataclass(frozen=True, slots=True)
class Declaration:
    """An outage of nodes in `[from_ms, until_ms)`, as it was told at `told_ms`."""

    kind: DeclaredKind
    nodes: tuple[str, ...]
    from_ms: int
    until_ms: int
    told_ms: int

    @property
    def notice_ms(self) -> int:
        """How long before its beginning it was told; negative: after."""
        return self.from_ms - self.told_ms


_EXCUSABLE: IntArray = np.array([cause for cause in Cause if cause.bearer is Bearer.SELLER], dtype=np.int64)
_APPLIES: dict[DeclaredKind, IntArray] = {
    DeclaredKind.MAINTENANCE: np.append(_EXCUSABLE, int(Cause.DRAIN)),
    DeclaredKind.FORCE_MAJEURE: _EXCUSABLE,
}


def with_declared(
    causes: FieldHistory, declarations: Sequence[Declaration], fleet: Fleet, interval: Interval
) -> FieldHistory:
    """The causes of an interval, each with the declaration that it falls under: `cause << NUMBER_BITS | 1 + number`."""
    overlapping = [
        (number, each)
        for number, each in enumerate(declarations)
        if each.from_ms < interval.end_ms and each.until_ms > interval.start_ms
    ]
    initial, rows = causes.at(interval.start_ms), [causes.between(interval.start_ms, interval.end_ms)]
    reach = {number: _gpus(fleet, each.nodes) for number, each in overlapping}
    for number, each in overlapping:  # where a declaration begins and ends, the same cause means something else
        for at_ms in (each.from_ms, each.until_ms):
            if interval.start_ms < at_ms < interval.end_ms:
                gpus = reach[number]
                rows.append(np.array([np.full(len(gpus), at_ms), gpus, causes.at(at_ms)[gpus]], dtype=np.int64))
    told = np.concatenate(rows, axis=1)
    told = told[:, np.argsort(told[0], kind="stable")]
    everywhere = np.arange(len(initial), dtype=np.int64)
    starts = np.full(len(initial), interval.start_ms, dtype=np.int64)
    found = FieldHistory(0)
    found.restore(
        _numbered(starts, everywhere, initial, overlapping, reach),
        starts,
        np.array([told[0], told[1], _numbered(told[0], told[1], told[2], overlapping, reach)], dtype=np.int64),
    )
    return found


def _numbered(
    instants: IntArray,
    gpus: IntArray,
    causes: IntArray,
    declarations: Sequence[tuple[int, Declaration]],
    reach: dict[int, IntArray],
) -> IntArray:
    numbers = np.zeros(len(gpus), dtype=np.int64)
    for number, each in declarations:
        under = (numbers == 0) & (instants >= each.from_ms) & (instants < each.until_ms)
        under &= np.isin(gpus, reach[number]) & np.isin(causes, _APPLIES[each.kind])
        numbers[under] = 1 + number
    return causes << NUMBER_BITS | numbers


def _gpus(fleet: Fleet, nodes: Sequence[str]) -> IntArray:
    """The numbers of all GPUs of these nodes, as far as they have joined."""
    numbers = [gpu for name in nodes for gpu in fleet.gpus_of_name.get(name, ())]
    return np.array(sorted(numbers), dtype=np.int64)


def falls_under(causes: IntArray, declarations: Sequence[Declaration], kind: DeclaredKind) -> npt.NDArray[np.bool_]:
    """Which of the causes of an instant, as `with_declared` gives them, fall under a declaration of a kind."""
    of_kind = np.array([False, *(each.kind is kind for each in declarations)], dtype=np.bool_)
    under: npt.NDArray[np.bool_] = of_kind[causes & _NUMBER_MASK]
    return under


class Judge:
    """What contracts make of ill GPUs. Rows of `contracts` are numbered as the caller's."""

    def __init__(self, contracts: Sequence[Contract], declarations: Sequence[Declaration]) -> None:
        maintenance = [each.kind is DeclaredKind.MAINTENANCE for each in declarations]
        self._announced = np.array([False, *maintenance], dtype=np.bool_)
        self._beyond = np.array([False, *(not each for each in maintenance)], dtype=np.bool_)
        self._told_before_ms = np.array([0, *(each.notice_ms for each in declarations)], dtype=np.int64)
        self._notice_ms = np.array([each.terms.notice_ms for each in contracts], dtype=np.int64)
        self._excused = np.array([each.terms.excused for each in contracts], dtype=np.bool_)
        drains = [_NEVER_MS if each.terms.drain_from_ms is None else each.terms.drain_from_ms for each in contracts]
        self._drain_from_ms = np.array(drains, dtype=np.int64)

    def outcome(self, contract: IntArray, ill: IntArray) -> IntArray:
        """The cause that each ill GPU counts as for its contract, 0 where it is healthy, outside of drain terms."""
        code, number = ill >> NUMBER_BITS, ill & _NUMBER_MASK
        found = np.where((code != 0) & self._beyond[number] & self._excused[contract], int(Cause.FORCE_MAJEURE), code)
        in_time = self._announced[number] & (self._told_before_ms[number] >= self._notice_ms[contract])
        found = np.where(code == Cause.DRAIN, int(Cause.MAINTENANCE_OVER_BUDGET), found)
        return np.where((code != 0) & in_time, int(Cause.PLANNED_MAINTENANCE), found)

    def drained_ms(self, contract: IntArray, ill: IntArray, start_ms: IntArray, length_ms: IntArray) -> IntArray:
        """How much of each segment is a drain in its contract's drain term: the last part of it."""
        after_ms = np.clip(start_ms + length_ms - self._drain_from_ms[contract], 0, length_ms)
        return np.where(ill >> NUMBER_BITS == Cause.DRAIN, after_ms, 0)
