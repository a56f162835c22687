"""Count quotas with borrowing and reclaim, as Kueue, KAI and Volcano give them.

An account's quota is the count of GPUs that its lots give today. A gang within it may take the GPUs of accounts that
are over theirs: gangs are chosen newest first while their account is over its quota, until there is room, and those
that turn out not to be needed stay, oldest first (Kueue's order). The others borrow what is free, oldest first. What
cannot be preempted must be within its quota (as in KAI). The calendar is not known to a quota.

`Aware` looks at nodes when it admits and when it makes room (KAI; Kueue with topology). `Blind` counts only: an
admitted gang holds its quota and starts when nodes happen to have room.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from tests.benchmarks.sharing.fitting import best_fit
from tests.benchmarks.sharing.site import Ints, Site


def account_line(site: Site, gang: int) -> Hashable:
    """An account's gangs of one shape and kind."""
    return site.account[gang], site.workers[gang], site.size[gang], site.firm[gang]


def within_quota(site: Site, gang: int) -> bool:
    """Whether the account's count holds the gang besides what it uses."""
    account = site.account[gang]
    return site.use[account] + site.gpus[gang] <= site.owned_now(account)


class Aware:
    """See the module."""

    def line_of(self, site: Site, gang: int) -> Hashable:
        """See `account_line`."""
        return account_line(site, gang)

    def turn(self, site: Site) -> None:
        """Quotas are read when they are needed; nobody is stopped before somebody asks."""

    def serve(self, site: Site) -> None:
        """First those within their quota, oldest first, then borrowers."""
        for gang in site.in_order(lambda head: within_quota(site, head)):
            if not self._free(site, gang):
                self._reclaim(site, gang)
        for gang in site.in_order(lambda head: not site.firm[head] and site.gpus[head] <= int(site.free.sum())):
            self._free(site, gang)

    def _free(self, site: Site, gang: int) -> bool:
        where = best_fit(site.free, site.workers[gang], site.size[gang])
        if where is not None:
            site.place(gang, where)
        return where is not None

    def _reclaim(self, site: Site, gang: int) -> None:
        workers, size = site.workers[gang], site.size[gang]
        candidates = newest_over_quota(site)
        if best_fit(_without(site, candidates), workers, size) is None:
            return
        chosen: list[int] = []
        room = site.free.copy()
        for victim in candidates:
            chosen.append(victim)
            _leave(site, room, victim)
            if best_fit(room, workers, size) is not None:
                break
        for victim in sorted(chosen, key=lambda other: site.placed[other].serial):
            fewer = [other for other in chosen if other != victim]
            if best_fit(_without(site, fewer), workers, size) is not None:
                chosen = fewer
        where = best_fit(_without(site, chosen), workers, size)
        if where is not None:
            for victim in chosen:
                site.stop(victim)
            site.place(gang, where, tuple(chosen))


class Blind:
    """See the module."""

    def line_of(self, site: Site, gang: int) -> Hashable:
        """See `account_line`."""
        return account_line(site, gang)

    def turn(self, site: Site) -> None:
        """Quotas are read when they are needed."""

    def serve(self, site: Site) -> None:
        """Start whom nodes have room for, admit by counts, start again."""
        self._start(site)
        for gang in site.in_order(lambda head: within_quota(site, head)):
            if self._has_count(site, gang) or self._reclaimed(site, gang):
                site.hold(gang)
        for gang in site.in_order(lambda head: not site.firm[head] and self._has_count(site, head)):
            site.hold(gang)
        self._start(site)

    def _has_count(self, site: Site, gang: int) -> bool:
        return sum(site.use) + site.gpus[gang] <= site.healthy_gpus

    def _start(self, site: Site) -> None:
        for gang in list(site.held):
            where = best_fit(site.free, site.workers[gang], site.size[gang])
            if where is not None:
                site.place(gang, where)

    def _reclaimed(self, site: Site, gang: int) -> bool:
        missing = sum(site.use) + site.gpus[gang] - site.healthy_gpus
        chosen: list[int] = []
        for victim in newest_over_quota(site):
            if missing <= 0:
                break
            chosen.append(victim)
            missing -= site.gpus[victim]
        if missing > 0:
            return False
        for victim in reversed(chosen):
            if missing + site.gpus[victim] <= 0:
                missing += site.gpus[victim]
            elif victim in site.held:
                site.let_wait(victim)
            else:
                site.stop(victim)
        return True


def newest_over_quota(site: Site) -> list[int]:
    """Gangs that may be stopped, newest first, each while its account is over its quota without the ones before it."""
    over = {account: site.use[account] - site.owned_now(account) for account in range(site.n_accounts)}
    serial = {gang: its.serial for gang, its in site.placed.items() if its.gone_ms is None} | site.held
    candidates: list[int] = []
    for gang in sorted(serial, key=lambda gang: -serial[gang]):
        account = site.account[gang]
        if over[account] > 0 and not site.firm[gang]:
            candidates.append(gang)
            over[account] -= site.gpus[gang]
    return candidates


def _without(site: Site, gangs: Iterable[int]) -> Ints:
    """(n_nodes): what is free once these are gone."""
    room = site.free.copy()
    for gang in gangs:
        _leave(site, room, gang)
    return room


def _leave(site: Site, room: Ints, gang: int) -> None:
    for node, gpus in site.placed[gang].frees.items():
        room[node] += gpus
