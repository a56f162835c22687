"""The shortfall that nobody could have avoided: what was sold beyond the GPUs that were there, at each instant.

A lower bound over all schedulers: at an instant with `h` healthy whole cells and `s` sold ones, at least `max(0, s -
h)` go short. What is short beyond it was avoidable, and is the scheduler's.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.state.state import State


class UnavoidableShortfall:
    """Integrates the bound over a run of whole-node lots; `gpu_ms` so far."""

    def __init__(self) -> None:
        self.gpu_ms = 0
        self._at_ms: int | None = None

    def advance(self, state: State, now_ms: int) -> None:
        """Add what was short since the last call; the state is as it has been since then."""
        if self._at_ms is not None and now_ms > self._at_ms and not state.health.usable.all():
            first = state.fleet.first_gpu[:-1]
            size = np.diff(state.fleet.first_gpu)
            whole = np.add.reduceat(state.health.usable.astype(np.int64), first) == size
            sold = np.add.reduceat((state.calendar.owner_position >= 0).astype(np.int64), first) > 0
            short_nodes = max(0, int(sold.sum()) - int(whole.sum()))
            self.gpu_ms += short_nodes * int(size.max()) * (now_ms - self._at_ms)
        self._at_ms = now_ms
