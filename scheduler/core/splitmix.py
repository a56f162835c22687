"""splitmix64: well-mixed 64 bits from any key, vectorised. There is no generator state, so none is shared by accident.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with Vigna's constants.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
MASK = 2**64 - 1


def splitmix64(keys: UInt64s) -> UInt64s:
    """One step of splitmix64 on each key: (n,) uint64 to (n,) uint64."""
    mixed = keys + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def stream(seed: int, purpose: int, count: int) -> UInt64s:
    """`count` uniform 64-bit draws of a seed for a purpose: (count,) uint64. Other purposes draw independently."""
    start = splitmix64(np.array([seed & MASK], dtype=np.uint64))
    start = splitmix64(start ^ np.uint64(purpose))
    return splitmix64(start ^ splitmix64(np.arange(count, dtype=np.uint64)))
