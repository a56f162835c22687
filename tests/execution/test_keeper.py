"""The keeper alone, spoken to as its supervisor does: exits, graces, and that nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.execution import keeper
from scheduler.execution.logs import read_exit
from scheduler.execution.processes import identity
from tests.execution.conftest import wait_until

SOURCE = Path(keeper.__file__).read_text()
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


class Kept:
    """A keeper with its command."""

    def __init__(self, folder: Path, *command: str, cwd: str | None = None) -> None:
        self.log = folder / "0.log"
        self.exit_file = folder / "0.exit"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        spec = {"command": command, "env": {"A": "b"}, "cwd": cwd, "log": str(self.log)}
        self.say(json.dumps({**spec, "exit_file": str(self.exit_file)}))
        self.start = self.answer()

    def say(self, line: str) -> None:
        """One line of control."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer; empty where the keeper has closed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def let_go(self) -> None:
        """Close the control pipe, as a supervisor's death does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        if not self.process.stdout.closed:
            self.process.stdout.read()
            self.process.stdout.close()
        self.process.wait()

    def pids(self) -> list[int]:
        """What the command printed first."""
        return [int(pid) for pid in wait_until(lambda: self.log.read_text().split())]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[list[Kept]]:
    """Keepers to let go of at the end."""
    made: list[Kept] = []
    yield made
    for one in made:
        one.let_go()


def run(kept: list[Kept], folder: Path, source: str) -> Kept:
    kept.append(Kept(folder, sys.executable, "-c", source))
    return kept[-1]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("pass", 0),
        ("import sys; sys.exit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 128 + signal.SIGSEGV),
    ],
)
def test_the_exit_is_durable_and_told(kept: list[Kept], tmp_path: Path, source: str, code: int) -> None:
    one = run(kept, tmp_path, source)
    answer = one.answer()
    assert answer["exit_code"] == code
    assert read_exit(one.exit_file) == (code, answer["at_ms"])
    assert one.start["started_ms"] <= answer["at_ms"]


def test_output_is_appended_and_the_environment_is_only_what_was_given(kept: list[Kept], tmp_path: Path) -> None:
    (tmp_path / "0.log").write_text("before\n")
    one = run(
        kept, tmp_path, "import os, sys; print(os.environ['A'], 'HOME' in os.environ); print('err', file=sys.stderr)"
    )
    one.answer()
    assert sorted(one.log.read_text().splitlines()) == ["b False", "before", "err"]


def test_a_command_that_cannot_start_is_said(kept: list[Kept], tmp_path: Path) -> None:
    kept.append(Kept(tmp_path, "/nowhere/command"))
    assert "No such file" in kept[-1].start["failed"]
    kept.append(Kept(tmp_path, sys.executable, cwd="/nowhere"))
    assert "/nowhere" in kept[-1].start["failed"]
    assert not kept[-1].exit_file.exists()


def test_what_outlives_the_command_is_killed(kept: list[Kept], tmp_path: Path) -> None:
    one = run(kept, tmp_path, FAMILY[: FAMILY.rindex("time")])
    assert one.answer()["exit_code"] == 0
    assert [identity(pid) for pid in one.pids()] == [None, None]


def test_a_closed_pipe_kills_all_and_records_no_exit(kept: list[Kept], tmp_path: Path) -> None:
    one = run(kept, tmp_path, FAMILY)
    pids = one.pids()
    one.let_go()
    assert [identity(pid) for pid in pids] == [None, None]
    assert not one.exit_file.exists()


def test_children_get_the_rest_of_the_grace_after_their_parent_heeded(kept: list[Kept], tmp_path: Path) -> None:
    saving = (
        "import signal, time\\nsignal.signal(15, lambda *_: (time.sleep(0.3), print('saved', flush=True), exit()))\\n"
    )
    source = f"""
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "{saving}print('up', flush=True)\\ntime.sleep(600)"])
time.sleep(600)
"""
    one = run(kept, tmp_path, source)
    wait_until(lambda: "up" in one.log.read_text())
    one.say("stop 60000")
    assert one.answer()["exit_code"] == 128 + 15
    assert one.log.read_text().split() == ["up", "saved"]


def test_a_nearer_deadline_counts(kept: list[Kept], tmp_path: Path) -> None:
    one = run(
        kept, tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    )
    one.pids()
    one.say("stop 600000")
    one.say("stop 100")
    one.say("stop 600000")
    assert one.answer()["exit_code"] == 128 + 9
