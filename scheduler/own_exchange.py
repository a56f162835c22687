"""The reference exchange of `tenor up`: a process of its own that outlives the scheduler, and is started again if it
dies.

It is found by a mark in its environment, which it has from its first instruction on, so that a scheduler killed at any
moment leaves none that the next one would not find. Law: one exchange a home; `stop` leaves none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scheduler.core.errors import Unavailable
from scheduler.execution.processes import ProcessId, identity, kill, kill_all, marked

MARK = "TENOR_OWN_EXCHANGE"
START_WAIT_S = 30.0
STOP_WAIT_S = 5.0
_POLL_S = 0.02

Say = Callable[[str], None]


@dataclass
class OwnExchange:
    """The exchange of a home, running. Make one with `run`."""

    home: Path
    address: str
    process: ProcessId
    is_new: bool
    _child: subprocess.Popen[bytes] | None = None

    @classmethod
    def run(cls, home: Path, listen: str, say: Say) -> Self:
        """The exchange that outlived the last scheduler, or else a new one over the same file, where the last one
        listened if it can be. Raises Unavailable where it does not start.
        """
        home = home.absolute()
        address_file = home / "exchange.address"
        last = _read(address_file)
        deadline = time.monotonic() + START_WAIT_S
        child: subprocess.Popen[bytes] | None = None
        wishes = [wish for wish in (last, listen) if wish]
        while time.monotonic() < deadline:
            process = _found(home)
            address = _read(address_file)
            if process is not None and address:
                is_new = child is not None and process.pid == child.pid
                return cls(home, address, process, is_new=is_new, _child=child)
            if process is None and (child is None or child.poll() is not None):
                if not wishes:
                    break
                say("starting the reference exchange")
                child = _spawn(home, wishes.pop(0))
            time.sleep(_POLL_S)
        kill_all(lambda: marked(MARK, str(home)))
        raise Unavailable(f"the reference exchange did not start: {_last_line(home / 'exchange.log')}")

    def revive(self, say: Say) -> None:
        """Start it again where it died, on the same address; returns at once: whoever calls it dials until it
        answers.
        """
        if self._child is not None:
            self._child.poll()  # a dead child of ours must not stay a zombie
        if self.process.alive:
            return
        process = _found(self.home)
        if process is None:
            say("the reference exchange died: starting it again")
            self._child = _spawn(self.home, self.address)
            process = identity(self._child.pid)
        self.process = process or self.process

    def stop(self) -> None:
        """SIGTERM, then SIGKILL, to every process that carries the mark; returns when all are gone."""
        until = time.monotonic() + STOP_WAIT_S
        for pid in marked(MARK, str(self.home)):
            found = identity(pid)
            if found is not None:
                kill(found, signal.SIGTERM)
        while marked(MARK, str(self.home)) and time.monotonic() < until:
            time.sleep(_POLL_S)
        kill_all(lambda: marked(MARK, str(self.home)))
        if self._child is not None:
            self._child.wait()


def _spawn(home: Path, listen: str) -> subprocess.Popen[bytes]:
    """The process; where it listens is known once it has written its address, which the last one's must not be taken
    for.
    """
    address_file = home / "exchange.address"
    address_file.unlink(missing_ok=True)
    with (home / "exchange.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "scheduler.exchange.reference", "--db", str(home / "exchange.db")),
                *("--listen", listen, "--address-file", str(address_file)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, MARK: str(home)},
        )


def _found(home: Path) -> ProcessId | None:
    """The exchange that runs for this home."""
    return next((found for pid in marked(MARK, str(home)) if (found := identity(pid)) is not None), None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "no answer in time"
