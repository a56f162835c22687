"""The rows of a round's books: gangs that are or were placed, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scheduler.core.cluster import Fleet
from scheduler.core.placement.devices import Rider
from scheduler.core.placement.view import Past
from scheduler.core.workloads import MOVED, Gang, GangStatus


class Rows:
    """See the module. A row's rank breaks ties: ranks follow numbers, and rows opened by the round come after."""

    def __init__(self, fleet: Fleet, gangs: list[Gang], accounts: list[int], riders: Mapping[int, list[Rider]]) -> None:
        """One row for each of these gangs, which are placed, by number, and are of these accounts; `riders`, by number:
        who is beside it on a device.
        """
        self._fleet, self._n_pools = fleet, len(fleet.pools)
        self.rows = gangs
        self.account_of_row = accounts
        self.pool_of_row = self.pools_of(gangs)
        self.gpus_of_row = [gang.gpu_numbers for gang in gangs]
        self.firm_of_row = [not gang.shape.preemptible for gang in gangs]
        self.stopped = {row for row, gang in enumerate(gangs) if gang.status is GangStatus.STOPPING}
        self.counts_of_row = [True] * len(gangs)
        for row in self.stopped:
            there = (gangs[row], *(rider.gang for rider in riders.get(gangs[row].number, ())))
            self.counts_of_row[row] = any(gang.stop_cause in MOVED for gang in there)  # it comes back at once
        self.rank_of_row = [gang.number for gang in gangs]
        self._parts: dict[tuple[int, int], list[int]] = {}
        self._by_part: tuple[list[int], list[int]] | None = None
        self._dealt = 0
        """How many rows are in parts."""
        self._past: Past | None = None

    def past(self) -> Past:
        """Rows as they are now, to be asked later."""
        past, before = Past(), self._past
        if before is not None:
            before.after = past
        self._past = past
        return past

    def remember(self, row: int) -> None:
        """The row will be another: what it is, for whoever asks what it was."""
        if self._past is not None and row not in self._past.changed:
            self._past.changed[row] = self.rows[row], self.counts_of_row[row]

    def pools_of(self, gangs: Sequence[Gang]) -> list[int]:
        """The pool of each of these, which are placed."""
        if self._n_pools <= 1:
            return [0] * len(gangs)
        firsts = [gang.gpu_numbers[0] if gang.gpu_numbers else 0 for gang in gangs]
        return list(map(int, self._fleet.pool_of_node[self._fleet.node_of_gpu[firsts]]))

    def rows_of(self, account: int, pool: int) -> list[int]:
        """All rows of the account in the pool, in order of rank, also those that ended in this round."""
        return sorted(self.part(account, pool), key=self.rank_of_row.__getitem__)

    def part(self, account: int, pool: int) -> list[int]:
        """The same in any order; rows that will be opened are put into it."""
        if self._by_part is None:
            self._sort_out()
        elif self._dealt < len(self.rows):
            self._deal()
        return self._part(account, pool)

    def _sort_out(self) -> None:
        """Sort all rows by part at once."""
        part = np.array(self.account_of_row, dtype=np.int64) * self._n_pools + self.pool_of_row
        order = part.argsort(kind="stable")
        n_parts = int(part.max(initial=-1)) + 1
        self._by_part = order.tolist(), part[order].searchsorted(np.arange(n_parts + 1)).tolist()
        self._dealt = len(self.rows)

    def _deal(self) -> None:
        """Put the rows that were opened since into their parts."""
        for row in range(self._dealt, len(self.rows)):
            self._part(self.account_of_row[row], self.pool_of_row[row]).append(row)
        self._dealt = len(self.rows)

    def _part(self, account: int, pool: int) -> list[int]:
        rows = self._parts.get((account, pool))
        if rows is None:
            listed, firsts = self._by_part or ([], [0])
            at = account * self._n_pools + pool
            rows = listed[firsts[at] : firsts[at + 1]] if at + 1 < len(firsts) else []
            self._parts[account, pool] = rows
        return rows

    def open_rows(
        self,
        gangs: Sequence[Gang],
        numbers: Sequence[tuple[int, ...]],
        accounts: Sequence[int],
        pools: Sequence[int],
        ranks: Sequence[int],
    ) -> None:
        """A row for each of these gangs, on these GPUs, of these accounts in these pools."""
        self.rows += gangs
        self.gpus_of_row += numbers
        self.account_of_row += accounts
        self.pool_of_row += pools
        self.counts_of_row += [True] * len(gangs)
        self.firm_of_row += [not gang.shape.preemptible for gang in gangs]
        self.rank_of_row += ranks

    def is_placed(self, row: int) -> bool:
        """Whether the row holds GPUs: BINDING or RUNNING, and not ended by this round."""
        return row not in self.stopped
