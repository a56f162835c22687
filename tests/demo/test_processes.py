"""The demonstration's processes: their word that they are ready, their last line where they are not, and their end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from scheduler.core.errors import Unavailable
from scheduler.demo import processes
from scheduler.demo.processes import Child
from tests.execution.conftest import wait_until


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules to run."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def child(home: Path, source: str, **environment: str) -> Child:
    (home / "played.py").write_text(source, encoding="utf-8")
    return Child.start("player", ["played", "an argument"], home, **environment)


READY = """
import os, pathlib, sys, time
print(sys.argv[1], os.environ["MARK"], file=sys.stderr, flush=True)
made = pathlib.Path("{path}.new")
made.write_text("127.0.0.1:7\\n")
made.replace("{path}")
time.sleep(600)
"""


def test_a_child_tells_when_it_is_ready_logs_and_ends_by_sigterm(home: Path) -> None:
    player = child(home, READY.format(path=home / "address"), MARK="marked")
    try:
        assert player.wait_for(home / "address") == "127.0.0.1:7"
        assert (home / "player.log").read_text() == "an argument marked\n"
        assert os.getpgid(player.process.pid) == player.process.pid  # Ctrl-C reaches the demonstration alone
        assert player.stop() == -signal.SIGTERM
        assert player.stop() == -signal.SIGTERM
    finally:
        player.process.kill()
        player.process.wait()


@pytest.mark.parametrize(
    ("source", "told"),
    [("raise SystemExit('no disk\\nno luck')", "the player did not start: no luck"), ("", "no answer in time")],
)
def test_a_child_that_ends_before_it_is_ready_is_told_by_its_last_line(home: Path, source: str, told: str) -> None:
    player = child(home, source)
    with pytest.raises(Unavailable, match=told):
        player.wait_for(home / "never")
    assert player.stop() == (1 if source else 0)


def test_a_child_that_does_not_answer_in_time_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_S", 0.05)
    player = child(home, "import time; time.sleep(600)")
    try:
        with pytest.raises(Unavailable, match="the player did not start: no answer in time"):
            player.wait_for(home / "never")
    finally:
        player.stop()
    assert player.process.poll() is not None


def test_a_child_that_ignores_sigterm_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_S", 0.05)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    player = child(home, deaf)
    wait_until(player.log.read_text)
    assert player.stop() == -signal.SIGKILL
