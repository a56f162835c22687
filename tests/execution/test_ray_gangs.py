"""Real commands on a real local Ray cluster: what starts, what it sees, how it ends, and what survives which death."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.core.device_probes import Answer
from scheduler.core.errors import Unavailable
from scheduler.core.probe_work import row_bytes, rows_of
from scheduler.core.workloads import Piece
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.logs import log_path, tail
from scheduler.execution.processes import identity
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    DevicesFound,
    Launch,
    NodeMissing,
    NodeSeen,
    ProbeProgress,
    ProbeReading,
    ProbeStep,
    ProbeTask,
    RunningAttempt,
)
from scheduler.execution.ray_gangs import RayExecutor
from tests.execution.conftest import Watcher, executor_at, launch, wait_until

pytestmark = [pytest.mark.ray]

SAY_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"
# Each prints its pid and that of a grandchild in a session of its own, then waits.
WITH_GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
HEEDS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(600)
"""
IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def lines(tmp_path: Path, gang: str, rank: int = 0) -> list[str]:
    path = log_path(tmp_path / "logs", gang, 1, rank)
    return path.read_text().splitlines() if path.exists() else []


def printed_pids(tmp_path: Path, gang: str, rank: int = 0) -> list[int]:
    return [int(pid) for pid in wait_until(lambda: lines(tmp_path, gang, rank))[0].split()]


def all_gone(pids: list[int]) -> bool:
    return not any(identity(pid) for pid in pids)


def test_nodes_are_seen_with_their_topology(watcher: Watcher, local_ray: LocalRay) -> None:
    watcher.wait(NodeSeen)
    assert {seen.node for seen in watcher.seen if isinstance(seen, NodeSeen)} == set(local_ray.nodes)
    assert watcher.executor.healthy


def test_a_gang_of_two_sees_the_usual_environment(watcher: Watcher, tmp_path: Path) -> None:
    watcher.executor.start(launch("pair", python(SAY_ENVIRONMENT), 0, 1, gpus=(2, 5)))
    end = watcher.wait(AttemptEnded, "pair")
    assert (end.exit_code, end.detail) == (0, "")
    assert watcher.wait(AttemptStarted, "pair").at_ms <= end.at_ms
    seen = [json.loads(lines(tmp_path, "pair", rank)[0]) for rank in (0, 1)]
    for rank in (0, 1):
        expected = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "NODE_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "CUDA_VISIBLE_DEVICES": "2,5",
            "TENOR_GANG": "pair",
            "TENOR_ATTEMPT": "1",
            "TENOR_ACCOUNT": "acme",
            "TENOR_NODE": f"node-{rank}",
            "TENOR_GPU_MILLI": "1000",
            "FLAVOUR": "vanilla",
        }
        assert {key: seen[rank].get(key) for key in expected} == expected
        assert not [key for key in seen[rank] if key.startswith("RAY_")]
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"] != "0"


def test_gangs_share_a_gpu_and_leave_the_others_whole(watcher: Watcher, tmp_path: Path) -> None:
    """Three shares on two devices; by their true sizes Ray would need a third, and the whole gang could not start."""
    waits = "; import sys, time; sys.stdout.flush(); time.sleep(600)"
    for name, milli, gpu in (("share-1", 600, 0), ("share-2", 700, 1), ("share-3", 300, 0)):
        pieces = (Piece(node="node-0", gpus=(gpu,)),)
        command = python(SAY_ENVIRONMENT + waits)
        watcher.executor.start(Launch(name, 1, "acme", "train", command, pieces, grace_ms=0, gpu_milli=milli))
        watcher.wait(AttemptStarted, name)
    seen = json.loads(wait_until(lambda: lines(tmp_path, "share-3"))[0])
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["TENOR_GPU_MILLI"], seen["WORLD_SIZE"]) == ("0", "300", "1")
    watcher.executor.start(launch("whole", python("pass"), 0, gpus=(2, 3, 4, 5, 6, 7)))
    assert watcher.wait(AttemptEnded, "whole").exit_code == 0
    for name in ("share-1", "share-2", "share-3"):
        watcher.executor.stop(name, 1, 0)
        watcher.wait(AttemptEnded, name)


def test_the_first_failure_stops_the_others_and_gives_the_code(watcher: Watcher) -> None:
    source = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(600)"
    watcher.executor.start(launch("failing", python(source), 0, 1))
    assert watcher.wait(AttemptEnded, "failing").exit_code == 7


def test_a_command_that_is_not_there_starts_nothing(watcher: Watcher) -> None:
    watcher.executor.start(launch("absent", ("no-such-command",), 0, 1))
    end = watcher.wait(AttemptEnded, "absent")
    assert end.exit_code is None
    assert "no-such-command" in end.detail
    assert not [seen for seen in watcher.seen if isinstance(seen, AttemptStarted)]


def test_stop_is_heeded_within_the_grace(watcher: Watcher, tmp_path: Path) -> None:
    watcher.executor.start(launch("heeds", python(HEEDS), 0))
    wait_until(lambda: lines(tmp_path, "heeds"))
    watcher.executor.stop("heeds", 1, 60_000)
    assert watcher.wait(AttemptEnded, "heeds").exit_code == 0
    assert list(tail(log_path(tmp_path / "logs", "heeds", 1, 0))) == ["up", "saved"]


