"""Every account alone on the nodes that its lots give: no lending, no borrowing; unsold nodes stay idle.

A node that an account loses at a day's edge is the one with least work to lose; its gangs are stopped. What cannot be
preempted starts only where the account owns enough until its declared end.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces.helios import GPUS_PER_NODE
from tests.benchmarks.sharing.fitting import best_fit
from tests.benchmarks.sharing.site import Site

NOBODY = -1


class Alone:
    """See the module."""

    def __init__(self) -> None:
        self._owner: list[int] = []

    def line_of(self, site: Site, gang: int) -> Hashable:
        """An account's gangs of one shape, and those that cannot be preempted by the days that they last."""
        return site.account[gang], site.workers[gang], site.size[gang], _days(site, gang) if site.firm[gang] else 0

    def turn(self, site: Site) -> None:
        """Give up what is not owned any more, then take what is new, from healthy nodes that nobody has."""
        self._owner = self._owner or [NOBODY] * site.n_nodes
        for node, up in enumerate(site.up):
            if not up:
                self._owner[node] = NOBODY
        for account in range(site.n_accounts):
            self._give_up(site, account)
        for account in range(site.n_accounts):
            missing = site.owned_now(account) // GPUS_PER_NODE - self._owner.count(account)
            for node, owner in enumerate(self._owner):
                if missing > 0 and owner == NOBODY and site.up[node]:
                    self._owner[node] = account
                    missing -= 1

    def _give_up(self, site: Site, account: int) -> None:
        mine = [node for node, owner in enumerate(self._owner) if owner == account]
        surplus = len(mine) - site.owned_now(account) // GPUS_PER_NODE
        if surplus <= 0:
            return
        on_node = {node: [gang for gang, its in site.placed.items() if node in its.where] for node in mine}
        cost = {
            node: sum(site.lost_ms(gang) + (site.firm[gang] << 60) for gang in gangs) for node, gangs in on_node.items()
        }
        for node in sorted(mine, key=lambda node: (cost[node], node))[:surplus]:
            self._owner[node] = NOBODY
            for gang in on_node[node]:
                if gang in site.placed and site.placed[gang].gone_ms is None:
                    site.stop(gang)

    def serve(self, site: Site) -> None:
        """Oldest first, each on its account's nodes."""
        owner = np.array(self._owner)
        free = [0] * site.n_accounts
        for node, account in enumerate(self._owner):
            if account != NOBODY:
                free[account] += int(site.free[node])
        for gang in site.in_order(lambda head: site.gpus[head] <= free[site.account[head]]):
            account = site.account[gang]
            if site.firm[gang] and site.firm_use[account] + site.gpus[gang] > _owned_throughout(site, gang):
                continue
            where = best_fit(np.where(owner == account, site.free, 0), site.workers[gang], site.size[gang])
            if where is not None:
                site.place(gang, where)
                free[account] -= site.gpus[gang]


def _days(site: Site, gang: int) -> int:
    """How many days' edges it may pass until its declared end."""
    return -(-site.declared_ms[gang] // MS_PER_DAY)


def _owned_throughout(site: Site, gang: int) -> int:
    """The fewest GPUs that its account owns on any of these days."""
    return min(by_account[site.account[gang]] for by_account in site.owned[site.day : site.day + _days(site, gang) + 1])
