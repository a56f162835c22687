"""A fleet of two pools: planned whole in one process (the baseline), pool by pool in it, and by two actors on Ray.

The fleet is three quarters full; half its nodes are sold, in whole nodes; a gang waits for every fifth GPU. A full
round has everything waiting and applies nothing; *after its placements* is the next one, to which all that the full one
decided is news; *after one event* has one more gang in the queue. Also measured: what loading the actors takes, and a
round trip that plans an empty pool. The plans made by pools must be the same, here and by actors.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.placement.snapshot import Action, Place, Plan, Policy, Snapshot, Touched
from scheduler.core.placement.standing import Standing
from scheduler.core.workloads import Gang, GangSpec, GangStatus, shape_of
from scheduler.execution.local_ray import LocalRay
from scheduler.planners.coordinator import Coordinator
from scheduler.planners.deltas import NOWHERE, Ask, encode_ask
from scheduler.planners.planner import HERE
from scheduler.planners.ray_workers import RayWorkers
from tests.benchmarks.harness import Figure, Result, Settings
from tests.core.placement.world import FOR_EVER_MS, HOUR_MS, World, spec_of

SIZES = (2_000, 10_000, 100_000)
"""GPUs, half of them in each pool."""
GPUS_PER_NODE = 8
GRADES = ("A100", "H100")
ACCOUNTS = 40
LOAD_WITHIN_S = 120.0
TRIPS = 200
POLICY = Policy()

PlanOf = Callable[[Snapshot, Policy, Mapping[int, Gang]], Plan]
"""A round of a snapshot of which these gangs are news; under another policy than the last one it begins anew."""


def run(settings: Settings) -> Result:
    """Rows by size and by who plans, and the ratio of the baseline to two actors."""
    rows: list[dict[str, Figure]] = []
    with TemporaryDirectory(dir=settings.scratch) as folder, cluster(Path(folder)) as ray:
        workers = RayWorkers(
            ray.address, state_dir=Path(folder), token_path=ray.token_path, answer_within_s=LOAD_WITHIN_S
        )
        try:
            rows.append(round_trips(workers))
            for gpus in SIZES[: 1 if settings.quick else None]:
                rows += by_size(gpus, workers, 5 if 2_000 < gpus < 100_000 else 2)
        finally:
            workers.close()
    last = {row["who"]: row for row in rows if row["what"] == "full round"}
    one, two = last[WHOLE]["median_s"], last[ON_RAY]["median_s"]
    line = f"planners: a full round of {last[WHOLE]['gpus']:,} GPUs in 2 pools takes {one} s whole, {two} s by 2 actors"
    return Result(rows, line)


WHOLE, BY_POOLS, ON_RAY = "whole, in one process (baseline)", "by pools, in one process", "by pools, 2 actors on Ray"


@contextmanager
def cluster(folder: Path) -> Iterator[LocalRay]:
    """A head and two raylets."""
    made = LocalRay.start(folder / "ray", [NodeSpec(name=f"node-{i}", grade="H100", gpus=8) for i in range(2)])
    try:
        yield made
    finally:
        made.stop()


def round_trips(workers: RayWorkers) -> dict[str, Figure]:
    """An ask of an empty replica and its answer, through the driver."""
    body = encode_ask(Ask(NOWHERE, 0, POLICY), b"")

    def answered() -> bool:
        ticket = workers.send("nothing", body)
        workers.wait([ticket])
        return isinstance(workers.take(ticket), bytes)

    deadline = time.monotonic() + LOAD_WITHIN_S
    while not answered():
        if time.monotonic() > deadline:
            raise RuntimeError("no actor answered")
        time.sleep(0.05)
    seconds = []
    for _ in range(TRIPS):
        begun = time.perf_counter()
        answered()
        seconds.append(time.perf_counter() - begun)
    return {"what": "round trip", "who": ON_RAY, **timings(seconds)}


def by_size(gpus: int, workers: RayWorkers, repeats: int) -> list[dict[str, Figure]]:
    """All rows of one size; raises where two plans differ."""
    here, local = Coordinator(), Kept()
    loaded_s, away = loaded(gpus, workers)
    rows: list[dict[str, Figure]] = [{"what": "load", "who": ON_RAY, "gpus": gpus, "median_s": round(loaded_s, 4)}]
    decided: dict[str, list[tuple[Action, ...]]] = {}
    for who, planner in (
        (WHOLE, local.plan),
        (BY_POOLS, lambda snapshot, policy, news: here.plan(snapshot, policy, news).plan),
        (ON_RAY, lambda snapshot, policy, news: checked(away, snapshot, policy, news)),
    ):
        measured, decided[who] = rounds(gpus, planner, repeats)
        rows += [{"what": what, "who": who, "gpus": gpus, **timings(took)} for what, took in measured.items()]
        placed = sum(isinstance(action, Place) for action in decided[who][0])
        rows[-1] |= {"placed": placed, "waiting": gpus // 5}
    if decided[BY_POOLS] != decided[ON_RAY]:
        raise RuntimeError(f"actors planned {gpus} GPUs otherwise than this process")
    for who in (WHOLE, BY_POOLS):
        ratio = of(rows, "full round", who) / of(rows, "full round", ON_RAY)
        rows.append({"what": "full round: times 2 actors' rate", "who": who, "gpus": gpus, "ratio": round(ratio, 2)})
    return rows


class Kept:
    """Plans the whole from books that it keeps, as the local planner does."""

    def __init__(self) -> None:
        self._policy = Policy()
        self._standing = Standing()

    def plan(self, snapshot: Snapshot, policy: Policy, news: Mapping[int, Gang]) -> Plan:
        """The plan."""
        touched: Touched | None = Touched(set(news), {(gang.account, shape_of(gang.spec)) for gang in news.values()})
        if policy != self._policy:
            self._standing, self._policy, touched = Standing(policy), policy, None
        return self._standing.plan(snapshot, touched)


def rounds(gpus: int, planner: PlanOf, repeats: int) -> tuple[dict[str, list[float]], list[tuple[Action, ...]]]:
    """Seconds by kind of round, and what was decided in each kind."""
    world = crowded(gpus)
    snapshot = world.snapshot()
    everything = dict(world.gangs)
    policy = Policy(protect_after_ms=POLICY.protect_after_ms - 1)
    planner(snapshot, policy, everything)  # machine code is made, and replicas are told
    took: dict[str, list[float]] = {}
    decided = []
    for again in range(repeats):
        policy = Policy(protect_after_ms=POLICY.protect_after_ms + again)  # books of the last one do not serve
        made = timed(took, "full round", planner, snapshot, policy, {})
    decided.append(made.actions)
    world.apply(made)
    snapshot, news = (
        world.snapshot(),
        {number: g for number, g in world.gangs.items() if everything.get(number) is not g},
    )
    made = timed(took, "round after its placements", planner, snapshot, policy, news)
    decided.append(made.actions)
    world.apply(made)
    for _ in range(repeats):
        before = dict(world.gangs)
        world.submit(spec_of("account-1", size=1, grade=GRADES[0]))
        snapshot, news = world.snapshot(), {n: g for n, g in world.gangs.items() if before.get(n) is not g}
        made = timed(took, "round after one event", planner, snapshot, policy, news)
        decided.append(made.actions)
    return took, decided


def timed(
    took: dict[str, list[float]],
    what: str,
    planner: PlanOf,
    snapshot: Snapshot,
    policy: Policy,
    news: Mapping[int, Gang],
) -> Plan:
    """One round, timed without collections of garbage."""
    gc.collect()
    gc.disable()
    begun = time.perf_counter()
    made = planner(snapshot, policy, news)
    took.setdefault(what, []).append(time.perf_counter() - begun)
    gc.enable()
    return made


def loaded(gpus: int, workers: RayWorkers) -> tuple[float, Coordinator]:
    """A coordinator whose pools' actors hold the fleet, and how long that took."""
    snapshot = crowded(gpus).snapshot()
    coordinator = Coordinator(workers)
    begun = time.perf_counter()
    empty = replace(snapshot, queue={})
    while HERE in coordinator.plan(empty, POLICY).by:
        if time.perf_counter() - begun > LOAD_WITHIN_S:
            raise RuntimeError(f"the actors of {gpus} GPUs were not loaded within {LOAD_WITHIN_S:g} s")
        time.sleep(0.02)
    return time.perf_counter() - begun, coordinator


