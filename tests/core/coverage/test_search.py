"""The kernels: the same plan as plain Python and compiled, on nests of many shapes; nothing depends on the fan-outs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core import kernels
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand
from tests.core.coverage.carving import Shape, carved
from tests.core.coverage.drawn import faults, fleet_of


@pytest.mark.slow
@pytest.mark.parametrize("handovers", [False, True])
def test_the_plan_is_the_same_plain_and_compiled(monkeypatch: pytest.MonkeyPatch, handovers: bool) -> None:  # noqa: FBT001
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    fleet = fleet_of(2, 2, 3, 4)
    # More than fits, so that ejection, mending and handovers all have something to do.
    demands = [*carved(Shape(2, 2, 3, 4), 40, 100, 1), *carved(Shape(1, 1, 3, 4), 40, 60, 2)]
    demands = [demand._replace(position=f"p{k}") for k, demand in enumerate(demands)]
    monkeypatch.setattr(kernels, "WORTH_COMPILING_STEPS", 1 << 62)
    plain = assign(fleet, demands, rounds=20, handovers=handovers)
    monkeypatch.setattr(kernels, "WORTH_COMPILING_STEPS", 0)
    compiled = assign(fleet, demands, rounds=20, handovers=handovers)
    assert plain == compiled
    assert plain.unplaced


@st.composite
def nests(draw: st.DrawFn) -> Fleet:
    """Uneven nests: any count of nodes in a domain, of domains in a block, of GPUs in a node, blocks in two sites."""
    nodes: list[NodeSpec] = []
    for block in range(draw(st.integers(1, 3))):
        for domain in range(draw(st.integers(1, 3))):
            nodes += [
                NodeSpec(
                    name=f"n{block}-{domain}-{node}",
                    grade="H100",
                    gpus=draw(st.sampled_from([1, 2, 4])),
                    site=f"s{block % 2}",
                    block=f"b{block}",
                    domain=f"d{domain}",
                )
                for node in range(draw(st.integers(1, 9)))
            ]
    return Fleet.of(tuple(nodes))


@settings(max_examples=40)
@given(nests(), st.data())
def test_any_fan_outs_are_planned_lawfully(fleet: Fleet, data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(st.sampled_from(Level), st.integers(0, 4), st.integers(1, 3), st.integers(0, 1)), max_size=12
        )
    )
    demands = [
        Demand(f"p{k}", level, 1, start, start + length, min(pool, len(fleet.pools) - 1))
        for k, (level, start, length, pool) in enumerate(rows)
    ]
    made = assign(fleet, demands, handovers=True)
    assert faults(fleet, made.holdings) == []
    topology = topology_of(fleet)
    pools = {demand.position: demand.pool for demand in demands}
    assert all(topology.pool[h.level][h.cell] == pools[h.position] for h in made.holdings)
    assert len({h.position for h in made.holdings}) + len(made.unplaced) == len(demands)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "hours", "percent", "most_handovers"),
    [(Shape(2, 3, 9, 8), 200, 90, 0), (Shape(3, 2, 5, 4), 200, 90, 4), (Shape(4, 4, 4, 8), 150, 97, 20)],
    ids=str,
)
def test_calendars_carved_on_many_shapes_are_placed_whole_with_few_handovers(
    shape: Shape, hours: int, percent: int, most_handovers: int
) -> None:
    made = assign(fleet_of(*shape), carved(shape, hours, percent, 7), handovers=True)
    assert made.unplaced == ()
    assert len(made.handovers) <= most_handovers
