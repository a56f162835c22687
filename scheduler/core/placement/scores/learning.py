"""Residual values, learnt by rehearsal: what of a device with so much left will stay unallocated in the end.

Fill the empty pool with draws from the mix until they ask for all of it, with the values known so far; note every free
device that an arrival leaves on its node, and at the end credit each note with what is then left of the device. The
first values are the worst (nothing that is left will ever be used), so what was not seen is avoided, and seen
rather than hoped for. Law: the same pool, mix and seed give the same values; nothing else is looked at.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.kinds import Mix
from scheduler.core.placement.scores.pool import IntArray, PoolState
from scheduler.core.placement.scores.table import N_RESIDUALS, Score, gpus_of_model, score
from scheduler.core.placement.scores.trials import drawn

REHEARSALS = 8
PRIOR = 1
"""Notes that the value known so far counts for. Higher ones learn slower than eight rehearsals can mend."""
RATES = ((1, 1), (1, 2), (1, 2))
"""How far the first rehearsals move a value; the n-th later one 3 in 2(n + 1)."""


def learnt(pool: PoolState, mix: Mix, seed: int, *, rehearsals: int = REHEARSALS, compiled: bool = True) -> IntArray:
    """(101, 7) int64: milli-GPU that will stay unallocated, by residual (0, 10, .. 1000) and `scan.KNOTS`.

    `pool` is the inventory, its nodes empty. Raises InvalidValue for a mix that asks for no GPU.
    """
    residuals = np.arange(N_RESIDUALS, dtype=np.int64) * scan.STEP_MILLI
    values = np.repeat(residuals[:, None], len(scan.KNOTS), axis=1)
    gpus = gpus_of_model(pool)
    for n in range(rehearsals):
        notes, final = _filled(pool, mix, score("residual-values", mix, gpus, values), seed + n, compiled=compiled)
        values = _moved(values, notes, final, *(RATES[n] if n < len(RATES) else (3, 2 * (n + 1))))
    return values


def _filled(pool: PoolState, mix: Mix, known: Score, seed: int, *, compiled: bool) -> tuple[IntArray, IntArray]:
    """The notes of one filling, and what is left of each device in the end."""
    kinds = drawn(mix, seed, pool.total_milli)
    n = len(kinds)
    after = pool.copy()
    notes = np.zeros((2 * n * max(1, pool.free_milli.shape[1]), 5), dtype=np.int64)
    way = scan.play.compiled if compiled else scan.play
    written = way(
        after.free_milli,
        after.cpu_milli,
        after.memory_mib,
        after.model,
        mix.asks,
        kinds,
        np.arange(n, dtype=np.int64),
        known.known,
        scan.fresh_costs(len(mix.kinds), len(pool)),
        np.full(n, -1, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        notes,
    )
    return notes[:written], after.free_milli


def _moved(values: IntArray, notes: IntArray, final: IntArray, numerator: int, denominator: int) -> IntArray:
    """The values moved by a share of the way to what a rehearsal showed, and made non-increasing in CPU."""
    node, device, row, column, weight = notes.T
    credit = np.zeros_like(values)
    weights = np.zeros_like(values)
    np.add.at(credit, (row, column), weight * final[node, device])
    np.add.at(weights, (row, column), weight)
    prior = PRIOR * scan.PARTS
    seen = (credit + prior * values) // (weights + prior)
    step = (2 * numerator * (seen - values) + denominator) // (2 * denominator)
    return np.minimum.accumulate(values + step, axis=1)
