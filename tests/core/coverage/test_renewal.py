"""Accounts that buy their lots one window at a time stay on their cells, in whatever order the trades come."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.renewal import Edges
from scheduler.core.coverage.replace import cover
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import calendars, faults, fleet_of, fleets, lots_placed

DAYS = 6
ACCOUNTS = 4


def bought(fleet: Fleet, trades: Sequence[Demand], account_of: Mapping[str, str], *, opened: bool) -> list[Holding]:
    """What is held once all were traded one by one, before any of the windows begin."""
    calendar, usable = OpenCalendar(fleet, ()), np.ones(fleet.n_gpus, dtype=np.bool_)
    for trade in trades:
        held = list(calendar.holdings())
        made = cover(fleet, [trade], held, -1, usable, account_of=account_of, calendar=calendar if opened else None)
        assert made.refused == ()
        calendar.changed(made.positions, made.holdings, -1)
    return list(calendar.holdings())


def days_of(chance: random.Random, cells: int, level: Level) -> list[list[Demand]]:
    """Lots of a day each, some days fewer than the cells, some all of them."""
    days: list[list[Demand]] = []
    for day in range(DAYS):
        left, demands = cells, []
        for account in chance.sample(range(ACCOUNTS), ACCOUNTS):
            lots = chance.randint(0, min(left, cells // 2))
            left -= lots
            if lots:
                demands.append(Demand(f"{account}-{day}", level, lots, day, day + 1, 0))
        chance.shuffle(demands)
        days.append(demands)
    return days


def by_account(days: Iterable[Iterable[Demand]]) -> dict[str, str]:
    return {demand.position: demand.position.split("-")[0] for day in days for demand in day}


def stays(holdings: Iterable[Holding], account_of: Mapping[str, str]) -> int:
    """Cells that an account holds at the end of a day and at the beginning of the next."""
    cells = [(account_of[h.position], h.cell, day) for h in holdings for day in range(h.start_ms, h.end_ms)]
    return sum((account, cell, day + 1) in set(cells) for account, cell, day in cells)


def stays_at_most(days: Sequence[Sequence[Demand]], account_of: Mapping[str, str]) -> int:
    """By count: an account stays on no more cells than it holds on either day."""
    lots = [Counter({account_of[demand.position]: demand.lots for demand in day}) for day in days]
    return sum((before & after).total() for before, after in pairwise(lots))


@pytest.mark.parametrize("opened", [True, False], ids=["open calendar", "plan"])
@pytest.mark.parametrize("level", [Level.NODE, Level.GPU])
@pytest.mark.parametrize("seed", range(12))
def test_lots_of_a_day_stay_wherever_counts_allow_it_in_any_order_of_a_days_trades(
    seed: int, level: Level, *, opened: bool
) -> None:
    chance = random.Random(seed)
    fleet = fleet_of(blocks=chance.randint(1, 2), domains=chance.randint(1, 3), nodes=chance.randint(2, 4))
    days = days_of(chance, fleet.n_gpus if level == Level.GPU else len(fleet.nodes), level)
    account_of = by_account(days)
    held = bought(fleet, [trade for day in days for trade in day], account_of, opened=opened)
    assert faults(fleet, held) == []
    assert stays(held, account_of) == stays_at_most(days, account_of)


def test_lots_stay_although_the_days_are_traded_in_any_order() -> None:
    """Not wherever counts allow it: who buys a day between two that are sold finds its two cells apart."""
    most = kept = 0
    for seed in range(8):
        chance = random.Random(seed)
        fleet = fleet_of(domains=2, nodes=4)
        days = days_of(chance, len(fleet.nodes), Level.NODE)
        account_of = by_account(days)
        trades = [trade for day in days for trade in day]
        chance.shuffle(trades)
        kept += stays(bought(fleet, trades, account_of, opened=True), account_of)
        most += stays_at_most(days, account_of)
    assert kept * 100 >= most * 75


@settings(deadline=None)
@given(st.data(), st.integers(-1, 5))
def test_an_exchange_leaves_everybody_as_many_lots_in_the_same_windows(data: st.DataObject, now_ms: int) -> None:
    fleet = data.draw(fleets())
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    trades = [d for d in data.draw(calendars(fleet)) if d.end_ms > now_ms]
    account_of = {d.position: data.draw(st.sampled_from("abc")) for d in trades}
    calendar = OpenCalendar(fleet, ())
    for trade in trades:
        before = list(calendar.holdings())
        made = cover(fleet, [trade], before, now_ms, usable, account_of=account_of, calendar=calendar)
        if calendar.found([trade._replace(start_ms=max(trade.start_ms, now_ms))], usable) is None:
            continue  # then the whole future may be another
        calendar.changed(made.positions, made.holdings, now_ms)
        after = list(calendar.holdings())
        assert faults(fleet, after) == []
        others = [h for h in after if h.position != trade.position]
        assert lots_placed(others) == lots_placed(before)
        assert {h for h in before if h.start_ms <= now_ms} <= set(after)


def node(position: str, cell: int, start_ms: int, end_ms: int) -> Holding:
    return Holding(position=position, level=Level.NODE, cell=cell, start_ms=start_ms, end_ms=end_ms)


def test_a_cell_whose_holder_may_renew_is_taken_last() -> None:
    fleet = fleet_of(nodes=4)
    held = [node("a", 0, 0, 5), node("b", 1, 10, 15)]
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    found = OpenCalendar(fleet, held).found([Demand("new", Level.NODE, 3, 5, 10, 0)], usable)
    assert found is not None
    assert [h.cell for h in found] == [2, 3, 0]
    # Lots of another length leave the fewest gaps in time where others end or begin.
    found = OpenCalendar(fleet, held).found([Demand("new", Level.NODE, 3, 5, 9, 0)], usable)
    assert found is not None
    assert [h.cell for h in found] == [0, 1, 2]
    gpus = [Holding(position="a", level=Level.GPU, cell=0, start_ms=0, end_ms=5)]
    found = OpenCalendar(fleet, gpus).found([Demand("new", Level.GPU, 2, 5, 10, 0)], usable)
    assert found is not None
    assert [h.cell for h in found] == [1, 0]


def test_a_domain_that_newly_breaks_is_filled_before_the_next_even_where_holders_may_renew() -> None:
    fleet = fleet_of(domains=2, nodes=2)
    held = [node("a", 0, 0, 5), node("b", 2, 0, 5)]
    found = OpenCalendar(fleet, held).found(
        [Demand("new", Level.NODE, 2, 5, 10, 0)], np.ones(fleet.n_gpus, dtype=np.bool_)
    )
    assert found is not None
    assert [h.cell for h in found] == [1, 0]


def test_a_planned_lot_of_the_same_window_gives_way_and_one_in_force_does_not() -> None:
    fleet = fleet_of(nodes=3)
    account_of = {"a1": "a", "a2": "a"}
    held = [node("a1", 0, 0, 5), node("b", 0, 5, 9), node("c", 1, 5, 9)]
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    trade = [Demand("a2", Level.NODE, 1, 5, 9, 0)]
    made = cover(fleet, trade, held, 1, usable, account_of=account_of)
    assert made.holdings == (node("a2", 0, 5, 9), node("b", 2, 5, 9))
    assert cover(fleet, trade, held, 5, usable, account_of=account_of).positions == ("a2",)
    # Nor from one in force to that which the account holds from its end on.
    after = [node("b", 0, 0, 5), node("a1", 0, 5, 9)]
    made = cover(fleet, [Demand("a2", Level.NODE, 1, 1, 5, 0)], after, 1, usable, account_of=account_of)
    assert (made.positions, made.holdings[0].cell) == (("a2",), 1)
    longer = [held[0], node("b", 0, 5, 10), held[2]]
    assert cover(fleet, trade, longer, 1, usable, account_of=account_of).positions == ("a2",)
    ill = usable.copy()
    ill[fleet.gpus_of_cell(Level.NODE, 0)] = False
    assert cover(fleet, trade, held, 1, ill, account_of=account_of).positions == ("a2",)


def test_who_would_lose_as_much_as_is_won_does_not_give_way() -> None:
    fleet = fleet_of(nodes=3)
    account_of = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    held = [node("a1", 0, 0, 5), node("b1", 0, 5, 9), node("b2", 0, 9, 12)]
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    made = cover(fleet, [Demand("a2", Level.NODE, 1, 5, 9, 0)], held, 1, usable, account_of=account_of)
    assert made.positions == ("a2",)


def test_edges_know_what_was_put_and_dropped_before_and_after_they_were_asked() -> None:
    first, second, third = node("a", 0, 0, 5), node("b", 1, 0, 5), node("c", 2, 0, 5)
    edges = Edges([first, second])
    assert edges.beside(Level.NODE, 1, 5, 9) == (second, None)
    assert edges.beside(Level.NODE, 2, 5, 0) == (None, None)
    edges.drop([first])
    edges.put([third])
    assert edges.beside(Level.NODE, 2, 5, 9) == (third, None)
    assert edges.since(Level.NODE, 0) == {1: second, 2: third}
    edges.drop([second])
    edges.put([first])
    assert edges.since(Level.NODE, 0) == edges.until(Level.NODE, 5) == {0: first, 2: third}
    assert edges.until(Level.GPU, 5) == edges.until(Level.NODE, 4) == {}
