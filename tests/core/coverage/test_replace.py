"""Trades, failures and transfers: what is in force stays, what is refused is refused whole, the shortage rule is
obeyed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import merged
from scheduler.core.coverage.replace import Covering, cover, replace_failed, transfer
from scheduler.core.coverage.shortage import verify
from scheduler.core.coverage.topology import topology_of
from scheduler.core.coverage.waterfall import Rank
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import calendars, cells_at, faults, fleet_of, fleets, lots_placed


def held(position: str, level: Level, cell: int, start_ms: int, end_ms: int) -> Holding:
    return Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms)


def after(holdings: list[Holding], covering: Covering, at_ms: int) -> list[Holding]:
    """All holdings from an instant on, once the covering is applied."""
    others = [h for h in holdings if h.position not in covering.positions and h.end_ms > at_ms]
    clipped = [held(h.position, h.level, h.cell, max(h.start_ms, at_ms), h.end_ms) for h in others]
    return [*clipped, *covering.holdings]


def all_well(fleet: Fleet) -> np.ndarray:
    return np.ones(fleet.n_gpus, dtype=np.bool_)


@given(st.data(), st.integers(0, 5))
def test_a_trade_is_covered_whole_or_not_at_all_and_moves_nothing_in_force(data: st.DataObject, now_ms: int) -> None:
    fleet = data.draw(fleets())
    holdings = list(assign(fleet, data.draw(calendars(fleet, most=6)), rounds=50).holdings)
    new = [d._replace(position=f"new-{k // 2}") for k, d in enumerate(data.draw(calendars(fleet, most=4)))]
    covering = cover(fleet, new, holdings, now_ms, all_well(fleet), rounds=50)
    future = after(holdings, covering, now_ms)
    assert faults(fleet, future) == []
    refused = dict(covering.refused)
    before = merged(after(holdings, Covering((), ()), now_ms))
    in_force = [
        h
        for h in before
        if h.start_ms == now_ms
        and any(
            o.start_ms <= now_ms and o.cell == h.cell and o.position == h.position and o.level == h.level
            for o in holdings
        )
    ]
    assert set(in_force) <= set(future)
    for position in {h.position for h in holdings}:
        for at_ms in range(now_ms, 9):
            assert cells_at(fleet, future, position, at_ms) == cells_at(fleet, holdings, position, at_ms)
    for position in {d.position for d in new}:
        for at_ms in range(now_ms, 9):
            lots = sum(d.lots for d in new if d.position == position and d.start_ms <= at_ms < d.end_ms)
            assert cells_at(fleet, future, position, at_ms) == (0 if position in refused else lots)
    assert cover(fleet, new[::-1], holdings[::-1], now_ms, all_well(fleet), rounds=50) == covering


def test_the_future_is_planned_anew_where_a_trade_needs_it() -> None:
    fleet = fleet_of(nodes=2)
    holdings = [held("a", Level.NODE, 0, 2, 4), held("b", Level.NODE, 1, 4, 6)]
    covering = cover(fleet, [Demand("new", Level.NODE, 1, 2, 6, 0)], holdings, 0, all_well(fleet))
    assert covering.refused == ()
    assert faults(fleet, after(holdings, covering, 0)) == []
    # Once one of them is in force it stays, and there is no room for the whole of the new one on one cell.
    in_force = [held("a", Level.NODE, 0, 0, 4), held("b", Level.NODE, 1, 4, 6)]
    assert cover(fleet, [Demand("new", Level.NODE, 1, 2, 6, 0)], in_force, 1, all_well(fleet)).refused == ()
    both = [held("a", Level.NODE, 0, 0, 4), held("b", Level.NODE, 1, 0, 3)]
    covering = cover(fleet, [Demand("new", Level.NODE, 1, 2, 6, 0)], both, 1, all_well(fleet))
    assert covering == Covering((), (), (("new", 1),))


def test_what_a_new_plan_places_only_in_part_is_refused_whole() -> None:
    """The lots of one position fit by count at every instant, and yet no plan places all of them without a move."""
    fleet = fleet_of(nodes=2, gpus=2)
    windows = [(Level.GPU, 1, 3), (Level.GPU, 1, 4), (Level.GPU, 2, 4), (Level.NODE, 1, 2), (Level.NODE, 3, 4)]
    new = [Demand("new", level, 1, start, end, 0) for level, start, end in windows]
    assert cover(fleet, new, [], 0, all_well(fleet)) == Covering((), (), (("new", 1),))


def test_what_is_in_force_stays_even_where_moving_it_would_make_room() -> None:
    fleet = fleet_of(domains=2, nodes=2)
    apart = [held("x", Level.NODE, 0, 0, 9), held("y", Level.NODE, 2, 0, 9)]
    domain = [Demand("new", Level.NVLINK_DOMAIN, 1, 5, 9, 0)]
    assert cover(fleet, domain, apart, 1, all_well(fleet)).refused == (("new", 1),)
    to_come = [apart[0], held("y", Level.NODE, 2, 2, 9)]
    covering = cover(fleet, domain, to_come, 1, all_well(fleet))
    assert covering.holdings == (held("new", Level.NVLINK_DOMAIN, 1, 5, 9), held("y", Level.NODE, 1, 2, 9))


def test_a_refused_trade_does_not_take_others_with_it() -> None:
    fleet = fleet_of(nodes=2)
    new = [Demand("a", Level.NODE, 3, 0, 5, 0), Demand("b", Level.NODE, 2, 0, 5, 0)]
    covering = cover(fleet, new, [], 0, all_well(fleet))
    assert covering.positions == ("b",)
    assert [position for position, _ in covering.refused] == ["a"]


def test_an_account_stays_on_its_node_into_a_window_that_it_buys_later() -> None:
    fleet = fleet_of(nodes=4)
    holdings = [held("x", Level.NODE, 0, 0, 5), held("mine", Level.NODE, 2, 0, 5)]
    covering = cover(
        fleet,
        [Demand("more", Level.NODE, 1, 5, 9, 0)],
        holdings,
        1,
        all_well(fleet),
        account_of={"mine": "a", "more": "a"},
    )
    assert covering.holdings == (held("more", Level.NODE, 2, 5, 9),)


def sick(fleet: Fleet, usable: np.ndarray, h: Holding) -> bool:
    return not usable[fleet.gpus_of_cell(h.level, h.cell)].all()


@settings(deadline=None)
@given(st.data(), st.integers(0, 5))
def test_a_failure_moves_only_what_it_hit_and_lower_classes(data: st.DataObject, now_ms: int) -> None:
    fleet = data.draw(fleets())
    holdings = list(assign(fleet, data.draw(calendars(fleet)), rounds=50).holdings)
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus)))
    ranks = {h.position: Rank(data.draw(st.integers(0, 3)), 0) for h in holdings}
    covering = replace_failed(fleet, holdings, usable, now_ms, [0], ranks)
    future = after(holdings, covering, now_ms)
    assert faults(fleet, future) == []
    uncovered = dict(covering.uncovered)
    for position in {h.position for h in holdings}:
        before = cells_at(fleet, holdings, position, now_ms)
        assert before - uncovered.get(position, 0) <= cells_at(fleet, future, position, now_ms) <= before
        for at_ms in range(now_ms, 9):
            had, has = cells_at(fleet, holdings, position, at_ms), cells_at(fleet, future, position, at_ms)
            assert has <= had
            assert has == had or position in uncovered
    now = [h for h in future if h.start_ms <= now_ms]
    was = [h for h in holdings if h.start_ms <= now_ms < h.end_ms]
    classes = {h.position: ranks[h.position].firmness_class for h in holdings}
    hit = {h.position for h in was if sick(fleet, usable, h)}
    for position in covering.positions:
        assert position in hit or classes[position] > min(classes[each] for each in hit)
    count = {p: (cells_at(fleet, was, p, now_ms), cells_at(fleet, now, p, now_ms)) for p in classes}
    short = {p: sum(h.position == p and sick(fleet, usable, h) for h in now) + a - b for p, (a, b) in count.items()}
    assert dict(covering.refused) == {position: count for position, count in short.items() if count}
    for waiting in [h for h in was if short[h.position]]:
        assert not usable_by(fleet, usable, now, waiting, classes)
    assert all(verify(certificate.body) == certificate for certificate in covering.certificates)


def usable_by(
    fleet: Fleet, usable: np.ndarray, now: list[Holding], waiting: Holding, classes: dict[str, int]
) -> list[int]:
    """The whole, healthy cells of a lot's pool and level that nobody holds, or lower classes alone, at any level."""
    topology = topology_of(fleet)
    pool = topology.pool[waiting.level][waiting.cell]
    found = []
    for cell in range(topology.n_cells(waiting.level)):
        gpus = set(fleet.gpus_of_cell(waiting.level, cell).tolist())
        if len(gpus) != len(fleet.gpus_of_cell(waiting.level, waiting.cell)):
            continue  # a lot stands on cells of its own size alone
        if topology.pool[waiting.level][cell] != pool or not usable[list(gpus)].all():
            continue
        holders = [h.position for h in now if gpus & set(fleet.gpus_of_cell(h.level, h.cell).tolist())]
        if all(classes[holder] > classes[waiting.position] for holder in holders):
            found.append(cell)
    return found


