"""The process that is Ray's driver for the executor: it alone imports Ray.

Apart from the scheduler because a Ray driver ends its whole process when its raylet dies, and because Ray's calls
block. It is crash-only: what it must not forget is on disk (`STATE_DIR/attempts/GANG.ATTEMPT.json`, written before
anything starts) or in Ray (detached actors and groups), so losing it is the same as restarting the scheduler. It ends
when its stdin closes; gangs go on. Starts that are under way then are finished first, and the next driver waits for
that (`driver.lock`): a scheduler killed in the middle of a start costs the gang nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from pydantic import TypeAdapter
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scheduler.clock import wall_clock_ms
from scheduler.core.cluster import NodeSpec
from scheduler.execution import probe
from scheduler.execution.device_probes import DeviceProbes
from scheduler.execution.device_watch import DeviceWatch, LiveNode
from scheduler.execution.messages import (
    AbandonProbe,
    Health,
    Message,
    Options,
    Probe,
    Ready,
    SolveProbe,
    Stop,
    Taken,
    decode,
    encode,
)
from scheduler.execution.processes import ProcessId, identity, kill
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    Launch,
    NodeMissing,
    NodeSeen,
    ProbeReading,
    ProbeTask,
)
from scheduler.execution.ray_attempt import LOST_WAIT_S, Place, RayAttempt

NODES_PERIOD_S = 0.5
DEVICES_PERIOD_S = 5.0
FINISH_STARTS_S = 15.0
HANDOVER_S = 20.0
"""Longer than a driver takes to finish what it had begun."""
PROBE_TIMEOUT_S = 60.0
_LAUNCH = TypeAdapter(Launch)
_REFERENCES = TypeAdapter(dict[str, float])

ray.cloudpickle.register_pickle_by_value(probe)  # type: ignore[no-untyped-call] # as the supervisor

Key = tuple[str, int]


class ClusterNodes:
    """The named nodes of the cluster as last seen; tells of each that comes and goes."""

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._live: dict[str, dict[str, Any]] = {}
        self._looking = asyncio.Lock()
        self._own_id = ray.get_runtime_context().get_node_id()
        self._own_address = ""
        self._thread = ThreadPoolExecutor(1)  # its own: a look that hangs must not take the place of other calls

    @property
    def names(self) -> tuple[str, ...]:
        """The live nodes, sorted."""
        return tuple(sorted(self._live))

    def id_of(self, name: str) -> str | None:
        """Ray's id of a live node."""
        node = self._live.get(name)
        return None if node is None else str(node["NodeID"])

    def address_of(self, name: str) -> str | None:
        """The address of a live node."""
        node = self._live.get(name)
        return None if node is None else str(node["NodeManagerAddress"])

    def shown(self) -> tuple[LiveNode, ...]:
        """The live nodes by name, as whoever looks at their devices wants them."""
        count = Counter(str(node["NodeManagerAddress"]) for node in self._live.values())
        return tuple(
            LiveNode(
                spec=_spec(node),
                node_id=str(node["NodeID"]),
                here=node["NodeManagerAddress"] == self._own_address,
                on_machine=count[str(node["NodeManagerAddress"])],
            )
            for _, node in sorted(self._live.items())
        )

    async def refresh(self) -> None:
        """Look now; tell of nodes that are gone first, then of new ones."""
        async with self._looking:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, ray.nodes)
            now_ms = wall_clock_ms()
            self._own_address = next((str(n["NodeManagerAddress"]) for n in found if n["NodeID"] == self._own_id), "")
            live = {_node_name(node): node for node in found if node["Alive"] and node["Resources"].get("GPU", 0) >= 1}
            before, self._live = self._live, live
            for name in sorted(before):
                if name not in live or live[name]["NodeID"] != before[name]["NodeID"]:
                    self._tell(NodeMissing(name, now_ms))
            for name in sorted(live):
                if name not in before or live[name]["NodeID"] != before[name]["NodeID"]:
                    self._tell(NodeSeen(_spec(live[name]), now_ms))


