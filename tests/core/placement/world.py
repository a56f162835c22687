"""A small world for placement's tests: a fleet, its owners and gangs, that plans are applied to and time passes in.

It does what the service does, in the simplest way: a stopped gang stays STOPPING until `gone`, a placed one is BINDING
until everybody it waits for is gone, then RUNNING. It shares no code with the planner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.placement.snapshot import Opening, Place, Plan, Snapshot, Stop
from scheduler.core.workloads import Gang, GangSpec, GangStatus, Shape, StopCause, evicted_again, held_shape, shape_of

FOR_EVER_MS = 2**63 - 1
HOUR_MS = 3_600_000


def fleet_of(gpus: Sequence[int], grades: Sequence[str] | None = None, nodes_a_domain: int = 2) -> Fleet:
    """Nodes `node-0 ..` of so many GPUs; every `nodes_a_domain` of them share an NVLink domain."""
    return Fleet.of(
        tuple(
            NodeSpec(
                name=f"node-{i}",
                grade=grades[i] if grades else "H100",
                gpus=count,
                block=f"block-{i // (2 * nodes_a_domain)}",
                domain=f"domain-{i // nodes_a_domain}",
            )
            for i, count in enumerate(gpus)
        )
    )


def spec_of(account: str = "a", workers: int = 1, size: int = 1, **given: Any) -> GangSpec:
    """A gang's specification; it checkpoints every ten minutes unless told otherwise."""
    wished = {"checkpoint_ms": 600_000, "max_runtime_ms": 2 * HOUR_MS, "grace_ms": 0, "restart_ms": 0, **given}
    return GangSpec(account=account, name="g", command=("run",), workers=workers, gpus_per_worker=size, **wished)


