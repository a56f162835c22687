"""What teams say about a job before it runs, which no published trace has: drawn for each job from its row alone.

The shares are those under which the lending rules were measured: a declared time a little over the real one, a tenth
not preemptible, checkpoints every 10 or 30 minutes or never, graces of 0, 60 or 300 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.traces.arrays import Bools, Int64s, sealed
from scheduler.traces.splitmix import Purpose, draw_below

DECLARED_PERCENT = 120
DECLARED_EXTRA_MS = 300_000
NOT_PREEMPTIBLE_PERCENT = 10
CHECKPOINTS_MS = (600_000, 1_800_000, 0)
GRACES_MS = (0, 60_000, 300_000)


@dataclass(frozen=True, slots=True, eq=False)
class Declarations:
    """What is declared for each job; every array is (n_jobs,).

    declared_ms:   int64, how long the team says it will run: 1.2 times the real time, and 300 s
    preemptible:   bool
    checkpoint_ms: int64, time between checkpoints, 0 for a job that never writes one
    grace_ms:      int64, what it asks for between SIGTERM and SIGKILL
    """

    declared_ms: Int64s
    preemptible: Bools
    checkpoint_ms: Int64s
    grace_ms: Int64s


def declare(seed: int, row: Int64s, duration_ms: Int64s) -> Declarations:
    """The declarations of jobs by their rows: a pure function of (seed, row, duration)."""
    return Declarations(
        sealed(duration_ms * DECLARED_PERCENT // 100 + DECLARED_EXTRA_MS),
        sealed(draw_below(100, seed, Purpose.PREEMPTIBLE, row) >= NOT_PREEMPTIBLE_PERCENT),
        sealed(_one_of(CHECKPOINTS_MS, seed, Purpose.CHECKPOINT, row)),
        sealed(_one_of(GRACES_MS, seed, Purpose.GRACE, row)),
    )


def _one_of(choices: tuple[int, ...], seed: int, purpose: Purpose, row: Int64s) -> Int64s:
    return np.array(choices, dtype=np.int64)[draw_below(len(choices), seed, purpose, row)]
