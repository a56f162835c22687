"""The Ray actor of one worker: holds the keeper of its command, answers for it, and outlives the scheduler.

Sent to the node by value, with the keeper's source, so it imports nothing but the standard library. All calls are
asynchronous: `ended` may wait for days beside others, and a new scheduler asks again after the old one died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any

LINE_BYTES = 1 << 20


class Supervisor:
    """One worker of one attempt. States: new, then started or failed, then ended."""

    def __init__(self, keeper_source: str) -> None:
        self._source = keeper_source
        self._keeper: subprocess.Popen[bytes] | None = None
        self._started: asyncio.Future[dict[str, Any]] | None = None
        self._ended: asyncio.Future[dict[str, Any] | None] | None = None
        self._held: socket.socket | None = None

    async def rendezvous(self, address: str | None) -> tuple[str, int]:
        """(host, a free port) for MASTER_ADDR and MASTER_PORT; held until the start, so that no neighbour gets it."""
        if self._held is None:
            self._held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._held.bind((address or "", 0))
        return address or socket.gethostname(), int(self._held.getsockname()[1])

    async def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """`{"started_ms"}` or `{"failed"}`; a second call gives the same answer."""
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._ended = asyncio.get_running_loop().create_future()
            try:
                answer = await self._start(spec)
            except (OSError, ValueError, TypeError) as error:
                answer = {"failed": str(error)}
            if "failed" in answer:
                self._ended.set_result(None)
            self._started.set_result(answer)
        return await asyncio.shield(self._started)

    async def status(self) -> dict[str, Any]:
        """`{"started": the start's answer or None, "ended": whether it is over}`, without waiting."""
        started = self._started.result() if self._started is not None and self._started.done() else None
        return {"started": started, "ended": self._ended is not None and self._ended.done()}

    async def ended(self) -> dict[str, Any] | None:
        """`{"exit_code", "at_ms"}` once nothing of the command runs; None where the keeper was lost with it."""
        return None if self._ended is None else await asyncio.shield(self._ended)

    async def stop(self, grace_ms: int) -> None:
        """SIGTERM now, SIGKILL after the grace; the keeper sees to it, also if we are gone by then."""
        if self._keeper is not None and not self._ended_now():
            self._tell(f"stop {grace_ms}")

    def _tell(self, line: str) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it just ended; its answer says how
                self._keeper.stdin.write(line.encode() + b"\n")
                self._keeper.stdin.flush()

    def _ended_now(self) -> bool:
        return self._ended is not None and self._ended.done()

    async def _start(self, spec: dict[str, Any]) -> dict[str, Any]:
        if self._held is not None:
            self._held.close()
        # The node's environment without what belongs to Ray: its token is not the team's, and the thread count that
        # Ray sets is for its own tasks.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in _RAYS_OWN}
        spec["env"] = {"PYTHONUNBUFFERED": "1", **inherited, **spec["env"]}
        # Not asyncio's subprocess: the keeper leaves its first process at once, and its pipes must stay open.
        self._keeper = subprocess.Popen(  # noqa: ASYNC220 - returns within milliseconds
            [sys.executable, "-I", "-S", "-c", self._source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        answers = asyncio.StreamReader(limit=LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(answers), self._keeper.stdout)
        self._tell(json.dumps(spec))
        line = await answers.readline()
        self._keeper.wait()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "the keeper of the command died"}
        if "started_ms" in answer:
            self._following = asyncio.ensure_future(self._follow(answers))
        return answer

    async def _follow(self, answers: asyncio.StreamReader) -> None:
        line = await answers.readline()
        assert self._ended is not None  # noqa: S101 - made before the keeper
        self._ended.set_result(json.loads(line) if line else None)


_RAYS_OWN = frozenset({"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONBREAKPOINT", "SPT_NOENV", "TENOR_SLOW_FILE"})
