"""The production loop with pools planned apart: the same journal as planned whole where there is one pool, and every
law where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Policy
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus
from scheduler.execution.simulated import Fault, NodeDown, NodeUp, Work
from scheduler.planners.planner import HERE, LocalPlanner, Planned, Planner
from scheduler.planners.pools_planner import EVERY_FLEET, Extent, PoolsPlanner
from tests.simulation.site import START_MS, Site, gang, listing, nodes

STEPS = 60
"""Of two seconds each."""


def apart() -> PoolsPlanner:
    """Pools planned one by one, in this process."""
    return PoolsPlanner(None, EVERY_FLEET)


def history(seed: int, fleet: Sequence[NodeSpec], planner: Callable[[], Planner]) -> Site:
    """A site with lots, failures and a crowd of gangs, every law checked after each round."""
    dice = Random(seed)
    lasts = {f"gang-{number}": dice.randrange(2_000, 40_000) for number in range(1, 200)}
    faults: tuple[Fault, ...] = (NodeDown("node-1", START_MS + 30_000), NodeUp("node-1", START_MS + 60_000))
    site = Site(fleet, work=lambda launch: Work(lasts[launch.gang], start_ms=100), faults=faults, planner=planner)
    site.round()
    site.listed(listing())
    for position, account in (("p-1", "acme"), ("p-2", "bolt")):
        site.trade(position, account, 1)
    for step in range(STEPS):
        for _ in range(dice.choice((0, 1, 1, 3))):
            account, size = dice.choice(("acme", "bolt", "core")), dice.choice((1, 2, 4, 8))
            grade = dice.choice((None, None, "H100", "A100"))
            site.submit(gang(account, size, grade=grade, checkpoint_ms=60_000, grace_ms=dice.choice((0, 3_000))))
        site.until(2_000 * (step + 1))
    return site


def several_pools() -> tuple[NodeSpec, ...]:
    """Three pools, their nodes interleaved."""
    kinds = (("H100", "local"), ("A100", "local"), ("H100", "local"), ("H100", "far"))
    return tuple(
        NodeSpec(name=f"node-{i}", grade=kinds[i % 4][0], site=kinds[i % 4][1], gpus=8, domain=f"domain-{i // 2}")
        for i in range(8)
    )


class Compared(LocalPlanner):
    """A local planner whose every plan is also made anew."""

    compared = 0

    def plan(self, state: State, now_ms: int, spares: Sequence[str], policy: Policy, *, first: bool = True) -> Planned:
        """See Planner."""
        anew = plan(state.snapshot(now_ms, spares), policy)
        kept = super().plan(state, now_ms, spares, policy, first=first)
        assert kept.plan.actions == anew.actions
        assert dict(kept.plan.waiting) == dict(anew.waiting)
        Compared.compared += 1
        return kept


@pytest.mark.parametrize("fleet", [nodes(4), several_pools()], ids=["one pool", "several"])
def test_the_local_planner_keeps_books_and_plans_as_if_it_kept_none(fleet: tuple[NodeSpec, ...]) -> None:
    before = Compared.compared
    site = history(5, fleet, Compared)
    assert Compared.compared - before > STEPS
    assert site.kinds().count("gang_placed") > 20


@pytest.mark.parametrize("seed", [1, 2])
def test_one_pool_planned_apart_leaves_the_journal_of_one_planned_whole(seed: int) -> None:
    whole = history(seed, nodes(4), LocalPlanner)
    by_pools = history(seed, nodes(4), apart)
    assert by_pools.journal.head == whole.journal.head
    assert whole.kinds().count("gang_placed") > 20


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_several_pools_planned_apart_keep_every_law_at_every_step(seed: int) -> None:
    site = history(seed, several_pools(), apart)
    ended = [each for each in site.scheduler.state.gangs.by_id.values() if each.status is GangStatus.SUCCEEDED]
    assert len(site.scheduler.state.fleet.pools) == 3
    assert len(ended) > 10
    assert site.scheduler.planned_by == HERE


def test_a_fleet_is_planned_apart_from_the_size_on_that_pays() -> None:
    fleet = Fleet.of(several_pools())
    assert Extent(pools=3, gpus=64).holds(fleet)
    assert not Extent(pools=4, gpus=64).holds(fleet)
    assert not Extent(pools=3, gpus=65).holds(fleet)
