"""Who holds which GPU and what ending it weighs, as reclaim reads it: the state itself, where no books are open.

Held is a GPU by the gang that has claimed it, else by the one on it that stays; who is told to stop is a leaver there.
Counts are those of placement (`scheduler.core.placement.inside`): what binds, runs or is being moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.moving import given_back
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
        self._gpus_of, self._usable = state.calendar.gpus_of, state.health.usable
        self._names = list(state.accounts)
        self._prices: dict[int, int] = {}
        self._excess: dict[tuple[int, int], int] = {}
        self._elsewhere: dict[int, IntArray] = {}

    @cached_property
    def holder(self) -> IntArray:
        """(n_gpus): number of the gang that has it, -1 none."""
        return self._there[0]

    @cached_property
    def leaver(self) -> IntArray:
        """(n_gpus): number of the gang that is told to stop and still there, -1 none."""
        return self._there[1]

    @cached_property
    def _there(self) -> tuple[IntArray, IntArray]:
        occupant, claimant = self._gangs.occupant, self._gangs.claimant
        there = np.where(claimant != NOBODY, claimant, occupant), np.full_like(occupant, NOBODY)
        for number in sorted(self._gangs.in_motion):
            if self._is_leaving(number):
                self._leave(there, number)
        return there

    def make_way(self, number: int) -> None:
        """The gang leaves its GPUs."""
        self._leave(self._there, number)

    def _leave(self, there: tuple[IntArray, IntArray], number: int) -> None:
        holder, leaver = there
        gpus = np.array(self._gangs.placed[number].gpu_numbers, dtype=np.int64)
        leaver[gpus[self._gangs.occupant[gpus] == number]] = number
        holder[gpus[holder[gpus] == number]] = NOBODY

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

    def excess_of(self, account: int, pool: int) -> int:
        """By how much the account is over its count, before anybody is said to make way."""
        known = self._excess.get((account, pool))
        if known is None:
            staying = (gang for gang in self._gangs_of(account, pool) if gang.status is not GangStatus.STOPPING)
            used = len(set(chain.from_iterable(gang.gpu_numbers for gang in staying)))
            used += sum(gang.shape.gpus for gang in self._moving(account, pool))
            own = self._gpus_of(account)
            own = own[self._usable[own] & (self._pool_of(own) == pool)]
            known = self._excess[account, pool] = used - len(own)
        return known

    def excess(self, accounts: Iterable[int], pool: int) -> IntArray:
        """(n_accounts): the same of these, 0 of others."""
        excess = np.zeros(len(self._names), dtype=np.int64)
        for account in set(accounts):
            excess[account] = self.excess_of(account, pool)
        return excess

    def elsewhere(self, pool: int) -> IntArray:
        """(n_nodes): GPUs of the pool that are free, or that accounts over their count would give back."""
        if pool not in self._elsewhere:
            over = (account for account in range(len(self._names)) if self.excess_of(account, pool) > 0)
            gangs = chain.from_iterable(self._gangs_of(account, pool) for account in over)
            able = (gang for gang in gangs if gang.shape.preemptible and gang.status is not GangStatus.STOPPING)
            free = (
                (self._pool_of(slice(None)) == pool) & self._usable & (self.holder == NOBODY) & (self.leaver == NOBODY)
            )
            free[given_back((gang, self.price(gang.number)) for gang in able)] = True
            self._elsewhere[pool] = np.bincount(self._fleet.node_of_gpu[free], minlength=len(self._fleet.nodes))
        return self._elsewhere[pool]

    def counted(self, account: int, pool: int) -> Counter[Want]:
        """What the account's count holds in the pool that can be preempted; a shared device once."""
        staying = [gang for gang in self._gangs_of(account, pool) if self._holds(gang)]
        gangs = (gang for gang in (*staying, *self._moving(account, pool)) if gang.shape.preemptible)
        return Counter(want for gang in gangs if (want := demand(gang.shape)) is not None)

    def _pool_of(self, gpus: IntArray | int | slice) -> IntArray:
        pools: IntArray = self._fleet.pool_of_node[self._fleet.node_of_gpu[gpus]]
        return pools

    def _gangs_of(self, account: int, pool: int) -> list[Gang]:
        numbers = sorted(self._gangs.placed_of.get(self._names[account], ()))
        gangs = (self._gangs.placed[number] for number in numbers)
        return [gang for gang in gangs if self._pool_of(gang.gpu_numbers[0]) == pool]

    def _moving(self, account: int, pool: int) -> list[Gang]:
        return [
            gang for gang in self._gangs_of(account, pool) if gang.stop_cause in MOVED and self._is_leaving(gang.number)
        ]

    def _holds(self, gang: Gang) -> bool:
        """Whether it has its GPUs, and not behind another share of its device."""
        return int(self.holder[gang.gpu_numbers[0]]) == gang.number

    def _is_leaving(self, number: int) -> bool:
        return self._gangs.placed[number].status is GangStatus.STOPPING
