"""Shared devices: which gangs share them, and which have room for one more of their account.

In the books a shared device is one row, its carrier's, of one GPU; the other gangs on it *ride along*: what ends the
row ends them. A share joins the fullest device of its account that has room for it, which costs the account nothing;
only a share for which there is none needs a GPU of its own. Devices that somebody still leaves are not joined.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.core.placement.snapshot import Snapshot
from scheduler.core.workloads import WHOLE_GPU_MILLI, Gang


@dataclass(frozen=True, slots=True)
class Rider:
    """A gang beside the carrier of its device. `action`: where the plan says so, if it joined in this round."""

    gang: Gang
    action: int | None = None
    inside: bool = False


def riders_of(snapshot: Snapshot) -> dict[int, list[Rider]]:
    """By carrier's gang number: who rides along, by number."""
    riders: dict[int, list[Rider]] = {}
    for gpu, there in snapshot.shares.items():
        carrier = int(snapshot.occupant[gpu])
        others = [Rider(snapshot.placed[number]) for number in sorted(there) if number != carrier]
        if others:
            riders[carrier] = others
    return riders


class Joinable:
    """Devices with room, by account and whether their gangs cannot be preempted, the fullest first."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        """By row: what is left of its device, in milli."""
        self._devices: dict[tuple[int, bool], list[tuple[int, int, int]]] = {}
        """(left, GPU, row), ascending."""

    def add(self, account: int, row: int, gpu: int, gangs: Iterable[Gang], *, firm: bool) -> None:
        """The row's device may be joined beside these gangs."""
        left = WHOLE_GPU_MILLI - sum(gang.shape.gpu_milli for gang in gangs)
        self._left[row] = left
        insort(self._devices.setdefault((account, firm), []), (left, gpu, row))

    def remove(self, account: int, row: int, gpu: int, *, firm: bool) -> None:
        """The row's device may not be joined any more; changes nothing where it could not."""
        left = self._left.pop(row, None)
        if left is not None:
            devices = self._devices[account, firm]
            devices.pop(bisect_left(devices, (left, gpu, row)))

    def with_room(self, account: int, milli: int, *, firm: bool) -> Iterable[tuple[int, int]]:
        """(row, GPU) of every device with so much room, the fullest first."""
        devices = self._devices.get((account, firm), ())
        return [(row, gpu) for _, gpu, row in devices[bisect_left(devices, (milli, -1, -1)) :]]
