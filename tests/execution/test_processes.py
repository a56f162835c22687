"""Processes by identity: a recycled pid is somebody else, zombies are gone, killing is complete."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scheduler.core.errors import Unavailable
from scheduler.execution.processes import ProcessId, descendants, identity, kill, kill_all, marked
from tests.execution.conftest import wait_until

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def test_another_process_under_the_same_pid_is_never_signalled() -> None:
    with subprocess.Popen(SLEEP) as child:
        now = identity(child.pid)
        assert now is not None
        earlier = ProcessId(pid=now.pid, start_ticks=now.start_ticks - 1, boot=now.boot)
        other_boot = ProcessId(pid=now.pid, start_ticks=now.start_ticks, boot="another")
        assert not kill(earlier)
        assert not kill(other_boot)
        assert now.alive
        assert kill(now)
        child.wait()
        assert not kill(now)


def test_a_zombie_counts_as_gone() -> None:
    with subprocess.Popen((sys.executable, "-c", "")) as child:
        wait_until(lambda: identity(child.pid) is None)
        assert child.poll() == 0  # it was there to be reaped until now


def test_descendants_and_marks_are_found_and_killed() -> None:
    source = f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); time.sleep(600)"
    environment = {**os.environ, "TENOR_TEST_MARK": f"here-{os.getpid()}"}
    with subprocess.Popen((sys.executable, "-c", source), env=environment) as child:
        below = wait_until(lambda: descendants([child.pid]))
        assert set(marked("TENOR_TEST_MARK", f"here-{os.getpid()}")) == {child.pid, *below}
        assert child.pid in descendants([os.getpid()])
        assert kill_all(lambda: marked("TENOR_TEST_MARK", f"here-{os.getpid()}")) == 2
        assert [identity(pid) for pid in (child.pid, *below)] == [None, None]


def test_what_cannot_be_killed_is_said() -> None:
    with subprocess.Popen(SLEEP) as child:
        endless = [child]

        def another() -> list[int]:
            endless.append(subprocess.Popen(SLEEP))
            return [endless[-1].pid]

        with pytest.raises(Unavailable, match=r"processes \d+ still run 0.1 s after SIGKILL"):
            kill_all(another, within_s=0.1)
        for process in endless:
            process.kill()
            process.wait()
