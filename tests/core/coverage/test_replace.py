"""Trades, failures and transfers: what is in force stays, what is refused is refused whole, the shortage rule is
obeyed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import merged
from scheduler.core.coverage.replace import Covering, Rank, cover, replace_failed, transfer
from scheduler.core.coverage.shortage import verify
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


@given(st.data(), st.integers(0, 5))
def test_a_failure_moves_only_what_it_hit_and_lower_classes(data: st.DataObject, now_ms: int) -> None:
    fleet = data.draw(fleets())
    holdings = list(assign(fleet, data.draw(calendars(fleet)), rounds=50).holdings)
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus)))
    ranks = {h.position: Rank(data.draw(st.integers(0, 3)), 0) for h in holdings}
    covering = replace_failed(fleet, holdings, usable, now_ms, [0], ranks)
    future = after(holdings, covering, now_ms)
    assert faults(fleet, future) == []
    for position in {h.position for h in holdings}:
        for at_ms in range(now_ms, 9):
            assert cells_at(fleet, future, position, at_ms) == cells_at(fleet, holdings, position, at_ms)

    def sick(h: Holding) -> bool:
        return not usable[fleet.gpus_of_cell(h.level, h.cell)].all()

    now = [h for h in future if h.start_ms <= now_ms]
    hit_classes = [ranks[h.position].firmness_class for h in holdings if h.start_ms <= now_ms < h.end_ms and sick(h)]
    for position in covering.positions:
        was_hit = any(h.position == position and h.start_ms <= now_ms < h.end_ms and sick(h) for h in holdings)
        assert was_hit or ranks[position].firmness_class > min(hit_classes)
    for h in now:
        if sick(h):
            pool = fleet.pool_of_node[fleet.node_of_gpu[fleet.gpus_of_cell(h.level, h.cell)[0]]]
            for other in now:
                same = other.level == h.level and not sick(other)
                other_pool = fleet.pool_of_node[fleet.node_of_gpu[fleet.gpus_of_cell(other.level, other.cell)[0]]]
                if same and pool == other_pool:
                    assert ranks[other.position].firmness_class <= ranks[h.position].firmness_class
    assert all(verify(certificate.body) == certificate for certificate in covering.certificates)
    assert set(covering.refused) == {
        (position, sum(1 for h in now if h.position == position and sick(h)))
        for position in {h.position for h in now if sick(h)}
    }


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


def test_a_lower_class_gives_up_its_cheapest_cell_and_stands_on_the_sick_one() -> None:
    fleet = fleet_of(nodes=3)
    holdings = [held("firm", Level.NODE, 0, 0, 9), held("low", Level.NODE, 1, 0, 5), held("low", Level.NODE, 2, 0, 5)]
    usable = all_well(fleet)
    usable[1] = False
    loss = np.array([0, 0, 9, 9, 1, 1])
    covering = replace_failed(fleet, holdings, usable, 2, (), {"low": Rank(2, 0)}, loss_by_gpu=loss)
    assert covering.refused == (("low", 1),)
    assert [h for h in covering.holdings if h.position == "firm"] == [
        held("firm", Level.NODE, 2, 2, 5),
        held("firm", Level.NODE, 0, 5, 9),
    ]
    assert [h for h in covering.holdings if h.position == "low"] == [
        held("low", Level.NODE, 0, 2, 5),
        held("low", Level.NODE, 1, 2, 5),
    ]
    (certificate,) = covering.certificates
    assert certificate.awarded == {"firm": 1, "low": 1}


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
    assert transfer(fleet, holdings, "p", "new", 4, 1).refused == (("new", 1),)
    with pytest.raises(InvalidValue, match="1 or more"):
        transfer(fleet, holdings, "p", "new", 0, 1)
