"""A Ray cluster on one machine that outlives the scheduler: real raylets, each a node with logical GPUs.

For the demonstration, for tests and for one machine with real GPUs. Every process is its own session and belongs to
nobody, so a `kill -9` of the scheduler leaves the cluster and all gangs running; `attach` finds it again by the record
`STATE_DIR/cluster.json`. The head is a raylet without GPUs: drivers hang on it, so any named node can be killed.

What listens where (Ray 2.60, looked at with `ss -ltn`): the head's GCS, every raylet, every agent and worker listen on
127.0.0.1 only, on ports the kernel chooses, because the node address is 127.0.0.1 itself; any other address, 127.0.0.2
too, would make Ray bind all interfaces. Calls need the token of `STATE_DIR/token` (0600, Ray's token mode): without it
the GCS answers Unauthenticated.

Laws: `stop` leaves no process behind, also after crashes, and signals only what it can prove to have started (identity
by pid, start and boot; or the mark in the environment that every process of the cluster inherits).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Conflict, InvalidValue, Unavailable, UnknownName
from scheduler.core.models import Model
from scheduler.execution.processes import ProcessId, descendants, identity, kill_all, marked

MARK = "TENOR_LOCAL_RAY"
SOCKET_PATH_BYTES = 107
LABEL_LENGTH = 63
START_TIMEOUT_S = 90.0


class _Started(Model):
    """A node of the cluster: its spec (None: the head), its raylet first (and the head's GCS), and its agents."""

    node: NodeSpec | None
    vital: tuple[ProcessId, ...]
    others: tuple[ProcessId, ...]

    @property
    def alive(self) -> bool:
        """Whether its raylet and, for the head, the GCS run."""
        return bool(self.vital) and all(process.alive for process in self.vital)

    @property
    def pids(self) -> list[int]:
        """Which of its processes run."""
        return [process.pid for process in (*self.vital, *self.others) if process.alive]


class _Record(Model):
    """`cluster.json`."""

    address: str
    temp_dir: str
    started: tuple[_Started, ...]
    serial: int = 0
    complete: bool = False
    """Whether every node of its first start came up; else whoever started it died on the way."""


@dataclass
class LocalRay:
    """A running local cluster. Make one with `start` or `attach`."""

    state_dir: Path
    _record: _Record = field(repr=False)

    @classmethod
    def start(cls, state_dir: Path, nodes: Sequence[NodeSpec]) -> Self:
        """Start a head and these nodes; returns when all are up (about 7 s for four on two cores).

        Raises Conflict where a cluster of this folder runs already, InvalidValue for a name that Ray cannot hold as a
        label, Unavailable where Ray is absent or a process did not come up (nothing is left running then).
        """
        state_dir = state_dir.absolute()
        for node in nodes:
            _check_labels(node)
        if cls.attach(state_dir) is not None:
            raise Conflict(f"a local Ray cluster of {state_dir} is running already: attach to it, or stop it")
        stop_leftovers(state_dir)
        state_dir.mkdir(parents=True, exist_ok=True)
        (state_dir / "slow").mkdir(exist_ok=True)
        _write_secret(state_dir / "token", secrets.token_hex(32))
        temp_dir = _short_dir(state_dir)
        cluster = cls(state_dir, _Record(address="", temp_dir=temp_dir, started=()))
        try:
            cluster._write(())  # where its files are, should we die on the way
            cluster._launch(nodes)
            cluster._write(cluster._record.started, complete=True)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def attach(cls, state_dir: Path) -> Self | None:
        """The cluster of this folder if its head runs; None: there is none, or it died, or its start never ended."""
        state_dir = state_dir.absolute()
        record = _read_record(state_dir)
        if record is None:
            return None
        head = next((started for started in record.started if started.node is None), None)
        return cls(state_dir, record) if record.complete and head is not None and head.alive else None

    @property
    def address(self) -> str:
        """`host:port` of the GCS."""
        return self._record.address

    @property
    def token_path(self) -> Path:
        """The file with the token that every caller needs."""
        return self.state_dir / "token"

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """Every node that was started, in order, alive or not (a later one of the same name replaces the earlier)."""
        return tuple(started.node for started in self._record.started if started.node is not None)

    def is_up(self, name: str) -> bool:
        """Whether the node's raylet runs. Raises UnknownName."""
        return self._started(name).alive

    def add_node(self, node: NodeSpec) -> None:
        """Start one more node, or one that died again. Raises Conflict where it runs, else as `start`."""
        _check_labels(node)
        if any(started.node is not None and started.node.name == node.name for started in self._record.started):
            if self.is_up(node.name):
                raise Conflict(f"node {node.name!r} is running already")
            self._kill_rest(node.name)
        self._launch((node,))

    def kill_node(self, name: str) -> None:
        """SIGKILL the node's raylet, as a crash would; what else belongs to it dies by itself. Raises UnknownName."""
        raylets = self._started(name).vital
        kill_all(lambda: [process.pid for process in raylets if process.alive])

    def slow_node(self, name: str, ppm: int | None) -> None:
        """Make the node's probe idle until it measures `ppm` of its speed; None: full speed again. Demonstration only.

        Raises UnknownName, InvalidValue.
        """
        self._started(name)
        if ppm is not None and not 0 < ppm <= 1_000_000:
            raise InvalidValue("ppm", f"the slowed node {name}", ppm, "1..1000000")
        file = self.state_dir / "slow" / name
        if ppm is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(str(ppm))

    def stop(self) -> None:
        """Kill everything that belongs to the cluster, and see it gone. Raises Unavailable where something stays."""
        stop_leftovers(self.state_dir)

    def environment(self) -> dict[str, str]:
        """What a driver of this cluster needs in its environment: quiet, the token, loopback."""
        return ray_environment(self.token_path)

    def rss_bytes(self) -> int:
        """Resident memory of all processes of the cluster, added up: shared pages count more than once."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(_resident_pages(pid) * page for pid in _belonging(self.state_dir, self._record))

    def _started(self, name: str) -> _Started:
        for started in reversed(self._record.started):
            if started.node is not None and started.node.name == name:
                return started
        raise UnknownName("node", name, [node.name for node in self.nodes])

    def _kill_rest(self, name: str) -> None:
        """The agents of a dead node linger for seconds; a new node of the name must not meet them."""
        started = self._started(name)
        kill_all(lambda: started.pids)
        self._write(tuple(other for other in self._record.started if other is not started))

    def _launch(self, nodes: Sequence[NodeSpec]) -> None:
        """Run the starter; write the record as each node comes up, so that a crash loses none."""
        self._record = self._record.model_copy(update={"serial": self._record.serial + 1})  # no field it could break
        request = {
            "temp_dir": self._record.temp_dir,
            "sockets": self._record.temp_dir,
            "slow_dir": str(self.state_dir / "slow"),
            "address": self._record.address or None,
            "serial": self._record.serial,
            "short_names": {node.name: str(i) for i, node in enumerate(nodes)},
            "nodes": [node.model_dump(mode="json") for node in nodes],
            "environment": {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ},
        }
        environment = {**os.environ, **self.environment(), MARK: str(self.state_dir), **import_path()}
        log = (self.state_dir / "starter.log").open("ab")
        with (
            log,
            subprocess.Popen(
                [sys.executable, "-m", "scheduler.execution.raylets"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd="/",
            ) as starter,
        ):
            assert starter.stdin is not None  # noqa: S101 - for the type checker; PIPE was asked for
            assert starter.stdout is not None  # noqa: S101
            starter.stdin.write(json.dumps(request).encode())
            starter.stdin.close()
            by_name = {node.name: node for node in nodes}
            for line in starter.stdout:
                self._note(json.loads(line), by_name)
            code = starter.wait(timeout=START_TIMEOUT_S)
        if code != 0:
            raise Unavailable(f"the local Ray cluster did not start: {_last_line(self.state_dir / 'starter.log')}")

    def _note(self, line: dict[str, object], by_name: Mapping[str, NodeSpec]) -> None:
        name = line["name"]
        started = _Started.model_validate_json(
            json.dumps({"node": None, "vital": line["vital"], "others": line["others"]})
        )
        node = None if name is None else by_name[str(name)]
        self._record = self._record.model_copy(update={"address": str(line["address"])})
        self._write((*self._record.started, _Started(node=node, vital=started.vital, others=started.others)))

    def _write(self, started: tuple[_Started, ...], *, complete: bool | None = None) -> None:
        self._record = _Record(
            address=self._record.address,
            temp_dir=self._record.temp_dir,
            started=started,
            serial=self._record.serial,
            complete=self._record.complete if complete is None else complete,
        )
        partial = self.state_dir / "cluster.json.part"
        partial.write_text(self._record.model_dump_json(indent=1))
        partial.replace(self.state_dir / "cluster.json")


def stop_leftovers(state_dir: Path) -> int:
    """Kill all that a cluster of this folder left, running or crashed; how many processes. Raises Unavailable."""
    state_dir = state_dir.absolute()
    record = _read_record(state_dir)
    killed = kill_all(lambda: _belonging(state_dir, record))
    if record is not None:
        shutil.rmtree(record.temp_dir, ignore_errors=True)
        (state_dir / "cluster.json").unlink(missing_ok=True)
    return killed


def ray_environment(token_path: Path | None = None) -> dict[str, str]:
    """The environment in which Ray is quiet and, with a token, guarded."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
        # Ray replaces 127.0.0.1 in a driver's address by the machine's own, where a loopback cluster does not listen;
        # with clusters "disabled" it stays what it is (ray/_private/services.py, get_node_ip_address).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    if token_path is None:
        return quiet
    return {**quiet, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}


def _belonging(state_dir: Path, record: _Record | None) -> set[int]:
    """The pids that belong to the cluster: recorded and still the same, or marked, and all below those.

    Below marked ones too: Ray's agents write their titles over their environment, so that they lose the mark.
    """
    roots = {pid for started in record.started for pid in started.pids} if record else set()
    roots.update(marked(MARK, str(state_dir)))
    return {*roots, *descendants(roots)}


def _read_record(state_dir: Path) -> _Record | None:
    try:
        return _Record.model_validate_json((state_dir / "cluster.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Conflict(f"{state_dir / 'cluster.json'} is not a cluster record: {error}") from error


def _check_labels(node: NodeSpec) -> None:
    for what, value in node.model_dump(include={"name", "grade", "site", "block", "domain"}).items():
        if len(value) > LABEL_LENGTH:
            raise InvalidValue(what, f"node {node.name}", value, f"at most {LABEL_LENGTH} characters, a Ray label")


def _short_dir(state_dir: Path) -> str:
    """Where Ray's sockets go: under the state folder where paths stay short enough for the kernel, else in /tmp."""
    own = state_dir / "ray"
    longest = f"{own}/999999.head.r"
    if len(longest.encode()) <= SOCKET_PATH_BYTES:
        own.mkdir(parents=True, exist_ok=True)
        return str(own)
    return tempfile.mkdtemp(prefix="tenor-ray-")


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)


def import_path() -> dict[str, str]:
    """So that `-m scheduler...` finds this very package, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) if identity(pid) else 0
    except OSError:
        return 0


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
