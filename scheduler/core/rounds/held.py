"""Who holds which GPU and what ending it weighs, as reclaim reads it: the state itself, where no books are open.

Held is a GPU by the gang that has claimed it, else by the one on it that stays; who is told to stop is a leaver there.
Counts are those of placement (`scheduler.core.placement.inside`): what binds, runs or is being moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.moving import dear
from scheduler.core.placement.wants import Want, demand
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import MOVED, Gang, GangStatus, stop_price_ms


@dataclass(frozen=True, slots=True)
class Floor:
    """Who is where: `scheduler.core.placement.reclaim.Floor`."""

    node_of_gpu: IntArray
    holder: IntArray
    leaver: IntArray
    first_gpu: IntArray


@dataclass(frozen=True, slots=True)
class Rows:
    """The holders of some GPUs, by number: `scheduler.core.placement.reclaim.Rows`."""

    fleet: Fleet
    floor: Floor
    rows: Sequence[Gang]
    account_of_row: Sequence[int]
    rank_of_row: Sequence[int]

    def holders(self, gpus: IntArray) -> list[int]:
        """The rows that hold any of these GPUs, in order of rank."""
        return sorted({row for row in self.floor.holder[gpus].tolist() if row >= 0})


class Held:
    """See the module; as things are at an instant, but for what is said to make way."""

    def __init__(self, state: State, now_ms: int) -> None:
        self._gangs, self._accounts, self._fleet, self._now_ms = state.gangs, state.accounts, state.fleet, now_ms
        self._owner, self._usable = state.calendar.owner_account, state.health.usable
        self._prices: dict[int, int] = {}
        self._elsewhere: dict[int, IntArray] = {}
        self.pool_of_gpu: IntArray = state.fleet.pool_of_node[state.fleet.node_of_gpu]
        occupant, claimant = state.gangs.occupant, state.gangs.claimant
        self.holder = np.where(claimant != NOBODY, claimant, occupant)
        """(n_gpus): number of the gang, -1 none."""
        self.leaver = np.full_like(self.holder, NOBODY)
        """(n_gpus): number of the gang that is told to stop and still there, -1 none."""
        leaving = [number for number in sorted(state.gangs.in_motion) if self._is_leaving(number)]
        for number in leaving:
            self.make_way(number)
        self._moving = [state.gangs.placed[number] for number in leaving if self._is_moved(number)]

    def make_way(self, number: int) -> None:
        """The gang leaves its GPUs."""
        gpus = np.array(self._gangs.placed[number].gpu_numbers, dtype=np.int64)
        self.leaver[gpus[self._gangs.occupant[gpus] == number]] = number
        self.holder[gpus[self.holder[gpus] == number]] = NOBODY

    def account(self, number: int) -> int:
        """Index of the gang's account."""
        return self._accounts[self._gangs.placed[number].account]

    def price(self, number: int) -> int:
        """GPU-ms that ending the gang now weighs, and all that share its device."""
        known = self._prices.get(number)
        if known is None:
            gang = self._gangs.placed[number]
            sharing = self._gangs.shares.of(gang.gpu_numbers[0]) if gang.shape.is_share else (number,)
            staying = [self._gangs.placed[each] for each in sharing if not self._is_leaving(each)]
            known = self._prices[number] = sum(stop_price_ms(each, self._now_ms) for each in staying)
        return known

    def preemptible(self, number: int) -> bool:
        """Whether the gang may be ended for others."""
        return self._gangs.placed[number].shape.preemptible

    def rows_on(self, gpus: IntArray) -> Rows:
        """Who holds these GPUs; nobody is anywhere else."""
        numbers, row = np.unique(self.holder[gpus], return_inverse=True)
        nobodys = int(len(numbers) > 0 and numbers[0] == NOBODY)
        holder = np.full(self._fleet.n_gpus, NOBODY, dtype=np.int64)
        holder[gpus] = row - nobodys
        ranks: list[int] = numbers[nobodys:].tolist()
        return Rows(
            fleet=self._fleet,
            floor=Floor(self._fleet.node_of_gpu, holder, self.leaver, self._fleet.first_gpu),
            rows=[self._gangs.placed[number] for number in ranks],
            account_of_row=[self.account(number) for number in ranks],
            rank_of_row=ranks,
        )

    @cached_property
    def account_of_gpu(self) -> IntArray:
        """(n_gpus): index of the account whose gang holds it, -1 none, before anybody is said to make way."""
        numbers, row = np.unique(self.holder, return_inverse=True)
        accounts = [NOBODY if number == NOBODY else self.account(number) for number in numbers.tolist()]
        found: IntArray = np.array(accounts, dtype=np.int64)[row]
        return found

    @cached_property
    def excess(self) -> IntArray:
        """(n_pools, n_accounts): by how much each account is over its count, before anybody is said to make way."""
        n_accounts = len(self._accounts)
        used, own = self.account_of_gpu, np.where(self._usable, self._owner, NOBODY)
        excess = np.zeros((len(self._fleet.pools), n_accounts), dtype=np.int64)
        for accounts, sign in ((used, 1), (own, -1)):
            some = accounts >= 0
            keys = self.pool_of_gpu[some] * n_accounts + accounts[some]
            excess += sign * np.bincount(keys, minlength=excess.size).reshape(excess.shape)
        for gang in self._moving:
            excess[self.pool_of_gpu[gang.gpu_numbers[0]], self._accounts[gang.account]] += gang.shape.gpus
        return excess

    def elsewhere(self, pool: int) -> IntArray:
        """(n_nodes): GPUs of the pool that are free, or that accounts over their count give back at no dear loss."""
        if pool not in self._elsewhere:
            here = self.pool_of_gpu == pool
            free = here & self._usable & (self.holder == NOBODY) & (self.leaver == NOBODY)
            over = here & np.append(self.excess[pool] > 0, np.False_)[self.account_of_gpu]
            cheap = [
                number for number in np.unique(self.holder[over]).tolist() if number != NOBODY and self._cheap(number)
            ]
            free |= over & np.isin(self.holder, cheap)
            self._elsewhere[pool] = np.bincount(self._fleet.node_of_gpu[free], minlength=len(self._fleet.nodes))
        return self._elsewhere[pool]

    def counted(self, account: int, pool: int) -> Counter[Want]:
        """What the account's count holds in the pool that can be preempted; a shared device once."""
        its = np.unique(self.holder[(self.account_of_gpu == account) & (self.pool_of_gpu == pool)])
        gangs = [self._gangs.placed[number] for number in its.tolist() if number != NOBODY]
        gangs += [
            gang
            for gang in self._moving
            if self._accounts[gang.account] == account and self.pool_of_gpu[gang.gpu_numbers[0]] == pool
        ]
        wanted = (demand(gang.shape) for gang in gangs if gang.shape.preemptible)
        return Counter(want for want in wanted if want is not None)

    def _cheap(self, number: int) -> bool:
        return self.preemptible(number) and not dear(self.price(number), self._gangs.placed[number].shape.gpus)

    def _is_leaving(self, number: int) -> bool:
        return self._gangs.placed[number].status is GangStatus.STOPPING

    def _is_moved(self, number: int) -> bool:
        return self._gangs.placed[number].stop_cause in MOVED
