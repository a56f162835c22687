"""What the coordinator knows of each pool, and what each replica of it has been told.

A *track* is the pool now: its gangs, its arrays in its own numbers, what counts say of it, and its version, which
changes with every piece of *news*: anything beside what the pool's own last plan led to. A *mirror* is one replica as
it was last told: the difference to the track is its next delta. Arrays are compared, so nothing has to know what
changed them; gangs are looked at where they were touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from weakref import WeakSet

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.offers import PoolRoom
from scheduler.core.placement.pools import Division, Part, counts
from scheduler.core.placement.snapshot import Action, Place, Snapshot
from scheduler.core.workloads import Gang, GangSpec, GangStatus
from scheduler.planners.arrays import Array
from scheduler.planners.deltas import COLUMNS, Delta, PoolNodes
from scheduler.planners.rows import table_of

Shares = Mapping[int, tuple[tuple[int, int], ...]]
"""By GPU of the part: (gang, milli-GPUs) of each that shares it, in order of arrival."""
_FOLLOW_GANGS = frozenset({"occupant", "claimant"})
"""Columns that only say where gangs are."""


class Track:
    """One pool now (see the module). `look` first, then `keep` and `drop` for every gang that was touched."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.version = 0
        self.accounts: tuple[str, ...] = ()
        self.balances: Mapping[str, int] = {}
        self.columns: dict[str, Array] = {}
        self.shares: Shares = {}
        self.gangs: dict[int, Gang] = {}
        """Every gang that stands in the pool, waits for it alone, or is offered to it, by number."""
        self._mirrors: WeakSet[Mirror] = WeakSet()
        self._marked: set[int] = set()
        """Gangs that changed since any mirror looked."""
        self._used: Counter[str] = Counter()
        self._sharers: Counter[int] = Counter()
        """How many gangs that count are on each shared device, which counts as one GPU."""
        self._foreseen: dict[int, GangStatus] = {}

    def look(self, snapshot: Snapshot, shares: Shares) -> None:
        """Take in the snapshot's arrays, and the shares of this pool's devices."""
        before, self.columns = self.columns, _columns(snapshot, self.part)
        self.shares = shares
        self.accounts, self.balances = snapshot.accounts, snapshot.balance_gpu_ms
        if not before or any(
            column.name not in _FOLLOW_GANGS and not np.array_equal(before[column.name], self.columns[column.name])
            for column in COLUMNS
        ):
            self.version += 1

    def keep(self, gang: Gang, *, offered: bool = False) -> None:
        """The gang is the pool's, as it is now. An offer is no news: it is asked about, not found."""
        before = self.gangs.get(gang.number)
        if before is gang:
            return
        if not offered and self._foreseen.pop(gang.number, None) is not gang.status:
            self.version += 1
        self._count(before, -1)
        self._count(gang, 1)
        self.gangs[gang.number] = gang
        self._marked.add(gang.number)

    def drop(self, number: int, *, offered: bool = False) -> None:
        """The gang is not the pool's any more."""
        before = self.gangs.pop(number, None)
        if before is not None:
            self._count(before, -1)
            self._marked.add(number)
            self.version += not offered

    def planned(self, actions: Iterable[Action]) -> None:
        """What the pool's own plan leads to, so that it is no news."""
        self._foreseen = {
            action.gang.number: GangStatus.BINDING if isinstance(action, Place) else GangStatus.STOPPING
            for action in actions
        }

    def room(self) -> PoolRoom:
        """What counts say of the pool now."""
        columns = self.columns
        free = columns["usable"] & (columns["occupant"] < 0) & (columns["claimant"] < 0)
        owners = columns["owner"][columns["usable"] & (columns["owner"] >= 0)]
        entitled = np.bincount(owners, minlength=len(self.accounts)).tolist()
        headroom = {name: entitled[i] - self._used[name] for i, name in enumerate(self.accounts) if entitled[i]}
        sharing = {self.gangs[number].account for there in self.shares.values() for number, _ in there}
        return PoolRoom(int(np.count_nonzero(free)), headroom, frozenset(sharing))

    def mirror(self) -> Mirror:
        """A replica that was told nothing yet."""
        mirror = Mirror(self)
        self._mirrors.add(mirror)
        return mirror

    def tell_marked(self) -> None:
        """Every mirror is told which gangs changed since this was called last."""
        for mirror in self._mirrors:
            mirror.touched |= self._marked
        self._marked = set()

    def _count(self, gang: Gang | None, sign: int) -> None:
        if gang is None or gang.status is GangStatus.WAITING or not counts(gang):
            return
        if gang.shape.is_share:
            device = gang.gpu_numbers[0]
            alone = self._sharers[device] == (0 if sign > 0 else 1)
            self._sharers[device] += sign
            if not alone:
                return
        self._used[gang.account] += sign * gang.shape.gpus


