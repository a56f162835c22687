"""A fleet on virtual time for the baselines: gangs come, stand on nodes, end; nodes fail; a rule says who starts where.

GPUs of a node are alike, so only their number is kept. A stopped gang stays for its grace; who was promised its GPUs
starts when it is gone. Laws, checked as it goes: no node gives more GPUs than it has, a gang stands whole.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scheduler.core.quantities import MS_PER_DAY
from scheduler.execution.simulated import Fault, NodeDown, NodeUp
from scheduler.replay import book
from scheduler.traces.helios import GPUS_PER_NODE
from tests.benchmarks.sharing.cases import RESTART_MS, Case, gpus_owned
from tests.benchmarks.sharing.tally import Tally

Ints = npt.NDArray[np.int64]
Where = dict[int, int]
"""GPUs by node."""


@dataclass(slots=True)
class Standing:
    """A gang on its nodes: promised them (not started), running, or leaving (`gone_ms`)."""

    where: Where
    serial: int
    """The order in which gangs were placed."""
    attempt: int
    frees: Where
    """What is free, or another's it was promised to, once this gang is gone."""
    claims: dict[int, Where] = field(default_factory=dict)
    """What it gets of each leaving gang; it starts when all of them are gone."""
    started_ms: int | None = None
    gone_ms: int | None = None


class Rule(Protocol):
    """A baseline: which waiting gang starts where, and who makes way."""

    def line_of(self, site: Site, gang: int) -> Hashable:
        """What tells the gang apart from others that would be refused for the same reason."""
        ...

    def turn(self, site: Site) -> None:
        """What was owned or there has changed: a day began, a node failed or came back; also once at the start."""
        ...

    def serve(self, site: Site) -> None:
        """Start what may start now, by `site.place`, and stop who makes way, by `site.stop`."""
        ...


