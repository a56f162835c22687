"""The Ray actor that lets one GPU compute a device probe; a processor in its stead where the node has none.

It is made before the nonce is known, so that loading a library and warming up do not count, and killed as soon as work
wants the GPU. Sent to nodes by value, with `core.probe_work`: it needs NumPy there, and on a GPU PyTorch or CuPy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from scheduler.core.probe_work import table

_WARM_SEED = b"warm"


class NonceWorker:
    """One GPU of the node, by its number there (None: what the process sees). New, then ready; a table a call."""

    def __init__(self, gpu: int | None, size: int) -> None:
        self._gpu = gpu
        self._size = size
        self._library: tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]] | None = None

    def ready(self) -> str:
        """Loads the best library that is there, computes a first product, and gives the library's name."""
        if self._gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(self._gpu)  # before any of them looks
        name, *functions = _torch() or _cupy() or _numpy()
        to_device, whole, fetched = functions
        self._library = to_device, whole, fetched
        fetched(table(_WARM_SEED, self._size, 1, to_device, whole))
        return str(name)

    def table(self, seed: bytes, products: int) -> bytes:
        """The whole table, row by row, 2 bytes a value, the lower first. Raises RuntimeError before `ready`."""
        if self._library is None:
            raise RuntimeError("the worker is not ready")
        to_device, whole, fetched = self._library
        found = fetched(table(seed, self._size, products, to_device, whole))
        return bytes(found.astype("<u2").tobytes())


def _torch() -> tuple[Any, ...] | None:
    try:
        import torch  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - optional
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = True  # exact here, see `probe_work`
    return (
        "torch",
        lambda array: torch.from_numpy(np.ascontiguousarray(array)).cuda(),
        lambda array: array.to(torch.int32),
        lambda array: array.cpu().numpy(),
    )


def _cupy() -> tuple[Any, ...] | None:
    try:
        import cupy  # noqa: PLC0415 - optional

        cupy.zeros(1).sum().item()
    except Exception:  # noqa: BLE001 - cupy without a driver fails with its own errors: then there is no GPU
        return None
    return "cupy", cupy.asarray, lambda array: array.astype(cupy.int32), cupy.asnumpy


def _numpy() -> tuple[Any, ...]:
    return "numpy", lambda array: array, lambda array: array.astype(np.int32), lambda array: array
