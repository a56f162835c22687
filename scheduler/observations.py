"""From what execution saw to events, and from a gang to what execution needs: the seam between the execution protocol
and the pure steps in `core.rounds.observing`.
"""

from __future__ import annotations

from typing import assert_never

from scheduler.core.events import DevicesSeen, Event
from scheduler.core.rounds import observing
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    DevicesFound,
    GpuHealth,
    Launch,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeReading,
)


def events_of(observation: Observation, state: State, now_ms: int) -> list[Event]:
    """The events of one observation, at its instant, which is never ahead; none where it tells nothing new."""
    at_ms = min(observation.at_ms, now_ms)
    match observation:
        case AttemptStarted(gang=gang, attempt=attempt):
            return observing.started(state, gang, attempt, at_ms)
        case AttemptEnded(gang=gang, attempt=attempt):
            return observing.ended(state, gang, attempt, observation.exit_code, observation.detail, at_ms)
        case NodeSeen(node=spec):
            return observing.node_seen(state, spec, at_ms)
        case NodeMissing(node=node):
            return observing.node_missing(state, node, observation.cause, at_ms)
        case GpuHealth(node=node):
            return observing.gpus_ill(state, node, observation.gpus, observation.cause, at_ms)
        case DevicesFound(node=node):
            seen = DevicesSeen(
                at_ms=at_ms,
                node=node,
                source=observation.source,
                detail=observation.detail,
                devices=observation.devices,
            )
            return observing.devices_seen(state, seen)
        case ProbeReading(node=node):
            return observing.measured(state, node, observation.gpus, observation.ppm, observation.suite, at_ms)
        case _:
            assert_never(observation)


def launch_of(gang: Gang) -> Launch:
    """What execution needs to run the gang's current attempt."""
    return Launch(
        gang=gang.id,
        attempt=gang.attempt,
        account=gang.account,
        name=gang.spec.name,
        command=gang.spec.command,
        pieces=gang.pieces,
        env=tuple(sorted(gang.spec.env.items())),
        working_dir=gang.spec.working_dir,
        grace_ms=gang.spec.grace_ms,
        gpu_milli=gang.spec.gpu_milli,
    )
