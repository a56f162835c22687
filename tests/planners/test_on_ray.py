"""Pools planned by actors on a real cluster of several raylets: the same plans, whatever dies in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.cluster import NodeSpec
from scheduler.core.placement.snapshot import Plan
from scheduler.execution.local_ray import MARK, LocalRay
from scheduler.execution.processes import marked
from scheduler.planners.planner import HERE
from scheduler.planners.ray_workers import RayWorkers
from tests.execution.conftest import wait_until
from tests.planners.crowds import Crowd

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEED = 4
"""A crowd of four pools."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    """A head and three raylets: actors are spread over them."""
    nodes = tuple(NodeSpec(name=f"node-{i}", grade="H100", gpus=8) for i in range(3))
    cluster = LocalRay.start(tmp_path_factory.mktemp("planners"), nodes)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def workers(cluster: LocalRay, tmp_path: Path) -> Iterator[RayWorkers]:
    """A driver of its own."""
    workers = RayWorkers(cluster.address, state_dir=tmp_path, token_path=cluster.token_path, answer_within_s=20)
    try:
        yield workers
    finally:
        workers.close()


class Twins:
    """One crowd planned by actors and its twin planned here; they must never differ."""

    def __init__(self, workers: RayWorkers | None, seed: int = SEED) -> None:
        self.away, self.here = Crowd(seed, pools=True, workers=workers), Crowd(seed, pools=True)
        self.by = ""

    def round(self) -> None:
        """A round of both, and the same news for both."""
        away, here = self.away.plans(), self.here.plans()
        assert [_said(plan) for plan in away] == [_said(plan) for plan in here]
        self.by = self.away.by
        self.away.happen()
        self.here.happen()

    def until(self, condition: Callable[[str], bool]) -> None:
        """Rounds until who plans is as wanted. News may come as often: the plans stay the same."""

        def holds() -> bool:
            self.round()
            return condition(self.by)

        wait_until(holds)

    def until_all_on_ray(self) -> None:
        """Rounds until every pool is planned by its actor."""
        self.until(lambda by: HERE not in by)


def _said(plan: Plan) -> bytes:
    return repr((plan.actions, sorted(plan.waiting.items(), key=repr))).encode()


def actors(cluster: LocalRay) -> list[int]:
    """The processes of the cluster's actors."""
    found = []
    for pid in marked(MARK, str(cluster.state_dir)):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::PoolActor"):
                found.append(pid)
        except OSError:
            continue
    return found


def raylet_of(pid: int) -> int:
    """The process that started an actor's."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_actors_make_the_plans_that_are_made_here_byte_for_byte(cluster: LocalRay, workers: RayWorkers) -> None:
    twins = Twins(workers)
    twins.until_all_on_ray()
    pools = len(twins.away.world.fleet.pools)
    assert pools == 4
    assert len({raylet_of(pid) for pid in actors(cluster)}) > 1
    for _ in range(80):
        twins.round()
        assert twins.by == f"{pools} of {pools} pools on Ray"


def test_an_actor_that_is_killed_is_stood_in_for_and_made_anew(cluster: LocalRay, workers: RayWorkers) -> None:
    twins = Twins(workers, seed=9)
    twins.until_all_on_ray()
    for _ in range(3):
        killed = actors(cluster)[0]
        os.kill(killed, signal.SIGKILL)
        twins.until(lambda by: HERE in by)
        assert "its actor failed" in twins.by
        twins.until_all_on_ray()
        assert killed not in actors(cluster)


def test_a_driver_that_is_killed_is_started_again(workers: RayWorkers) -> None:
    twins = Twins(workers, seed=2)
    twins.until_all_on_ray()
    driver = workers.driver_pid
    assert driver is not None
    os.kill(driver, signal.SIGKILL)
    twins.until(lambda by: HERE in by)
    twins.until_all_on_ray()
    assert workers.driver_pid not in {None, driver}


def test_a_raylet_that_dies_takes_its_actors_and_no_plan(cluster: LocalRay, workers: RayWorkers) -> None:
    twins = Twins(workers, seed=11)
    twins.until_all_on_ray()
    named = {record.vital[0].pid: record.node.name for record in cluster._record.started if record.node is not None}
    while not (started_by := {raylet_of(pid) for pid in actors(cluster)} & named.keys()):
        os.kill(actors(cluster)[0], signal.SIGKILL)  # they were all put on the head: one is made anew
        twins.until(lambda by: HERE in by)
        twins.until_all_on_ray()
    victim = named[min(started_by)]
    cluster.kill_node(victim)
    twins.until(lambda by: HERE in by)
    twins.until_all_on_ray()
    cluster.add_node(NodeSpec(name=victim, grade="H100", gpus=8))


def test_without_a_cluster_everything_is_planned_here_and_says_why(tmp_path: Path) -> None:
    workers = RayWorkers("127.0.0.1:1", state_dir=tmp_path)
    try:
        twins = Twins(workers, seed=7)
        twins.until(lambda by: "Ray at 127.0.0.1:1 does not answer" in by)
        assert twins.by.startswith("0 of ")
    finally:
        workers.close()
