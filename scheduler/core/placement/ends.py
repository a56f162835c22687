"""When placed gangs are over, by what they declare: one instant a row, remembered until the row's gang is another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.devices import Rider
from scheduler.core.placement.floor import NOBODY
from scheduler.core.quantities import INT64_MAX
from scheduler.core.workloads import Gang, GangStatus, ends_by_ms


class Rows(Protocol):
    """What this asks of the books, which keep it."""

    rows: list[Gang]
    now_ms: int
    stopped: set[int]
    first_of_round: int

    @property
    def riders(self) -> Mapping[int, Sequence[Rider]]:
        """By row of a shared device: the gangs beside its carrier."""
        ...


def ends_ms(gang: Gang, now_ms: int) -> int:
    """When a gang that starts now has ended, by what it declares; INT64_MAX: nobody knows."""
    declared_ms = gang.spec.max_runtime_ms
    return INT64_MAX if declared_ms is None else now_ms + declared_ms + gang.spec.grace_ms


class RowEnds:
    """See the module. Whoever puts another gang in a row's place says so (`forget`)."""

    def __init__(self) -> None:
        self._ends_ms: IntArray = np.zeros(1, dtype=np.int64)
        """By row, with room for more."""
        self._known = 0
        self._forgotten: set[int] = set()

    def forget(self, row: int) -> None:
        """The row's gang is another."""
        self._forgotten.add(row)

    def declared(self, books: Rows) -> IntArray:
        """(n_rows + 1): when each row's GPUs are free of it, as it declares: an instant that has passed says that it is
        late. Of those that stop, of what this round decided and of shared devices, later than now. The last entry is
        NOBODY. Valid until this is asked again.
        """
        known, first, total = self._known, books.first_of_round, len(books.rows)
        if total >= len(self._ends_ms):
            longer = np.zeros(2 * total + 1, dtype=np.int64)
            longer[:known] = self._ends_ms[:known]
            self._ends_ms = longer
        ends_ms, self._known = self._ends_ms[: total + 1], first
        ends_ms[known:first] = [_standing_ends_ms(gang) for gang in books.rows[known:first]]
        for row in self._forgotten:
            ends_ms[row] = _standing_ends_ms(books.rows[row])
        ends_ms[first:total] = [_ends_ms(gang, books.now_ms, stopped=False) for gang in books.rows[first:]]
        passing = {*books.stopped, *books.riders}
        for row in passing:
            ends_ms[row] = _row_ends_ms(books, row)
        self._forgotten = {row for row in passing if row < first}
        ends_ms[total] = NOBODY
        return ends_ms


def _standing_ends_ms(gang: Gang) -> int:
    return INT64_MAX if gang.spec.max_runtime_ms is None else ends_by_ms(gang)


def _row_ends_ms(books: Rows, row: int) -> int:
    gangs = [books.rows[row], *(rider.gang for rider in books.riders.get(row, ()))]
    return max(_ends_ms(gang, books.now_ms, stopped=row in books.stopped) for gang in gangs)


def _ends_ms(gang: Gang, now_ms: int, *, stopped: bool) -> int:
    if stopped or gang.status is GangStatus.STOPPING:
        return max(now_ms + 1, now_ms + gang.spec.grace_ms if gang.stop_deadline_ms is None else gang.stop_deadline_ms)
    if gang.spec.max_runtime_ms is None:
        return INT64_MAX
    return max(now_ms + 1, ends_ms(gang, now_ms) if gang.status is GangStatus.WAITING else ends_by_ms(gang))
