"""`why`, by golden texts: what people read in each situation, word by word.

`TENOR_GOLDEN=write` writes the texts anew; a person then reads the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.workloads import GangStatus, Reason
from scheduler.execution.simulated import GpuFault, NodeDown, Work
from scheduler.planners.pools_planner import EVERY_FLEET, PoolsPlanner
from tests.api.world import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, World, market

GOLDEN = Path(__file__).parent / "why"


def runs_on_its_own(world: World) -> list[str]:
    gang = world.submit("acme")
    world.pass_ms(5 * MINUTE_MS)
    return [world.why(gang)]


def borrows(world: World) -> list[str]:
    unsold = world.submit("cobalt", "sweep")
    lent = world.submit("cobalt", "grid", gpus=16, workers=2, grace_ms=30_000)
    world.pass_ms(MINUTE_MS)
    return [world.why(unsold), world.why(lent)]


def waits_to_borrow(world: World) -> list[str]:
    world.submit("cobalt", gpus=32, workers=4)
    first = world.submit("cobalt", "late")
    second = world.submit("cobalt", "later", gpus=16, workers=2)
    world.pass_ms(90_000)
    return [world.why(first), world.why(second)]


def waits_over_its_entitlement(world: World) -> list[str]:
    world.submit("acme", "first", gpus=16, workers=2)
    world.submit("cobalt", "sweep", gpus=16, workers=2, max_runtime_ms=None)
    gang = world.submit("acme", "second", gpus=16, workers=2)
    world.pass_ms(MINUTE_MS)
    return [world.why(gang)]


def is_reclaimed(world: World) -> list[str]:
    """The borrower while it stops, the owner while it waits for that, and both afterwards."""
    world.works["grid"] = Work(HOUR_MS, checkpoint_ms=10 * MINUTE_MS, stop_ms=4_000)
    victim = world.submit("cobalt", "grid", gpus=32, workers=4, grace_ms=20_000)
    world.pass_ms(10 * MINUTE_MS)
    owner = world.submit("borealis", "serve")
    told = [world.why(victim), world.why(owner)]
    world.pass_ms(5_000)
    return [*told, world.why(victim), world.why(owner)]


def asks_for_what_is_not_there(world: World) -> list[str]:
    grade = world.submit("acme", "fast", grade="H100SXM")
    larger = world.submit("acme", "huge", gpus=64, workers=8, topology=Level.NVLINK_DOMAIN, topology_required=True)
    return [world.why(grade), world.why(larger)]


def fits_by_number_not_by_shape(world: World) -> list[str]:
    for _ in range(4):
        world.submit("cobalt", "crumb", gpus=5)
    gang = world.submit("cobalt", "whole")
    return [world.why(gang)]


def waits_for_what_is_being_freed(world: World) -> list[str]:
    leaver = world.submit("cobalt", "grid", gpus=32, workers=4, grace_ms=20_000)
    world.scheduler.cancel(leaver.id)
    return [world.why(world.submit("dune", "next"))]


def may_not_borrow(world: World) -> list[str]:
    world.submit("acme", "first", gpus=16, workers=2)
    world.submit("borealis", "second")
    world.submit("cobalt", "third", gpus=7)
    gang = world.submit("cobalt", "reckless", gpus=1, checkpoint_ms=0, max_runtime_ms=None)
    return [world.why(gang)]


def outlasts_its_window(world: World) -> list[str]:
    world.instrument("NEXT.8N", start_ms=START_MS + DAY_MS, end_ms=START_MS + 3 * DAY_MS)
    world.trade("p-next", "dune", 4, "NEXT.8N@1")
    gang = world.submit("acme", "long", preemptible=False, max_runtime_ms=2 * DAY_MS, gpus=16, workers=2)
    return [world.why(gang)]


def has_ill_gpus(world: World) -> list[str]:
    world.submit("cobalt", "third", gpus=8)
    world.submit("borealis", "second")
    for node in ("node-0", "node-1"):
        world.executor.inject(GpuFault(node, tuple(range(8)), world.now_ms, Cause.ECC))
    world.rounds()
    return [world.why(world.submit("acme", "first", gpus=16, workers=2))]


def will_own_more_later(world: World) -> list[str]:
    world.instrument("LATER.8N", start_ms=START_MS + HOUR_MS)
    world.trade("p-later", "dune", 1, "LATER.8N@1")
    world.submit("cobalt", gpus=32, workers=4)
    return [world.why(world.submit("dune", "early"))]


def is_paused(world: World) -> list[str]:
    world.submit("cobalt", gpus=32, workers=4)
    gang = world.submit("dune", "early")
    world.scheduler.paused = "the disk is full"
    return [world.why(gang)]


def ended(world: World) -> list[str]:
    world.works |= {
        "good": Work(MINUTE_MS),
        "bad": Work(MINUTE_MS, exit_code=3),
        "slow": Work(HOUR_MS, stop_ms=1_000),
    }
    good = world.submit("acme", "good", gpus=1)
    bad = world.submit("acme", "bad", gpus=1, max_failures=1)
    slow = world.submit("acme", "slow", gpus=1, max_runtime_ms=5 * MINUTE_MS)
    unwanted = world.submit("acme", "unwanted", gpus=1)
    world.scheduler.cancel(unwanted.id)
    world.rounds()
    world.pass_ms(10 * MINUTE_MS)
    assert world.scheduler.state.gangs.get(bad.id).status is GangStatus.FAILED
    return [world.why(each) for each in (good, bad, slow, unwanted)]


def lost_its_node(world: World) -> list[str]:
    gang = world.submit("acme", "first")
    world.pass_ms(MINUTE_MS)
    node = world.scheduler.state.gangs.get(gang.id).pieces[0].node
    world.executor.inject(NodeDown(node, world.now_ms))
    world.pass_ms(MINUTE_MS)
    return [world.why(gang)]


def shares_a_gpu(world: World) -> list[str]:
    first = world.submit("acme", "notebook", gpus=1, gpu_milli=300, min_runtime_ms=HOUR_MS)
    world.pass_ms(MINUTE_MS)
    return [world.why(first)]


def has_a_deadline(world: World) -> list[str]:
    """In time, too late, unknown, waiting, hopeless, and over."""
    asked: dict[str, Any] = {"gpus": 8, "max_runtime_ms": HOUR_MS}
    runs = [
        world.submit("acme", "intime", deadline_ms=START_MS + 2 * HOUR_MS, **asked),
        world.submit("acme", "late", deadline_ms=START_MS + 30 * MINUTE_MS, **asked),
        world.submit("borealis", "open", deadline_ms=START_MS + DAY_MS, **asked | {"max_runtime_ms": None}),
    ]
    world.submit("cobalt", "filler", **asked)
    waits = [
        world.submit("dune", "urgent", deadline_ms=START_MS + 2 * HOUR_MS, **asked),
        world.submit("dune", "hopeless", deadline_ms=START_MS + 30 * MINUTE_MS, **asked),
        world.submit("dune", "vague", deadline_ms=START_MS + DAY_MS, **asked | {"max_runtime_ms": None}),
    ]
    world.pass_ms(10 * MINUTE_MS)
    told = [world.why(gang) for gang in (*runs, *waits)]
    world.pass_ms(40 * MINUTE_MS)
    told += [world.why(runs[1]), world.why(waits[1])]
    world.pass_ms(20 * MINUTE_MS)
    return [*told, world.why(runs[1])]


def shares_with_others(world: World) -> list[str]:
    """Two shares on one GPU, and one that finds no room and owns nothing."""
    world.submit("acme", "notebook", gpus=1, gpu_milli=600)
    second = world.submit("acme", "probe", gpus=1, gpu_milli=300)
    world.submit("cobalt", "filler", gpus=8)
    world.submit("cobalt", "filler", gpus=8)
    world.submit("cobalt", "rest", gpus=7)
    world.submit("cobalt", "more", gpus=8)
    return [world.why(second), world.why(world.submit("dune", "third", gpus=1, gpu_milli=250))]


def is_elastic(world: World) -> list[str]:
    """Reclaimed, smaller for a while, restarted with more workers, and waiting while there is no room at all."""
    elastic = world.submit("cobalt", "sweep", gpus=32, workers=4, min_workers=1, max_runtime_ms=10 * HOUR_MS)
    world.pass_ms(MINUTE_MS)
    told = [world.why(elastic)]
    owner = world.submit("acme", "train", gpus=16, workers=2)
    world.pass_ms(20 * MINUTE_MS)
    told.append(world.why(elastic))
    world.scheduler.cancel(owner.id)
    world.rounds()
    world.pass_ms(20 * MINUTE_MS)
    told.append(world.why(elastic))
    return [*told, world.why(world.submit("dune", "later", gpus=16, workers=2, min_workers=1))]


def is_apart(world: World) -> list[str]:
    asked: dict[str, Any] = {"spread": Level.NODE, "topology": Level.FABRIC_BLOCK}
    return [world.why(world.submit("acme", "apart", gpus=4, workers=2, spread_required=True, **asked))]


def is_held_back(world: World) -> list[str]:
    """A large job waits since long; behind it a long one and a short one."""
    world.works["filler"] = Work(9 * HOUR_MS)
    world.submit("cobalt", "filler", gpus=16, workers=2, max_runtime_ms=9 * HOUR_MS)
    large = world.submit("dune", "large", gpus=32, workers=4)
    world.pass_ms(7 * HOUR_MS)
    long = world.submit("dune", "long", gpus=8, max_runtime_ms=5 * HOUR_MS)
    short = world.submit("dune", "short", gpus=8, max_runtime_ms=HOUR_MS)
    return [world.why(large), world.why(long), world.why(short)]


def lent_before(world: World) -> list[str]:
    """After cobalt has run on what acme lent for twenty minutes both wait for more than they own."""
    world.works["sweep"] = Work(20 * MINUTE_MS)
    world.submit("cobalt", "sweep", gpus=32, workers=4)
    world.pass_ms(20 * MINUTE_MS)
    world.submit("acme", "first", gpus=32, workers=4)
    return [world.why(world.submit("cobalt", "again")), world.why(world.submit("acme", "more"))]


def was_never_looked_at(world: World) -> list[str]:
    gang = world.submit("acme", "first")
    spec = world.scheduler.state.gangs.get(gang.id).spec
    return [world.why(world.scheduler.submit(spec.model_validate({**dict(spec), "account": "dune"})))]


SCENARIOS: tuple[Callable[[World], list[str]], ...] = (
    runs_on_its_own,
    borrows,
    waits_to_borrow,
    waits_over_its_entitlement,
    is_reclaimed,
    asks_for_what_is_not_there,
    fits_by_number_not_by_shape,
    waits_for_what_is_being_freed,
    may_not_borrow,
    outlasts_its_window,
    has_ill_gpus,
    will_own_more_later,
    is_paused,
    ended,
    lost_its_node,
    shares_a_gpu,
    has_a_deadline,
    shares_with_others,
    is_elastic,
    is_apart,
    is_held_back,
    lent_before,
    was_never_looked_at,
)


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario once it was played: its text, its world, which is closed."""

    text: str
    world: World


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[World], list[str]]], Played]:
    """Plays a scenario, once."""

    @cache
    def play(scenario: Callable[[World], list[str]]) -> Played:
        world = market(tmp_path_factory.mktemp("market"))
        text = "\n".join(scenario(world))
        world.close()
        return Played(text, world)

    return play


