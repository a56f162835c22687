"""Planning pool by pool: the same as the whole where there is one pool, lawful where there are several."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place
from scheduler.planners.coordinator import Coordinator
from tests.core.placement.test_simulation import MINUTE_MS
from tests.planners.crowds import Crowd

WISHES = pytest.mark.parametrize("wishful", [False, True], ids=["plain", "wishful"])
"""Wishful gangs are elastic, share devices, stand apart, and have deadlines."""


@WISHES
@pytest.mark.parametrize("seed", [1, 2, 3, 5, 6, 7])
def test_with_one_pool_the_plan_and_its_reasons_are_those_of_the_whole(seed: int, wishful: bool) -> None:  # noqa: FBT001
    crowd = Crowd(seed, pools=False, wishful=wishful)
    assert len(crowd.world.fleet.pools) == 1
    for _ in range(120):
        expected = plan(crowd.world.snapshot(), crowd.policy)
        waiting = {number for line in crowd.lines().values() for number in line}
        waiting -= {action.gang.number for action in expected.actions if isinstance(action, Place)}
        whole = {key: expected.waiting[key] for key, line in crowd.lines().items() if waiting & set(line)}
        planned = crowd.coordinator.plan(crowd.world.snapshot(), crowd.policy)
        assert planned.plan.actions == expected.actions
        assert planned.plan.backfill == expected.backfill
        assert dict(planned.plan.waiting) == whole
        assert len(planned.plan.waiting) == len(whole)
        assert not planned.unfinished
        crowd.world.apply(expected)
        crowd.happen()
    assert crowd.world.now_ms


def test_who_stands_back_in_which_pool_is_told_as_by_one_planner_of_all() -> None:
    """Every gang names its grade, so that nobody wanders: what each pool says of its lines is what the whole says."""
    told: Counter[str] = Counter()
    for seed in range(1, 9):
        crowd = Crowd(seed, pools=True, wishful=True, wander=False)
        crowd.policy = replace(crowd.policy, protect_after_ms=5 * MINUTE_MS, grow=False, consolidate=False)
        for _ in range(120):
            whole = plan(crowd.world.snapshot(), crowd.policy)
            planned = crowd.coordinator.plan(crowd.world.snapshot(), crowd.policy)
            assert not planned.unfinished
            assert sorted(planned.plan.actions, key=repr) == sorted(whole.actions, key=repr)
            assert planned.plan.backfill == whole.backfill
            assert {key: whole.waiting[key] for key in planned.plan.waiting} == dict(planned.plan.waiting)
            told += Counter(str(each.reason) for each in planned.plan.waiting.values())
            told["starts"] += len(whole.backfill.starts_ms)
            crowd.world.apply(planned.plan)
            crowd.happen()
    assert min(told["held_back"], told["starts"]) > 20


@WISHES
@pytest.mark.parametrize("seed", range(1, 11))
def test_with_several_pools_every_law_holds_and_the_run_comes_to_rest(seed: int, wishful: bool) -> None:  # noqa: FBT001
    crowd = Crowd(seed, pools=True, wishful=wishful)
    for _ in range(120):
        crowd.round()
        crowd.happen()
    assert crowd.come_to_rest()


def test_the_runs_reach_offers_that_are_refused_and_every_resort() -> None:
    crowds = [Crowd(seed, pools=True) for seed in range(20, 30)]
    for crowd in crowds:
        for _ in range(120):
            crowd.round()
            crowd.happen()
    seen = sum((crowd.seen for crowd in crowds), start=crowds[0].seen - crowds[0].seen)
    assert min(seen["inside"], seen["borrowed"], seen["reclaimed"]) > 50
    assert sum(crowd.passes[2] + crowd.passes[3] for crowd in crowds) > 50
    assert max(len(crowd.world.fleet.pools) for crowd in crowds) == 4


@pytest.mark.parametrize("seed", [2, 4, 9])
def test_a_coordinator_that_starts_anew_at_any_round_goes_on_with_the_same_plans(seed: int) -> None:
    """What a coordinator keeps is only for speed: nothing in a plan depends on its past."""
    kept, anew = Crowd(seed, pools=True), Crowd(seed, pools=True)
    for _ in range(60):
        anew.coordinator = Coordinator()
        assert [made.actions for made in kept.plans()] == [made.actions for made in anew.plans()]
        assert violations(kept.world.snapshot()) == ()
        kept.happen()
        anew.happen()