def test_a_node_is_taken_from_single_gpus_of_a_lower_class_which_take_its_place_where_that_is_well() -> None:
    fleet = fleet_of(nodes=2)
    usable = all_well(fleet)
    usable[0] = False
    holdings = [held("firm", Level.NODE, 0, 0, 9), held("a", Level.GPU, 2, 0, 9), held("b", Level.GPU, 3, 0, 5)]
    covering = replace_failed(fleet, holdings, usable, 2, (), {"a": Rank(3, 0), "b": Rank(3, 1)})
    assert (covering.refused, covering.uncovered) == ((("a", 1),), (("a", 1),))
    assert covering.holdings == (
        held("b", Level.GPU, 1, 2, 5),
        held("firm", Level.NODE, 1, 2, 9),
    )
    first, second = covering.certificates
    assert (first.level, first.awarded) == (Level.NODE, {"firm": 1, "a": 0})
    assert (second.level, second.awarded) == (Level.GPU, {"a": 0})


def test_a_larger_lot_of_a_lower_class_loses_its_cell_to_a_smaller_one_and_gets_it_back() -> None:
    fleet = fleet_of(domains=2, nodes=2, gpus=1)
    usable = all_well(fleet)
    usable[0] = False
    holdings = [
        held("firm", Level.NODE, 0, 0, 5),
        held("same", Level.NODE, 1, 0, 9),
        held("low", Level.NVLINK_DOMAIN, 1, 0, 9),
    ]
    covering = replace_failed(fleet, holdings, usable, 2, (), {"low": Rank(2, 0)})
    assert (covering.refused, covering.uncovered) == ((("low", 1),), (("low", 1),))
    assert covering.holdings == (held("firm", Level.NODE, 2, 2, 5), held("low", Level.NVLINK_DOMAIN, 1, 5, 9))


