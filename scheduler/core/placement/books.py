"""The round's own books: who holds which GPU, who uses how much, and what has been decided so far.

Built from a snapshot in a few array operations, then changed by `place`, `stop` and `withdraw` alone, each in time
that depends on the gang and not on the fleet; the snapshot's arrays are never written to. A *row* is a gang that is or
was placed; their *ranks*, which break ties, follow their numbers, and gangs placed in this round come after. A GPU's
*holder* is the row that has it or has claimed it (-1 none); a *leaver* is a stopping row that is still on it. A GPU is
free without either, and open (for a gang inside its entitlement) without a holder.

One round's books can become the next one's: see `scheduler.core.placement.follow`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import worth_compiling
from scheduler.core.placement import floor as floors
from scheduler.core.placement.devices import Devices, Rider, riders_of
from scheduler.core.placement.fits import Room
from scheduler.core.placement.floor import AT_NODE, FIRST_GPU, FREE_HERE, OWNER, POOL, RING, USABLE, floor_of, held_rows
from scheduler.core.placement.overdrawn import Overdrawn
from scheduler.core.placement.releases import Releases
from scheduler.core.placement.repack import Counts, Tables, repacks
from scheduler.core.placement.rows import Rows
from scheduler.core.placement.scan import fit_by_scan
from scheduler.core.placement.search import Search, Tiers
from scheduler.core.placement.snapshot import Action, Place, Policy, Snapshot, Stop
from scheduler.core.placement.view import View
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import MOVED, Gang, GangStatus, StopCause, stop_price_ms

BoolArray = npt.NDArray[np.bool_]

NO_GPUS: IntArray = np.zeros(0, dtype=np.int64)
NONE: Counter[Want] = Counter()
NOWHERE: BoolArray = np.zeros(0, dtype=np.bool_)
LATE = 1 << 40
"""Ranks of gangs that a round places come after those of all that were there."""
STEPS_A_GANG = 1_000
"""About how many steps it takes to look at a waiting gang."""


class Books(Rows):
    """One round's working state (see the module). Accounts, pools, nodes and rows are indices."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot, self.policy, self.now_ms = snapshot, policy, snapshot.now_ms
        self.fleet = snapshot.fleet
        self.n_nodes, self.n_pools = len(self.fleet.nodes), len(self.fleet.pools)
        self.owner, self.opens = snapshot.owner, snapshot.opens
        self._pools_for: dict[str | None, tuple[int, ...]] = {}
        self._counted: dict[tuple[int, int], Counts] = {}
        self.tables: Tables | None = None
        self._own_until_ms: dict[tuple[int, int], list[int]] = {}
        # 1. accounts: those the state knows, then those that only have gangs
        self.account_index = {name: i for i, name in enumerate(snapshot.accounts)}
        carried = riders_of(snapshot)
        riding = {rider.gang.number for riders in carried.values() for rider in riders}
        rows = [snapshot.placed[number] for number in sorted(snapshot.placed) if number not in riding]
        owners = [gang.spec.account for gang in rows]
        for name in sorted({*owners, *snapshot.queue} - self.account_index.keys()):
            self.account_index[name] = len(self.account_index)
        self.names = list(self.account_index)
        # 2. rows
        super().__init__(self.fleet, rows, list(map(self.account_index.__getitem__, owners)), carried)
        self.devices = Devices({row: carried[g.number] for row, g in enumerate(rows) if g.number in carried})
        self._n_first = len(rows)
        # 3. the floor, and what each account owns and uses, by pool
        stopping = np.zeros(len(rows), dtype=np.bool_)
        stopping[list(self.stopped)] = True
        holder, leaver = held_rows(snapshot, self.rank_of_row, stopping)
        firm = np.array([*self.firm_of_row, False], dtype=np.bool_)[holder]
        self.floor, self.units = floor_of(snapshot, holder, leaver, firm, len(self.account_index))
        self.view = View()
        self.ownership = self.floor.owner.copy(), self.floor.until_ms.copy()
        self._usable_by_pool = np.bincount(self.pool_of_gpu[snapshot.usable], minlength=self.n_pools).tolist()
        self._tally(holder, firm)
        self._look()
        # 4. what the round decides
        self.round_number = 0
        self.first_of_round = len(self.rows)
        self.actions: list[Action | None] = []
        self.action_of_row: dict[int, int] = {}
        self.decided: dict[int, tuple[Gang, bool]] = {}
        self.withdrawn: list[tuple[Gang, bool]] = []
        self._withdrawn_ever: list[Gang] = []
        self._undone: list[int] = []
        self.releases = Releases()
        self.lowered: set[int] = set()

    def _look(self) -> None:
        """How questions are answered: by machine code where the fleet and the queue are large enough for it."""
        snapshot = self.snapshot
        compiled = worth_compiling(self.n_nodes * STEPS_A_GANG)
        if not compiled:
            waiting = sum(len(gangs) for shapes in snapshot.queue.values() for gangs in shapes.values())
            compiled = worth_compiling((waiting + self.n_nodes) * STEPS_A_GANG)
        self.in_runs = self.compiled = compiled
        self.search = Search(self.fleet, self.floor, self.units, dict(self.policy.preferences), compiled=compiled)
        self._hold = floors.hold.compiled if compiled else floors.hold
        self._set_anew = floors.set_anew.compiled if compiled else floors.set_anew
        self._let_go = floors.let_go.compiled if compiled else floors.let_go
        self._repacks = repacks.compiled if compiled else repacks
        self._overdrawn = Overdrawn(self, self.search.cells, compiled=compiled)

    def _tally(self, holder: IntArray, firm: BoolArray) -> None:
        """What each account owns and uses, by account and pool."""
        self.owned_gpus = self._by_account(self.owner, self.owner >= 0).T.tolist()
        entitled = self._by_account(self.owner, (self.owner >= 0) & self.snapshot.usable)
        self.entitled: list[list[int]] = entitled.T.tolist()
        account_of_row = np.array([*self.account_of_row, -1], dtype=np.int64)
        self.firm_used = self._by_account(account_of_row[holder], firm)
        """(n_pools, n_accounts): GPUs of each account's gangs that cannot be preempted."""
        self.excess = self._by_account(account_of_row[holder], holder >= 0) - entitled
        """(n_pools, n_accounts): by how much each account is over its count."""
        for row in self.stopped:
            if self.counts_of_row[row]:
                self._count(row, 1)

    @property
    def pool_of_gpu(self) -> IntArray:
        """(n_gpus): the pool of each GPU."""
        return self.fleet.pool_of_node[self.floor.node_of_gpu] if self.fleet.nodes else self.floor.node_of_gpu

    def _by_account(self, account: npt.NDArray[np.signedinteger[Any]], chosen: BoolArray) -> IntArray:
        """(n_pools, n_accounts): how many chosen GPUs each account ((n_gpus), by GPU) has."""
        n_accounts = len(self.account_index)
        keys = self.pool_of_gpu[chosen] * n_accounts + account[chosen]
        return np.bincount(keys, minlength=n_accounts * self.n_pools).reshape(self.n_pools, n_accounts)

    # ---- what is so ----

    def fit(self, want: Want, where: Tiers) -> IntArray | None:
        """GPUs for the want in the first tier that has room, ascending by node, or None: see `Search.fit`."""
        if want.apart is not None:
            return self.scan(want, where)
        return self.search.fit(want, where)

    def scan(self, want: Want, where: Tiers, most: IntArray | None = None) -> IntArray | None:
        """The same by looking at every GPU; `most` (n_nodes): how many GPUs of each node it may use."""
        return fit_by_scan(self.fleet, self.floor, self.search.tightness(where.pool, want.size), want, where, most)

    def has_room(self, want: Want, where: Tiers) -> bool:
        """Whether the want fits in one of the tiers."""
        if want.apart is not None:
            return self.scan(want, where) is not None
        return self.search.has_room(want, where)

    def room_over_count(self, want: Want, pool: int) -> Room | None:
        """The least lost work of accounts over their count that makes the want fit in the pool, or None."""
        return self._overdrawn.cheapest_room(want, pool)

    def repacks(
        self, account: int, pool: int, want: Want | None = None, taken: IntArray = NO_GPUS, beyond: Counter[Want] = NONE
    ) -> bool:
        """Whether what the account's count holds in the pool but these beyond it, and one gang of the want, repack by
        the published rule (`inside`) into its own GPUs there that hold nothing non-preemptible, without the taken ones.
        """
        counts = self.counted(account, pool)
        at = account * self.n_pools + pool
        low, high = self.units.first_unit[at], self.units.first_unit[at + 1]
        changes = [*((each, -number) for each, number in beyond.items()), *(((want, 1),) if want else ())]
        for each, number in changes:
            counts.add(each, number)
        if counts.apart:
            gpus = np.setdiff1d(self.own_gpus(account, pool), taken)
            firm = np.array([*self.firm_of_row, False], dtype=np.bool_)[self.floor.holder[gpus]]
            fits = counts.repack_on(self.fleet, self.floor.node_of_gpu[gpus[~firm]])
        else:
            search = self.search
            fits = bool(self._repacks(self.floor, low, high, counts.table, taken, search.cells, search.desk.by_cell))
        for each, number in changes:
            counts.add(each, -number)
        return fits

    def free_gpus(self, pool: int) -> int:
        """How many GPUs of the pool are free."""
        return int(self.floor.ring[RING + 1 + pool])

    def idle_owners(self) -> set[str]:
        """Accounts any of whose own GPUs are free."""
        idle = np.flatnonzero(self.floor.units[:, FREE_HERE])
        parts = np.array(self.units.first_unit, dtype=np.int64).searchsorted(idle, side="right") - 1
        return {self.names[account] for account in np.unique(parts // self.n_pools).tolist()}

    def usable_gpus(self, pool: int) -> int:
        """How many GPUs of the pool may be used."""
        return int(self._usable_by_pool[pool])

    def own_gpus(self, account: int, pool: int) -> IntArray:
        """Numbers of the account's usable owned GPUs of the pool, ascending."""
        at = account * self.n_pools + pool
        gpus = self.units.gpus[self.units.first_gpu[at] : self.units.first_gpu[at + 1]]
        usable: IntArray = gpus[self.floor.gpus[gpus, USABLE] != 0]
        return usable

    def holders(self, gpus: IntArray) -> list[int]:
        """The rows that hold any of these GPUs, in order of rank."""
        rows = {row for row in self.floor.holder[gpus].tolist() if row >= 0}
        return sorted(rows, key=self.rank_of_row.__getitem__)

    def held_by(self, row: int) -> IntArray:
        """Numbers of the GPUs that the row holds now, ascending; none once it was stopped or withdrawn."""
        gpus = np.array(sorted(self.gpus_of_row[row]), dtype=np.int64)
        held: IntArray = gpus[self.floor.holder[gpus] == row]
        return held

    def headroom(self, account: int, pool: int) -> int:
        """How many more GPUs the account may use in the pool and be within its count; negative when it is over."""
        return -int(self.excess[pool, account])

    def firm_gpus(self, account: int, pool: int) -> int:
        """How many GPUs of the pool the account uses for gangs that cannot be preempted."""
        return int(self.firm_used[pool, account])

    def pools_for(self, grade: str | None) -> tuple[int, ...]:
        """The pools that a gang asking for this grade may use, in order."""
        pools = self._pools_for.get(grade)
        if pools is None:
            named = enumerate(self.fleet.pools)
            pools = tuple(i for i, (pool_grade, _) in named if grade is None or grade == pool_grade)
            self._pools_for[grade] = pools
        return pools

    def price(self, row: int) -> int:
        """GPU-ms that ending the row now weighs; nothing where it was only decided in this round."""
        if row in self.action_of_row:
            return 0
        gangs = [rider.gang for rider in self.devices.riders.get(row, ()) if rider.action is None]
        return sum(stop_price_ms(gang, self.now_ms) for gang in (self.rows[row], *gangs))

    def owned_lasting(self, account: int, pool: int, until_ms: int) -> int:
        """How many of the account's usable GPUs of the pool it owns until then."""
        key = (account, pool)
        if key not in self._own_until_ms:
            self._own_until_ms[key] = np.sort(self.floor.until_ms[self.own_gpus(account, pool)]).tolist()
        ends_ms = self._own_until_ms[key]
        return len(ends_ms) - bisect_left(ends_ms, until_ms)

    def counted(self, account: int, pool: int) -> Counts:
        """How many preemptible gangs of each want the account's count holds in the pool."""
        counts = self._known_counts(account, pool)
        if counts is None:
            counts = self._counted[account, pool] = Counts.of(
                want
                for row in self.rows_of(account, pool)
                if self.counts_of_row[row]
                and not self.firm_of_row[row]
                and (want := demand(self.rows[row].shape)) is not None
            )
        return counts

    def _known_counts(self, account: int, pool: int) -> Counts | None:
        """The same, if somebody counted."""
        counts = self._counted.get((account, pool))
        if counts is None and self.tables is not None:
            counts = Counts.kept(self.tables, account * self.n_pools + pool)
            if counts is not None:
                self._counted[account, pool] = counts
        return counts

    def accounts_moving(self) -> set[int]:
        """Accounts within their count some of whose work is being moved."""
        return {
            self.account_of_row[row]
            for row in self.stopped
            if self.counts_of_row[row] and self.headroom(self.account_of_row[row], self.pool_of_row[row]) >= 0
        }

    # ---- what is decided ----

    def place(self, gang: Gang, gpus: IntArray, *, inside: bool) -> int:
        """Give the waiting gang these GPUs, worker by worker and ascending by node. Returns its row."""
        row, firm, size = len(self.rows), not gang.shape.preemptible, gang.shape.gpus_per_worker
        left = self._hold(self.floor, gpus, row, int(firm))
        numbers = tuple(gpus.tolist())
        hosts = self.fleet.host_of_gpu
        action = Place(
            gang=gang,
            gpu_numbers=numbers,
            hosts=tuple([hosts[gpu] for gpu in numbers[::size]]),
            inside=inside,
            waits_for=self._leaving(gpus) if left else (),
        )
        account = self.account_index[gang.spec.account]
        pool = int(self.floor.nodes[self.floor.gpus[numbers[0], AT_NODE], POOL]) if self.n_pools > 1 else 0
        self.open_rows((gang,), (numbers,), (account,), (pool,), (LATE + row,))
        self.action_of_row[row] = len(self.actions)
        self.decided[row] = (gang, inside)
        self.actions.append(action)
        self._count(row, 1)
        self.devices.opened(self, row)
        return row

    def _leaving(self, gpus: IntArray) -> tuple[str, ...]:
        rows = {leaver for leaver in self.floor.leaver[gpus].tolist() if leaver >= 0}
        gangs = [gang for row in rows for gang in (self.rows[row], *self.devices.riding(row))]
        return tuple(gang.id for gang in sorted(gangs, key=lambda gang: gang.number))

    @property
    def riders(self) -> dict[int, list[Rider]]:
        """By row of a shared device: the gangs beside its carrier."""
        return self.devices.riders

    def lift(self, row: int) -> IntArray:
        """Make the books as if the row were gone already, until `put_back` with the GPUs that this gives."""
        self.remember(row)
        gpus = self.held_by(row)
        self._let_go(self.floor, gpus, row, int(self.firm_of_row[row]), NOWHERE)
        self._count(row, -1)
        self.counts_of_row[row] = False
        self.stopped.add(row)
        return gpus

    def put_back(self, row: int, gpus: IntArray) -> None:
        """The row has its GPUs again."""
        self.stopped.discard(row)
        self.counts_of_row[row] = True
        self._count(row, 1)
        self._hold(self.floor, gpus, row, int(self.firm_of_row[row]))

    def stop(self, row: int, for_gang: Gang | None, cause: StopCause | None = None) -> None:
        """End the row for another's sake; one that was only decided in this round is withdrawn.

        Without a cause: RECLAIMED from an account over its count, whose use falls; else CONSOLIDATED, a move, which
        does not change what the account uses.
        """
        if row in self.action_of_row:
            self.withdraw(row)
            return
        self.remember(row)
        gang, account, pool = self.rows[row], self.account_of_row[row], self.pool_of_row[row]
        if cause is None:
            cause = StopCause.RECLAIMED if self.headroom(account, pool) < 0 else StopCause.CONSOLIDATED
        whom = None if for_gang is None else for_gang.id
        self.actions.append(Stop(gang=gang, cause=cause, for_gang=whom))
        self.devices.stop(self, row, whom, cause)
        gpus = np.array(gang.gpu_numbers, dtype=np.int64)
        occupied = self.snapshot.occupant[gpus] == gang.number
        self._let_go(self.floor, gpus, row, int(self.firm_of_row[row]), occupied)
        self.stopped.add(row)
        if cause not in MOVED:
            self._count(row, -1)
            self.counts_of_row[row] = False
            self.lowered.add(account)

    def withdraw(self, row: int) -> None:
        """Undo a placement of this round; the gang is found at the end of `withdrawn`, what had joined it before."""
        self.remember(row)
        self.devices.withdraw(self, row)
        at = self.action_of_row.pop(row)
        gang, inside = self.decided.pop(row)
        gpus = np.array(self.gpus_of_row[row], dtype=np.int64)
        self._let_go(self.floor, gpus, row, int(self.firm_of_row[row]), NOWHERE)
        self.stopped.add(row)
        self._count(row, -1)
        self.counts_of_row[row] = False
        self.lowered.add(self.account_of_row[row])
        self.undo(at, gang, inside=inside)
        self._undone.append(row)

    def undo(self, action: int, gang: Gang, *, inside: bool) -> None:
        """The placement at this place of the plan does not hold: its gang waits on."""
        self.actions[action] = None
        self.withdrawn.append((gang, inside))
        self._withdrawn_ever.append(gang)

    # ---- the next round ----

    @cached_property
    def row_of_number(self) -> dict[int, int]:
        """The row of each placed gang, by number; kept from the first time that somebody asks."""
        return {self.rows[row].number: row for row in range(self._n_first)}

    def gangs_of_round(self) -> list[Gang]:
        """The gangs that the last round placed, stopped or withdrew."""
        return [action.gang for action in self.actions if action is not None] + self._withdrawn_ever

    def owners_touched(self) -> set[str]:
        """The accounts of those gangs, and of every GPU of the nodes on which they are or were."""
        gangs = self.gangs_of_round()
        gpus = [gpu for gang in gangs for gpu in gang.gpu_numbers]
        return {gang.spec.account for gang in gangs} | self.owners_on(np.array(gpus, dtype=np.int64))

    def owners_on(self, gpus: IntArray) -> set[str]:
        """The accounts that own any GPU of the nodes of these."""
        nodes = np.unique(self.floor.node_of_gpu[gpus])
        spans = [self.floor.gpus[low:high, OWNER] for low, high in self.floor.nodes[nodes[:, None] + [0, 1], FIRST_GPU]]
        owners = np.unique(np.concatenate(spans)) if spans else NO_GPUS
        return {self.names[owner] for owner in owners.tolist() if owner >= 0}

    def gangs_taken(self) -> list[Gang]:
        """The waiting gangs that this round placed, also those that it withdrew again."""
        return [*(gang for gang, _ in self.decided.values()), *self.devices.joined, *self._withdrawn_ever]

    def knows(self, accounts: Sequence[str]) -> bool:
        """Whether these accounts have the indices that the books give them; new ones at the end are taken in."""
        known = len(self.account_index)
        if known < len(self.snapshot.accounts) or list(self.account_index) != list(accounts[:known]):
            return False
        more = np.zeros((self.n_pools, len(accounts) - known), dtype=np.int64)
        self.excess = np.concatenate([self.excess, more], axis=1)
        self.firm_used = np.concatenate([self.firm_used, more], axis=1)
        for name in accounts[known:]:
            self.account_index[name] = len(self.account_index)
            self.names.append(name)
            for table in (self.owned_gpus, self.entitled):
                table.append([0] * self.n_pools)
            for firsts in (self.units.first_unit, self.units.first_gpu):
                firsts.extend([firsts[-1]] * self.n_pools)
        return True

    def begin_round(self, snapshot: Snapshot) -> None:
        """Decide anew at another instant; who holds what is for `drop_row`, `add_row` and `set_anew` to say."""
        numbers = self.row_of_number
        for row, (gang, _) in self.decided.items():
            numbers[gang.number] = row
        for row in self._undone:
            self.part(self.account_of_row[row], self.pool_of_row[row]).remove(row)
            self.stopped.discard(row)
        self.round_number += 1
        self.first_of_round = len(self.rows)
        self.snapshot, self.now_ms, self.opens = snapshot, snapshot.now_ms, snapshot.opens
        self.actions, self._withdrawn_ever, self._undone = [], [], []
        self.devices.begin_round()
        self.action_of_row, self.decided = {}, {}
        self.withdrawn.clear()
        self.lowered.clear()

    def renew_row(self, row: int, gang: Gang) -> None:
        """The row's gang is another value, on the same GPUs."""
        self.remember(row)
        self.rows[row], self.rank_of_row[row] = gang, gang.number
        self.releases.forget(row)
        self._overdrawn.forget(row)

    def drop_row(self, row: int) -> None:
        """The gang is placed no more, or elsewhere; its GPUs are for `set_anew`."""
        self.remember(row)
        del self.row_of_number[self.rows[row].number]
        if self.counts_of_row[row]:
            self._count(row, -1)
            self.counts_of_row[row] = False
        self.part(self.account_of_row[row], self.pool_of_row[row]).remove(row)
        self.stopped.discard(row)

    def add_row(self, gang: Gang) -> None:
        """A gang that is placed; its GPUs are for `set_anew`."""
        pool, row = self.pools_of((gang,))[0], len(self.rows)
        self.open_rows((gang,), (gang.gpu_numbers,), (self.account_index[gang.spec.account],), (pool,), (gang.number,))
        self.row_of_number[gang.number] = row
        if gang.status is GangStatus.STOPPING:
            self.stopped.add(row)
            self.counts_of_row[row] = gang.stop_cause in MOVED
        if self.counts_of_row[row]:
            self._count(row, 1)

    def set_anew(self, gpus: IntArray, now: IntArray) -> None:
        """Make these GPUs what they are now (see `floor.set_anew`)."""
        changed = np.flatnonzero(self.floor.gpus[gpus, USABLE] != now[:, 0])
        for at in changed.tolist():
            gpu, sign = int(gpus[at]), 1 if now[at, 0] else -1
            owner = int(self.floor.gpus[gpu, OWNER])
            pool = int(self.floor.nodes[self.floor.gpus[gpu, AT_NODE], POOL])
            self._usable_by_pool[pool] += sign
            if owner >= 0:
                self.entitle(owner, pool, self.entitled[owner][pool] + sign)
        self._set_anew(self.floor, gpus, now)

    def entitle(self, account: int, pool: int, gpus: int) -> None:
        """The account's usable own GPUs of the pool are others, and so many."""
        entitled = self.entitled[account] = self.entitled[account].copy()
        self.excess[pool, account] -= gpus - entitled[pool]
        entitled[pool] = gpus
        self._own_until_ms.pop((account, pool), None)

    def _count(self, row: int, sign: int) -> None:
        account, pool, shape = self.account_of_row[row], self.pool_of_row[row], self.rows[row].shape
        self.excess[pool, account] += sign * shape.gpus
        if not shape.preemptible:
            self.firm_used[pool, account] += sign * shape.gpus
            return
        counts = self._known_counts(account, pool)
        want = None if counts is None else demand(shape)
        if counts is not None and want is not None:
            counts.add(want, sign)
