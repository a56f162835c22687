"""Shared devices: which gangs share them, and which have room for one more of their account.

In the books a shared device is one row, its carrier's, of one GPU; the other gangs on it *ride along*: what ends the
row ends them. A share joins the fullest device of its account that has room for it, which costs the account nothing;
only a share for which there is none needs a GPU of its own. Devices that somebody still leaves are not joined.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from scheduler.core.cluster import Fleet
from scheduler.core.placement.floor import NOBODY, Floor
from scheduler.core.placement.snapshot import Action, Place, Snapshot, Stop
from scheduler.core.workloads import WHOLE_GPU_MILLI, Gang, GangStatus, StopCause


class Rows(Protocol):
    """What shared devices ask of the books that they are in."""

    fleet: Fleet
    floor: Floor
    rows: list[Gang]
    gpus_of_row: list[tuple[int, ...]]
    account_of_row: list[int]
    pool_of_row: list[int]
    firm_of_row: list[bool]
    counts_of_row: list[bool]
    actions: list[Action | None]

    def is_placed(self, row: int) -> bool:
        """Whether the row holds GPUs."""

    def headroom(self, account: int, pool: int) -> int:
        """How many more GPUs the account may use in the pool."""

    def undo(self, action: int, gang: Gang, *, inside: bool) -> None:
        """A placement of this round does not hold."""


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


class Devices:
    """The shared devices of one round's books. `riders`, by row: the gangs beside its carrier."""

    def __init__(self, riders: dict[int, list[Rider]]) -> None:
        self.riders = riders
        self.joined: list[Gang] = []
        """Gangs that joined a device in this round."""
        self._joinable: Joinable | None = None

    def begin_round(self) -> None:
        """Nobody has joined anything yet; there were no shared devices when the round began."""
        self.joined = []
        self._joinable = None

    def riding(self, row: int) -> list[Gang]:
        """The gangs that ride along with the row."""
        return [rider.gang for rider in self.riders.get(row, ())]

    def with_room(self, books: Rows, account: int, milli: int, *, firm: bool) -> Iterable[tuple[int, int]]:
        """(row, GPU) of the account's shared devices with so much room that nobody leaves, the fullest first."""
        if self._joinable is None:
            self._joinable = Joinable()
            for row, gang in enumerate(books.rows):
                gpu = books.gpus_of_row[row][0] if gang.shape.is_share else NOBODY
                stays = books.is_placed(row) and books.counts_of_row[row]  # or it is gone since an earlier round
                if gpu >= 0 and stays and books.floor.usable[gpu] and books.floor.leaver[gpu] < 0:
                    gangs = (gang, *self.riding(row))
                    self._joinable.add(books.account_of_row[row], row, gpu, gangs, firm=books.firm_of_row[row])
        return self._joinable.with_room(account, milli, firm=firm)

    def opened(self, books: Rows, row: int) -> None:
        """The row, placed in this round, may be joined if it is a share and nobody is left on its device."""
        gang, gpu = books.rows[row], books.gpus_of_row[row][0]
        if self._joinable is not None and gang.shape.is_share and books.floor.leaver[gpu] < 0:
            self._joinable.add(books.account_of_row[row], row, gpu, (gang,), firm=books.firm_of_row[row])

    def join(self, books: Rows, row: int, gang: Gang) -> None:
        """Put the waiting share onto the row's device, which has room."""
        gpu, account, firm = books.gpus_of_row[row][0], books.account_of_row[row], books.firm_of_row[row]
        inside = books.headroom(account, books.pool_of_row[row]) >= 0
        self.riders.setdefault(row, []).append(Rider(gang, len(books.actions), inside))
        self.joined.append(gang)
        host = books.fleet.host_of_gpu[gpu]
        books.actions.append(Place(gang=gang, gpu_numbers=(gpu,), hosts=(host,), inside=inside, waits_for=()))
        if self._joinable is not None:
            self._joinable.remove(account, row, gpu, firm=firm)
            self._joinable.add(account, row, gpu, (books.rows[row], *self.riding(row)), firm=firm)

    def stop(self, books: Rows, row: int, for_gang: str | None, cause: StopCause) -> None:
        """End what rides along with the row; what only joined in this round waits again."""
        self._close(books, row)
        for rider in self.riders.get(row, ()):
            if rider.action is not None:
                books.undo(rider.action, rider.gang, inside=rider.inside)
            elif rider.gang.status is not GangStatus.STOPPING:
                books.actions.append(Stop(gang=rider.gang, cause=cause, for_gang=for_gang))
        if row in self.riders:
            self.riders[row] = [rider for rider in self.riders[row] if rider.action is None]

    def withdraw(self, books: Rows, row: int) -> None:
        """The row was placed in this round and is withdrawn: so is what joined it."""
        self._close(books, row)
        for rider in self.riders.pop(row, ()):
            if rider.action is not None:
                books.undo(rider.action, rider.gang, inside=rider.inside)

    def _close(self, books: Rows, row: int) -> None:
        if self._joinable is not None and books.rows[row].shape.is_share:
            gpu, firm = books.gpus_of_row[row][0], books.firm_of_row[row]
            self._joinable.remove(books.account_of_row[row], row, gpu, firm=firm)
