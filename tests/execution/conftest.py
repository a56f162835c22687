"""One local Ray cluster for the tests that need it, stopped by its own record, and a way to wait for what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from scheduler.core.cluster import NodeSpec
from scheduler.core.workloads import Piece
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.protocol import AttemptEnded, Launch, Observation
from scheduler.execution.ray_gangs import RayExecutor

WITHIN_S = 60.0
Seen = TypeVar("Seen")


def wait_until(condition: Callable[[], Seen], within_s: float = WITHIN_S) -> Seen:
    """The condition's first true value; fails the test when none comes in time."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {condition}"
        time.sleep(0.02)
    return found


class Watcher:
    """Collects what one executor observes, so that a test can wait for one thing without losing another."""

    def __init__(self, executor: RayExecutor) -> None:
        self.executor = executor
        self.seen: list[Observation] = []

    def wait(self, kind: type[Seen], gang: str | None = None) -> Seen:
        """The first observation of a kind, about a gang where one is given."""

        def found() -> Seen | None:
            self.seen += self.executor.observe()
            matches = (s for s in self.seen if isinstance(s, kind) and gang in {None, getattr(s, "gang", None)})
            return next(matches, None)

        observation = wait_until(found)
        assert observation is not None
        return observation

    def ends(self, gang: str) -> list[AttemptEnded]:
        """Every end of a gang seen so far, looking once more."""
        self.seen += self.executor.observe()
        return [seen for seen in self.seen if isinstance(seen, AttemptEnded) and seen.gang == gang]


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    """Three nodes of eight logical GPUs."""
    nodes = tuple(NodeSpec(name=f"node-{i}", grade="H100SXM", gpus=8, domain=f"domain-{i // 2}") for i in range(3))
    cluster = LocalRay.start(tmp_path_factory.mktemp("ray"), nodes)
    try:
        yield cluster
    finally:
        cluster.stop()


def executor_at(cluster: LocalRay, folder: Path, namespace: str) -> RayExecutor:
    """An executor on the cluster with its files in a folder; a second one there takes up what the first one left."""
    return RayExecutor(
        cluster.address,
        log_dir=folder / "logs",
        state_dir=folder / "state",
        namespace=namespace,
        token_path=cluster.token_path,
    )


@pytest.fixture
def watcher(local_ray: LocalRay, tmp_path: Path) -> Iterator[Watcher]:
    """An executor of its own, in its own namespace."""
    executor = executor_at(local_ray, tmp_path, tmp_path.name)
    try:
        yield Watcher(executor)
    finally:
        executor.close()


def launch(
    gang: str, command: tuple[str, ...], *nodes: int, gpus: tuple[int, ...] = (0, 1), grace_ms: int = 5_000
) -> Launch:
    """One worker on each of the nodes."""
    pieces = tuple(Piece(node=f"node-{node}", gpus=gpus) for node in nodes)
    return Launch(gang, 1, "acme", "train", command, pieces, env=(("FLAVOUR", "vanilla"),), grace_ms=grace_ms)
