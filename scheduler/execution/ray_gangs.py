"""Gangs on Ray: real commands, in placement groups pinned to the planned nodes. The real side of the protocol.

The executor itself never touches Ray: a driver process does (`ray_driver`), and is started again when it dies. Calls
put a line into its pipe and return; what happens arrives by a reader thread and waits for `observe`. Gangs run under
keepers below detached actors (`supervisor`, `keeper`), so neither the scheduler's death nor the driver's touches them.

Exactly once in effect: a batch of `observe` counts as taken when `observe` is called again (so persist in between);
after a crash a new executor tells every end again that was not taken. Within one executor nothing is told twice. An
attempt that was already known to run is told as started again by a new executor, with its true instant.

While Ray does not answer, `healthy` is False and `detail` says why: nothing is evicted, planning should pause, and what
was asked is done when it answers again.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from scheduler.clock import wall_clock_ms
from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Unavailable
from scheduler.execution.local_ray import import_path, ray_environment
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
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    Launch,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeProgress,
    ProbeStep,
    ProbeTask,
    RunningAttempt,
)

SILENCE_S = 8.0
RESTART_PAUSE_S = 1.0
CLOSE_WAIT_S = 17.0
"""A little longer than a driver takes to finish the starts that it had begun."""
_NO_DRIVER = "Ray's driver is not there"

Key = tuple[str, int]


class RayExecutor:
    """An Executor on the Ray cluster at `address` (`host:port`), as several may stand by with different `namespace`s.

    `log_dir` must be one folder for all nodes (a shared file system where there are several machines); `state_dir`
    holds the records of open attempts. `references` gives the probe's reference by suite in FLOP/s; without one the
    first reading calibrates. `known` are the nodes that were there when somebody last looked, at `seen_ms`: of each
    that is gone by now a NodeMissing is observed, from that instant on.

    Raises Unavailable where Ray is absent or does not answer within `connect_timeout_s`.
    """

    def __init__(
        self,
        address: str,
        *,
        log_dir: Path,
        state_dir: Path,
        namespace: str = "tenor",
        token_path: Path | None = None,
        references: Mapping[str, float] | None = None,
        known: Iterable[NodeSpec] = (),
        seen_ms: int | None = None,
        start_timeout_ms: int = 60_000,
        connect_timeout_s: float = 40.0,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise Unavailable(f"no Ray cluster at {address}: Ray is not installed in {sys.prefix}")
        self._state_dir = state_dir.absolute()
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._options = Options(
            address=address,
            namespace=namespace,
            log_dir=str(log_dir.absolute()),
            state_dir=str(self._state_dir),
            start_timeout_ms=start_timeout_ms,
            references=tuple(sorted((references or {}).items())),
        )
        self._environment = {**os.environ, **ray_environment(token_path), **import_path()}
        self._lock = threading.Lock()
        self._queue: list[tuple[int, Observation]] = []
        """(when it was found, what): a node's loss is found after what still happened before anybody looked."""
        self._untaken: list[Key] = []
        self._open: dict[Key, int | None] = {}
        self._over: set[Key] = set()
        self._asked: dict[Key, Launch] = {}
        self._stops: dict[Key, Stop] = {}
        self._probes: dict[str, ProbeProgress] = {}
        self._nodes = {node.name: node for node in known}
        self._seen_ms = wall_clock_ms() if seen_ms is None else seen_ms
        self._missing: tuple[str, ...] = ()
        self._seen_again: dict[str, int] = {}
        """Nodes that this driver found, and when."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connected = False
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._healthy = False
        self._detail = "not connected yet"
        self._heard_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="ray-executor", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + connect_timeout_s
        while not self._ready.wait(0.05):
            failed = self._detail.startswith("Ray") and not self._healthy
            if failed or time.monotonic() > deadline:
                detail = self._detail if failed else f"no answer within {connect_timeout_s:g} s"
                self.close()
                raise Unavailable(f"no Ray cluster at {address}: {detail}")

    @property
    def healthy(self) -> bool:
        """Whether the cluster answered in the last seconds."""
        return self._healthy and time.monotonic() - self._heard_s < SILENCE_S

    @property
    def detail(self) -> str:
        """Why it is not healthy; empty where it is."""
        return "" if self.healthy else self._detail or "Ray's driver is silent"

    @property
    def missing(self) -> tuple[str, ...]:
        """The known nodes that were gone when the driver last connected."""
        return self._missing

    @property
    def unfinished(self) -> bool:
        """Whether any attempt may still run."""
        with self._lock:
            return any(key not in self._over for key in self._open)

    def start(self, launch: Launch) -> None:
        """See Executor.start."""
        key = (launch.gang, launch.attempt)
        with self._lock:
            if key in self._open or key in self._over:
                return
            self._open[key] = None
            self._asked[key] = launch
            self._send(launch)

    def stop(self, gang: str, attempt: int, grace_ms: int) -> None:
        """See Executor.stop."""
        with self._lock:
            if (gang, attempt) in self._over:
                return
            self._open.setdefault((gang, attempt), None)
            self._stops[gang, attempt] = Stop(gang, attempt, grace_ms)
            self._send(self._stops[gang, attempt])

    def observe(self) -> tuple[Observation, ...]:
        """See Executor.observe, and the module on when a batch counts as taken."""
        with self._lock:
            for key in self._untaken:
                self._send(Taken(*key))
            batch = [seen for _, seen in sorted(self._queue, key=lambda found: found[0])]
            self._queue.clear()
            self._untaken = [(seen.gang, seen.attempt) for seen in batch if isinstance(seen, AttemptEnded)]
            for key in self._untaken:
                del self._open[key]
        return tuple(batch)

    def running(self) -> tuple[RunningAttempt, ...]:
        """See Executor.running; ordered by gang and attempt. One that has ended is told without its start."""
        with self._lock:
            return tuple(
                RunningAttempt(*key, None if key in self._over else started_ms)
                for key, started_ms in sorted(self._open.items())
            )

    def probe(self, node: str) -> None:
        """See Executor.probe. A node that is missing gives no reading."""
        with self._lock:
            self._send(Probe(node))

    def prepare_probe(self, task: ProbeTask) -> None:
        """See ProbeRunner.prepare_probe."""
        with self._lock:
            sent = self._send(task)
            step, detail = (ProbeStep.PREPARING, "") if sent else (ProbeStep.FAILED, _NO_DRIVER)
            self._probes[task.probe] = ProbeProgress(task.probe, step, detail)

    def solve_probe(self, probe: str, seed: bytes) -> None:
        """See ProbeRunner.solve_probe."""
        with self._lock:
            if probe in self._probes:
                self._probes[probe] = ProbeProgress(probe, ProbeStep.COMPUTING)
                self._send(SolveProbe(probe, seed.hex()))

    def abandon_probe(self, probe: str) -> None:
        """See ProbeRunner.abandon_probe."""
        with self._lock:
            if self._probes.pop(probe, None) is not None:
                self._send(AbandonProbe(probe))

    def probe_progress(self, probe: str) -> ProbeProgress:
        """See ProbeRunner.probe_progress."""
        with self._lock:
            return self._probes.get(probe, ProbeProgress(probe, ProbeStep.FAILED, "nobody prepared it"))

    def close(self) -> None:
        """See Executor.close: every attempt keeps running."""
        self._closing.set()
        with self._lock:
            process = self._process
        if process is not None:
            _end(process)
        self._thread.join(CLOSE_WAIT_S)

    # The driver process

    def _serve(self) -> None:
        """Keep a driver running until closed."""
        while not self._closing.is_set():
            log = (self._state_dir / "driver.log").open("ab")
            with log:
                process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-m", "scheduler.execution.ray_driver"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                    cwd="/",
                )
            with process:
                self._read(process)
            self._closing.wait(RESTART_PAUSE_S)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Take what one driver says until it ends."""
        assert process.stdout is not None  # noqa: S101 - for the type checker; PIPE was asked for
        with self._lock:
            self._process = process
            self._seen_again = {}
            self._connected = False
            self._write(self._options)
        if self._closing.is_set():
            _end(process)
        for line in process.stdout:
            self._receive(decode(line))
        code = process.wait()
        with self._lock:
            self._process = None
            for name in self._probes:  # their workers ended with it
                self._probes[name] = ProbeProgress(name, ProbeStep.FAILED, _NO_DRIVER)
            if self._healthy or not self._detail.startswith("Ray"):
                self._detail = f"Ray's driver ended with code {code}, see {self._state_dir / 'driver.log'}"
            self._healthy = False

    def _receive(self, message: Message) -> None:  # noqa: C901 - one case a kind of message
        with self._lock:
            match message:
                case Health():
                    self._hear(message)
                case Ready():
                    self._reconnected(message)
                case NodeSeen(node=node):
                    self._seen_again.setdefault(node.name, message.at_ms)
                    if self._nodes.get(node.name) != node:
                        self._nodes[node.name] = node
                        self._queue.append((message.at_ms, message))
                case NodeMissing():
                    if self._nodes.pop(message.node, None) is not None:
                        self._queue.append((message.at_ms, message))
                case AttemptStarted():
                    self._started(message)
                case AttemptEnded():
                    self._ended(message)
                case ProbeProgress():
                    if message.probe in self._probes:
                        self._probes[message.probe] = message
                case Options() | Launch() | Stop() | Probe() | Taken() | ProbeTask() | SolveProbe() | AbandonProbe():
                    raise TypeError(f"not a message of the driver: {message!r}")
                case _:
                    self._queue.append((message.at_ms, message))

    def _hear(self, health: Health) -> None:
        self._healthy, self._detail, self._heard_s = health.healthy, health.detail, time.monotonic()
        self._seen_ms = wall_clock_ms() if health.healthy else self._seen_ms

    def _started(self, message: AttemptStarted) -> None:
        key = (message.gang, message.attempt)
        if key not in self._over and self._open.get(key) is None:
            self._open[key] = message.at_ms
            self._queue.append((message.at_ms, message))

    def _ended(self, message: AttemptEnded) -> None:
        key = (message.gang, message.attempt)
        if key in self._over:
            return
        self._over.add(key)
        self._open.setdefault(key, None)
        self._asked.pop(key, None)
        self._stops.pop(key, None)
        self._queue.append((message.at_ms, message))

    def _reconnected(self, ready: Ready) -> None:
        """The driver has told all that it found: what vanished meanwhile is missing; what was asked is asked again."""
        self._missing = tuple(sorted(set(self._nodes) - self._seen_again.keys()))
        looked_ms = min(self._seen_again.values(), default=wall_clock_ms())
        for name in self._missing:
            del self._nodes[name]
            self._queue.append((looked_ms, NodeMissing(name, self._seen_ms)))
        for key in ready.attempts:
            if key not in self._over:
                self._open.setdefault(key, None)
        self._connected = True
        for launch in self._asked.values():
            self._write(launch)
        for stop in self._stops.values():
            self._write(stop)
        self._hear(Health(healthy=True))
        self._ready.set()

    def _send(self, message: Message) -> bool:
        """To the driver if it is there; else it waits in `_asked` and `_stops` for the next one. Whether it was."""
        there = self._process is not None and self._connected
        if there:
            self._write(message)
        return there

    def _write(self, message: Message) -> None:
        assert self._process is not None  # noqa: S101 - callers hold the lock and looked
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        try:
            self._process.stdin.write(encode(message))
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            self._connected = False  # it just died; the reader notices, and the next one is told


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the driver's stdin, which ends it; kill it where that does not help."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(CLOSE_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