class Driver:
    """Does what the executor's messages ask, and tells what happens."""

    def __init__(self, options: Options, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._state_dir = Path(options.state_dir)
        self._records = self._state_dir / "attempts"
        self._records.mkdir(parents=True, exist_ok=True)
        self._place = Place(options.namespace, Path(options.log_dir), options.start_timeout_ms)
        self._references = dict(options.references)
        self._nodes = ClusterNodes(tell)
        self._devices = DeviceWatch(tell)
        self._device_probes = DeviceProbes(tell)
        self._attempts: dict[Key, RayAttempt] = {}
        self._over: set[Key] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def recover(self) -> None:
        """Find the nodes and every attempt on record again, and say that we are ready."""
        await self._nodes.refresh()
        follows = []
        for record in sorted(self._records.glob("*.json")):
            attempt = self._made(_LAUNCH.validate_json(record.read_bytes()))
            follows.append((attempt, await attempt.resume()))
        # Ends that nobody saw yet are told first, so that they are known before anything is decided or closed.
        ends = [self._spawn(follow()) for attempt, follow in follows if attempt.over]
        if ends:
            await asyncio.wait(ends, timeout=LOST_WAIT_S)
        self._tell(Ready(self._nodes.names, tuple(sorted(self._attempts))))
        for attempt, follow in follows:
            if not attempt.over:
                self._spawn(follow())
        self._spawn(self._watch())
        self._spawn(self._watch_devices())

    async def finish_starts(self) -> None:
        """Returns once no attempt is in the middle of its start, or after a time."""
        begun = [asyncio.ensure_future(attempt.begun.wait()) for attempt in self._attempts.values()]
        if begun:
            await asyncio.wait(begun, timeout=FINISH_STARTS_S)

    def receive(self, message: Message) -> None:
        """One message of the executor."""
        match message:
            case Launch():
                self._launch(message)
            case Stop():
                self._stop(message)
            case Probe():
                self._spawn(self._probe(message.node))
            case ProbeTask():
                self._spawn(self._device_probes.prepare(message, self._nodes.id_of(message.node)))
            case SolveProbe():
                self._spawn(self._device_probes.solve(message.probe, bytes.fromhex(message.seed)))
            case AbandonProbe():
                self._device_probes.abandon(message.probe)
            case Taken():
                self._attempts.pop((message.gang, message.attempt), None)
                self._record(message.gang, message.attempt).unlink(missing_ok=True)
            case _:
                raise TypeError(f"not a message for the driver: {message!r}")

    def _launch(self, launch: Launch) -> None:
        key = (launch.gang, launch.attempt)
        if key in self._attempts or key in self._over:
            return
        _write_durably(self._record(*key), _LAUNCH.dump_json(launch))
        self._spawn(self._made(launch).run())

    def _stop(self, stop: Stop) -> None:
        attempt = self._attempts.get((stop.gang, stop.attempt))
        if attempt is not None:
            attempt.stop(stop.grace_ms)
        elif (stop.gang, stop.attempt) not in self._over:
            self._told(AttemptEnded(stop.gang, stop.attempt, wall_clock_ms(), None, "was not running"))

    def _made(self, launch: Launch) -> RayAttempt:
        attempt = RayAttempt(launch, self._place, self._nodes, self._told, wall_clock_ms)
        self._attempts[launch.gang, launch.attempt] = attempt
        return attempt

    def _told(self, message: AttemptStarted | AttemptEnded) -> None:
        if isinstance(message, AttemptEnded):
            self._over.add((message.gang, message.attempt))
        self._tell(message)

    def _record(self, gang: str, attempt: int) -> Path:
        return self._records / f"{gang}.{attempt}.json"

    async def _watch(self) -> None:
        """Look at the nodes for ever; a look that takes long says that the cluster does not answer."""
        while True:
            try:
                async with asyncio.timeout(5):
                    await self._nodes.refresh()
            except TimeoutError:
                self._tell(Health(healthy=False, detail="Ray's head does not answer"))
            except (RayError, ConnectionError) as error:
                self._tell(Health(healthy=False, detail=str(error)))
            else:
                self._tell(Health(healthy=True))
            await asyncio.sleep(NODES_PERIOD_S)

    async def _watch_devices(self) -> None:
        """Ask the nodes' drivers for ever who their GPUs are and how."""
        while True:
            await self._devices.look(self._nodes.shown())
            await asyncio.sleep(DEVICES_PERIOD_S)

    async def _probe(self, node: str) -> None:
        """Measure on the node; a node that is missing, or does not answer, gives no reading."""
        node_id = self._nodes.id_of(node)
        if node_id is None:
            return
        pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
        task = ray.remote(probe.measure).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                suite, measured = await task.remote()
        except (RayError, TimeoutError):
            return
        reference = self._reference(suite, measured)
        self._tell(ProbeReading(node, None, wall_clock_ms(), probe.to_ppm(measured, reference), suite))

    def _reference(self, suite: str, measured: float) -> float:
        """The suite's reference: as configured, else as calibrated, else what was just measured becomes it."""
        path = self._state_dir / "references.json"
        known = _REFERENCES.validate_json(path.read_bytes()) if path.exists() else {}
        reference = self._references.get(suite, known.get(suite))
        if reference is None:
            reference = measured
            _write_durably(path, _REFERENCES.dump_json({**known, suite: measured}))
        return reference

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        """A fault of ours: say it and stop; the restarted driver takes up everything from disk and Ray."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            import traceback  # noqa: PLC0415 - only here

            traceback.print_exception(error)
            os._exit(70)


def main() -> None:
    """Connect, then serve stdin until it closes."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what Ray prints must not come between our lines
    options = decode(sys.stdin.buffer.readline())
    if not isinstance(options, Options):
        raise TypeError(f"the first line must be Options, was {options!r}")

    def tell(message: Message) -> None:
        with contextlib.suppress(BrokenPipeError):  # the executor is gone: our stdin closes too, which ends us
            _write_all(answers, encode(message))

    lock = _only_driver(Path(options.state_dir))
    try:
        _connect(options)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises here, the caller is told in one line
        tell(Health(healthy=False, detail=f"Ray at {options.address} does not answer: {' '.join(str(error).split())}"))
        os._exit(1)
    asyncio.run(_serve(options, tell))
    os.close(lock)
    os._exit(0)  # Ray's own exit hooks take a second and have nothing to do


def _connect(options: Options) -> None:
    host, _, port = options.address.rpartition(":")
    if port.isdigit():  # Ray itself would try for a minute before it says that nothing listens
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    ray.init(
        address=options.address,
        namespace=options.namespace,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )


async def _serve(options: Options, tell: Callable[[Message], None]) -> None:
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    driver = Driver(options, tell)
    await driver.recover()
    while line := await reader.readline():
        driver.receive(decode(line))
    await driver.finish_starts()


def _only_driver(state_dir: Path) -> int:
    """The lock that one driver of a folder holds, once the one before has ended; one that does not end is killed.

    Ends this process where nobody waits for it any more.
    """
    lock = os.open(state_dir / "driver.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    caller = select.poll()
    caller.register(sys.stdin.fileno(), select.POLLHUP)
    deadline = time.monotonic() + HANDOVER_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if any(event & select.POLLHUP for _, event in caller.poll(0)):
                os._exit(0)
            if time.monotonic() > deadline:
                with contextlib.suppress(ValueError):  # it has only just begun to write its name
                    kill(ProcessId.model_validate_json(os.pread(lock, 1_000, 0)))
            time.sleep(0.05)
        else:
            break
    os.ftruncate(lock, 0)
    own = identity(os.getpid())
    os.pwrite(lock, own.model_dump_json().encode() if own else b"", 0)
    return lock


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _node_name(node: dict[str, Any]) -> str:
    return str(node["Labels"].get("tenor.dev/node") or f"ray-{node['NodeID'][:12]}")


def _spec(node: dict[str, Any]) -> NodeSpec:
    """The node as Ray shows it: GPUs from its resources, the rest from labels, with defaults where there are none."""
    labels = node["Labels"]
    placed = {key: labels[f"tenor.dev/{key}"] for key in ("site", "block", "domain") if f"tenor.dev/{key}" in labels}
    grade = labels.get("tenor.dev/grade") or labels.get("ray.io/accelerator-type") or "unknown"
    return NodeSpec(name=_node_name(node), grade=grade, gpus=int(node["Resources"]["GPU"]), **placed)


def _write_durably(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


if __name__ == "__main__":
    main()
