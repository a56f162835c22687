"""The round's own books: who holds which GPU, who uses how much, and what has been decided so far.

Built from a snapshot in a few array operations, then changed by `place`, `stop` and `withdraw` alone; the snapshot's
arrays are never written to. A *row* is a gang that is or was placed, in order of number; gangs placed in this round
come after. A GPU's *holder* is the row that has it or has claimed it (-1 none); a *leaver* is a stopping row that is
still on it. A GPU is free without either, and open (for a gang inside its entitlement) without a holder.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.placement.fits import has_slots
from scheduler.core.placement.snapshot import Action, Place, Policy, Snapshot, Stop
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import Gang, GangStatus, Piece, StopCause, lost_work_ms

BoolArray = npt.NDArray[np.bool_]


class Books:
    """One round's working state (see the module). Accounts, pools, nodes and rows are indices."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now_ms = snapshot.now_ms
        self.fleet = snapshot.fleet
        self.node_of_gpu = self.fleet.node_of_gpu
        self.pool_of_gpu = self.fleet.pool_of_node[self.node_of_gpu] if self.fleet.nodes else self.node_of_gpu
        self.n_nodes = len(self.fleet.nodes)
        self.n_pools = len(self.fleet.pools)
        self.first_gpu: list[int] = self.fleet.first_gpu.tolist()
        self.usable = snapshot.usable
        self.owner = snapshot.owner
        self.until_ms = snapshot.until_ms
        self.opens = snapshot.opens
        self._pools_for: dict[str | None, tuple[int, ...]] = {}
        self._counted: dict[tuple[int, int], Counter[Want]] = {}
        # 1. accounts: those the state knows, then those that only have gangs
        self.account_index = {name: i for i, name in enumerate(snapshot.accounts)}
        self.rows: list[Gang] = [snapshot.placed[number] for number in sorted(snapshot.placed)]
        names = [gang.spec.account for gang in self.rows]
        for name in sorted({*names, *snapshot.queue} - self.account_index.keys()):
            self.account_index[name] = len(self.account_index)
        # 2. rows
        self.account_of_row = [self.account_index[name] for name in names]
        self.pool_of_row = self._pools_of(self.rows)
        self.firm_of_row = [not gang.shape.preemptible for gang in self.rows]
        stopping = [gang.status is GangStatus.STOPPING for gang in self.rows]
        self.stopped = {row for row, stops in enumerate(stopping) if stops}
        self.counts_of_row = [True] * len(self.rows)
        for row in self.stopped:
            self.counts_of_row[row] = self.rows[row].stop_cause is StopCause.CONSOLIDATED
        self.holder, self.leaver = _held(snapshot, self.rows, stopping)
        # 3. what each account owns and uses, by pool
        self.owned_gpus = self._by_account(self.owner, self.owner >= 0)
        self.entitled = self._by_account(self.owner, (self.owner >= 0) & self.usable)
        account_of_row = np.array([*self.account_of_row, -1], dtype=np.int64)
        self.used = self._by_account(account_of_row[self.holder], self.holder >= 0)
        firm = self.firm_ground()
        self.firm_used = self._by_account(account_of_row[self.holder], firm)
        for row in self.stopped:
            if self.counts_of_row[row]:
                self._count(row, 1)
        # 4. what the round decides
        self.actions: list[Action | None] = []
        self.action_of_row: dict[int, int] = {}
        self.decided: dict[int, tuple[Gang, bool]] = {}
        self.withdrawn: list[tuple[Gang, bool]] = []
        self.lowered: set[int] = set()
        self._free: BoolArray | None = None
        self._free_by_node: IntArray | None = None
        self._free_fits: dict[tuple[int, Want], bool] = {}
        self._unsold_until_ms: dict[int, list[int]] = {}
        self._own_until_ms: dict[tuple[int, int], list[int]] = {}

    def _by_account(self, account: npt.NDArray[np.signedinteger[Any]], chosen: BoolArray) -> list[list[int]]:
        """How many chosen GPUs each account ((n_gpus), by GPU) has, by account and pool."""
        n_accounts = len(self.account_index)
        keys = account[chosen].astype(np.int64) * self.n_pools + self.pool_of_gpu[chosen]
        table = np.bincount(keys, minlength=n_accounts * self.n_pools).reshape(n_accounts, self.n_pools)
        rows: list[list[int]] = table.tolist()
        return rows

    def _pools_of(self, rows: Sequence[Gang]) -> list[int]:
        if self.n_pools <= 1:
            return [0] * len(rows)
        return [int(self.pool_of_gpu[gang.gpu_numbers[0]]) if gang.gpu_numbers else 0 for gang in rows]

    # ---- what is so ----

    @property
    def free(self) -> BoolArray:
        """(n_gpus): usable, nobody's and nobody there."""
        if self._free is None:
            self._free = self.usable & (self.holder < 0) & (self.leaver < 0)
        return self._free

    @property
    def free_by_node(self) -> IntArray:
        """(n_nodes) int64: free GPUs of each node."""
        if self._free_by_node is None:
            self._free_by_node = self.by_node(self.free)
        return self._free_by_node

    def by_node(self, chosen: BoolArray) -> IntArray:
        """(n_nodes) int64: how many GPUs of each node are chosen."""
        return np.bincount(self.node_of_gpu[chosen], minlength=self.n_nodes)

    def of_pool(self, pool: int) -> BoolArray:
        """(n_gpus): the pool's usable GPUs."""
        return self.usable if self.n_pools == 1 else self.usable & (self.pool_of_gpu == pool)

    def own(self, account: int, pool: int) -> BoolArray:
        """(n_gpus): the account's usable owned GPUs of the pool."""
        own: BoolArray = self.of_pool(pool) & (self.owner == account)
        return own

    def held_by(self, row: int) -> IntArray:
        """Numbers of the GPUs that the row holds now, ascending; none once it was stopped or withdrawn."""
        gpus = np.array(sorted(self.rows[row].gpu_numbers), dtype=np.int64)
        held: IntArray = gpus[self.holder[gpus] == row]
        return held

    def is_placed(self, row: int) -> bool:
        """Whether the row holds GPUs: BINDING or RUNNING, and not ended by this round."""
        return row not in self.stopped

    def headroom(self, account: int, pool: int) -> int:
        """How many more GPUs the account may use in the pool and be within its count; negative when it is over."""
        return self.entitled[account][pool] - self.used[account][pool]

    def pools_for(self, grade: str | None) -> tuple[int, ...]:
        """The pools that a gang asking for this grade may use, in order."""
        pools = self._pools_for.get(grade)
        if pools is None:
            named = enumerate(self.fleet.pools)
            pools = tuple(i for i, (pool_grade, _) in named if grade is None or grade == pool_grade)
            self._pools_for[grade] = pools
        return pools

    def price(self, row: int) -> int:
        """GPU-ms lost by ending the row now; nothing where it was only decided in this round."""
        return 0 if row in self.action_of_row else lost_work_ms(self.rows[row], self.now_ms)

    def firm_ground(self) -> BoolArray:
        """(n_gpus): held by a gang that cannot be preempted."""
        return np.array([*self.firm_of_row, False], dtype=np.bool_)[self.holder]

    def free_fits(self, want: Want, pool: int) -> bool:
        """Whether the pool's free GPUs have room for the want."""
        key = (pool, want)
        if key not in self._free_fits:
            self._free_fits[key] = has_slots(self.fleet, self.by_node(self.free & self.of_pool(pool)), want)
        return self._free_fits[key]

    def unsold_lasting(self, pool: int, until_ms: int) -> int:
        """How many of the pool's free unsold GPUs stay unsold until then."""
        if pool not in self._unsold_until_ms:
            unsold = self.free & self.of_pool(pool) & (self.owner < 0)
            self._unsold_until_ms[pool] = np.sort(self.until_ms[unsold]).tolist()
        ends_ms = self._unsold_until_ms[pool]
        return len(ends_ms) - bisect_left(ends_ms, until_ms)

    def owned_lasting(self, account: int, pool: int, until_ms: int) -> int:
        """How many of the account's usable GPUs of the pool it owns until then."""
        key = (account, pool)
        if key not in self._own_until_ms:
            self._own_until_ms[key] = np.sort(self.until_ms[self.own(account, pool)]).tolist()
        ends_ms = self._own_until_ms[key]
        return len(ends_ms) - bisect_left(ends_ms, until_ms)

    def repack_room(self, account: int, pool: int) -> IntArray:
        """(n_nodes) int64: own usable GPUs that hold nothing non-preemptible."""
        return self.by_node(self.own(account, pool) & ~self.firm_ground())

    def counted(self, account: int, pool: int) -> Counter[Want]:
        """How many preemptible gangs of each want the account's count holds in the pool."""
        key = (account, pool)
        if key not in self._counted:
            self._counted[key] = Counter(
                want
                for row, gang in enumerate(self.rows)
                if self.account_of_row[row] == account
                and self.pool_of_row[row] == pool
                and self.counts_of_row[row]
                and gang.shape.preemptible
                and (want := demand(gang.shape)) is not None
            )
        return self._counted[key]

    def accounts_moving(self) -> set[int]:
        """Accounts within their count some of whose work is being moved."""
        return {
            self.account_of_row[row]
            for row in self.stopped
            if self.counts_of_row[row] and self.headroom(self.account_of_row[row], self.pool_of_row[row]) >= 0
        }

    def freeze(self) -> None:
        """Keep what the books share with the state as it is now: the round is over, the state goes on."""
        self.usable, self.owner, self.until_ms = self.usable.copy(), self.owner.copy(), self.until_ms.copy()
        self.opens = dict(self.opens)

    # ---- what is decided ----

    def place(self, gang: Gang, gpus: Sequence[int], *, inside: bool) -> int:
        """Give the waiting gang these GPUs, ascending by node. Returns its row."""
        row = len(self.rows)
        size = gang.shape.gpus_per_worker
        workers = [tuple(sorted(gpus[i : i + size])) for i in range(0, len(gpus), size)]
        numbers = tuple(gpu for worker in workers for gpu in worker)
        leavers = sorted({int(leaver) for leaver in self.leaver[list(numbers)] if leaver >= 0})
        action = Place(
            gang=gang,
            pieces=tuple(self._piece(worker) for worker in workers),
            gpu_numbers=numbers,
            inside=inside,
            waits_for=tuple(self.rows[leaver].id for leaver in leavers),
        )
        account, pool = self.account_index[gang.spec.account], int(self.pool_of_gpu[numbers[0]])
        self.rows.append(_standing(gang, numbers))
        self.account_of_row.append(account)
        self.pool_of_row.append(pool)
        self.counts_of_row.append(True)
        self.firm_of_row.append(not gang.shape.preemptible)
        self.action_of_row[row] = len(self.actions)
        self.decided[row] = (gang, inside)
        self.actions.append(action)
        self.holder[list(numbers)] = row
        self._count(row, 1)
        self._moved()
        return row

    def _piece(self, worker: tuple[int, ...]) -> Piece:
        node = int(self.node_of_gpu[worker[0]])
        first = self.first_gpu[node]
        return Piece(node=self.fleet.nodes[node].name, gpus=tuple(gpu - first for gpu in worker))

    def stop(self, row: int, for_gang: Gang, cause: StopCause | None = None) -> None:
        """End the row for another's sake; one that was only decided in this round is withdrawn.

        Without a cause: RECLAIMED from an account over its count, whose use falls; else CONSOLIDATED, a move, which
        does not change what the account uses.
        """
        if row in self.action_of_row:
            self.withdraw(row)
            return
        gang, account, pool = self.rows[row], self.account_of_row[row], self.pool_of_row[row]
        if cause is None:
            cause = StopCause.RECLAIMED if self.headroom(account, pool) < 0 else StopCause.CONSOLIDATED
        self.actions.append(Stop(gang=gang, cause=cause, for_gang=for_gang.id))
        gpus = self.held_by(row)
        self.holder[gpus] = -1
        self.leaver[gpus[self.snapshot.occupant[gpus] == gang.number]] = row
        self.stopped.add(row)
        if cause is not StopCause.CONSOLIDATED:
            self._count(row, -1)
            self.counts_of_row[row] = False
            self.lowered.add(account)
        self._moved()

    def withdraw(self, row: int) -> None:
        """Undo a placement of this round; the gang is found in `withdrawn`."""
        at = self.action_of_row.pop(row)
        gang, inside = self.decided.pop(row)
        self.actions[at] = None
        self.holder[self.held_by(row)] = -1
        self.stopped.add(row)
        self._count(row, -1)
        self.counts_of_row[row] = False
        self.lowered.add(self.account_of_row[row])
        self.withdrawn.append((gang, inside))
        self._moved()

    def _count(self, row: int, sign: int) -> None:
        account, pool, shape = self.account_of_row[row], self.pool_of_row[row], self.rows[row].shape
        self.used[account][pool] += sign * shape.gpus
        if not shape.preemptible:
            self.firm_used[account][pool] += sign * shape.gpus
            return
        want = demand(shape)
        if want is not None and (account, pool) in self._counted:
            self._counted[account, pool][want] += sign

    def _moved(self) -> None:
        self._free = self._free_by_node = None
        self._free_fits.clear()
        self._unsold_until_ms.clear()


