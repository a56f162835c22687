"""Pools' actors on a Ray cluster, reached through a driver process: the real side of `posts.Workers`.

The scheduler never touches Ray: the driver does, and is started again when it dies. Nothing here blocks but `wait`,
which has a limit: frames are written by a thread of their own, since a pipe to a process that hangs would hold whoever
writes. Every ask is answered or fails; what the driver held when it died, fails.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from scheduler.execution.local_ray import import_path, ray_environment
from scheduler.planners.frames import Frame, encode, read
from scheduler.planners.posts import Failed

RESTART_PAUSE_S = 1.0
ANSWER_WITHIN_S = 10.0
"""A third of the default bind limit: a hung actor costs one round so much, once."""
CLOSE_WAIT_S = 5.0


class RayWorkers:
    """Workers on the Ray cluster at `address` (`host:port`). `state_dir` gets the driver's log.

    Returns at once: until the driver is connected, asks fail. `answer_within_s` is the longest that `wait` takes.
    """

    def __init__(
        self,
        address: str,
        *,
        state_dir: Path,
        token_path: Path | None = None,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._address = address
        self._state_dir = state_dir.absolute()
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **ray_environment(token_path), **import_path()}
        self._answer_within_s = answer_within_s
        self._changed = threading.Condition()
        self._tickets = 0
        self._open: set[int] = set()
        """Tickets that the driver has not answered."""
        self._answers: dict[int, bytes | Failed] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._outgoing: SimpleQueue[bytes | None] | None = None
        """To the driver's writer, while it is connected."""
        self._detail = "the planners' driver is starting"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="planners", daemon=True)
        self._thread.start()

    @property
    def where(self) -> str:
        """See Workers."""
        return "on Ray"

    @property
    def driver_pid(self) -> int | None:
        """The driver's process, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def send(self, pool: str, body: bytes) -> int:
        """See Workers."""
        with self._changed:
            self._tickets += 1
            ticket = self._tickets
            if self._outgoing is None:
                self._answers[ticket] = Failed(self._detail)
            else:
                self._open.add(ticket)
                self._outgoing.put(encode(Frame(kind="ask", ticket=ticket, pool=pool), body))
        return ticket

    def wait(self, tickets: Sequence[int]) -> Sequence[int]:
        """See Workers."""
        with self._changed:
            self._changed.wait_for(lambda: any(ticket not in self._open for ticket in tickets), self._answer_within_s)
            return [ticket for ticket in tickets if ticket not in self._open] or tickets

    def take(self, ticket: int) -> bytes | Failed | None:
        """See Workers."""
        with self._changed:
            return self._answers.pop(ticket, None)

    def forget(self, ticket: int) -> None:
        """See Workers."""
        with self._changed:
            self._open.discard(ticket)
            self._answers.pop(ticket, None)

    def close(self) -> None:
        """See Workers: the driver ends, and Ray ends its actors."""
        self._closing.set()
        with self._changed:
            process = self._process
            if self._outgoing is not None:
                self._outgoing.put(None)
        if process is not None:
            _end(process)
        self._thread.join(CLOSE_WAIT_S)

    # -- the driver process --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Keep a driver running until closed."""
        while not self._closing.is_set():
            with (self._state_dir / "planners.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-m", "scheduler.planners.driver"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                    cwd="/",
                )
            # What was not written to a driver that died is lost with it, also what closing its stdin would flush.
            with contextlib.suppress(BrokenPipeError), process:
                self._listen(process)
            self._closing.wait(RESTART_PAUSE_S)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Take what one driver says until it ends; then fail what it has not answered."""
        assert process.stdout is not None  # noqa: S101 - for the type checker; PIPE was asked for
        outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        outgoing.put(encode(Frame(kind="options", text=self._address)))
        writer = threading.Thread(target=_write, args=(process, outgoing), name="planners-out", daemon=True)
        writer.start()
        with self._changed:
            self._process = process
        if self._closing.is_set():
            outgoing.put(None)
        said = ""
        while (found := read(process.stdout.readline, process.stdout.read)) is not None:
            said = self._receive(*found, outgoing) or said
        code = process.wait()
        outgoing.put(None)
        with self._changed:
            self._process = self._outgoing = None
            self._detail = said or f"the planners' driver ended with code {code}"
            self._answers |= {ticket: Failed(self._detail) for ticket in self._open}
            self._open.clear()
            self._changed.notify_all()
        writer.join(CLOSE_WAIT_S)

    def _receive(self, frame: Frame, body: bytes, outgoing: SimpleQueue[bytes | None]) -> str:
        """One frame of the driver; what it says of itself, if anything."""
        with self._changed:
            if frame.kind == "ready":
                self._outgoing = outgoing
            elif frame.ticket in self._open:
                self._open.discard(frame.ticket)
                self._answers[frame.ticket] = body if frame.kind == "answer" else Failed(frame.text)
                self._changed.notify_all()
        return frame.text if frame.kind == "failed" and not frame.ticket else ""


def _write(process: subprocess.Popen[bytes], outgoing: SimpleQueue[bytes | None]) -> None:
    """Write what comes until there is a None, or nobody reads any more; then the driver's stdin closes."""
    assert process.stdin is not None  # noqa: S101 - for the type checker; PIPE was asked for
    try:
        while (content := outgoing.get()) is not None:
            process.stdin.write(content)
            process.stdin.flush()
        process.stdin.close()
    except (BrokenPipeError, ValueError):
        pass  # it died: the listener notices


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the driver has ended; kill it where it does not."""
    try:
        process.wait(CLOSE_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
