"""A pool's replica: what planning needs of one pool, kept up to date by deltas, and the plan made of it.

The same code runs in an actor and in the scheduler's own process. Law: equal deltas in equal order give equal plans.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scheduler.core.errors import Damaged
from scheduler.core.placement.pools import PoolFleet
from scheduler.core.placement.snapshot import Policy, Snapshot, Touched
from scheduler.core.placement.standing import Standing
from scheduler.core.workloads import Gang, GangStatus, Shape
from scheduler.planners.arrays import Array
from scheduler.planners.deltas import (
    COLUMNS,
    NOWHERE,
    Answer,
    Delta,
    Mark,
    PoolNodes,
    decode_ask,
    decode_delta,
    encode_answer,
    next_mark,
)
from scheduler.planners.verdicts import NOTHING, Verdicts


@dataclass(slots=True, eq=False)
class PoolReplica:
    """See the module. Empty until a delta with the pool's nodes is applied."""

    fleet: PoolFleet = field(default_factory=PoolFleet)
    accounts: list[str] = field(default_factory=list)
    balances: dict[str, int] = field(default_factory=dict)
    columns: dict[str, Array] = field(default_factory=dict)
    gangs: dict[int, Gang] = field(default_factory=dict)
    """Every gang that waits for the pool or stands in it, by number."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The numbers of `gangs` by their ids."""
    placed: dict[int, Gang] = field(default_factory=dict)
    queue: dict[str, dict[Shape, list[Gang]]] = field(default_factory=dict)
    shares: dict[int, dict[int, int]] = field(default_factory=dict)
    elastic: set[int] = field(default_factory=set)
    """Numbers of the placed elastic gangs."""
    _touched: Touched | None = None
    """What changed since the last plan; None: everything may have."""
    _policy: Policy = field(default_factory=Policy)
    _standing: Standing | None = None
    """The planner with the books of the last plan; None: it begins anew."""

    def apply(self, delta: Delta) -> None:
        """Take in what changed. Raises Damaged where it does not fit what is here."""
        if delta.pool is not None:
            self._start(delta.pool)
        self.accounts.extend(delta.accounts)
        if delta.balances is not None:
            self.balances = dict(delta.balances)
        for number in delta.gone:
            self._drop(number)
        for gang in delta.gangs.gangs(self.gangs):
            self._keep(gang)
        for gpu, there in delta.shares:
            self.shares[gpu] = dict(there)
            if not there:
                del self.shares[gpu]
        for column, (where, values) in zip(COLUMNS, delta.changes, strict=True):
            array = self.columns.get(column.name)
            if len(where) and (array is None or int(where.max()) >= len(array)):
                raise Damaged(f"a delta changes {column.name} of an entry that its pool does not have")
            if array is not None:
                array[where] = values
        self._note(delta)

    def snapshot(self, now_ms: int) -> Snapshot:
        """The pool as a round sees it. Shares the replica's arrays."""
        arrays: dict[str, Any] = self.columns
        return Snapshot(
            now_ms=now_ms,
            fleet=self.fleet,
            accounts=tuple(self.accounts),
            placed=self.placed,
            queue=self.queue,
            shares=self.shares,
            growing=self._growing(),
            balance_gpu_ms=self.balances,
            **arrays,
        )

    def _growing(self) -> list[int]:
        """Numbers of the placed elastic gangs that have fewer workers than they ask for."""
        gangs = (self.placed[number] for number in sorted(self.elastic))
        return [gang.number for gang in gangs if gang.shape.workers < gang.spec.workers]

    def plan(self, now_ms: int, policy: Policy) -> Verdicts:
        """The pool's plan for this instant."""
        if not self.fleet.nodes:
            return NOTHING
        if self._standing is None or policy != self._policy:
            self._standing, self._policy, self._touched = Standing(policy), policy, None
        touched, self._touched = self._touched, Touched()
        made = self._standing.plan(self.snapshot(now_ms), touched)
        return Verdicts.of(made, self.numbers, self.queue)

    def _start(self, pool: PoolNodes) -> None:
        self.fleet = PoolFleet(pool.nodes, pool.domains, pool.blocks)
        n_gpus = self.fleet.n_gpus
        self.columns = {column.name: np.full(n_gpus, column.fresh, dtype=column.kind) for column in COLUMNS}
        self.accounts, self.balances = [], {}
        self.gangs, self.numbers, self.placed, self.queue, self.shares = {}, {}, {}, {}, {}
        self.elastic = set()
        self._standing = self._touched = None

    def _note(self, delta: Delta) -> None:
        """What of a delta the next plan must read anew, beside the gangs."""
        if self._touched is None:
            return
        for column, (where, _) in zip(COLUMNS, delta.changes, strict=True):
            if column.name in {"usable", "occupant", "claimant"}:
                self._touched.gpus.update(where.tolist())
            elif len(where):
                self._touched.ownership = True
        self._touched.gpus.update(gpu for gpu, _ in delta.shares)

    def _touch(self, gang: Gang) -> None:
        if self._touched is None:
            return
        if gang.status is GangStatus.WAITING:
            self._touched.lines.add((gang.account, gang.shape))
        else:
            self._touched.gangs.add(gang.number)

    def _keep(self, gang: Gang) -> None:
        self._drop(gang.number)
        self.gangs[gang.number] = gang
        self.numbers[gang.id] = gang.number
        self._touch(gang)
        if gang.status is GangStatus.WAITING:
            line = self.queue.setdefault(gang.account, {}).setdefault(gang.shape, [])
            if line and gang.order < line[-1].order:
                insort(line, gang, key=lambda waiting: waiting.order)
            else:  # most come last
                line.append(gang)
        else:
            self.placed[gang.number] = gang
            if gang.spec.is_elastic:
                self.elastic.add(gang.number)

    def _drop(self, number: int) -> None:
        gang = self.gangs.pop(number, None)
        if gang is None:
            return
        del self.numbers[gang.id]
        self._touch(gang)
        if gang.status is not GangStatus.WAITING:
            del self.placed[number]
            self.elastic.discard(number)
            return
        shapes = self.queue[gang.account]
        line = shapes[gang.shape]
        # A line is served from its head.
        line.pop(0 if line[0] is gang else bisect_left(line, gang.order, key=lambda waiting: waiting.order))
        if not line:
            del shapes[gang.shape]
        if not shapes:
            del self.queue[gang.account]


@dataclass(slots=True)
class ReplicaServer:
    """A replica that is told and asked in bytes: what an actor holds."""

    replica: PoolReplica = field(default_factory=PoolReplica)
    mark: Mark = NOWHERE

    def serve(self, body: bytes) -> bytes:
        """Apply and plan what an encoded `Ask` says; an encoded `Answer`. Raises Damaged on bytes that are none.

        An ask at `NOWHERE` starts anew; one at another mark than the replica's is refused, and nothing changes.
        """
        ask, encoded = decode_ask(body)
        if ask.mark not in {self.mark, NOWHERE}:
            return encode_answer(Answer(self.mark, None))
        if encoded:
            delta = decode_delta(encoded)
            self.mark = NOWHERE  # where applying fails midway, the next ask is refused
            self.replica.apply(delta)
            self.mark = next_mark(ask.mark, encoded)
        verdicts = NOTHING if ask.policy is None else self.replica.plan(ask.now_ms, ask.policy)
        return encode_answer(Answer(self.mark, verdicts))
