"""The array types of the traces, sealed against writing: a loaded trace is a value."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

Scalar = TypeVar("Scalar", bound=np.generic)


def sealed(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array itself, from now on read only."""
    array.setflags(write=False)
    return array


def indexed(texts: list[str]) -> tuple[tuple[str, ...], Int32s]:
    """The distinct texts, sorted, and each text's index among them: (n_texts,) int32."""
    names = tuple(sorted(set(texts)))
    index = {name: i for i, name in enumerate(names)}
    return names, sealed(np.fromiter((index[text] for text in texts), dtype=np.int32, count=len(texts)))
