"""Placed gangs as whoever looks for victims reads them: a table by row, and the GPUs of each.

Only rows of accounts that were over their count are taken in, when they first are, so that what a question costs
depends on what may be ended and not on all that runs. Prices change with the clock and are worked out anew each round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.devices import Devices
from scheduler.core.quantities import INT64_MAX, MS_PER_HOUR
from scheduler.core.workloads import WHOLE_GPU_MILLI, Gang

PRICE, RANK, ACCOUNT, GPUS, FIRM, MILLI, STARTED_MS, CHECKPOINT_MS, OVERHEAD_MS, MIN_RUN_MS, EVICTED_MS = range(11)
"""Columns by row: what it is."""
HELD, N_HELD, ENDED = range(11, 14)
"""Where its GPUs begin, how many there are, and whether the search at work ended it."""
NOT_STARTED_MS = INT64_MAX


class Victims(NamedTuple):
    """Tables that kernels read."""

    rows: IntArray
    """(n_rows, 14), with room for more; the columns above."""
    held: IntArray
    """Numbers of the rows' GPUs, one row's after the other's."""


class Rows(Protocol):
    """What this asks of the books, which keep it."""

    now_ms: int
    rows: list[Gang]
    gpus_of_row: list[tuple[int, ...]]
    account_of_row: list[int]
    firm_of_row: list[bool]
    rank_of_row: list[int]
    first_of_round: int
    devices: Devices

    def price(self, row: int) -> int:
        """GPU-ms that ending the row now weighs."""
        ...


class Register:
    """See the module. Whoever puts another gang in a row's place says so (`forget`)."""

    def __init__(self) -> None:
        self.victims = Victims(np.zeros((0, 14), dtype=np.int64), np.zeros(0, dtype=np.int64))
        self._known: set[int] = set()
        self._n_held = 0
        self._forgotten: set[int] = set()

    def forget(self, row: int) -> None:
        """The row's gang is another, on the same GPUs."""
        if row in self._known:
            self._forgotten.add(row)

    def take_in(self, books: Rows, rows: Iterable[int]) -> None:
        """These rows may be victims from now on."""
        new = [row for row in rows if row not in self._known]
        table = _with_room(self.victims.rows, len(books.rows))
        if not new:
            self.victims = self.victims._replace(rows=table)
            return
        self._known.update(new)
        gpus = [books.gpus_of_row[row] for row in new]
        numbers, counts = list(chain.from_iterable(gpus)), np.array(list(map(len, gpus)), dtype=np.int64)
        first, self._n_held = self._n_held, self._n_held + len(numbers)
        held = _with_room(self.victims.held, self._n_held)
        held[first : self._n_held] = numbers
        at = np.array(new, dtype=np.int64)
        table[at, HELD] = first + counts.cumsum() - counts
        table[at, N_HELD] = counts
        self.victims = Victims(table, held)
        self._note(books, new)
        self._price(books, new)

    def begin_round(self, books: Rows) -> list[int]:
        """Another instant: gangs that are others by now, and prices. The rows that cost less than before."""
        forgotten = sorted(self._forgotten)
        self._forgotten.clear()
        known = np.fromiter(self._known, dtype=np.int64, count=len(self._known))
        before = self.victims.rows[known, PRICE]
        self._note(books, forgotten)
        self._price(books, self._known)
        cheaper: list[int] = known[self.victims.rows[known, PRICE] < before].tolist()
        return cheaper

    def _note(self, books: Rows, rows: list[int]) -> None:
        """What these rows are, but for their prices and GPUs."""
        if not rows:
            return
        numbers = chain.from_iterable(
            (
                0,
                books.rank_of_row[row],
                books.account_of_row[row],
                (gang := books.rows[row]).shape.workers * gang.shape.gpus_per_worker,
                int(books.firm_of_row[row]),
                gang.shape.gpu_milli,
                NOT_STARTED_MS if gang.started_ms is None else gang.started_ms,
                (spec := gang.spec).checkpoint_ms,
                spec.restart_ms + spec.grace_ms,
                spec.min_runtime_ms,
                gang.evicted_ms[-1] if gang.evicted_ms else -MS_PER_HOUR,
            )
            for row in rows
        )
        noted = np.fromiter(numbers, dtype=np.int64, count=HELD * len(rows))
        self.victims.rows[rows, :HELD] = noted.reshape(len(rows), HELD)

    def _price(self, books: Rows, known: Collection[int]) -> None:
        """`Books.price` of these rows, which is `workloads.stop_price_ms` of most; what a round decided has none."""
        chosen = np.fromiter(known, dtype=np.int64, count=len(known))
        chosen = chosen[chosen < books.first_of_round]
        rows = self.victims.rows[chosen]
        ran_ms = np.maximum(0, books.now_ms - rows[:, STARTED_MS])
        every_ms = rows[:, CHECKPOINT_MS]
        since_ms = np.where(every_ms > 0, ran_ms % np.maximum(every_ms, 1), ran_ms)
        lost_ms = rows[:, GPUS] * (since_ms + rows[:, OVERHEAD_MS])
        wished_ms = np.clip(rows[:, MIN_RUN_MS] - ran_ms, 0, MS_PER_HOUR)
        milli = rows[:, MILLI]
        price = lost_ms * milli // WHOLE_GPU_MILLI + rows[:, GPUS] * wished_ms * milli // WHOLE_GPU_MILLI
        self.victims.rows[chosen, PRICE] = price
        evicted = chosen[rows[:, EVICTED_MS] > books.now_ms - MS_PER_HOUR].tolist()
        riders = books.devices.riders
        for row in [*evicted, *(row for row in chosen.tolist() if row in riders)] if riders else evicted:
            self.victims.rows[row, PRICE] = books.price(row)


def _with_room(table: IntArray, number: int) -> IntArray:
    """The table with room for so many entries, or a longer one that begins with it."""
    if number <= len(table):
        return table
    longer = np.zeros((2 * number, *table.shape[1:]), dtype=np.int64)
    longer[: len(table)] = table
    return longer
