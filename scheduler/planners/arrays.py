"""Arrays as bytes: a line of JSON with their lengths, then each of them, little-endian, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(arrays: Sequence[Array], kinds: Sequence[str]) -> bytes:
    """The bytes of these arrays, each flat and as its kind (a dtype) says."""
    lengths = json.dumps([array.size for array in arrays]).encode()
    flat = [array.astype(kind, copy=False).tobytes() for array, kind in zip(arrays, kinds, strict=True)]
    return b"".join([lengths, b"\n", *flat])


def unpack(body: bytes, kinds: Sequence[str]) -> list[Array]:
    """The arrays back from their bytes, flat, not to be written to. Raises ValueError on bytes that `pack` did not
    write.
    """
    line, _, flat = body.partition(b"\n")
    lengths = json.loads(line)
    if not (isinstance(lengths, list) and all(type(length) is int and length >= 0 for length in lengths)):
        raise ValueError(f"the lengths of its arrays were {lengths!r}")
    arrays: list[Array] = []
    at = 0
    for length, kind in zip(lengths, kinds, strict=True):
        arrays.append(np.frombuffer(flat, dtype=kind, count=length, offset=at))
        at += arrays[-1].nbytes
    if at != len(flat):
        raise ValueError(f"it has {len(flat)} bytes of arrays, expected {at}")
    return arrays
