"""The grace for replacing a failed device: what the terms' `replace_within_s` is worth.

A device that fails is to be replaced within so long of the instant at which it was last well. What its lot loses until
then is lost to REPLACEMENT, by the instrument's own terms; what it loses after that, to what is wrong with it, and the
seller bears it. A device has one such time whoever stands on it, and another cause does not begin it again: only being
well does. Of a whole cell the device that has been ill longest decides. What was drained, is of a wrong grade or out of
reach is no failed device; force majeure and announced maintenance are judged before this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import IntArray
from scheduler.core.intervals import Interval
from scheduler.core.metering.history import FieldHistory
from scheduler.core.metering.runs import RunHistory
from scheduler.core.metering.terms import Contract

FAILED: IntArray = np.array(
    [Cause.GPU_FAULT, Cause.ECC, Cause.NVLINK, Cause.FABRIC, Cause.NODE_LOST, Cause.THERMAL, Cause.POWER_CAP],
    dtype=np.int64,
)
"""What is wrong with a device that is to be replaced."""


class Graces:
    """The contracts' graces. An *age* says how many of them a sick GPU has still to come: 1 and so many, 0 where it is
    well; so the oldest of a cell is the least.
    """

    def __init__(self, contracts: Sequence[Contract]) -> None:
        self._lengths_ms: IntArray = np.unique([each.terms.replace_within_ms for each in contracts]).astype(np.int64)
        self._lengths_ms = self._lengths_ms[self._lengths_ms > 0]
        within_ms = np.array([each.terms.replace_within_ms for each in contracts], dtype=np.int64)
        rank = np.searchsorted(self._lengths_ms, within_ms)
        most = len(self._lengths_ms) + 1
        self._least_age = np.where(within_ms > 0, most - rank, most + 1)

    def ages(self, causes: RunHistory, interval: Interval) -> FieldHistory | None:
        """The age of every GPU over an interval; None where no contract has a grace, or nothing is ill."""
        if not len(self._lengths_ms):
            return None
        runs = causes.runs(interval.end_ms)
        first_off = causes.folded != causes.initial
        if not first_off.any() and not runs.off.any():
            return None
        ill = np.flatnonzero(first_off)
        long_ago = np.full(len(ill), np.iinfo(np.int64).min, dtype=np.int64)
        gpu = np.concatenate([ill, runs.gpu])
        start_ms = np.concatenate([long_ago, runs.start_ms])
        off = np.concatenate([np.ones(len(ill), dtype=np.int64), runs.off])
        since_ms = np.concatenate([causes.folded_run_ms[ill], runs.since_ms])
        by_gpu = np.argsort(gpu, kind="stable")
        gpu, start_ms, off, since_ms = gpu[by_gpu], start_ms[by_gpu], off[by_gpu], since_ms[by_gpu]
        until_ms = np.full(len(gpu), interval.end_ms, dtype=np.int64)
        follows = np.flatnonzero(gpu[1:] == gpu[:-1])
        until_ms[follows] = start_ms[follows + 1]
        start_ms = np.maximum(start_ms, interval.start_ms)
        kept = until_ms > start_ms
        gpu, start_ms, off, since_ms, until_ms = (each[kept] for each in (gpu, start_ms, off, since_ms, until_ms))
        rows = [np.array([start_ms, gpu, np.where(off, self._age(start_ms - since_ms), 0)], dtype=np.int64)]
        for length_ms in self._lengths_ms.tolist():
            over_ms = since_ms + length_ms
            inside = np.flatnonzero((off != 0) & (over_ms > start_ms) & (over_ms < until_ms))
            ages = self._age(np.full(len(inside), length_ms, dtype=np.int64))
            rows.append(np.array([over_ms[inside], gpu[inside], ages], dtype=np.int64))
        found = FieldHistory(0)
        found.grow(len(causes.folded))
        for instants, gpus, values in rows:
            found.tell(instants, gpus, values)
        return found

    def outcome(self, contract: IntArray, judged: IntArray, age: IntArray) -> IntArray:
        """The causes of ill GPUs as judged so far, REPLACEMENT where their contract's grace lasts."""
        lasts = np.isin(judged, FAILED) & (age >= self._least_age[contract])
        return np.where(lasts, int(Cause.REPLACEMENT), judged)

    def _age(self, ill_ms: IntArray) -> IntArray:
        to_come = len(self._lengths_ms) - np.searchsorted(self._lengths_ms, ill_ms, side="right")
        return 1 + to_come.astype(np.int64)
