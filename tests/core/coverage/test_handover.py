"""Planned handovers: only where asked for, each lot on one cell at every instant, and no more of them than needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.assign import Assignment, Handover, assign
from scheduler.core.coverage.backing import handovers
from scheduler.core.coverage.replace import cover
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import calendars, cells_at, faults, fleet_of, fleets

TWO_BY_TWO = ((Level.GPU, 0, 2), (Level.GPU, 0, 3), (Level.GPU, 1, 3), (Level.NODE, 0, 1), (Level.NODE, 2, 3))


def counterexample() -> list[Demand]:
    """Fits by count at every instant, and no assignment without a move exists."""
    return [Demand(f"p{k}", level, 1, start, end, 0) for k, (level, start, end) in enumerate(TWO_BY_TWO)]


def test_one_handover_places_what_no_assignment_without_a_move_can() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    assert assign(fleet, counterexample()).unplaced != ()
    assert assign(fleet, counterexample()).handovers == ()
    made = assign(fleet, counterexample(), handovers=True)
    assert made.unplaced == ()
    assert len(made.handovers) == 1
    assert faults(fleet, made.holdings) == []
    assert handovers_seen(made) == made.handovers


def handovers_seen(made: Assignment) -> tuple[Handover, ...]:
    """Positions of one lot whose holdings follow one another on different cells."""
    found = [
        Handover(one.position, other.start_ms, one.level, one.cell, other.cell)
        for one in made.holdings
        for other in made.holdings
        if one.position == other.position and one.end_ms == other.start_ms
    ]
    return tuple(sorted(found))


@settings(max_examples=60)
@given(st.data())
def test_a_lot_with_handovers_has_one_cell_at_every_instant_of_its_window(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    demands = data.draw(calendars(fleet))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus)))
    without, made = assign(fleet, demands, usable=usable), assign(fleet, demands, usable=usable, handovers=True)
    assert faults(fleet, made.holdings) == []
    assert all(usable[fleet.gpus_of_cell(h.level, h.cell)].all() for h in made.holdings)
    assert sum(d.lots for d in made.unplaced) <= sum(d.lots for d in without.unplaced)
    left = Counter({d.position: d.lots for d in made.unplaced})
    for demand in demands:
        for at_ms in range(demand.start_ms, demand.end_ms):
            assert cells_at(fleet, made.holdings, demand.position, at_ms) == demand.lots - left[demand.position]
    if without.unplaced == ():
        assert made.handovers == ()


def test_pinned_holdings_are_never_handed_over() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    pinned = [Holding(position=f"x{cell}", level=Level.GPU, cell=cell, start_ms=0, end_ms=4) for cell in (0, 2)]
    made = assign(fleet, [Demand("a", Level.NODE, 1, 0, 4, 0)], pinned=pinned, handovers=True)
    assert made.holdings == ()
    assert [d.lots for d in made.unplaced] == [1]


def test_a_trade_that_needs_a_handover_is_refused_unless_handovers_are_accepted() -> None:
    fleet = fleet_of(nodes=2, gpus=2)
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    *before, last = counterexample()
    held = assign(fleet, before).holdings
    refused = cover(fleet, [last], held, -1, usable)
    assert refused.refused == (("p4", 1),)
    assert cover(fleet, [last], held, -1, usable, handovers={"p0", "p1", "p2", "p3"}) == refused
    accepted = cover(fleet, [last], held, -1, usable, handovers={"p0", "p1", "p2", "p3", "p4"})
    assert accepted.refused == ()
    future = [h for h in held if h.position not in accepted.positions] + list(accepted.holdings)
    assert faults(fleet, future) == []
    for demand in (*before, last):
        for at_ms in range(demand.start_ms, demand.end_ms):
            assert cells_at(fleet, future, demand.position, at_ms) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_lots_whose_buyers_accept_it_are_handed_over(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    demands = [demand._replace(position=f"p{k}") for k, demand in enumerate(data.draw(calendars(fleet)))]
    names = [demand.position for demand in demands]
    accepting = data.draw(st.sets(st.sampled_from(names))) if names else set()
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    held: list[Holding] = []
    for demand in demands:
        made = cover(fleet, [demand], held, -1, usable, rounds=5, handovers=accepting)
        held = [h for h in held if h.position not in made.positions] + list(made.holdings)
        assert faults(fleet, held) == []
    assert {each.position for each in handovers(held, -1, 99)} <= accepting
    covered = {h.position for h in held}
    for demand in demands:
        for at_ms in range(demand.start_ms, demand.end_ms):
            assert cells_at(fleet, held, demand.position, at_ms) == (demand.lots if demand.position in covered else 0)


def test_what_is_in_force_stays_where_it_is_also_with_handovers() -> None:
    fleet: Fleet = fleet_of(nodes=2, gpus=2)
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    held = [Holding(position=f"x{cell}", level=Level.GPU, cell=cell, start_ms=0, end_ms=9) for cell in (0, 2)]
    made = cover(fleet, [Demand("a", Level.NODE, 1, 3, 6, 0)], held, 1, usable, handovers={"a", "x0", "x2"})
    assert made.refused == (("a", 1),)
    assert made.positions == ()