def checked(coordinator: Coordinator, snapshot: Snapshot, policy: Policy, news: Mapping[int, Gang]) -> Plan:
    """The actors' plan. Raises where any pool was planned here."""
    planned = coordinator.plan(snapshot, policy, news)
    if HERE in planned.by:
        raise RuntimeError(f"an actor was not there: {planned.by}")
    return planned.plan


def crowded(gpus: int) -> World:
    """The world of one size; the same each time."""
    dice = Random(gpus)
    nodes = gpus // GPUS_PER_NODE
    fleet = Fleet.of(
        tuple(
            NodeSpec(name=f"n{i}", grade=GRADES[i % 2], gpus=GPUS_PER_NODE, block=f"b{i // 64}", domain=f"d{i // 8}")
            for i in range(nodes)
        )
    )
    names = tuple(f"account-{i}" for i in range(ACCOUNTS))
    sold = [dice.choice(names) if dice.random() < 0.5 else None for _ in range(nodes)]
    world = World(fleet, [name for name in sold for _ in range(GPUS_PER_NODE)], names)
    world.until_ms[:] = np.repeat([dice.choice((FOR_EVER_MS, 3 * HOUR_MS)) for _ in range(nodes)], GPUS_PER_NODE)
    for node in range(nodes):
        if dice.random() < 0.75:
            size = dice.choice((1, 2, 4, 8))
            first = node * GPUS_PER_NODE
            for at in range(first, first + GPUS_PER_NODE, size):
                bind(world, sold[node] or dice.choice(names), range(at, at + size), GRADES[node % 2])
    for _ in range(gpus // 5):
        size = dice.choice((1, 1, 2, 4, 8))
        asked = spec_of(dice.choice(names), size=size, grade=dice.choice(GRADES), workers=dice.choice((1, 1, 2)))
        submitted(world, asked)
    return world


def submitted(world: World, spec: GangSpec) -> Gang:
    """A gang at the end of its line; as `World.submit`, without a look at all others."""
    number = len(world.gangs)
    gang = Gang(f"gang-{number}", number, spec, shape_of(spec), submitted_ms=world.now_ms, queued_ms=world.now_ms)
    world.gangs[number] = gang
    return gang


def bind(world: World, account: str, gpus: range, grade: str) -> None:
    """A gang that runs on these GPUs."""
    gang = submitted(world, spec_of(account, size=len(gpus), grade=grade))
    bound = gang.moved(GangStatus.BINDING, gpu_numbers=tuple(gpus))
    world.gangs[gang.number] = bound.moved(GangStatus.RUNNING, started_ms=world.now_ms - HOUR_MS)
    world.occupant[list(gpus)] = gang.number


def timings(seconds: list[float]) -> dict[str, Figure]:
    """The median, the least and the most, as columns."""
    return {
        "median_s": round(median(seconds), 6),
        "least_s": round(min(seconds), 6),
        "most_s": round(max(seconds), 6),
        "runs": len(seconds),
    }


def of(rows: list[dict[str, Figure]], what: str, who: str) -> float:
    """The median seconds of the last such row."""
    found = [row["median_s"] for row in rows if (row["what"], row["who"]) == (what, who)]
    assert isinstance(found[-1], float)
    return found[-1]