class Site:
    """See the module. `tally` hears everything that happens."""

    def __init__(self, case: Case, tally: Tally) -> None:
        gangs = case.replay.gangs
        self.case, self.tally = case, tally
        self.now_ms = 0
        self.account: list[int] = gangs.tenant.tolist()
        self.workers: list[int] = gangs.workers.tolist()
        self.size: list[int] = gangs.gpus_per_worker.tolist()
        self.gpus: list[int] = gangs.gpus.tolist()
        self.work_ms: list[int] = gangs.duration_ms.tolist()
        self.declared_ms: list[int] = gangs.declared_ms.tolist()
        self.checkpoint_ms: list[int] = gangs.checkpoint_ms.tolist()
        self.grace_ms: list[int] = gangs.grace_ms.tolist()
        self.firm: list[bool] = (~gangs.preemptible).tolist()
        self.submitted_ms: list[int] = gangs.submitted_ms.tolist()
        self.owned: list[list[int]] = gpus_owned(case).tolist()
        self.n_accounts = len(case.replay.tenants)
        self.n_nodes = case.replay.nodes
        self.free: Ints = np.full(self.n_nodes, GPUS_PER_NODE, dtype=np.int64)
        self.up = [True] * self.n_nodes
        self._number_of_node = {node.name: number for number, node in enumerate(book.nodes(self.n_nodes))}
        self.placed: dict[int, Standing] = {}
        self.lines: dict[Hashable, list[int]] = {}
        """Waiting gangs, oldest first (gangs are numbered by submission); no line is empty."""
        self.held: dict[int, int] = {}
        """Gangs that count as placed and have no node yet, and the order in which they were let in."""
        self.use = [0] * self.n_accounts
        """GPUs of each account's gangs that are placed and were not told to go."""
        self.firm_use = [0] * self.n_accounts
        self._kept_ms: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._serial = 0
        self._coming: list[tuple[int, int, int, int]] = []  # (instant, 0 gone or 1 done, gang, attempt)
        self._line_of: Callable[[int], Hashable] = lambda gang: gang

    # -- what a rule reads ---------------------------------------------------------------------------------------------

    @property
    def day(self) -> int:
        """The day of the calendar."""
        return self.now_ms // MS_PER_DAY

    @property
    def healthy_gpus(self) -> int:
        """GPUs of the nodes that are there."""
        return GPUS_PER_NODE * sum(self.up)

    def owned_now(self, account: int) -> int:
        """GPUs that the account's lots give today."""
        return self.owned[self.day][account]

    def in_order(self, may: Callable[[int], bool]) -> Iterator[int]:
        """Heads of the lines, oldest first; a line goes on after a head that was placed, and is left after one
        that was not. `may` says cheaply whether a head is worth offering.
        """
        heads = [(line[0], key) for key, line in self.lines.items() if may(line[0])]
        order = [(head, number, key) for number, (head, key) in enumerate(heads)]
        heapify(order)
        while order:
            head, number, key = heappop(order)
            if self.lines.get(key, [None])[0] != head:
                continue
            yield head
            line = self.lines.get(key)
            if line and line[0] != head and may(line[0]):
                heappush(order, (line[0], number, key))

    def lost_ms(self, gang: int) -> int:
        """GPU-ms lost by stopping the gang now."""
        standing = self.placed[gang]
        ran_ms = 0 if standing.started_ms is None else self.now_ms - standing.started_ms
        every_ms = self.checkpoint_ms[gang]
        since_ms = ran_ms % every_ms if every_ms else ran_ms
        return self.gpus[gang] * (since_ms + RESTART_MS + self.grace_ms[gang])

    # -- what a rule does ----------------------------------------------------------------------------------------------

    def place(self, gang: int, where: Where, victims: tuple[int, ...] = ()) -> None:
        """Give a waiting gang these nodes; what is not free there comes from `victims`, stopped before."""
        serial = self.held.pop(gang, None)
        if serial is None:
            serial = self._admit(gang)
        assert sum(where.values()) == self.gpus[gang], "a gang stands whole"
        assert all(gpus % self.size[gang] == 0 for gpus in where.values()), "a worker stands on one node"
        attempt = self._attempts[gang] = self._attempts.get(gang, 0) + 1
        standing = self.placed[gang] = Standing(dict(where), serial, attempt, frees={})
        for node, gpus in where.items():
            standing.frees[node] = taken = min(gpus, int(self.free[node]))
            self.free[node] -= taken
            missing = gpus - taken
            for victim in victims:
                leaver = self.placed.get(victim)
                promised = 0 if leaver is None else min(missing, leaver.frees.get(node, 0))
                if leaver is not None and promised:
                    leaver.frees[node] -= promised
                    standing.claims.setdefault(victim, {})[node] = promised
                    missing -= promised
            assert missing == 0, "no node gives more GPUs than it has"
        if not standing.claims:
            self._start(gang)

    def hold(self, gang: int) -> None:
        """Let a waiting gang count as placed; `place` gives it nodes when there are some."""
        self.held[gang] = self._admit(gang)

    def let_wait(self, gang: int) -> None:
        """A held gang waits in its line again."""
        del self.held[gang]
        self._count(gang, -1)
        self.tally.stop_asked(gang, self.now_ms, moved=False)
        self._queue(gang)

    def _admit(self, gang: int) -> int:
        key = self._line_of(gang)
        self.lines[key].remove(gang)
        if not self.lines[key]:
            del self.lines[key]
        self._serial += 1
        self._count(gang, 1)
        self.tally.placed(gang, self.now_ms)
        return self._serial

    def stop(self, gang: int) -> None:
        """Tell a placed gang to go: it is gone after its grace, at once where it never started."""
        standing = self.placed[gang]
        assert standing.gone_ms is None, "told once"
        self._count(gang, -1)
        self.tally.stop_asked(gang, self.now_ms, moved=False)
        if standing.started_ms is None:
            self._let_go(gang)
            return
        standing.gone_ms = self.now_ms + self.grace_ms[gang]
        self._keep(gang, standing, self.now_ms)
        heappush(self._coming, (standing.gone_ms, 0, gang, standing.attempt))

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, rule: Rule) -> None:
        """From the first instant to the last."""
        self._line_of = lambda gang: rule.line_of(self, gang)
        replay = self.case.replay
        faults = list(self.case.faults)
        coming = 0
        rule.turn(self)
        while True:
            instants = [self._coming[0][0]] if self._coming else []
            if coming < len(self.gpus):
                instants.append(self.submitted_ms[coming])
            if faults:
                instants.append(faults[0].at_ms - replay.origin_ms)
            instants.append((self.day + 1) * MS_PER_DAY)
            at_ms = min(instants)
            if at_ms >= replay.end_ms:
                break
            turned = at_ms // MS_PER_DAY != self.day
            self.now_ms = at_ms
            while faults and faults[0].at_ms - replay.origin_ms <= at_ms:
                self._break(faults.pop(0))
                turned = True
            self._happen()
            while coming < len(self.gpus) and self.submitted_ms[coming] <= at_ms:
                self.tally.submitted(coming, at_ms)
                self._queue(coming)
                coming += 1
            if turned:
                rule.turn(self)
            rule.serve(self)
        self.tally.finish()

    def _happen(self) -> None:
        while self._coming and self._coming[0][0] <= self.now_ms:
            _, kind, gang, attempt = heappop(self._coming)
            standing = self.placed.get(gang)
            if standing is None or standing.attempt != attempt or (kind == 1) != (standing.gone_ms is None):
                continue
            if kind == 1:
                self._count(gang, -1)
            self._let_go(gang, done=kind == 1)

    def _start(self, gang: int) -> None:
        standing = self.placed[gang]
        standing.started_ms = self.now_ms
        self.tally.started(gang, self.now_ms)
        kept_ms = self._kept_ms.get(gang)
        left_ms = self.work_ms[gang] if kept_ms is None else RESTART_MS + self.work_ms[gang] - kept_ms
        heappush(self._coming, (self.now_ms + left_ms, 1, gang, standing.attempt))

    def _let_go(self, gang: int, *, done: bool = False, failed: bool = False) -> None:
        """The gang is gone: its GPUs go to whom they were promised, the others are free."""
        standing = self.placed.pop(gang)
        for victim, claimed in standing.claims.items():
            add(self.placed[victim].frees, claimed)
        for node, gpus in standing.frees.items():
            self.free[node] += gpus
        self.tally.ended(gang, self.now_ms, failed=failed)
        heirs = [heir for heir, its in self.placed.items() if gang in its.claims] if standing.gone_ms else []
        for heir in heirs:
            its = self.placed[heir]
            add(its.frees, its.claims.pop(gang))
            if not its.claims:
                self._start(heir)
        if not done:
            self._queue(gang)

    def _keep(self, gang: int, standing: Standing, at_ms: int) -> None:
        kept_ms = self._kept_ms.get(gang)
        started_ms = at_ms if standing.started_ms is None else standing.started_ms
        worked_ms = max(0, at_ms - started_ms - (0 if kept_ms is None else RESTART_MS))
        every_ms = self.checkpoint_ms[gang]
        saved_ms = worked_ms - worked_ms % every_ms if every_ms else 0
        self._kept_ms[gang] = (kept_ms or 0) + saved_ms

    def _break(self, fault: Fault) -> None:
        """A node is lost with all that stands on it, or back."""
        node = self._number_of_node[fault.node]
        if isinstance(fault, NodeUp) and not self.up[node]:
            self.up[node] = True
            self.free[node] = GPUS_PER_NODE
        elif isinstance(fault, NodeDown) and self.up[node]:
            self.up[node] = False
            lost = [gang for gang, standing in self.placed.items() if node in standing.where]
            # Those that have not started first: none of them may start on what the others leave.
            for gang in sorted(lost, key=lambda gang: (self.placed[gang].started_ms is not None, gang)):
                standing = self.placed[gang]
                if standing.gone_ms is None:
                    self._count(gang, -1)
                    if standing.started_ms is not None:
                        self._keep(gang, standing, self.now_ms)
                self._let_go(gang, failed=True)
            assert self.free[node] == GPUS_PER_NODE, "a lost node is empty"
            self.free[node] = 0
        self.tally.health(sum(self.up), self.now_ms)

    def _queue(self, gang: int) -> None:
        insort(self.lines.setdefault(self._line_of(gang), []), gang)

    def _count(self, gang: int, sign: int) -> None:
        self.use[self.account[gang]] += sign * self.gpus[gang]
        if self.firm[gang]:
            self.firm_use[self.account[gang]] += sign * self.gpus[gang]


def add(to: Where, more: Where) -> None:
    """Add GPUs node by node."""
    for node, gpus in more.items():
        to[node] = to.get(node, 0) + gpus
