"""What it means to execute gangs: one protocol, two shells. `ray_gangs` runs commands, `simulated` on virtual time.

Calls never block for long and never raise for what a gang does; what happens comes back from `observe` as observations,
each with the instant at which it happened. Laws: `start` and `stop` are idempotent by (gang, attempt); an attempt ends
exactly once, also across restarts of the scheduler; a gang's GPUs are free only when `AttemptEnded` was observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from scheduler.core.causes import OF_HEALTH, Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.devices import DeviceIdentity
from scheduler.core.errors import InvalidValue
from scheduler.core.workloads import WHOLE_GPU_MILLI, Piece


def _check_cause(node: str, cause: Cause | None) -> None:
    if cause is not None and cause not in OF_HEALTH:
        expected = f"one of {', '.join(each.name for each in sorted(OF_HEALTH))}"
        raise InvalidValue("cause", f"the health of {node}", cause.name, expected)


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt of a gang, ready to run. `pieces` are in rank order, one worker each.

    With `gpu_milli` below 1000 it is one worker that has so much of its GPU; others may be on it.
    """

    gang: str
    attempt: int
    account: str
    name: str
    command: tuple[str, ...]
    pieces: tuple[Piece, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    grace_ms: int = 10_000
    gpu_milli: int = WHOLE_GPU_MILLI


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """All workers of the attempt run since `at_ms`."""

    gang: str
    attempt: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The attempt is over, all its processes are gone. `exit_code` None: lost, or could not start (`detail` says)."""

    gang: str
    attempt: int
    at_ms: int
    exit_code: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node is there and healthy (first seen, or back)."""

    node: NodeSpec
    at_ms: int


@dataclass(frozen=True, slots=True)
class NodeMissing:
    """A node is gone with everything on it."""

    node: str
    at_ms: int
    cause: Cause = Cause.NODE_LOST

    def __post_init__(self) -> None:
        _check_cause(self.node, self.cause)


@dataclass(frozen=True, slots=True)
class GpuHealth:
    """GPUs of a node fell ill (a cause), or are well again (None).

    The cause is the one that the loss is metered by: GPU_FAULT for what needs a reset or a new GPU, ECC for memory that
    cannot be corrected, NVLINK and FABRIC for links inside and outside of the node, THERMAL and POWER_CAP for a GPU
    that its own limits slow down, WRONG_GRADE for one that is not what its node declares, CONTROL_PLANE for one that
    cannot be given to anybody. One that changes its cause is told again, with no word that it is well between. Raises
    InvalidValue for any other cause.
    """

    node: str
    gpus: tuple[int, ...]
    at_ms: int
    cause: Cause | None

    def __post_init__(self) -> None:
        _check_cause(self.node, self.cause)


@dataclass(frozen=True, slots=True)
class ProbeReading:
    """A probe's result: measured throughput in ppm of the suite's reference. `gpus` None: all of the node's."""

    node: str
    gpus: tuple[int, ...] | None
    at_ms: int
    ppm: int
    suite: str


@dataclass(frozen=True, slots=True)
class DevicesFound:
    """Which devices a node's GPUs are. `source`: `nvml`, or `stand-in` where they are logical ones, and `detail` says
    why. A GPU that does not answer has none. Told when the node is first looked at, and when it changed.
    """

    node: str
    at_ms: int
    source: Literal["nvml", "stand-in"]
    detail: str = ""
    devices: tuple[DeviceIdentity | None, ...] = ()


Observation = AttemptStarted | AttemptEnded | NodeSeen | NodeMissing | GpuHealth | DevicesFound | ProbeReading


class ProbeStep(StrEnum):
    """How far a device probe is. FAILED: it cannot be made, or was abandoned."""

    PREPARING = "preparing"
    READY = "ready"
    COMPUTING = "computing"
    COMPUTED = "computed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """A table of `size` rows from so many products, on one GPU of a node (`core.probe_work`)."""

    probe: str
    node: str
    gpu: int
    size: int
    products: int


@dataclass(frozen=True, slots=True)
class ProbeProgress:
    """How far a device probe is. `table`: base64 of a computed one, row by row; `detail`: what computes it, or why it
    failed.
    """

    probe: str
    step: ProbeStep
    detail: str = ""
    table: str = ""


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """What reconciliation finds on the cluster after a restart."""

    gang: str
    attempt: int
    started_ms: int | None


class Executor(Protocol):
    """See the module for the laws."""

    @property
    def healthy(self) -> bool:
        """Whether the cluster answers. While it does not, nothing may be decided from what is not seen."""

    @property
    def detail(self) -> str:
        """Why it is not healthy; empty where it is."""

    def start(self, launch: Launch) -> None:
        """Begin an attempt; returns at once. A second call for the same attempt changes nothing."""

    def stop(self, gang: str, attempt: int, grace_ms: int) -> None:
        """SIGTERM to every worker, SIGKILL after the grace. One that is over or unknown: an end is observed."""

    def observe(self) -> tuple[Observation, ...]:
        """What happened since the last call, in order of `at_ms`; a loss that began while nobody looked comes when it
        was found, after what still happened before that.
        """

    def running(self) -> tuple[RunningAttempt, ...]:
        """Every attempt that the cluster knows and whose end was not yet observed: to reconcile after a restart."""

    def probe(self, node: str) -> None:
        """Measure an idle node's throughput; a `ProbeReading` follows."""

    def close(self) -> None:
        """Let go of the cluster. Attempts keep running unless the shell owns the cluster."""


class ProbeRunner(Protocol):
    """What lets a GPU compute a device probe. It takes no GPU from anybody, and stops when it is told to."""

    def prepare_probe(self, task: ProbeTask) -> None:
        """Make a GPU ready; `probe_progress` tells when it is."""

    def solve_probe(self, probe: str, seed: bytes) -> None:
        """Compute the table of a seed, on a GPU that is ready."""

    def abandon_probe(self, probe: str) -> None:
        """Stop at once whatever runs for it, and forget it; one that is unknown changes nothing."""

    def probe_progress(self, probe: str) -> ProbeProgress:
        """How far it is; FAILED for one that is unknown."""
