"""From what execution saw to events: one row a kind of observation, what is an echo, and what is moved to open time."""

from __future__ import annotations

import pytest

from scheduler.core.causes import OF_HEALTH, Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.devices import DeviceIdentity
from scheduler.core.errors import InvalidValue
from scheduler.core.events import (
    DevicesSeen,
    Event,
    GangEnded,
    GangStarted,
    HealthChanged,
    IntervalClosed,
    NodeJoined,
    PerformanceMeasured,
)
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    DevicesFound,
    GpuHealth,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeReading,
)
from scheduler.observations import events_of
from tests.core.state.folding import FLEET, T, folded, placed, submitted

AT = T + 100
DEVICE = DeviceIdentity(uuid="GPU-1", name="NVIDIA H100 80GB HBM3", serial="165", memory_mib=81_559)
NOW = T + 200
NEW = NodeSpec(name="node-9", grade="H100", gpus=1)
KNOWN = NodeSpec(name="node-0", grade="H100", gpus=4)
BINDING = (submitted("g"), placed("g", 0))
RUNNING = (*BINDING, GangStarted(at_ms=T + 10, gang="g", attempt=1))
LOST = HealthChanged(at_ms=T + 20, node="node-0", cause=Cause.NODE_LOST)

SEEN: tuple[tuple[tuple[Event, ...], Observation, list[Event]], ...] = (
    (BINDING, AttemptStarted("g", 1, AT), [GangStarted(at_ms=AT, gang="g", attempt=1)]),
    (
        RUNNING,
        AttemptEnded("g", 1, AT, 3, "x" * 3_000),
        [GangEnded(at_ms=AT, gang="g", attempt=1, exit_code=3, detail="x" * 2_000)],
    ),
    (BINDING, AttemptEnded("g", 1, AT, None, "lost"), [GangEnded(at_ms=AT, gang="g", attempt=1, detail="lost")]),
    ((), NodeSeen(NEW, AT), [NodeJoined(at_ms=AT, node=NEW)]),
    ((LOST,), NodeSeen(KNOWN, AT), [HealthChanged(at_ms=AT, node="node-0", gpus=(0, 1, 2, 3))]),
    ((), NodeMissing("node-0", AT, Cause.FABRIC), [HealthChanged(at_ms=AT, node="node-0", cause=Cause.FABRIC)]),
    (
        (),
        GpuHealth("node-0", (1, 3), AT, Cause.ECC),
        [HealthChanged(at_ms=AT, node="node-0", gpus=(1, 3), cause=Cause.ECC)],
    ),
    (
        (),
        ProbeReading("node-0", (1,), AT, 900_000, "suite"),
        [PerformanceMeasured(at_ms=AT, node="node-0", gpus=(1,), ppm=900_000, suite="suite")],
    ),
    (
        (),
        DevicesFound("node-0", AT, "nvml", devices=(DEVICE, None)),
        [DevicesSeen(at_ms=AT, node="node-0", source="nvml", devices=(DEVICE, None))],
    ),
    (
        (DevicesSeen(at_ms=T, node="node-0", source="stand-in", detail="no NVML"),),
        DevicesFound("node-0", AT, "stand-in", "the driver is not loaded"),
        [DevicesSeen(at_ms=AT, node="node-0", source="stand-in", detail="the driver is not loaded")],
    ),
    # echoes
    ((), AttemptStarted("g", 1, AT), []),
    (RUNNING, AttemptStarted("g", 1, AT), []),
    (BINDING, AttemptStarted("g", 2, AT), []),
    (RUNNING, AttemptEnded("g", 2, AT, 0), []),
    ((submitted("g"),), AttemptEnded("g", 1, AT, 0), []),
    ((), NodeSeen(KNOWN, AT), []),
    ((), NodeMissing("node-9", AT), []),
    ((LOST,), NodeMissing("node-0", AT), []),
    ((LOST,), GpuHealth("node-0", (0,), AT, None), []),
    ((LOST,), NodeSeen(KNOWN, T + 19), []),
    ((), GpuHealth("node-9", (0,), AT, Cause.ECC), []),
    ((), DevicesFound("node-9", AT, "nvml"), []),
    ((), ProbeReading("node-9", None, AT, 1, "suite"), []),
)


@pytest.mark.parametrize(("before", "observation", "events"), SEEN)
def test_an_observation_says_what_is_new_and_nothing_else(
    before: tuple[Event, ...], observation: Observation, events: list[Event]
) -> None:
    state = folded(*before)
    told = events_of(observation, state, NOW)
    assert told == events
    for event in told:
        state.apply(event)
    if not isinstance(observation, ProbeReading):
        assert events_of(observation, state, NOW) == []


@pytest.mark.parametrize("cause", sorted(OF_HEALTH))
def test_each_cause_of_health_is_told_as_it_is(cause: Cause) -> None:
    (event,) = events_of(GpuHealth("node-0", (2,), AT, cause), folded(), NOW)
    assert event == HealthChanged(at_ms=AT, node="node-0", gpus=(2,), cause=cause)


@pytest.mark.parametrize("cause", sorted(set(Cause) - OF_HEALTH))
def test_no_other_cause_is_a_gpus_health(cause: Cause) -> None:
    with pytest.raises(InvalidValue, match=f"cause of the health of node-0 was '{cause.name}', expected one of"):
        GpuHealth("node-0", (2,), AT, cause)
    with pytest.raises(InvalidValue, match="cause of the health of node-0 was"):
        NodeMissing("node-0", AT, cause)


CLOSED = IntervalClosed(at_ms=T + 60, interval_ms=10, end_ms=T + 60, first_leaf=0, leaves=0)


@pytest.mark.parametrize(("seen_ms", "told_ms"), [(50, 50), (60, 60), (61, 61), (200, 200), (900, 200)])
def test_an_observation_holds_from_its_own_instant_which_is_never_ahead(seen_ms: int, told_ms: int) -> None:
    (event,) = events_of(NodeMissing("node-0", T + seen_ms), folded(*FLEET, CLOSED, start=()), NOW)
    assert event.at_ms == T + told_ms


def test_a_node_joins_when_its_pool_is_still_open() -> None:
    (event,) = events_of(NodeSeen(NEW, T + 50), folded(*FLEET, CLOSED, start=()), NOW)
    assert event.at_ms == T + 60


def test_nothing_starts_before_it_was_placed_or_ends_before_it_started() -> None:
    (started,) = events_of(AttemptStarted("g", 1, T - 5), folded(*BINDING), NOW)
    assert started.at_ms == T
    (ended,) = events_of(AttemptEnded("g", 1, T + 5, 0), folded(*RUNNING), NOW)
    assert ended.at_ms == T + 10
