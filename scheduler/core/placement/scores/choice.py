"""The door to the scores: where one worker goes."""

from __future__ import annotations

import numpy as np

from scheduler.core.kernels import worth_compiling
from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.kinds import ask_rows
from scheduler.core.placement.scores.pool import Ask, BoolArray, IntArray, PoolState
from scheduler.core.placement.scores.table import Score

Place = tuple[int, tuple[int, ...]]
"""A node, and its devices, ascending."""

STEPS_OF_A_NODE = 200
"""Steps of plain Python to weigh one node, about."""


def choose(
    state: PoolState,
    ask: Ask,
    score: Score,
    allowed: IntArray | BoolArray | None = None,
    *,
    compiled: bool | None = None,
) -> Place | None:
    """The node and devices (ascending) of the cheapest place for one worker; None where it fits nowhere.

    `allowed` restricts the candidates: (n_nodes, max_devices) bool, (n_nodes) bool, or (n_nodes) int64 of device bits,
    which is the fastest. A worker without devices goes where any device is allowed. Ties go to the first node, then to
    the first device; of several devices the first allowed ones that are whole. `compiled`: None lets size decide.
    """
    bits = allowed_bits(state, allowed)
    row = ask_rows([ask])[0]
    arguments = (state.free_milli, state.cpu_milli, state.memory_mib, state.model, bits, row, score.known)
    if compiled is None:
        compiled = worth_compiling(STEPS_OF_A_NODE * len(state))
    node, device = (scan.cheapest.compiled if compiled else scan.cheapest)(*arguments)
    return place_of(state, ask, int(node), int(device), int(bits[node]))


def place_of(state: PoolState, ask: Ask, node: int, device: int, bits: int) -> Place | None:
    """The place that a kernel means by a node (-1: none) and a first device, where `bits` of devices are allowed."""
    if node < 0:
        return None
    if ask.devices == 0:
        return node, ()
    free = state.free_milli[node]
    fitting = [d for d in range(device, len(free)) if free[d] >= ask.milli and bits >> d & 1]
    return node, tuple(fitting[: ask.devices])


def allowed_bits(state: PoolState, allowed: IntArray | BoolArray | None) -> IntArray:
    """(n_nodes) int64, the bits of the devices that may be used, from any of the forms that `choose` takes."""
    if allowed is None:
        return np.full(len(state), -1, dtype=np.int64)
    if allowed.dtype != np.bool_:
        return allowed.astype(np.int64, copy=False)
    if allowed.ndim == 1:
        return np.where(allowed, -1, 0).astype(np.int64)
    return scan.device_bits(allowed.astype(np.bool_))
