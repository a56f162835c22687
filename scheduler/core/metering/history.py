"""One step function for each GPU: what one field of the fleet was, is, and was corrected to have been.

A row says "this value from this instant until the next row of the GPU". Rows may come in any order of time; of two at
one instant the later told one holds. History before a horizon can be forgotten: it folds into one value a GPU, with the
instant since which it holds, so that a row told too late still loses to those that it always would have lost to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray

LONG_AGO_MS = -(2**62)


class FieldHistory:
    """See the module. `initial` is what a GPU has before its first row."""

    def __init__(self, initial: int) -> None:
        self.initial = initial
        self.folded: IntArray = np.zeros(0, dtype=np.int64)
        """(n_gpus): the value at the horizon."""
        self.folded_since_ms: IntArray = np.zeros(0, dtype=np.int64)
        """(n_gpus): the instant of the row that gave it."""
        self._rows: IntArray = np.zeros((3, 64), dtype=np.int64)
        self._n_rows = 0
        self._in_order = True

    @property
    def rows(self) -> IntArray:
        """(3, n_rows) int64: instant, GPU and value of each row after the horizon, by instant, then by arrival."""
        if not self._in_order:
            told = self._rows[:, : self._n_rows]
            self._rows[:, : self._n_rows] = told[:, np.argsort(told[0], kind="stable")]
            self._in_order = True
        return self._rows[:, : self._n_rows]

    def grow(self, n_gpus: int) -> None:
        """Have so many GPUs in all; new ones have the initial value."""
        more = n_gpus - len(self.folded)
        self.folded = np.concatenate([self.folded, np.full(more, self.initial, dtype=np.int64)])
        self.folded_since_ms = np.concatenate([self.folded_since_ms, np.full(more, LONG_AGO_MS, dtype=np.int64)])

    def tell(self, at_ms: IntArray, gpus: IntArray, values: npt.NDArray[np.integer] | int) -> None:
        """From `at_ms[i]` on, GPU `gpus[i]` has `values[i]`, until its next row."""
        end = self._n_rows + len(gpus)
        if end > self._rows.shape[1]:
            grown = np.zeros((3, max(end, 2 * self._rows.shape[1])), dtype=np.int64)
            grown[:, : self._n_rows] = self._rows[:, : self._n_rows]
            self._rows = grown
        new = self._rows[:, self._n_rows : end]
        new[0], new[1], new[2] = at_ms, gpus, values
        if len(gpus):
            earliest_ms = self._rows[0, self._n_rows - 1] if self._n_rows else LONG_AGO_MS
            self._in_order &= bool(new[0, 0] >= earliest_ms and np.all(new[0, 1:] >= new[0, :-1]))
        self._n_rows = end

    def at(self, at_ms: int) -> IntArray:
        """(n_gpus) int64: every GPU's value at an instant at or after the horizon."""
        values = self.folded.copy()
        instants, gpus, told = self._until(at_ms)
        heard = instants >= self.folded_since_ms[gpus]
        values[gpus[heard]] = told[heard]  # rows are in order: of several for one GPU the last is assigned
        return values

    def between(self, start_ms: int, end_ms: int) -> IntArray:
        """(3, n) int64: the rows in `(start_ms, end_ms)`, in order."""
        rows = self.rows
        first, last = np.searchsorted(rows[0], start_ms, side="right"), np.searchsorted(rows[0], end_ms, side="left")
        return rows[:, first:last]

    def forget(self, before_ms: int) -> None:
        """Fold all rows up to and including `before_ms` into one value a GPU."""
        instants, gpus, told = self._until(before_ms)
        heard = instants >= self.folded_since_ms[gpus]
        self.folded[gpus[heard]] = told[heard]
        self.folded_since_ms[gpus[heard]] = instants[heard]
        kept = self.rows[:, len(instants) :].copy()
        self._rows, self._n_rows = (kept if kept.shape[1] else np.zeros((3, 64), dtype=np.int64)), kept.shape[1]

    def restore(self, folded: IntArray, folded_since_ms: IntArray, rows: IntArray) -> None:
        """Be what another one was: its `folded`, `folded_since_ms` and `rows`."""
        self.folded, self.folded_since_ms = folded.copy(), folded_since_ms.copy()
        self._rows, self._n_rows, self._in_order = rows.copy(), rows.shape[1], True

    def _until(self, at_ms: int) -> IntArray:
        rows = self.rows
        return rows[:, : int(np.searchsorted(rows[0], at_ms, side="right"))]
