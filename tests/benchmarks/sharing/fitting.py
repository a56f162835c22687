"""Where a gang fits nodes with so many free GPUs: by best fit (fullest nodes first) or by first fit (lowest number)."""

from __future__ import annotations

import numpy as np

from scheduler.traces.helios import GPUS_PER_NODE
from tests.benchmarks.sharing.site import Ints, Where


def best_fit(free: Ints, workers: int, size: int) -> Where | None:
    """Nodes for all workers, those with least free GPUs first, ties by number; None where they do not fit."""
    return _fitted(free, workers, size, np.where(free >= size, free, GPUS_PER_NODE + 1))


def first_fit(free: Ints, workers: int, size: int) -> Where | None:
    """Nodes for all workers by number; None where they do not fit."""
    return _fitted(free, workers, size, np.where(free >= size, 0, 1))


def _fitted(free: Ints, workers: int, size: int, rank: Ints) -> Where | None:
    if workers == 1:
        node = int(rank.argmin())
        return {node: size} if free[node] >= size else None
    slots = free // size
    if int(slots.sum()) < workers:
        return None
    where: Where = {}
    for node in rank.argsort(kind="stable").tolist():
        taken = min(workers, int(slots[node]))
        if taken:
            where[node] = taken * size
            workers -= taken
        if not workers:
            break
    return where
