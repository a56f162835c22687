"""What a score sees: the residual capacity of a pool's nodes as arrays, and what one worker asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.core.errors import InvalidValue

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

WHOLE_MILLI = 1_000
"""A whole device in milli-GPU."""
MAX_MODELS = 62
"""Models are bits of one integer."""
MAX_DEVICES = 62
"""Devices of a node are bits of one integer too."""


@dataclass(frozen=True, slots=True, eq=False)
class PoolState:
    """Residual capacity of nodes; the order of nodes is the last tie-break. Not to be written to.

    free_milli: (n_nodes, max_devices) int64, residual milli-GPU of each device; 0 where a node has fewer devices
    cpu_milli:  (n_nodes) int64, free thousandths of a CPU
    memory_mib: (n_nodes) int64, free memory
    model:      (n_nodes) int64, number of the GPU model, 0 .. 61
    """

    free_milli: IntArray
    cpu_milli: IntArray
    memory_mib: IntArray
    model: IntArray

    def __post_init__(self) -> None:
        n_nodes = len(self.free_milli)
        for name in ("cpu_milli", "memory_mib", "model"):
            if getattr(self, name).shape != (n_nodes,):
                raise InvalidValue(name, "a pool", getattr(self, name).shape, f"one entry a node: ({n_nodes},)")
        if self.free_milli.ndim != 2 or self.free_milli.shape[1] > MAX_DEVICES:
            raise InvalidValue("free_milli", "a pool", self.free_milli.shape, f"(n_nodes, 0..{MAX_DEVICES})")
        if n_nodes and not 0 <= int(self.model.min()) <= int(self.model.max()) < MAX_MODELS:
            raise InvalidValue("model", "a pool", (self.model.min(), self.model.max()), f"0..{MAX_MODELS - 1}")

    def __len__(self) -> int:
        return len(self.free_milli)

    @property
    def total_milli(self) -> int:
        """All free milli-GPU."""
        return int(self.free_milli.sum())

    def copy(self) -> PoolState:
        """The same, in arrays of its own."""
        return PoolState(self.free_milli.copy(), self.cpu_milli.copy(), self.memory_mib.copy(), self.model.copy())

    def take(self, nodes: IntArray) -> PoolState:
        """Some of the nodes, in the order given."""
        return PoolState(self.free_milli[nodes], self.cpu_milli[nodes], self.memory_mib[nodes], self.model[nodes])


def whole_pool(
    devices: Sequence[int], cpu_milli: Sequence[int], memory_mib: Sequence[int], model: Sequence[int]
) -> PoolState:
    """Empty nodes with so many devices, CPU and memory of a model each; negative counts are for nobody to give."""
    wide = max(devices, default=0)
    counts = np.array(devices, dtype=np.int64)
    free = np.where(np.arange(wide)[None, :] < counts[:, None], WHOLE_MILLI, 0).astype(np.int64)
    return PoolState(
        free.reshape(len(counts), wide),
        np.array(cpu_milli, dtype=np.int64),
        np.array(memory_mib, dtype=np.int64),
        np.array(model, dtype=np.int64),
    )


def models_mask(models: Iterable[int] | None) -> int:
    """Allowed models as the bits of one integer; None: any."""
    return (1 << MAX_MODELS) - 1 if models is None else sum(1 << model for model in sorted(set(models)))


@dataclass(frozen=True, slots=True, order=True)
class Ask:
    """One worker: `devices` × `milli` GPU (whole ones where it wants more than one), CPU, memory, and which models.

    `models` are the bits of the allowed ones (`models_mask`). No devices: it goes anywhere that has CPU and memory.
    """

    devices: int
    milli: int
    cpu_milli: int = 0
    memory_mib: int = 0
    models: int = (1 << MAX_MODELS) - 1

    def __post_init__(self) -> None:
        if not 0 <= self.devices <= MAX_DEVICES:
            raise InvalidValue("devices", "an ask", self.devices, f"0..{MAX_DEVICES}")
        lawful = self.milli == 0 if self.devices == 0 else 1 <= self.milli <= WHOLE_MILLI
        if not lawful or (self.devices > 1 and self.milli != WHOLE_MILLI):
            raise InvalidValue("milli", "an ask", self.milli, "1..1000 for one device, 1000 for several, 0 for none")
        if self.cpu_milli < 0 or self.memory_mib < 0:
            raise InvalidValue("cpu and memory", "an ask", (self.cpu_milli, self.memory_mib), "0 or more")

    @property
    def total_milli(self) -> int:
        """Milli-GPU of all its devices."""
        return self.devices * self.milli
