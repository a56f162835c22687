"""Draws that depend on (seed, purpose, key) alone, never on order: splitmix64, vectorised.

A job keeps its draws whatever else is loaded, sliced or thinned, and the same seed gives the same bytes on every
platform and numpy version. There is no generator state, so there is none to share by accident.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

from scheduler.core.splitmix import MASK, splitmix64
from scheduler.traces.arrays import Int64s, UInt64s


@unique
class Purpose(IntEnum):
    """What a draw decides. Two purposes draw independently; a number is never used again for another."""

    TENANT = 1
    KEPT = 2
    MOVED = 3
    PREEMPTIBLE = 4
    CHECKPOINT = 5
    GRACE = 6
    CALENDAR = 7
    ARRIVAL = 8
    DURATION = 9
    SIZE = 10
    ACCOUNT = 11
    RATE = 12


def draws(seed: int, purpose: Purpose, keys: Int64s | UInt64s) -> UInt64s:
    """A uniform 64-bit draw for each key: (n,) uint64. Any integer is a seed."""
    start = splitmix64(np.array([seed & MASK], dtype=np.uint64))
    start = splitmix64(start ^ np.uint64(purpose))
    return splitmix64(start ^ splitmix64(keys.astype(np.uint64)))


def below(drawn: UInt64s, limit: int | Int64s) -> Int64s:
    """Each draw scaled to `0 .. limit - 1`: (n,) int64. `limit` is under 2**32, one for all or one for each."""
    limits = np.asarray(limit, dtype=np.uint64)
    return (((drawn >> np.uint64(32)) * limits) >> np.uint64(32)).astype(np.int64)


def draw_below(limit: int, seed: int, purpose: Purpose, keys: Int64s) -> Int64s:
    """A uniform integer in `0 .. limit - 1` for each key: (n,) int64."""
    return below(draws(seed, purpose, keys), limit)
