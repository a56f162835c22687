"""A planner that keeps its books plans as one that begins anew, whatever happened between two rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Plan, Policy
from scheduler.core.placement.standing import Standing
from scheduler.core.workloads import GangSpec
from tests.core.placement.test_rounds import HAPPENINGS, MANY, happen, policies, specs, worlds
from tests.core.placement.test_simulation import Run
from tests.core.placement.watching import Watcher
from tests.core.placement.world import World


class Pair:
    """A standing planner beside one that begins anew; their plans must be equal, and reasons of three rounds are asked
    for after the third.
    """

    def __init__(self, world: World, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.standing = Standing(policy)
        self.watcher = Watcher(world.snapshot())
        self.opened: set[int] = set()
        self.rounds = 0
        self.late: list[tuple[Plan, Plan]] = []
        """Plans whose reasons nobody asked for yet, and what they should be."""

    def round(self, *, carried_out: bool = True) -> Plan:
        """One round of both."""
        snapshot = self.world.snapshot()
        made = self.standing.plan(snapshot, self.watcher.touched(snapshot))
        self.opened.add(id(self.standing._books))
        anew = plan(snapshot, self.policy)
        assert list(map(repr, made.actions)) == list(map(repr, anew.actions))
        assert len(made.waiting) == len(anew.waiting)
        self.rounds += 1
        self.late.append((made, anew))
        if self.rounds % 3 == 0:
            for told, expected in self.late:
                assert dict(told.waiting) == dict(expected.waiting)
            self.late.clear()
        if carried_out:
            self.world.apply(made)
        return made


@MANY
@given(worlds(), st.lists(specs(), min_size=8, max_size=16), policies, st.data())
def test_random_events_are_followed(world: World, asked: list[GangSpec], policy: Policy, data: st.DataObject) -> None:
    pair = Pair(world, policy)
    for spec in asked:
        world.submit(spec)
    pair.round()
    for happening in data.draw(st.lists(st.sampled_from(HAPPENINGS), min_size=10, max_size=40)):
        happen(world, happening, data)
        pair.round(carried_out=data.draw(st.integers(0, 9)) > 0)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_gangs_wish_is_followed(seed: int) -> None:
    """Also with a policy that protects, grows and consolidates; every other run has no shares, so that books stand."""
    run = Run(seed, wishful=True, shares=seed % 2 == 0)
    for _ in range(12):
        run.world.submit(run.spec())
    pair = Pair(run.world, run.policy)
    for step in range(80):
        pair.round(carried_out=step % 10 != 9)
        run.happen()
    assert len(pair.opened) < 80 or seed % 2 == 0


@pytest.mark.parametrize("seed", range(100, 124))
def test_long_runs_are_followed(seed: int) -> None:
    run = Run(seed)
    for _ in range(12):
        run.world.submit(run.spec())
    pair = Pair(run.world, Policy(reckless_idle_ppm=run.policy.reckless_idle_ppm, consolidate=seed % 2 == 0))
    for step in range(120):
        pair.round(carried_out=step % 10 != 9)
        run.happen()


@pytest.mark.parametrize("seed", [200, 202, 203, 205, 206, 207])
def test_nodes_that_trade_owners_are_followed(seed: int) -> None:
    """By books that stand, wherever whole nodes are owned."""
    run = Run(seed, shares=False)
    for _ in range(12):
        run.world.submit(run.spec())
    pair = Pair(run.world, run.policy)
    followed, nodes = 0, range(len(run.world.fleet.nodes))
    for step in range(60):
        pair.round(carried_out=step % 10 != 9)
        books, owner = pair.standing._books, run.world.owner.copy()
        run.happen()
        run.world.now_ms += 1
        run.world.trade(run.dice.choice(nodes), run.dice.choice(nodes))
        same_counts = np.array_equal(np.sort(owner), np.sort(run.world.owner))
        pair.round()
        followed += same_counts and not np.array_equal(owner, run.world.owner) and pair.standing._books is books
    assert followed > 10