Play = Callable[[Callable[[World], list[str]]], Played]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.__name__))
def test_why_says(scenario: Callable[[World], list[str]], played: Play) -> None:
    told = played(scenario).text
    golden = GOLDEN / f"{scenario.__name__}.txt"
    if os.environ.get("TENOR_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.__name__))
def test_why_says_the_same_where_pools_are_planned_apart(
    scenario: Callable[[World], list[str]], tmp_path: Path
) -> None:
    world = market(tmp_path, PoolsPlanner(None, EVERY_FLEET))
    told = "\n".join(scenario(world))
    world.close()
    assert told == (GOLDEN / f"{scenario.__name__}.txt").read_text(encoding="utf-8")


def test_the_same_situation_gives_the_same_text_again(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        world = market(tmp_path / name)
        texts.append(is_reclaimed(world))
        world.close()
    assert texts[0] == texts[1]


def test_every_reason_is_told_in_some_text(played: Play) -> None:
    told = set().union(*(played(scenario).world.told_reasons for scenario in SCENARIOS))
    assert set(Reason) - told == set()


def test_an_account_is_told_of_its_own_work_and_of_nobody_elses(played: Play) -> None:
    """In every situation: what names others to those that see all names nobody to an account, and says as much."""
    hidden = 0
    for scenario in SCENARIOS:
        world = played(scenario).world
        gangs = world.scheduler.state.gangs.by_id.values()
        for account, discreet, full in world.discreet:
            others = {gang.account for gang in gangs} | {
                each.account for each in world.scheduler.state.book.positions.values()
            }
            theirs = [rf"\b{name}\b" for name in others - {account}]
            theirs += [rf"\b{gang.id}\b" for gang in gangs if gang.account != account]
            named = [each for each in theirs if re.search(each, full)]
            assert [each for each in theirs if re.search(each, discreet)] == [], (scenario.__name__, discreet)
            assert bool(named) == (discreet != full), (scenario.__name__, named)
            hidden += bool(named)
    assert hidden > 5


def test_every_golden_text_has_its_scenario() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(each.__name__ for each in SCENARIOS)