class World:
    """The state of a fleet, changed by plans and by what happens."""

    def __init__(self, fleet: Fleet, owners: Sequence[str | None], accounts: Sequence[str] = ("a", "b", "c")) -> None:
        self.now_ms = HOUR_MS
        self.fleet = fleet
        self.accounts = tuple(accounts)
        n_gpus = fleet.n_gpus
        self.usable = np.ones(n_gpus, dtype=np.bool_)
        self.owner = np.array([-1 if name is None else self.accounts.index(name) for name in owners], dtype=np.int32)
        self.until_ms = np.full(n_gpus, FOR_EVER_MS, dtype=np.int64)
        self.occupant = np.full(n_gpus, -1, dtype=np.int64)
        self.claimant = np.full(n_gpus, -1, dtype=np.int64)
        self.shares: dict[int, dict[int, int]] = {}
        self.gangs: dict[int, Gang] = {}
        self.balance_gpu_ms: dict[str, int] = {}
        self.opens: dict[str, Opening] = {}

    # ---- what the planner sees ----

    def snapshot(self) -> Snapshot:
        """The state now."""
        queue: dict[str, dict[Shape, list[Gang]]] = {}
        for gang in sorted(self.gangs.values(), key=lambda gang: gang.order):
            if gang.status is GangStatus.WAITING:
                queue.setdefault(gang.account, {}).setdefault(gang.shape, []).append(gang)
        placed = {number: gang for number, gang in self.gangs.items() if gang.status is not GangStatus.WAITING}
        return Snapshot(
            now_ms=self.now_ms,
            fleet=self.fleet,
            accounts=self.accounts,
            usable=self.usable,
            owner=self.owner,
            until_ms=self.until_ms,
            occupant=self.occupant,
            claimant=self.claimant,
            shares=self.shares,
            growing={number for number, gang in placed.items() if gang.shape.workers < gang.spec.workers},
            placed=placed,
            queue=queue,
            balance_gpu_ms=self.balance_gpu_ms,
            opens=self.opens,
        )

    # ---- what happens ----

    def submit(self, spec: GangSpec, submitted_ms: int | None = None) -> Gang:
        """A new gang at the end of its line."""
        number = max(self.gangs, default=-1) + 1
        at_ms = self.now_ms if submitted_ms is None else submitted_ms
        gang = Gang(
            id=f"gang-{number}",
            number=number,
            spec=spec,
            shape=shape_of(spec),
            submitted_ms=at_ms,
            queued_ms=at_ms,
        )
        self.gangs[number] = gang
        return gang

    def running(self, spec: GangSpec, gpus: Sequence[int], started_ms: int | None = None) -> Gang:
        """A gang that runs on these GPUs already."""
        gang = self.submit(spec)
        hosts = [int(self.fleet.node_of_gpu[gpu]) for gpu in gpus[:: gang.shape.gpus_per_worker]]
        named = tuple((self.fleet.nodes[node].name, int(self.fleet.first_gpu[node])) for node in hosts)
        self._bind(Place(gang=gang, gpu_numbers=tuple(gpus), hosts=named, inside=True, waits_for=()))
        self.start(started_ms)
        return self.gangs[gang.number]

    def apply(self, plan: Plan) -> None:
        """Do what the plan says, in order; refuses what could not be done."""
        for action in plan.actions:
            if isinstance(action, Stop):
                self._stop(action)
            elif isinstance(action, Place):
                self._bind(action)

    def _stop(self, action: Stop) -> None:
        gang = self.gangs[action.gang.number]
        assert gang.status in (GangStatus.BINDING, GangStatus.RUNNING)
        deadline_ms = self.now_ms + gang.spec.grace_ms
        at_ms = evicted_again(gang, self.now_ms) if action.cause is StopCause.RECLAIMED else gang.evicted_ms
        self.gangs[gang.number] = gang.moved(
            GangStatus.STOPPING, stop_cause=action.cause, stop_deadline_ms=deadline_ms, evicted_ms=at_ms
        )
        self.claimant[self.claimant == gang.number] = -1
        self._elect(gang.gpu_numbers[0])

    def _may_join(self, gang: Gang, gpu: int) -> bool:
        """Whether the device is shared by gangs like it that stay, with room for it."""
        on_it = [self.gangs[number] for number in self.shares.get(gpu, ())]
        stays = any(each.status is not GangStatus.STOPPING for each in on_it)
        alike = all((each.account, each.shape.preemptible) == (gang.account, gang.shape.preemptible) for each in on_it)
        return stays and alike and sum(self.shares[gpu].values()) + gang.shape.gpu_milli <= 1_000

    def _elect(self, gpu: int) -> None:
        """The occupant of a shared device is the first of its gangs that stays, else the first."""
        on_it = list(self.shares.get(gpu, ()))
        if on_it:
            staying = [number for number in on_it if self.gangs[number].status is not GangStatus.STOPPING]
            self.occupant[gpu] = (staying or on_it)[0]

    def _bind(self, action: Place) -> None:
        gang = self.gangs[action.gang.number]
        leavers = set()
        for gpu in action.gpu_numbers:
            assert self.usable[gpu], f"GPU {gpu} is not usable"
            assert self.claimant[gpu] < 0, f"GPU {gpu} has a claimant"
            there = int(self.occupant[gpu])
            if there < 0:
                self.occupant[gpu] = gang.number
                if gang.shape.is_share:
                    self.shares[gpu] = {gang.number: gang.shape.gpu_milli}
            elif gang.shape.is_share and self._may_join(gang, gpu):
                self.shares[gpu][gang.number] = gang.shape.gpu_milli
            else:
                on_it = [self.gangs[number] for number in self.shares.get(gpu, {there: 0})]
                assert all(each.status is GangStatus.STOPPING for each in on_it), f"GPU {gpu} is occupied"
                self.claimant[gpu] = gang.number
                leavers |= {each.id for each in on_it}
        assert leavers == set(action.waits_for)
        self.gangs[gang.number] = gang.moved(
            GangStatus.BINDING,
            attempt=gang.attempt + 1,
            shape=held_shape(gang.spec, action.pieces),
            pieces=action.pieces,
            gpu_numbers=action.gpu_numbers,
            waits_for=action.waits_for,
            placed_ms=self.now_ms,
            inside=action.inside,
            started_ms=None,
            stop_cause=None,
        )

    def start(self, started_ms: int | None = None) -> None:
        """Every BINDING gang that waits for nobody runs."""
        present = {gang.id for gang in self.gangs.values() if gang.status is GangStatus.STOPPING}
        for gang in list(self.gangs.values()):
            if gang.status is GangStatus.BINDING and present.isdisjoint(gang.waits_for):
                self.claimant[self.claimant == gang.number] = -1
                if gang.shape.is_share:
                    self.shares.setdefault(gang.gpu_numbers[0], {})[gang.number] = gang.shape.gpu_milli
                    self._elect(gang.gpu_numbers[0])
                else:
                    self.occupant[list(gang.gpu_numbers)] = gang.number
                at_ms = self.now_ms if started_ms is None else started_ms
                self.gangs[gang.number] = gang.moved(GangStatus.RUNNING, started_ms=at_ms, waits_for=())

    def gone(self, number: int) -> None:
        """A STOPPING gang is gone, and waits again."""
        gang = self.gangs[number]
        self._leave(number)
        self.gangs[number] = gang.moved(
            GangStatus.WAITING,
            shape=shape_of(gang.spec),
            pieces=(),
            gpu_numbers=(),
            queued_ms=self.now_ms,
            stop_cause=None,
            stop_deadline_ms=None,
        )

    def end(self, number: int) -> None:
        """A gang ends and leaves."""
        self._leave(number)
        del self.gangs[number]

    def _leave(self, number: int) -> None:
        """The gang's GPUs go to their claimants; what it claimed itself is nobody's claim any more."""
        for gpu, there in list(self.shares.items()):
            if there.pop(number, None) is not None and not there:
                del self.shares[gpu]
            self._elect(gpu)
        mine = self.occupant == number
        self.occupant[mine] = self.claimant[mine]
        for gpu in np.flatnonzero(mine).tolist():
            heir = self.gangs.get(int(self.occupant[gpu]))
            if heir is not None and heir.shape.is_share:
                self.shares[gpu] = {heir.number: heir.shape.gpu_milli}
        self.claimant[mine | (self.claimant == number)] = -1

    def lose_node(self, node: int) -> None:
        """A node fails: nothing may stand there, and what stood there waits again."""
        gpus = list(self.fleet.gpus_of_node(node))
        self.usable[gpus] = False
        for number, gang in list(self.gangs.items()):
            if not set(gang.gpu_numbers).isdisjoint(gpus):
                self._leave(number)
                self.gangs[number] = replace(
                    gang,
                    status=GangStatus.WAITING,
                    shape=shape_of(gang.spec),
                    pieces=(),
                    gpu_numbers=(),
                    waits_for=(),
                    stop_cause=None,
                )

    def hand_over(self, node: int, account: int) -> None:
        """A window's edge: the node gets another owner, but never under a gang that cannot be preempted."""
        if self._may_change_hands(node):
            self.owner[list(self.fleet.gpus_of_node(node))] = account

    def trade(self, left: int, right: int) -> None:
        """Two nodes of one size trade owners and windows, but never under a gang that cannot be preempted."""
        here, there = list(self.fleet.gpus_of_node(left)), list(self.fleet.gpus_of_node(right))
        if len(here) == len(there) and self._may_change_hands(left) and self._may_change_hands(right):
            for array in (self.owner, self.until_ms):
                array[here], array[there] = array[there].copy(), array[here].copy()

    def _may_change_hands(self, node: int) -> bool:
        gpus = list(self.fleet.gpus_of_node(node))
        there = {int(number) for array in (self.occupant, self.claimant) for number in array[gpus] if number >= 0}
        there |= {number for gpu in gpus for number in self.shares.get(gpu, ())}
        return all(self.gangs[number].shape.preemptible for number in there)

    def in_status(self, *statuses: GangStatus) -> list[int]:
        """Numbers of the gangs in these statuses, ascending."""
        return sorted(number for number, gang in self.gangs.items() if gang.status in statuses)


def owners_of(counts: Mapping[str | None, int]) -> list[str | None]:
    """Owners of GPUs 0, 1, ...: so many of each account, in the order given."""
    return [name for name, count in counts.items() for _ in range(count)]


NODE = Level.NODE
DOMAIN = Level.NVLINK_DOMAIN
