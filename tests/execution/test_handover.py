"""What one executor leaves and the next one finds: starts under way, nodes that died unseen, ends before them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.core.cluster import NodeSpec
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.logs import exit_path, read_exit
from scheduler.execution.processes import identity
from scheduler.execution.protocol import AttemptEnded, AttemptStarted, NodeMissing, NodeSeen
from scheduler.execution.ray_gangs import RayExecutor
from tests.execution.conftest import Watcher, executor_at, launch, wait_until

pytestmark = [pytest.mark.ray]

QUICK = (sys.executable, "-c", "pass")
LASTING = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")


def test_a_start_under_way_is_finished_by_the_driver_that_began_it(local_ray: LocalRay, tmp_path: Path) -> None:
    first = executor_at(local_ray, tmp_path, "handover")
    first.start(launch("halfway", LASTING, 0))
    first.close()
    second = executor_at(local_ray, tmp_path, "handover")
    try:
        watcher = Watcher(second)
        assert watcher.wait(AttemptStarted, "halfway").attempt == 1
        assert not watcher.ends("halfway")
        second.stop("halfway", 1, 0)
        watcher.wait(AttemptEnded, "halfway")
    finally:
        second.close()


def test_a_node_that_died_unseen_is_told_of_from_when_it_was_last_seen_and_after_what_ended_before(
    tmp_path: Path,
) -> None:
    node = NodeSpec(name="node-0", grade="H100SXM", gpus=8)
    cluster = LocalRay.start(tmp_path / "ray", (node,))
    try:
        first = executor_at(cluster, tmp_path, "unseen")
        Watcher(first).wait(NodeSeen)
        seen_ms = wait_until(lambda: first._seen_ms)
        first.start(launch("quick", QUICK, 0))
        first.close()
        end = wait_until(lambda: read_exit(exit_path(tmp_path / "logs", "quick", 1, 0)))
        assert end is not None
        onlooker = executor_at(cluster, tmp_path / "onlooker", "onlooker")
        try:
            noticed = Watcher(onlooker)
            noticed.wait(NodeSeen)
            cluster.kill_node("node-0")
            noticed.wait(NodeMissing)  # Ray takes a second or two until it knows
        finally:
            onlooker.close()
        wait_until(lambda: not any(identity(pid) for pid in cluster._started("node-0").pids))
        second = RayExecutor(
            cluster.address,
            log_dir=tmp_path / "logs",
            state_dir=tmp_path / "state",
            namespace="unseen",
            token_path=cluster.token_path,
            known=(node,),
            seen_ms=seen_ms,
        )
        try:
            watcher = Watcher(second)
            watcher.wait(NodeMissing)
            assert second.missing == ("node-0",)
            assert watcher.seen == [
                AttemptEnded("quick", 1, end[1], 0),
                NodeMissing("node-0", seen_ms),
            ]
            assert [attempt.started_ms for attempt in second.running()] == []
        finally:
            second.close()
    finally:
        cluster.stop()
