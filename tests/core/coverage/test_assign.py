"""Assignment: lawful, deterministic, sparing what is pinned, complete where colouring is, close to the optimum
elsewhere.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import admit, assign
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.topology import topology_of
from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import SOLD_LEVELS, calendars, faults, fleet_of, fleets, lots_placed


@st.composite
def problems(draw: st.DrawFn) -> tuple[Fleet, list[Demand], list[Holding], np.ndarray]:
    """A fleet with some of it unusable, some holdings that are pinned already, and demands beside them."""
    fleet = draw(fleets())
    usable = np.array(
        draw(st.lists(st.sampled_from([True, True, True, False]), min_size=fleet.n_gpus, max_size=fleet.n_gpus))
    )
    pinned = assign(fleet, draw(calendars(fleet, most=4)), usable=usable).holdings
    demands = [demand._replace(position=f"new-{demand.position}") for demand in draw(calendars(fleet))]
    return fleet, demands, list(pinned), usable


@given(problems())
def test_what_is_assigned_is_lawful_and_all_accounted_for(
    problem: tuple[Fleet, list[Demand], list[Holding], np.ndarray],
) -> None:
    fleet, demands, pinned, usable = problem
    made = assign(fleet, demands, pinned=pinned, usable=usable)
    assert faults(fleet, [*pinned, *made.holdings]) == []
    assert check(fleet, [*pinned, *made.holdings]) == ()
    topology = topology_of(fleet)
    for holding in made.holdings:
        assert usable[fleet.gpus_of_cell(holding.level, holding.cell)].all()
    wanted = Counter({(d.position, int(d.level), d.start_ms, d.end_ms): d.lots for d in demands})
    left = Counter({(d.position, int(d.level), d.start_ms, d.end_ms): d.lots for d in made.unplaced})
    assert lots_placed(made.holdings) + left == wanted
    pools = {demand.position: demand.pool for demand in demands}
    assert all(topology.pool[h.level][h.cell] == pools[h.position] for h in made.holdings)


@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    problem: tuple[Fleet, list[Demand], list[Holding], np.ndarray], chance: object
) -> None:
    fleet, demands, pinned, usable = problem
    shuffled, shuffled_pinned = list(demands), list(pinned)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    chance.shuffle(shuffled_pinned)  # type: ignore[attr-defined]
    once = assign(fleet, demands, pinned=pinned, usable=usable)
    assert assign(fleet, shuffled, pinned=shuffled_pinned, usable=usable) == once


@given(st.data(), st.sampled_from(SOLD_LEVELS))
def test_lots_of_one_level_are_all_placed_where_they_pass_by_count(data: st.DataObject, level: Level) -> None:
    fleet = fleet_of(blocks=2, domains=2, nodes=2, gpus=2)
    in_force = [d._replace(start_ms=-1) for d in data.draw(calendars(fleet, levels=[level], most=4))]
    pinned = assign(fleet, in_force).holdings
    demands = [d._replace(position=f"new-{d.position}") for d in data.draw(calendars(fleet, levels=[level], most=10))]
    refusals = admit(fleet, demands, pinned)
    assert (assign(fleet, demands, pinned=pinned).unplaced == ()) == (refusals == ())


@settings(max_examples=60)
@given(st.data())
def test_as_many_gpu_hours_as_the_best_of_all_assignments(data: st.DataObject) -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    demands = data.draw(calendars(fleet, levels=(Level.GPU, Level.NODE), most=4))
    demands = [demand._replace(lots=1) for demand in demands]
    made = assign(fleet, demands)
    got = sum(_gpu_ms(fleet, d) for d in demands) - sum(_gpu_ms(fleet, d) for d in made.unplaced)
    assert got == _most_gpu_ms(fleet, demands)


def test_the_nested_counterexample_passes_by_count_and_has_no_assignment_without_a_move() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    windows = [(Level.GPU, 0, 2), (Level.GPU, 0, 3), (Level.GPU, 1, 3), (Level.NODE, 0, 1), (Level.NODE, 2, 3)]
    demands = [Demand(f"p{k}", level, 1, start, end, 0) for k, (level, start, end) in enumerate(windows)]
    assert admit(fleet, demands) == ()
    made = assign(fleet, demands)
    assert sum(demand.lots for demand in made.unplaced) == 1
    assert faults(fleet, made.holdings) == []


def test_admission_names_level_window_need_and_have() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    demands = [Demand("a", Level.NODE, 2, 0, 10, 0), Demand("b", Level.GPU, 1, 5, 8, 0)]
    assert admit(fleet, demands) == ("GPU cells of H100 at local in [5, 8): need 5, have 4",)
    assert admit(fleet, demands[:1], usable=np.array([True, False, True, True])) == (
        "NODE cells of H100 at local in [0, 10): need 2, have 1",
    )


def test_lots_go_where_something_is_broken_already() -> None:
    fleet = fleet_of(blocks=2, domains=2, nodes=2, gpus=2)
    demands = [
        Demand("a", Level.GPU, 1, 0, 9, 0),
        Demand("b", Level.NODE, 1, 0, 9, 0),
        Demand("c", Level.GPU, 1, 0, 5, 0),
    ]
    made = assign(fleet, demands)
    # The node first, being larger; then both GPU lots on its neighbour in the same domain.
    assert [(h.position, int(h.level), h.cell) for h in made.holdings] == [("a", 0, 3), ("b", 1, 0), ("c", 0, 2)]


def test_a_preferred_cell_is_taken_where_it_is_free() -> None:
    fleet = fleet_of(nodes=4)
    prefer = [Holding(position="a", level=Level.NODE, cell=3, start_ms=0, end_ms=5)]
    made = assign(fleet, [Demand("a", Level.NODE, 2, 5, 9, 0)], prefer=prefer)
    assert [h.cell for h in made.holdings] == [0, 3]
    busy = [Holding(position="x", level=Level.NODE, cell=3, start_ms=6, end_ms=7)]
    made = assign(fleet, [Demand("a", Level.NODE, 2, 5, 9, 0)], prefer=prefer, pinned=busy)
    assert [h.cell for h in made.holdings] == [0, 1]


def test_a_gpu_that_a_pinned_holding_takes_later_is_left_to_it() -> None:
    later = [Holding(position="x", level=Level.GPU, cell=0, start_ms=3, end_ms=5)]
    made = assign(fleet_of(nodes=1), [Demand("a", Level.GPU, 1, 0, 9, 0)], pinned=later)
    assert [h.cell for h in made.holdings] == [1]
    assert assign(fleet_of(nodes=1), [Demand("a", Level.GPU, 2, 0, 9, 0)], pinned=later).unplaced[0].lots == 1


def test_an_account_keeps_its_cells_from_day_to_day() -> None:
    fleet = fleet_of(nodes=6)
    lots = {0: {"a": 2, "b": 2, "c": 2}, 1: {"a": 1, "b": 3, "c": 2}, 2: {"b": 3, "c": 3}}
    demands = [
        Demand(f"{who}{day}", Level.NODE, n, day, day + 1, 0) for day, of in lots.items() for who, n in of.items()
    ]
    made = assign(fleet, demands, account_of={demand.position: demand.position[0] for demand in demands})
    cells = {name: {h.cell for h in made.holdings if h.position == name} for name in (d.position for d in demands)}
    assert cells["a1"] < cells["a0"]
    assert cells["b0"] < cells["b1"]
    assert cells["b1"] == cells["b2"]
    assert cells["c0"] == cells["c1"]
    assert cells["c1"] < cells["c2"]


def test_a_domain_that_lies_in_two_pools_is_never_given() -> None:
    fleet = Fleet.of(tuple(NodeSpec(name=f"n{k}", grade="AB"[k % 2], gpus=1, domain=f"d{k // 3}") for k in range(4)))
    made = assign(fleet, [Demand("a", Level.NVLINK_DOMAIN, 2, 0, 1, 1)])
    assert [fleet.cell_name(h.level, h.cell) for h in made.holdings] == ["local/block-0/d1"]
    assert sum(d.lots for d in made.unplaced) == 1


@pytest.mark.parametrize(
    ("demand", "what"),
    [
        (Demand("a", Level.NODE, 1, 0, 1, 7), "pool"),
        (Demand("a", Level.NODE, 1, 1, 1, 0), "window"),
        (Demand("a", Level.NODE, -1, 0, 1, 0), "lots"),
    ],
)
def test_a_demand_that_no_fleet_could_mean_is_refused(demand: Demand, what: str) -> None:
    with pytest.raises(InvalidValue, match=what):
        assign(fleet_of(), [demand])


def test_pinned_holdings_that_contradict_themselves_are_refused() -> None:
    twice = [Holding(position=p, level=Level.NODE, cell=0, start_ms=0, end_ms=2) for p in ("x", "y")]
    with pytest.raises(Conflict, match="more GPUs than it has"):
        assign(fleet_of(), [Demand("a", Level.NODE, 1, 0, 1, 0)], pinned=twice)


def test_nothing_is_asked_of_an_empty_fleet() -> None:
    assert assign(Fleet(), []).holdings == ()


def _gpu_ms(fleet: Fleet, demand: Demand) -> int:
    return demand.lots * len(fleet.gpus_of_cell(demand.level, 0)) * (demand.end_ms - demand.start_ms)


def _most_gpu_ms(fleet: Fleet, demands: list[Demand]) -> int:
    """By trying every cell, or none, for every lot."""
    cells = [[None, *range(len(fleet.nodes) if d.level == Level.NODE else fleet.n_gpus)] for d in demands]
    best = 0
    for choice in product(*cells):
        held = [(d, cell) for d, cell in zip(demands, choice, strict=True) if cell is not None]
        value = sum(_gpu_ms(fleet, d) for d, _ in held)
        if value > best and not faults(
            fleet,
            [
                Holding(position=d.position, level=d.level, cell=c, start_ms=d.start_ms, end_ms=d.end_ms)
                for d, c in held
            ],
        ):
            best = value
    return best
