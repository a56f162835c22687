"""Since when a GPU is ill without a break: a field's history that also knows how long it has not been at its initial
value.

What is forgotten folds into the instant at which the run began that lasts at the horizon, so that the answer is the
same before and after.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.metering.history import LONG_AGO_MS, FieldHistory


class Runs(NamedTuple):
    """Stretches between changes, by GPU and time: from `start_ms` on (until the next one of the GPU) the field is off
    its initial value since `since_ms`, or at it (`off` 0).
    """

    gpu: IntArray
    start_ms: IntArray
    off: IntArray
    since_ms: IntArray


class RunHistory(FieldHistory):
    """See the module."""

    def __init__(self, initial: int) -> None:
        super().__init__(initial)
        self.folded_run_ms: IntArray = np.zeros(0, dtype=np.int64)
        """(n_gpus): since when the folded value is off the initial one; of no meaning where it is not."""

    def grow(self, n_gpus: int) -> None:
        """Have so many GPUs in all; new ones have the initial value."""
        more = n_gpus - len(self.folded)
        super().grow(n_gpus)
        self.folded_run_ms = np.concatenate([self.folded_run_ms, np.full(more, LONG_AGO_MS, dtype=np.int64)])

    def forget(self, before_ms: int) -> None:
        """Fold all rows up to and including `before_ms` into one value a GPU, and since when it is off."""
        runs = self.runs(before_ms + 1)
        self.folded_run_ms[runs.gpu] = runs.since_ms  # by time: of several for one GPU the last is assigned
        super().forget(before_ms)

    def runs(self, end_ms: int) -> Runs:
        """What the rows before an instant say; GPUs without any are as they were folded."""
        rows = self.rows
        rows = rows[:, : int(np.searchsorted(rows[0], end_ms, side="left"))]
        rows = rows[:, rows[0] >= self.folded_since_ms[rows[1]]]
        instants, gpus, told = rows[:, np.argsort(rows[1], kind="stable")]
        follows = np.zeros(len(gpus), dtype=np.bool_)
        follows[1:] = gpus[1:] == gpus[:-1]
        told_again = np.zeros(len(gpus), dtype=np.bool_)
        told_again[:-1] = follows[1:] & (instants[1:] == instants[:-1])
        instants, gpus, told = instants[~told_again], gpus[~told_again], told[~told_again]
        follows = np.zeros(len(gpus), dtype=np.bool_)
        follows[1:] = gpus[1:] == gpus[:-1]
        off = told != self.initial
        off_before = self.folded[gpus] != self.initial
        off_before[1:] = np.where(follows[1:], off[:-1], off_before[1:])
        begins = ~off_before | ~follows
        since_ms = np.where(off & off_before & ~follows, self.folded_run_ms[gpus], instants)
        latest = np.maximum.accumulate(np.where(begins, np.arange(len(gpus)), 0))
        return Runs(gpus, instants, off.astype(np.int64), since_ms[latest])
