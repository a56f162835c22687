"""The real composition under test: `tenor up` as a child process, killed and started again, and what it leaves behind.

Everything that a run starts carries a mark in its environment (the cluster's or the exchange's, or a variable of this
test's own), so that what is left is found, and ended, by that and nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from scheduler.api.client import Client
from scheduler.core.errors import Unavailable
from scheduler.execution.local_ray import LocalRay, stop_leftovers
from scheduler.execution.processes import kill_all, marked

COMMAND = Path(__file__).with_name("command.py")
MARK = "TENOR_TEST_HOME"
START_S = 90.0
Found = TypeVar("Found")


def now_ms() -> int:
    """UTC milliseconds now."""
    return time.time_ns() // 1_000_000


def wait_until(condition: Callable[[], Found], within_s: float, what: str, poll_s: float = 0.05) -> Found:
    """The condition's first true value; fails the test when none comes in time."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(poll_s)
    return found


class Composition:
    """`tenor up` in a home of its own. A context manager that leaves nothing running, however the test ends."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = home / "up.log"
        self.environment = {
            **os.environ,
            "TENOR_HOME": str(home),
            "TENOR_PROBE_EVERY_MS": "0",  # a probe on a busy machine would derate
            MARK: str(home),
            **environment,
        }
        self.wrapper: tuple[str, ...] = ()
        """What `tenor up` is run by, if by anything."""
        self.up: subprocess.Popen[bytes] | None = None
        self._down_since_ms: int | None = now_ms()
        self.outages: list[tuple[int, int]] = []
        """(killed, ready again) of the scheduler, in ms, in order."""
        self._watching: threading.Thread | None = None

    @property
    def address_file(self) -> Path:
        """Where the API says where it is."""
        return self.home / "api.address"

    def start_beside(self) -> subprocess.Popen[bytes]:
        """Start `tenor up`, whatever runs already."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "scheduler.cli", "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def start(self) -> subprocess.Popen[bytes]:
        """Start `tenor up`, and note when it is ready; does not wait for it."""
        self.address_file.unlink(missing_ok=True)
        self.up = self.start_beside()
        self._watching = threading.Thread(target=self._note_ready, args=(self.up,), daemon=True)
        self._watching.start()
        return self.up

    def wait_ready(self) -> str:
        """The API's address once it is there; fails the test with the last lines where it does not come."""
        process = self.process

        def address() -> str:
            assert process.poll() is None, f"tenor up ended with {process.returncode}:\n{self.said()}"
            return self.address_file.read_text().strip() if self.address_file.exists() else ""

        return wait_until(address, START_S, "tenor up is ready", 0.02)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The scheduler's process."""
        assert self.up is not None
        return self.up

    def client(self) -> Client:
        """A client of the scheduler as it is now. Raises Unavailable where it is down."""
        if not self.address_file.exists():
            raise Unavailable("the scheduler is down")
        return Client(self.address_file.read_text().strip(), timeout_s=5.0)

    def kill(self) -> None:
        """SIGKILL the scheduler; how long it is away is noted."""
        killed_ms = now_ms()
        self.process.kill()
        self.process.wait()
        assert self._watching is not None
        self._watching.join()
        if self._down_since_ms is None:
            self._down_since_ms = killed_ms
        self.address_file.unlink(missing_ok=True)

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 60.0) -> int:
        """A signal, and the exit code; fails the test where it does not end."""
        self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {within_s:g} s after {number.name}:\n{self.said()}") from None

    def ray(self) -> LocalRay:
        """Its cluster."""
        found = LocalRay.attach(self.home / "ray")
        assert found is not None
        return found

    def said(self) -> str:
        """The last lines that `tenor up` wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""

    def left(self) -> tuple[int, ...]:
        """The pids of everything that this run started and that still runs: children inherit the mark."""
        return marked(MARK, str(self.home))

    def command(self, folder: Path, seconds: float) -> list[str]:
        """A command line of a gang that leaves its files in the folder."""
        return [sys.executable, "-I", "-S", str(COMMAND), str(folder), str(seconds)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.up is not None and self.up.poll() is None:
            self.up.kill()
            self.up.wait()
        kill_all(self.left)
        stop_leftovers(self.home / "ray")

    def _note_ready(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if self.address_file.exists():
                assert self._down_since_ms is not None
                self.outages.append((self._down_since_ms, now_ms()))
                self._down_since_ms = None
                return
            time.sleep(0.01)