def test_who_ignores_stop_is_killed_after_the_grace(watcher: Watcher, tmp_path: Path) -> None:
    watcher.executor.start(launch("ignores", python(IGNORES), 0))
    started = watcher.wait(AttemptStarted, "ignores")
    wait_until(lambda: lines(tmp_path, "ignores"))
    watcher.executor.stop("ignores", 1, 400)
    end = watcher.wait(AttemptEnded, "ignores")
    assert end.exit_code == 128 + 9
    assert end.at_ms - started.at_ms >= 400


def test_grandchildren_die_with_their_gang(watcher: Watcher, tmp_path: Path) -> None:
    watcher.executor.start(launch("family", python(WITH_GRANDCHILD), 0))
    pids = printed_pids(tmp_path, "family")
    watcher.executor.stop("family", 1, 60_000)
    assert watcher.wait(AttemptEnded, "family").exit_code == 128 + 15
    assert all_gone(pids)


def test_starting_and_stopping_twice_ends_once(watcher: Watcher) -> None:
    twice = launch("twice", python("import time; time.sleep(600)"), 0)
    watcher.executor.start(twice)
    watcher.executor.start(twice)
    watcher.wait(AttemptStarted, "twice")
    watcher.executor.stop("twice", 1, 0)
    watcher.executor.stop("twice", 1, 0)
    watcher.wait(AttemptEnded, "twice")
    watcher.executor.start(twice)
    watcher.executor.stop("twice", 1, 0)
    watcher.executor.stop("unknown", 3, 0)
    assert watcher.wait(AttemptEnded, "unknown").exit_code is None
    assert len(watcher.ends("twice")) == 1
    assert watcher.executor.running() == ()


def test_what_is_stopped_at_once_never_runs_for_long(watcher: Watcher) -> None:
    watcher.executor.start(launch("brief", python("import time; time.sleep(600)"), 1))
    watcher.executor.stop("brief", 1, 0)
    watcher.wait(AttemptEnded, "brief")
    # Its GPUs are free again.
    watcher.executor.start(launch("after", python("pass"), 1, gpus=tuple(range(8))))
    assert watcher.wait(AttemptEnded, "after").exit_code == 0


def test_a_killed_driver_is_replaced_and_loses_nothing(watcher: Watcher, tmp_path: Path) -> None:
    watcher.executor.start(launch("steady", python(HEEDS), 0))
    watcher.wait(AttemptStarted, "steady")
    wait_until(lambda: lines(tmp_path, "steady"))
    driver = watcher.executor._process
    assert driver is not None
    driver.kill()
    wait_until(lambda: watcher.executor._process not in {None, driver})
    watcher.executor.stop("steady", 1, 60_000)
    watcher.executor.start(launch("next", python("pass"), 1))
    assert watcher.wait(AttemptEnded, "steady").exit_code == 0
    assert watcher.wait(AttemptEnded, "next").exit_code == 0
    assert len([seen for seen in watcher.seen if isinstance(seen, AttemptStarted) and seen.gang == "steady"]) == 1


SCHEDULER = r"""
import sys, time
from pathlib import Path
from scheduler.core.workloads import Piece
from scheduler.execution.protocol import AttemptStarted, Launch
from scheduler.execution.ray_gangs import RayExecutor
address, token, folder, command = sys.argv[1:]
quick = f"import pathlib, sys, time\nwhile not pathlib.Path({folder + '/go'!r}).exists(): time.sleep(0.02)\nsys.exit(5)"
executor = RayExecutor(address, log_dir=Path(folder) / "logs", state_dir=Path(folder) / "state", namespace="survivor",
                       token_path=Path(token))
for gang, source in (("lasting", command), ("quick", quick)):
    node = "node-0" if gang == "lasting" else "node-1"
    pieces = (Piece(node=node, gpus=(0,)),)
    executor.start(Launch(gang, 1, "acme", gang, (sys.executable, "-c", source), pieces))
waiting = {"lasting", "quick"}
while waiting:
    waiting -= {seen.gang for seen in executor.observe() if isinstance(seen, AttemptStarted)}
    time.sleep(0.05)
(Path(folder) / "go").touch()  # only now: nothing is observed any more
while not (Path(folder) / "logs" / "quick" / "1" / "0.exit").exists():
    time.sleep(0.05)
print("running", flush=True)
time.sleep(600)
"""


