"""The process that is Ray's driver for the planners; `ray_workers` runs it, and it alone touches Ray for them.

Apart from the scheduler because a Ray driver ends its process when its raylet dies, and because Ray's calls block. It
makes an actor for each pool that is asked, spread over the cluster, and passes asks and answers on unread. An actor
that fails is forgotten, and the next ask of its pool makes another; when this process ends, Ray ends its actors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from scheduler.planners.actor import PoolActor
from scheduler.planners.frames import Frame, encode

NAMESPACE = "tenor-planners"


class Driver:
    """The actors, by pool."""

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._actors: dict[str, Any] = {}
        self._made = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, frame: Frame, body: bytes) -> None:
        """Pass an ask on; asks of one pool reach its actor in order."""
        task = asyncio.ensure_future(self._pass_on(frame, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, frame: Frame, body: bytes) -> None:
        actor = self._actors.get(frame.pool)
        try:
            if actor is None:
                actor = self._actors[frame.pool] = self._actor_of(frame.pool)
            answer: bytes = await actor.serve.remote(body)
        except (RayError, ValueError, OSError) as error:
            if self._actors.get(frame.pool) is actor:
                self._actors.pop(frame.pool, None)
            why = f"its actor failed: {' '.join(str(error).split())[:500]}"
            self._tell(encode(Frame(kind="failed", ticket=frame.ticket, pool=frame.pool, text=why)))
        else:
            self._tell(encode(Frame(kind="answer", ticket=frame.ticket, pool=frame.pool), answer))

    def _actor_of(self, pool: str) -> Any:
        """A new actor, which Ray never restarts by itself: only the coordinator can load one. Its name tells people
        which pool it is of, and is never used again.
        """
        self._made += 1
        name = f"{pool} {os.getpid()}.{self._made}"
        made = ray.remote(PoolActor).options(name=name, num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")
        return made.remote()


def main() -> None:
    """Connect, then serve stdin until it closes."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what Ray prints must not come between our frames
    options = Frame.model_validate_json(sys.stdin.buffer.readline())
    if options.kind != "options":
        raise TypeError(f"the first frame must be options, was {options!r}")

    def tell(content: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the scheduler is gone: our stdin closes too, which ends us
            _write_all(answers, content)

    try:
        _connect(options.text)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises here, the caller is told in one line
        why = f"Ray at {options.text} does not answer: {' '.join(str(error).split())[:500]}"
        tell(encode(Frame(kind="failed", text=why)))
        os._exit(1)
    tell(encode(Frame(kind="ready")))
    asyncio.run(_serve(tell))
    os._exit(0)  # Ray's own exit hooks take a second and have nothing to do


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    if port.isdigit():  # Ray itself would try for a minute before it says that nothing listens
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )


async def _serve(tell: Callable[[bytes], None]) -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    driver = Driver(tell)
    with contextlib.suppress(asyncio.IncompleteReadError):
        while line := await reader.readline():
            frame = Frame.model_validate_json(line)
            driver.receive(frame, await reader.readexactly(frame.length))


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


if __name__ == "__main__":
    main()