def _held(snapshot: Snapshot, rows: Sequence[Gang], leaving: Sequence[bool]) -> tuple[IntArray, IntArray]:
    """(n_gpus) holder and leaver rows, -1 none."""
    n_gpus = len(snapshot.occupant)
    if not rows:
        return np.full(n_gpus, -1), np.full(n_gpus, -1)
    numbers = np.array([gang.number for gang in rows], dtype=np.int64)
    stopping = np.array([*leaving, False], dtype=np.bool_)
    occupant = np.where(snapshot.occupant >= 0, np.searchsorted(numbers, snapshot.occupant), -1)
    claimant = np.where(snapshot.claimant >= 0, np.searchsorted(numbers, snapshot.claimant), -1)
    leaves = stopping[occupant]
    claimed = (claimant >= 0) & ~stopping[claimant]
    holder = np.where(claimed, claimant, np.where(leaves, -1, occupant))
    return holder, np.where(leaves, occupant, -1)


def _standing(gang: Gang, numbers: tuple[int, ...]) -> Gang:
    """The gang with the places that this round gave it, for the round's own use."""
    return Gang(
        id=gang.id,
        number=gang.number,
        spec=gang.spec,
        shape=gang.shape,
        submitted_ms=gang.submitted_ms,
        status=GangStatus.BINDING,
        gpu_numbers=numbers,
    )


def picked(books: Books, spread: Iterable[tuple[int, int]], size: int, ground: BoolArray, rank: IntArray) -> list[int]:
    """GPU numbers for the parts on each node of the spread: of `ground`, lowest `rank` first, then by number."""
    gpus: list[int] = []
    for node, parts in spread:
        low = books.first_gpu[node]
        there = np.flatnonzero(ground[low : books.first_gpu[node + 1]]) + low
        best = there[rank[there].argsort(kind="stable")][: parts * size]
        gpus.extend(sorted(best.tolist()))
    return gpus