def test_what_was_displaced_comes_back_when_there_is_room_and_the_oversold_only_whole() -> None:
    fleet = fleet_of(nodes=3)
    holdings = [held("low", Level.NODE, 1, 0, 9)]
    two = Demand("two", Level.NODE, 2, 0, 9, 0)
    ranks = {"low": Rank(3, 0), "two": Rank(0, 0)}
    well = all_well(fleet)
    covering = replace_failed(fleet, holdings, well, 2, [0], ranks, oversold=[two])
    assert covering.positions == ("low", "two")
    assert [h.cell for h in covering.holdings if h.position == "two"] == [1, 2]
    assert [h.cell for h in covering.holdings if h.position == "low"] == [0]
    three = two._replace(lots=3)
    assert replace_failed(fleet, holdings, well, 2, [0], ranks, oversold=[three]) == Covering((), ())
    waiting = Demand("low", Level.NODE, 1, 0, 9, 0)
    covering = replace_failed(fleet, [], well, 2, (), ranks, waiting=[waiting])
    assert covering.holdings == (held("low", Level.NODE, 0, 2, 9),)


def test_a_spare_is_taken_first_and_only_for_as_long_as_it_is_free() -> None:
    fleet = fleet_of(nodes=4)
    holdings = [held("a", Level.NODE, 0, 0, 9), held("later", Level.NODE, 3, 6, 9)]
    usable = all_well(fleet)
    usable[0] = False
    covering = replace_failed(fleet, holdings, usable, 2, [2])
    assert covering.holdings == (held("a", Level.NODE, 2, 2, 9),)
    usable[fleet.gpus_of_cell(Level.NODE, 1)] = False
    usable[fleet.gpus_of_cell(Level.NODE, 2)] = False
    covering = replace_failed(fleet, holdings, usable, 2, [2])
    assert covering.holdings == (held("a", Level.NODE, 3, 2, 6), held("a", Level.NODE, 0, 6, 9))


