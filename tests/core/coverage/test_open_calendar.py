"""The calendar kept open: after any changes it knows what a new one knows, and gives only what is free."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import merged
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.replace import cover
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import calendars, faults, fleet_of, fleets


@pytest.mark.parametrize("seed", range(20))
def test_after_any_changes_it_gives_what_a_new_one_gives(seed: int) -> None:
    chance = random.Random(seed)
    fleet = Fleet.of(
        tuple(
            NodeSpec(
                name=f"n{k}",
                grade=chance.choice(("H100", "H100", "A100")),
                gpus=chance.choice((2, 2, 3)),
                block=f"b{chance.randrange(2)}",
                domain=f"d{chance.randrange(2)}",
            )
            for k in range(chance.randrange(1, 9))
        )
    )
    usable = np.array([chance.random() < 0.8 for _ in range(fleet.n_gpus)])
    kept = OpenCalendar(fleet, ())
    for step in range(10):
        if chance.random() < 0.4 and kept.of_position:
            kept.changed([chance.choice(sorted(kept.of_position))], [], chance.randrange(4))
        demands = [demand_drawn(chance, fleet, f"{step}-{k}") for k in range(chance.randrange(1, 3))]
        found = kept.found(demands, usable)
        assert OpenCalendar(fleet, list(kept.holdings())).found(demands, usable) == found
        if found is not None:
            assert all(usable[fleet.gpus_of_cell(h.level, h.cell)].all() for h in found)
            kept.changed({demand.position for demand in demands}, found, 0)
    assert faults(fleet, kept.holdings()) == []


def demand_drawn(chance: random.Random, fleet: Fleet, name: str) -> Demand:
    start = chance.randrange(5)
    level = Level(chance.randrange(4))
    lots, end, pool = chance.randrange(1, 3), start + chance.randrange(1, 4), chance.randrange(len(fleet.pools))
    return Demand(name, level, lots, start, end, pool)


@settings(max_examples=60)
@given(st.data(), st.sampled_from([Level.GPU, Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK, Level.SITE]))
def test_one_lot_finds_a_cell_exactly_where_one_is_free(data: st.DataObject, level: Level) -> None:
    fleet = data.draw(fleets())
    held = assign(fleet, data.draw(calendars(fleet, most=5))).holdings
    start = data.draw(st.integers(0, 4))
    demand = Demand("new", level, 1, start, start + data.draw(st.integers(1, 4)), 0)
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    free = [cell for cell in range(topology_of(fleet).n_cells(level)) if is_free(fleet, held, demand, cell)]
    found = OpenCalendar(fleet, held).found([demand], usable)
    assert (found is None) == (free == [])
    if found is not None:
        assert found[0].cell in free


def is_free(fleet: Fleet, held: Sequence[Holding], demand: Demand, cell: int) -> bool:
    """By looking at every GPU and millisecond, and at the cell's pool."""
    gpus = fleet.gpus_of_cell(demand.level, cell)
    if set(fleet.pool_of_node[fleet.node_of_gpu[gpus]].tolist()) != {demand.pool}:
        return False
    mine = Holding(position="new", level=demand.level, cell=cell, start_ms=demand.start_ms, end_ms=demand.end_ms)
    return faults(fleet, [*held, mine]) == []


def test_an_account_keeps_the_cell_that_it_holds_just_before() -> None:
    fleet = fleet_of(nodes=4)
    held = (Holding(position="a1", level=Level.NODE, cell=3, start_ms=0, end_ms=5),)
    calendar, usable = OpenCalendar(fleet, held), np.ones(fleet.n_gpus, dtype=np.bool_)
    demand = Demand("a2", Level.NODE, 1, 5, 9, 0)
    made = cover(fleet, [demand], held, 0, usable, account_of={"a1": "a", "a2": "a"}, calendar=calendar)
    assert [h.cell for h in made.holdings] == [3]
    made = cover(fleet, [demand], held, 0, usable, calendar=calendar)
    assert made.positions == ("a2",)


def test_a_trade_that_the_open_calendar_cannot_place_has_the_future_planned_anew() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    held = tuple(Holding(position=f"x{cell}", level=Level.GPU, cell=cell, start_ms=5, end_ms=9) for cell in (0, 2))
    calendar, usable = OpenCalendar(fleet, held), np.ones(fleet.n_gpus, dtype=np.bool_)
    made = cover(fleet, [Demand("a", Level.NODE, 1, 5, 9, 0)], held, 0, usable, calendar=calendar)
    assert made.refused == ()
    assert "a" in made.positions
    future = merged([*(h for h in held if h.position not in made.positions), *made.holdings])
    assert faults(fleet, future) == []