class Mirror:
    """What one replica of a pool was told (see the module)."""

    def __init__(self, track: Track) -> None:
        self.touched: set[int] = set(track.gangs)
        self._track = track
        self._known: dict[int, GangSpec] = {}
        """What is asked for by the gangs that the replica has, by number."""
        self._columns: dict[str, Array] = {}
        self._shares: Shares = {}
        self._accounts = 0
        self._balances: Mapping[str, int] = {}

    def delta(self, number_in_part: IntArray) -> Delta:
        """What the replica must be told to be as the pool is now; it counts as told. `number_in_part`: (n_gpus) int64,
        the number of each of the fleet's GPUs in its own part.
        """
        track = self._track
        track.tell_marked()
        fleet = track.part.fleet
        fresh = not self._columns
        gone = sorted(number for number in self.touched & self._known.keys() if number not in track.gangs)
        changed = [track.gangs[number] for number in sorted(self.touched) if number in track.gangs]
        balances = None if self._balances == track.balances else tuple(sorted(track.balances.items()))
        delta = Delta(
            pool=PoolNodes(fleet.nodes, fleet.domains, fleet.blocks) if fresh else None,
            accounts=track.accounts[self._accounts :],
            balances=balances,
            gangs=table_of(changed, self._known, number_in_part),
            gone=tuple(gone),
            shares=_changed_shares(self._shares, track.shares),
            changes=tuple(_changed(self._columns.get(c.name), track.columns[c.name]) for c in COLUMNS),
        )
        for number in gone:
            del self._known[number]
        self._known.update([(gang.number, gang.spec) for gang in changed])
        self.touched = set()
        self._columns, self._shares, self._accounts = track.columns, track.shares, len(track.accounts)
        self._balances = dict(track.balances)
        return delta


def shares_by_pool(snapshot: Snapshot, division: Division) -> list[Shares]:
    """The shares of each pool's devices, in the pool's own numbers."""
    found: list[dict[int, tuple[tuple[int, int], ...]]] = [{} for _ in division.parts]
    for gpu, there in snapshot.shares.items():
        if there:
            found[int(division.pool_of_gpu[gpu])][int(division.number_in_part[gpu])] = tuple(there.items())
    return list(found)


def _columns(snapshot: Snapshot, part: Part) -> dict[str, Array]:
    """The part's entries of the snapshot's arrays, as copies. That ownership ends now or ended before is all one, so
    that spares, which may be taken at any instant, do not change with each.
    """
    columns = {column.name: getattr(snapshot, column.name)[part.gpus] for column in COLUMNS}
    columns["until_ms"][columns["until_ms"] <= snapshot.now_ms] = 0
    return columns


def _changed_shares(before: Shares, now: Shares) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    if before == now:
        return ()
    return tuple((gpu, now.get(gpu, ())) for gpu in sorted(before.keys() | now) if before.get(gpu) != now.get(gpu))


def _changed(before: Array | None, now: Array) -> tuple[IntArray, Array]:
    where = np.arange(len(now)) if before is None else np.flatnonzero(before != now)
    return where, now[where]