def test_gangs_outlive_a_killed_scheduler_and_end_exactly_once(local_ray: LocalRay, tmp_path: Path) -> None:
    arguments = [local_ray.address, str(local_ray.token_path), str(tmp_path), HEEDS]
    with subprocess.Popen([sys.executable, "-c", SCHEDULER, *arguments], stdout=subprocess.PIPE) as scheduler:
        assert scheduler.stdout is not None
        assert scheduler.stdout.readline() == b"running\n"
        os.kill(scheduler.pid, signal.SIGKILL)
    second = executor_at(local_ray, tmp_path, "survivor")
    try:
        watcher = Watcher(second)
        found = second.running()
        assert [(attempt.gang, attempt.attempt) for attempt in found] == [("lasting", 1), ("quick", 1)]
        assert found[0].started_ms is not None
        assert watcher.wait(AttemptEnded, "quick").exit_code == 5
        assert second.running() == (RunningAttempt("lasting", 1, found[0].started_ms),)
        second.stop("lasting", 1, 60_000)
        assert watcher.wait(AttemptEnded, "lasting").exit_code == 0
        second.observe()  # the batch before is now taken for good
    finally:
        second.close()
    third = executor_at(local_ray, tmp_path, "survivor")
    try:
        assert third.running() == ()
    finally:
        third.close()


def test_an_end_that_was_not_taken_is_told_again(local_ray: LocalRay, tmp_path: Path) -> None:
    first = executor_at(local_ray, tmp_path, "again")
    try:
        first.start(launch("told", python("import sys; sys.exit(9)"), 0))
        end = Watcher(first).wait(AttemptEnded, "told")
    finally:
        first.close()
    second = executor_at(local_ray, tmp_path, "again")
    try:
        assert Watcher(second).wait(AttemptEnded, "told") == end
    finally:
        second.close()


def test_a_probe_measures_and_a_slowed_node_measures_less(watcher: Watcher, local_ray: LocalRay) -> None:
    def reading(node: str) -> ProbeReading:
        watcher.seen.clear()
        watcher.executor.probe(node)
        return watcher.wait(ProbeReading)

    first = reading("node-0")
    assert (first.ppm, first.suite) == (1_000_000, "matmul-numpy-v1")  # it calibrates itself
    usual = reading("node-1").ppm
    local_ray.slow_node("node-1", 50_000)  # far below what a busy machine does to a reading
    try:
        assert reading("node-1").ppm < usual // 2
    finally:
        local_ray.slow_node("node-1", None)


def test_a_node_without_devices_of_its_own_says_that_its_gpus_are_a_stand_in(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    executor = executor_at(local_ray, tmp_path, "devices")
    try:
        found = Watcher(executor).wait(DevicesFound)
    finally:
        executor.close()
    assert (found.source, found.devices) == ("stand-in", ())
    assert "nodes share this machine, so their GPUs are logical" in found.detail


def test_a_device_probe_is_computed_on_its_node_and_an_abandoned_one_is_forgotten(watcher: Watcher) -> None:
    executor, size, products = watcher.executor, 64, 128

    def comes_to(step: ProbeStep) -> ProbeProgress:
        wait_until(lambda: executor.probe_progress("probe-1").step in (step, ProbeStep.FAILED))
        return executor.probe_progress("probe-1")

    executor.prepare_probe(ProbeTask("probe-1", "node-1", 3, size, products))
    assert comes_to(ProbeStep.READY).detail == "numpy"
    executor.solve_probe("probe-1", b"seed")
    answer = Answer.of(base64.b64decode(comes_to(ProbeStep.COMPUTED).table), size)
    (row,) = rows_of(b"seed", size, products, [41])
    assert answer.rows[41] == row_bytes(row)
    executor.abandon_probe("probe-1")
    assert executor.probe_progress("probe-1").step is ProbeStep.FAILED
    executor.prepare_probe(ProbeTask("probe-1", "node-77", 0, size, products))
    assert comes_to(ProbeStep.READY).detail == "node node-77 is not there"


def test_a_killed_node_takes_its_gang_and_leaves_no_process(
    watcher: Watcher, local_ray: LocalRay, tmp_path: Path
) -> None:
    watcher.wait(NodeSeen)
    watcher.executor.start(launch("struck", python(WITH_GRANDCHILD), 0, 2))
    watcher.executor.start(launch("spared", python(HEEDS), 1))
    watcher.wait(AttemptStarted, "struck")
    watcher.wait(AttemptStarted, "spared")
    pids = printed_pids(tmp_path, "struck", 0) + printed_pids(tmp_path, "struck", 1)
    local_ray.kill_node("node-2")
    end = watcher.wait(AttemptEnded, "struck")
    assert (end.exit_code, end.detail) == (None, "node lost")
    assert watcher.wait(NodeMissing).node == "node-2"
    wait_until(lambda: all_gone(pids))
    assert watcher.ends("spared") == []
    watcher.executor.stop("spared", 1, 60_000)
    assert watcher.wait(AttemptEnded, "spared").exit_code == 0
    refused = Launch("late", 1, "acme", "late", ("true",), (Piece(node="node-2", gpus=(0,)),))
    watcher.executor.start(refused)
    assert watcher.wait(AttemptEnded, "late").detail == "not started: node node-2 is missing"
    watcher.seen.clear()
    local_ray.add_node(local_ray.nodes[2])
    assert watcher.wait(NodeSeen).node.name == "node-2"


def test_no_cluster_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"):
        RayExecutor("127.0.0.1:1", log_dir=tmp_path / "logs", state_dir=tmp_path / "state")
