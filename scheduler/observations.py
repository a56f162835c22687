"""From what execution saw to events: the seam between the execution protocol and the pure steps in
`core.rounds.observing`.
"""

from __future__ import annotations

from typing import assert_never

from scheduler.core.events import Event
from scheduler.core.rounds import observing
from scheduler.core.state.state import State
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    GpuHealth,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeReading,
)


def events_of(observation: Observation, state: State, now_ms: int) -> list[Event]:
    """The events of one observation, at its instant where that is still open; none where it tells nothing new."""
    at_ms = observing.held_open(state, observation.at_ms, now_ms)
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
        case ProbeReading(node=node):
            return observing.measured(state, node, observation.gpus, observation.ppm, observation.suite, at_ms)
        case _:
            assert_never(observation)