def test_a_lower_class_gives_up_its_cheapest_cell_and_stands_nowhere() -> None:
    fleet = fleet_of(nodes=3)
    holdings = [held("firm", Level.NODE, 0, 0, 9), held("low", Level.NODE, 1, 0, 5), held("low", Level.NODE, 2, 0, 5)]
    usable = all_well(fleet)
    usable[1] = False
    loss = np.array([0, 0, 9, 9, 1, 1])
    covering = replace_failed(fleet, holdings, usable, 2, (), {"low": Rank(2, 0)}, loss_by_gpu=loss)
    assert (covering.refused, covering.uncovered) == ((("low", 1),), (("low", 1),))
    assert [h for h in covering.holdings if h.position == "firm"] == [
        held("firm", Level.NODE, 2, 2, 9),
    ]
    assert [h for h in covering.holdings if h.position == "low"] == [
        held("low", Level.NODE, 1, 2, 5),
    ]
    taken, left = covering.certificates
    assert (taken.cells, taken.awarded) == (2, {"firm": 1, "low": 1})
    assert (left.cells, left.awarded) == (0, {"low": 0})


def test_what_is_displaced_stands_meanwhile_on_a_cell_that_is_drained_and_still_well() -> None:
    fleet = fleet_of(nodes=2)
    holdings = [held("firm", Level.NODE, 0, 0, 9), held("low", Level.NODE, 1, 0, 5)]
    usable = all_well(fleet)
    usable[1] = False
    ranks = {"low": Rank(2, 0)}
    covering = replace_failed(fleet, holdings, usable, 2, (), ranks, well=all_well(fleet))
    assert (covering.refused, covering.uncovered) == ((("low", 1),), ())
    assert [h for h in covering.holdings if h.position == "low"] == [held("low", Level.NODE, 0, 2, 5)]


def test_without_anything_to_replace_it_a_lot_stays_and_the_shortage_is_certified() -> None:
    fleet = fleet_of(nodes=2)
    holdings = [held("a", Level.NODE, 0, 0, 9), held("b", Level.NODE, 1, 0, 9)]
    usable = all_well(fleet)
    usable[0] = False
    covering = replace_failed(fleet, holdings, usable, 2)
    assert (covering.positions, covering.refused) == ((), (("a", 1),))
    assert covering.certificates[0].awarded == {"a": 0}


@given(st.data(), st.integers(1, 4), st.integers(0, 6))
def test_a_transfer_conserves_lots_at_every_instant(data: st.DataObject, lots: int, at_ms: int) -> None:
    fleet = data.draw(fleets())
    demands = [d._replace(position=f"p{k % 2}") for k, d in enumerate(data.draw(calendars(fleet)))]
    holdings = list(assign(fleet, demands, rounds=50).holdings)
    busy = np.array(data.draw(st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus)))
    covering = transfer(fleet, holdings, "p0", "new", lots, at_ms, busy)
    future = after(holdings, covering, at_ms)
    assert faults(fleet, future) == []
    assert lots_placed(h for h in future if h.position == "p1") == lots_placed(
        h for h in after(holdings, Covering((), ()), at_ms) if h.position == "p1"
    )
    for instant in range(at_ms, 9):
        had = cells_at(fleet, holdings, "p0", instant)
        assert cells_at(fleet, future, "new", instant) == min(lots, had)
        assert cells_at(fleet, future, "p0", instant) == had - min(lots, had)


def test_a_transfer_takes_idle_cells_and_keeps_to_them() -> None:
    fleet = fleet_of(nodes=3)
    holdings = [held("p", Level.NODE, cell, day, day + 1) for cell in range(3) for day in range(3)]
    busy = np.array([True, True, False, False, True, False])
    covering = transfer(fleet, holdings, "p", "new", 1, 1, busy)
    assert [h for h in covering.holdings if h.position == "new"] == [held("new", Level.NODE, 1, 1, 3)]
    assert covering.positions == ("new", "p")
    joins_later = [held("p", Level.NODE, 1, 0, 3), held("p", Level.NODE, 0, 1, 3)]
    assert held("new", Level.NODE, 1, 0, 3) in transfer(fleet, joins_later, "p", "new", 1, 0).holdings
    assert transfer(fleet, holdings, "p", "new", 4, 1).refused == (("new", 1),)
    with pytest.raises(InvalidValue, match="1 or more"):
        transfer(fleet, holdings, "p", "new", 0, 1)
