"""What the fleet shows: `usable` is derived from causes and drains alone; what is not there changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.errors import UnknownName
from scheduler.core.events import DrainOrdered, HealthChanged, PerformanceMeasured
from scheduler.core.quantities import ONE_PPM
from scheduler.core.state.health import HEALTHY, FleetHealth, gpus_named

FLEET = Fleet.of((NodeSpec(name="a", grade="H100", gpus=3), NodeSpec(name="b", grade="H100", gpus=2)))
FIRST = {"a": 0, "b": 3}
nodes = st.sampled_from(["a", "b"])
some = st.sampled_from([None, (0,), (1,), (0, 1)])
changes = st.one_of(
    st.builds(HealthChanged, at_ms=st.just(0), node=nodes, gpus=some, cause=st.sampled_from([None, Cause.ECC])),
    st.builds(PerformanceMeasured, at_ms=st.just(0), node=nodes, gpus=some, ppm=st.integers(0, 9), suite=st.just("s")),
    st.builds(DrainOrdered, at_ms=st.just(0), node=nodes, by_ms=st.sampled_from([None, 5])),
)


def healthy() -> FleetHealth:
    health = FleetHealth()
    health.grow(FLEET.n_gpus)
    return health


def indices(node: str, gpus: tuple[int, ...] | None) -> list[int]:
    return [FIRST[node] + k for k in (range({"a": 3, "b": 2}[node]) if gpus is None else gpus)]


@given(st.lists(changes, max_size=8))
def test_events_say_of_each_gpu_what_was_said_last(
    events: list[HealthChanged | PerformanceMeasured | DrainOrdered],
) -> None:
    health = healthy()
    cause, ppm, since_ms = [HEALTHY] * 5, [ONE_PPM] * 5, [0] * 5
    draining: dict[str, int | None] = {}
    for at_ms, event in enumerate(events, 1):
        told = event.model_copy(update={"at_ms": at_ms})
        match told:
            case HealthChanged():
                assert health.on_health(told, FLEET).tolist() == indices(told.node, told.gpus)
                for gpu in indices(told.node, told.gpus):
                    cause[gpu], since_ms[gpu] = int(told.cause or HEALTHY), at_ms
            case PerformanceMeasured():
                assert health.on_performance(told, FLEET).tolist() == indices(told.node, told.gpus)
                for gpu in indices(told.node, told.gpus):
                    ppm[gpu] = told.ppm
            case DrainOrdered():
                health.on_drain(told, FLEET)
                draining[told.node] = told.by_ms
    assert (health.cause.tolist(), health.ppm.tolist(), health.since_ms.tolist()) == (cause, ppm, since_ms)
    drained = {gpu for node, by_ms in draining.items() if by_ms is not None for gpu in indices(node, None)}
    assert health.usable.tolist() == [cause[gpu] == HEALTHY and gpu not in drained for gpu in range(5)]
    assert health.draining == {node: by_ms for node, by_ms in draining.items() if by_ms is not None}


def test_gpus_that_join_are_healthy_and_known_ones_stay_as_they_are() -> None:
    health = healthy()
    health.on_health(HealthChanged(at_ms=7, node="b", cause=Cause.NVLINK), FLEET)
    health.on_drain(DrainOrdered(at_ms=8, node="a", by_ms=9), FLEET)
    grown = FLEET.joined(NodeSpec(name="c", grade="H100", gpus=1))
    health.grow(grown.n_gpus)
    assert health.usable.tolist() == [False] * 5 + [True]
    assert health.cause.tolist() == [0] * 3 + [Cause.NVLINK] * 2 + [0]
    assert (health.ppm[-1], health.since_ms.tolist()) == (ONE_PPM, [0, 0, 0, 7, 7, 0])
    health.refresh(grown)
    assert health.usable.tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("node", "gpus", "told"),
    [("c", None, "node was 'c', expected one of a, b"), ("b", (0, 2), "GPU was 'b:2'"), ("b", (-1,), "GPU was 'b:-1'")],
)
def test_what_is_not_there_is_refused_and_changes_nothing(node: str, gpus: tuple[int, ...] | None, told: str) -> None:
    health = healthy()
    with pytest.raises(UnknownName, match=told):
        gpus_named(FLEET, node, gpus)
    with pytest.raises(UnknownName):
        health.on_health(HealthChanged(at_ms=7, node=node, gpus=gpus, cause=Cause.ECC), FLEET)
    with pytest.raises(UnknownName):
        health.on_performance(PerformanceMeasured(at_ms=7, node=node, gpus=gpus, ppm=1, suite="s"), FLEET)
    with pytest.raises(UnknownName):
        health.on_drain(DrainOrdered(at_ms=7, node="c", by_ms=9), FLEET)
    assert health.usable.all()
    assert not health.draining
    assert (health.ppm == ONE_PPM).all()
