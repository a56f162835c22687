"""What a device computes when the exchange probes it: a table of integers that depends on a nonce and on the device.

It exists because a clock alone proves nothing: the work must not be doable before the nonce is known, nor for another
device, nor in part; and whoever checks it must not have to do it again. From a seed (nonce, device and shape, by SHAKE
256) come two matrices A and B of `size` × `size` with entries 0..15, and `products` affine permutations p of the rows
of B, j → (a j + b) mod size with a odd. The table starts at 0 and takes in one product after the other:

    S ← mix(S xor A · B[p])        mix(x) = y xor (y >> 7), y = 2533 x mod 2^16

The mixing is not linear, so that no sum of permuted matrices replaces the products. One row of the table needs one row
of A alone: `rows_of` computes it by one product of `products` × `size` with B, which is 1 / size of the work.

All entries of a product are at most 225 × size, so that single precision, and a tensor core's TF32, hold them exactly:
any library on any device gives the same table, byte for byte. Needs NumPy and nothing of ours: it is sent to nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_SIZE = 4_096
_PREFIX = b"tenor.dev/probed-table/v1\0"
_FACTOR = 2_533
_SHIFT = 7
_MASK = 0xFFFF

Table = npt.NDArray[np.uint16]
"""(size, size) uint16."""


def seed_of(nonce: bytes, device: bytes, size: int, products: int) -> bytes:
    """The 32 bytes that all of the work follows from."""
    shape = size.to_bytes(4, "big") + products.to_bytes(4, "big")
    return hashlib.sha256(_PREFIX + nonce + device + shape).digest()


def factors(seed: bytes, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A and B, (size, size) float32 with whole entries 0..15."""
    drawn = np.frombuffer(hashlib.shake_256(seed + b"factors").digest(size * size), dtype=np.uint8).astype(np.float32)
    low = np.fmod(drawn, 16)
    return low.reshape(size, size), np.ldexp(drawn - low, -4).astype(np.float32).reshape(size, size)


def permutations(seed: bytes, size: int, products: int) -> npt.NDArray[np.int64]:
    """(products, 2) int64: the odd stride and the offset of each, below size, which is a power of two."""
    drawn = np.frombuffer(hashlib.shake_256(seed + b"permutations").digest(products * 8), dtype=">u4")
    pairs = (drawn.astype(np.int64) % size).reshape(products, 2)
    pairs[:, 0] |= 1
    return pairs


def table(seed: bytes, size: int, products: int, to_device: Callable[[Any], Any], whole: Callable[[Any], Any]) -> Any:
    """The table, (size, size), as the library of `to_device` has arrays; each entry below 2^16, in 32 bits.

    `to_device`: a NumPy array as that library's own; `whole`: such an array of floats as 32-bit integers.
    """
    left, right = (to_device(each) for each in factors(seed, size))
    row = np.arange(size, dtype=np.int64)
    found = to_device(np.zeros((size, size), dtype=np.int32))
    for stride, offset in permutations(seed, size, products).tolist():
        taken = to_device((row * stride + offset) % size)
        found = _mixed(found ^ whole(left @ right[taken]))
    return found


def rows_of(seed: bytes, size: int, products: int, rows: Sequence[int]) -> Table:
    """These rows of the table, (len(rows), size), without the others."""
    left, right = factors(seed, size)
    pairs = permutations(seed, size, products)
    taken = (np.arange(size, dtype=np.int64)[None, :] * pairs[:, :1] + pairs[:, 1:]) % size
    found = np.zeros((len(rows), size), dtype=np.int32)
    placed = np.zeros((products, size), dtype=np.float32)
    for place, row in enumerate(rows):
        np.put_along_axis(placed, taken, np.broadcast_to(left[row], taken.shape), axis=1)
        for product in (placed @ right).astype(np.int32):
            found[place] = _mixed(found[place] ^ product)
    return found.astype(np.uint16)


def row_bytes(row: npt.NDArray[Any]) -> bytes:
    """A row as it is hashed and sent: 2 bytes a value, the lower first."""
    return row.astype("<u2").tobytes()


def _mixed(values: Any) -> Any:
    mixed = (values * _FACTOR) & _MASK
    return mixed ^ (mixed >> _SHIFT)
