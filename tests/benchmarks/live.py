"""A crowd as a live state: events are folded into it, idle nodes are traded for those who wait, a standing planner
plans, and what they decide is folded in turn.

With a journal a round's events are also encoded and committed to it at its end, as the service does.
"""

from __future__ import annotations

import time
from random import Random

import numpy as np

from scheduler.collecting import collections_wait
from scheduler.core.causes import Cause
from scheduler.core.events import VERSION, Event, GangEnded, GangStarted, GangSubmitted, HealthChanged, encode
from scheduler.core.placement.snapshot import Place, Plan, Snapshot
from scheduler.core.placement.standing import Standing
from scheduler.core.rounds.making_room import make_room
from scheduler.core.rounds.placing import events_of
from scheduler.core.state.state import State
from scheduler.core.workloads import GangSpec, GangStatus
from scheduler.ledger.journal import Entry, Journal

SECOND_MS = 1_000


def state_of(snapshot: Snapshot) -> State:
    """A state that looks like the snapshot, without the events that led there."""
    state = State()
    state.fleet = snapshot.fleet
    n_gpus = snapshot.fleet.n_gpus
    state.health.grow(n_gpus)
    state.gangs.grow(n_gpus)
    state.calendar.grow(snapshot.fleet)
    state.meter.grow(n_gpus, 0)
    state.health.usable[:] = snapshot.usable
    state.health.cause[:] = np.where(snapshot.usable, 0, int(Cause.GPU_FAULT))
    state.calendar.owner_account[:] = snapshot.owner
    state.calendar.until_ms[:] = snapshot.until_ms
    state.accounts.update({name: index for index, name in enumerate(snapshot.accounts)})
    waiting = [gang for shapes in snapshot.queue.values() for gangs in shapes.values() for gang in gangs]
    for gang in sorted([*snapshot.placed.values(), *waiting], key=lambda gang: gang.number):
        state.gangs.restore(gang)
    state.gangs.occupant[:] = snapshot.occupant
    state.now_ms = snapshot.now_ms
    return state


class Live:
    """A state, its planner, and dice for what happens next."""

    def __init__(self, snapshot: Snapshot, seed: int, journal: Journal | None = None) -> None:
        self.state = state_of(snapshot)
        self.journal = journal
        self.planner = Standing()
        self.dice = Random(seed)
        self.now_ms = snapshot.now_ms
        self.asked = [gang.spec for gang in self.state.gangs.waiting()]
        self.submitted = 0
        self.room_s = 0.0
        self.room_cpu_s = 0.0
        self.plan_s = 0.0
        self.plan_cpu_s = 0.0
        self.path_s = 0.0
        self.path_cpu_s = 0.0
        self.placed = 0
        self.swaps = 0

    def round(self) -> Plan:
        """Room made, a plan, as events, folded and kept: timed."""
        with collections_wait():
            return self._round()

    def _round(self) -> Plan:
        begun, cpu = time.perf_counter(), time.process_time()
        swaps = make_room(self.state, self.now_ms)
        entries = [self._folded(swap) for swap in swaps]
        self.room_s, self.room_cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        plan = self.planner.plan(self.state.snapshot(self.now_ms), self.state.take_touched())
        self.plan_s = time.perf_counter() - begun - self.room_s
        self.plan_cpu_s = time.process_time() - cpu - self.room_cpu_s
        entries += [self._folded(event) for event in events_of(plan, self.state, self.now_ms)]
        if self.journal is not None:
            self.journal.commit([entry for entry in entries if entry is not None])
        self.path_s, self.path_cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        self.placed = sum(isinstance(action, Place) for action in plan.actions)
        self.swaps += len(swaps)
        return plan

    def _folded(self, event: Event) -> Entry | None:
        """Fold an event; what a journal keeps of it, if there is one."""
        self.state.apply(event)
        return None if self.journal is None else Entry(event.at_ms, event.kind, VERSION, encode(event))

    def settle(self) -> None:
        """What was stopped is gone, what was placed runs."""
        for number in sorted(self.state.gangs.in_motion):
            gang = self.state.gangs.by_number(number)
            if gang.status is GangStatus.STOPPING:
                self.state.apply(GangEnded(at_ms=self.now_ms, gang=gang.id, attempt=gang.attempt, exit_code=None))
        for number in sorted(self.state.gangs.in_motion):
            gang = self.state.gangs.by_number(number)
            if gang.status is GangStatus.BINDING and not gang.waits_for:
                self.state.apply(GangStarted(at_ms=self.now_ms, gang=gang.id, attempt=gang.attempt))

    def happen(self) -> None:
        """One event: a gang ends, another is submitted, or now and then a node fails or is well again."""
        self.now_ms += self.dice.randrange(SECOND_MS)
        kind = self.dice.randrange(100)
        self.state.apply(self._submitted() if kind < 48 else self._health() if kind < 52 else self._ended())

    def _ended(self) -> Event:
        placed = self.state.gangs.placed
        while True:
            gang = placed.get(self.dice.randrange(len(self.state.gangs.ids)))
            if gang is not None and gang.status is GangStatus.RUNNING:
                return GangEnded(at_ms=self.now_ms, gang=gang.id, attempt=gang.attempt, exit_code=0)

    def _submitted(self) -> Event:
        self.submitted += 1
        spec: GangSpec = self.dice.choice(self.asked)
        return GangSubmitted(at_ms=self.now_ms, gang=f"new{self.submitted}", spec=spec)

    def _health(self) -> Event:
        node = self.dice.choice(self.state.fleet.nodes)
        ill = self.state.health.usable[self.state.gpus_of(node.name)].all()
        return HealthChanged(at_ms=self.now_ms, node=node.name, cause=Cause.GPU_FAULT if ill else None)
