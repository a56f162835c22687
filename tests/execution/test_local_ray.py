"""The local cluster's own life: found again, refused twice, stopped whole also after a crash, whatever the folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.execution.local_ray import MARK, SOCKET_PATH_BYTES, LocalRay, stop_leftovers
from scheduler.execution.logs import log_path
from scheduler.execution.processes import descendants, identity, kill, marked
from scheduler.execution.protocol import AttemptStarted
from tests.execution.conftest import Watcher, executor_at, launch, wait_until

pytestmark = [pytest.mark.ray]


def test_a_running_cluster_is_found_again_and_not_started_twice(local_ray: LocalRay) -> None:
    found = LocalRay.attach(local_ray.state_dir)
    assert found is not None
    assert (found.address, found.nodes) == (local_ray.address, local_ray.nodes)
    assert found.token_path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="is running already"):
        LocalRay.start(local_ray.state_dir, local_ray.nodes)
    with pytest.raises(Conflict, match="node 'node-0' is running already"):
        found.add_node(local_ray.nodes[0])


def test_bad_names_are_refused(local_ray: LocalRay, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="at most 63 characters"):
        LocalRay.start(tmp_path, (NodeSpec(name="n" * 64, grade="H100SXM", gpus=8),))
    with pytest.raises(UnknownName, match="node was 'node-9', expected one of node-0, node-1, node-2"):
        local_ray.kill_node("node-9")
    with pytest.raises(InvalidValue, match=r"expected 1\.\.1000000"):
        local_ray.slow_node("node-0", 0)


def test_it_listens_on_loopback_only(local_ray: LocalRay) -> None:
    own = {inode for pid in marked(MARK, str(local_ray.state_dir)) for inode in _socket_inodes(pid)}
    assert local_ray.address.startswith("127.0.0.1:")
    hosts = {host for table in ("tcp", "tcp6") for inode, host in _listening(table) if inode in own}
    # 127.0.0.1 as the kernel writes it, and the same mapped into IPv6.
    assert hosts <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert hosts


def test_a_crashed_cluster_leaves_nothing_to_the_next_stop(tmp_path: Path) -> None:
    state_dir = tmp_path / ("long-" * 20) / "state"  # Ray's sockets cannot live here
    assert len(str(state_dir)) > SOCKET_PATH_BYTES - 20
    cluster = LocalRay.start(state_dir, (NodeSpec(name="node-0", grade="H100SXM", gpus=8),))
    try:
        executor = executor_at(cluster, tmp_path, "crash")
        try:
            source = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
            executor.start(launch("gang-1", (sys.executable, "-c", source), 0))
            Watcher(executor).wait(AttemptStarted)
            pid = int(wait_until(lambda: log_path(tmp_path / "logs", "gang-1", 1, 0).read_text()))
        finally:
            executor.close()
        assert identity(pid) is not None
        head = next(started for started in cluster._record.started if started.node is None)
        for process in head.vital:
            assert kill(process)
        wait_until(lambda: LocalRay.attach(state_dir) is None)
        temp_dir = cluster._record.temp_dir
        below = descendants(cluster._record.started[1].pids)
    finally:
        stop_leftovers(state_dir)
    assert not any(identity(other) for other in (pid, *below))
    assert marked(MARK, str(state_dir)) == ()
    assert not Path(temp_dir).exists()
    assert stop_leftovers(state_dir) == 0


def _socket_inodes(pid: int) -> set[str]:
    links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return {name.removeprefix("socket:[").removesuffix("]") for name in links if name.startswith("socket:")}


def _listening(table: str) -> list[tuple[str, str]]:
    """(inode, host in the kernel's hex) of every listening socket."""
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [(row[9], row[1].partition(":")[0]) for row in rows if row[3] == "0A"]
