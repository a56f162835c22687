"""What the executor and its Ray driver process say to each other: one JSON line each, `{"kind", "value"}`.

The vocabulary is closed; an unknown kind is a bug. Both ends are one installation, so there are no versions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    DevicesFound,
    GpuHealth,
    Launch,
    NodeMissing,
    NodeSeen,
    ProbeProgress,
    ProbeReading,
    ProbeTask,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the driver needs to know; its first line."""

    address: str
    namespace: str
    log_dir: str
    state_dir: str
    start_timeout_ms: int
    references: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop an attempt."""

    gang: str
    attempt: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Probe a node."""

    node: str


@dataclass(frozen=True, slots=True)
class SolveProbe:
    """Compute the table of a seed, in hexadecimal, on the GPU that was made ready."""

    probe: str
    seed: str


@dataclass(frozen=True, slots=True)
class AbandonProbe:
    """Stop what runs for a device probe."""

    probe: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The scheduler has the end of an attempt for good: its record may go."""

    gang: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The driver is connected, and has told of every node and every attempt that it found before this line."""

    nodes: tuple[str, ...]
    attempts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the cluster answers; said after every look at the nodes."""

    healthy: bool
    detail: str = ""


Message = (
    Options
    | Launch
    | Stop
    | Probe
    | ProbeTask
    | SolveProbe
    | AbandonProbe
    | ProbeProgress
    | Taken
    | Ready
    | Health
    | AttemptStarted
    | AttemptEnded
    | NodeSeen
    | NodeMissing
    | GpuHealth
    | DevicesFound
    | ProbeReading
)
_KINDS: tuple[type, ...] = Message.__args__
_ADAPTERS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in _KINDS}


def encode(message: Message) -> bytes:
    """One line, with its end."""
    kind = type(message).__name__
    return b'{"kind":"%s","value":%s}\n' % (kind.encode(), _ADAPTERS[kind].dump_json(message))


def decode(line: bytes) -> Message:
    """The message of a line. Raises ValueError, KeyError on what is none."""
    found = json.loads(line)
    message: Message = _ADAPTERS[found["kind"]].validate_json(json.dumps(found["value"]))
    return message
