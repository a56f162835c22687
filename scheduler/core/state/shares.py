"""Who shares which GPU: the shares of each shared device, in order of arrival.

Laws: a device's shares never add up to more than 1000 milli; all are of gangs of one account that can all be preempted,
or all not, so that a shared device is owned, counted, metered and reclaimed as one GPU of one account.
"""

from __future__ import annotations

from scheduler.core.errors import Conflict
from scheduler.core.workloads import WHOLE_GPU_MILLI


class Shares:
    """Milli-GPUs by device and gang number. Only gangs that are on the device are here, not those that claim it."""

    def __init__(self) -> None:
        self.by_gpu: dict[int, dict[int, int]] = {}

    def of(self, gpu: int) -> tuple[int, ...]:
        """Numbers of the gangs that share the device, in order of arrival; empty where nobody does."""
        return tuple(self.by_gpu.get(gpu, ()))

    def room_milli(self, gpu: int) -> int:
        """What is left of the device beside its shares."""
        return WHOLE_GPU_MILLI - sum(self.by_gpu.get(gpu, {}).values())

    def join(self, gpu: int, number: int, milli: int) -> None:
        """The gang is on the device. Raises Conflict where that would overfill it."""
        if milli > self.room_milli(gpu):
            raise Conflict(f"gang number {number} asks for {milli} milli of GPU {gpu}, {self.room_milli(gpu)} are left")
        self.by_gpu.setdefault(gpu, {})[number] = milli

    def leave(self, gpu: int, number: int) -> None:
        """The gang is no longer on the device; one that never was changes nothing."""
        there = self.by_gpu.get(gpu)
        if there is not None and there.pop(number, None) is not None and not there:
            del self.by_gpu[gpu]
