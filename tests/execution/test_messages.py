"""What the executor and its driver say survives the pipe, and both shells keep the one protocol."""

from __future__ import annotations

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.workloads import Piece
from scheduler.execution.messages import Health, Message, Options, Probe, Ready, Stop, Taken, decode, encode
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    Executor,
    GpuHealth,
    Launch,
    NodeMissing,
    NodeSeen,
    ProbeReading,
)
from scheduler.execution.ray_gangs import RayExecutor
from scheduler.execution.simulated import SimulatedExecutor

SHELLS: tuple[type[Executor], ...] = (RayExecutor, SimulatedExecutor)  # mypy checks that both are Executors

MESSAGES: list[Message] = [
    Options("127.0.0.1:1", "tenor", "/logs", "/state", 1_000, (("matmul-numpy-v1", 1.5),)),
    Launch("g-1", 2, "acme", "n", ("a b", "ü\n"), (Piece(node="n-0", gpus=(0, 3)),), (("A", "b"),), "/tmp", 5),  # noqa: S108
    Stop("g-1", 2, 3),
    Probe("n-0"),
    Taken("g-1", 2),
    Ready(("n-0",), (("g-1", 2),)),
    Health(healthy=False, detail="no answer"),
    AttemptStarted("g-1", 2, 7),
    AttemptEnded("g-1", 2, 8, None, "node lost"),
    NodeSeen(NodeSpec(name="n-0", grade="H100SXM", gpus=8), 9),
    NodeMissing("n-0", 10, Cause.FABRIC),
    GpuHealth("n-0", (1,), 11, None),
    ProbeReading("n-0", None, 12, 999_999, "matmul-numpy-v1"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_pipe_as_one_line(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_an_unknown_kind_is_a_fault() -> None:
    with pytest.raises(KeyError, match="Gossip"):
        decode(b'{"kind": "Gossip", "value": {}}\n')
