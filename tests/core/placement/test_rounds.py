"""Random fleets, owners and gangs, rounds upon rounds: every law holds after every one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot
from scheduler.core.workloads import GangSpec, GangStatus
from tests.core.placement.world import FOR_EVER_MS, HOUR_MS, World, fleet_of, spec_of

ACCOUNTS = ("a", "b", "c")
GRADES = ("A100", "H100")
MINUTE_MS = 60_000


@st.composite
def specs(draw: st.DrawFn) -> GangSpec:
    """Mostly plain gangs, so that fleets fill up and the last resorts are reached; every wish now and then."""
    plain = draw(st.integers(0, 2)) < 2
    topology = None if plain else draw(st.sampled_from((None, *Level)))
    workers = draw(st.sampled_from((1, 1, 1, 2, 3)))
    return spec_of(
        draw(st.sampled_from(ACCOUNTS)),
        workers=workers,
        min_workers=workers if plain else draw(st.integers(1, workers)),
        size=draw(st.sampled_from((1, 2, 3, 4, 6, 8))),
        grade=None if plain else draw(st.sampled_from((None, *GRADES))),
        topology=topology,
        topology_required=topology is not None and draw(st.booleans()),
        priority=0 if plain else draw(st.sampled_from((0, 1))),
        preemptible=plain or draw(st.booleans()),
        checkpoint_ms=draw(st.sampled_from((10 * MINUTE_MS, 0))),
        max_runtime_ms=draw(st.sampled_from((30 * MINUTE_MS, 5 * HOUR_MS))),
        restart_ms=draw(st.sampled_from((0, MINUTE_MS))),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Nodes owned whole or GPU by GPU, one grade or two, some ownership ending in two hours."""
    gpus = draw(st.lists(st.sampled_from((8, 8, 8, 4, 3)), min_size=2, max_size=6))
    mixed = draw(st.integers(0, 3)) == 3
    grades = [draw(st.sampled_from(GRADES)) if mixed else GRADES[0] for _ in gpus]
    owners: list[str | None] = []
    for count in gpus:
        if draw(st.integers(0, 2)) < 2:
            owners += [draw(st.sampled_from((*ACCOUNTS, None)))] * count
        else:
            owners += draw(st.lists(st.sampled_from((*ACCOUNTS, None)), min_size=count, max_size=count))
    world = World(fleet_of(gpus, grades), owners, ACCOUNTS)
    lasts = [draw(st.sampled_from((FOR_EVER_MS, FOR_EVER_MS, 3 * HOUR_MS))) for _ in gpus]
    world.until_ms[:] = np.repeat(lasts, gpus)
    return world


def planned(world: World, policy: Policy) -> Plan:
    """One round, applied; every law of a single round is checked here."""
    snapshot = world.snapshot()
    before = frozen(snapshot)
    made = plan(snapshot, policy)
    assert frozen(snapshot) == before, "the snapshot was changed"
    again = plan(world.snapshot(), policy)
    assert repr(again) == repr(made), "the same snapshot, another plan"
    world.apply(made)
    after = world.snapshot()
    assert violations(after) == ()
    waiting = {(account, shape) for account, shapes in after.queue.items() for shape in shapes}
    assert set(made.waiting) == waiting
    return made


def frozen(snapshot: Snapshot) -> tuple[Any, ...]:
    arrays = (snapshot.usable, snapshot.owner, snapshot.until_ms, snapshot.occupant, snapshot.claimant)
    queue = {
        (account, shape): list(gangs) for account, shapes in snapshot.queue.items() for shape, gangs in shapes.items()
    }
    return (*(array.tobytes() for array in arrays), dict(snapshot.placed), queue)


# Any order of nodes at all: a score may be poor, and a table may be silent of some counts.
tables = st.lists(st.permutations(range(9)).map(tuple), max_size=9).map(tuple)
policies = st.builds(
    Policy,
    reckless_idle_ppm=st.sampled_from((0, 50_000, 500_000)),
    consolidate=st.booleans(),
    preferences=st.dictionaries(st.sampled_from(("H100", "A100")), tables).map(lambda by: tuple(sorted(by.items()))),
)


MANY = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(MANY, max_examples=100)
@given(worlds(), st.lists(specs(), min_size=5, max_size=25), policies)
def test_laws_hold_after_one_round(world: World, asked: list[GangSpec], policy: Policy) -> None:
    for spec in asked:
        world.submit(spec)
    planned(world, policy)


HAPPENINGS = (
    "submit",
    "submit",
    "submit",
    "end",
    "start",
    "start",
    "gone",
    "gone",
    "later",
    "lose",
    "repair",
    "handover",
    "trade",
)


@settings(MANY, max_examples=80)
@given(worlds(), st.lists(specs(), min_size=8, max_size=16), policies, st.data())
def test_laws_hold_after_every_round(world: World, asked: list[GangSpec], policy: Policy, data: st.DataObject) -> None:
    for spec in asked:
        world.submit(spec)
    planned(world, policy)
    for happening in data.draw(st.lists(st.sampled_from(HAPPENINGS), min_size=20, max_size=60)):
        happen(world, happening, data)
        planned(world, policy)


def happen(world: World, happening: str, data: st.DataObject) -> None:
    world.now_ms += 1  # the checker tells what was placed now by that
    stopping, placed = (
        world.in_status(GangStatus.STOPPING),
        world.in_status(GangStatus.BINDING, GangStatus.RUNNING),
    )
    nodes = st.integers(0, len(world.fleet.nodes) - 1)
    node = data.draw(nodes) if happening in ("lose", "repair", "handover", "trade") else 0
    match happening:
        case "submit":
            world.submit(data.draw(specs()))
        case "end" if placed:
            world.end(data.draw(st.sampled_from(placed)))
        case "gone" if stopping:
            world.gone(data.draw(st.sampled_from(stopping)))
        case "start":
            world.start()
        case "later":
            world.now_ms += data.draw(st.sampled_from((MINUTE_MS, 7 * MINUTE_MS)))
        case "lose":
            world.lose_node(node)
        case "repair":
            world.usable[list(world.fleet.gpus_of_node(node))] = True
        case "handover":
            world.hand_over(node, data.draw(st.integers(-1, len(ACCOUNTS) - 1)))
        case "trade":
            world.trade(node, data.draw(nodes))
        case _:  # nobody there to end or to go
            pass


@settings(MANY, max_examples=60)
@given(worlds(), st.lists(st.lists(specs(), min_size=4, max_size=8), min_size=2, max_size=5), policies)
def test_a_world_without_news_comes_to_rest(world: World, waves: list[list[GangSpec]], policy: Policy) -> None:
    for asked in waves:
        for spec in asked:
            world.submit(spec)
        planned(world, policy)
        world.start()
    for _ in range(40):
        for number in world.in_status(GangStatus.STOPPING):
            world.gone(number)
        world.start()
        if not planned(world, policy).actions and not world.in_status(GangStatus.STOPPING, GangStatus.BINDING):
            return
    raise AssertionError("forty rounds without news and still not at rest")
