"""Swaps that let coverage follow work: only ever for the better, and never at another owner's cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.follow import follow_work
from scheduler.core.coverage.ownership import may_swap, owner_at, swap_cells
from scheduler.core.holdings import Holding
from tests.core.coverage.drawn import SOLD_LEVELS, calendars, faults, fleet_of, fleets, workers_of_single_gpus


def held(position: str, level: Level, cell: int, start_ms: int = 0, end_ms: int = 9) -> Holding:
    return Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms)


LAST_MS = 10


def own_use(
    fleet: Fleet, holdings: tuple[Holding, ...], at_ms: int, accounts: dict[str, int], busy: np.ndarray
) -> dict[int, int]:
    """GPUs on which each account's work runs and which cover it."""
    owner, _ = owner_at(fleet, holdings, at_ms, accounts)
    return {a: int(((owner == a) & (busy == a)).sum()) for a in set(accounts.values())}


@given(st.data(), st.integers(0, 4))
def test_every_swap_is_lawful_and_raises_own_use_while_nobodys_falls(data: st.DataObject, at_ms: int) -> None:
    fleet = data.draw(st.one_of(fleets(), st.just(fleet_of(blocks=2, domains=2, nodes=2))))
    levels = (*SOLD_LEVELS, Level.FABRIC_BLOCK)
    holdings = assign(fleet, data.draw(calendars(fleet, levels=levels)), rounds=50).holdings
    accounts = {h.position: int(h.position[1:]) % 3 for h in holdings}
    busy = np.array(
        data.draw(st.lists(st.integers(-1, 2), min_size=fleet.n_gpus, max_size=fleet.n_gpus)), dtype=np.int32
    )
    start, traded = holdings, []
    before = own_use(fleet, holdings, at_ms, accounts, busy)
    for level, left, right in follow_work(fleet, holdings, at_ms, accounts, busy):
        traded += [gpu for cell in (left, right) for gpu in fleet.gpus_of_cell(level, cell).tolist()]
        assert may_swap(fleet, holdings, level, left, right, at_ms)
        holdings = swap_cells(fleet, holdings, level, left, right, at_ms)
        use = own_use(fleet, holdings, at_ms, accounts, busy)
        assert sum(use.values()) > sum(before.values())
        assert all(use[a] >= before[a] for a in use)
        before = use
    assert faults(fleet, holdings) == []
    assert len(traded) == len(set(traded))
    for now_ms in range(at_ms, LAST_MS):
        was, now = (workers_of_single_gpus(fleet, each, now_ms, accounts) for each in (start, holdings))
        assert all(now[key] >= count for key, count in was.items())


def test_a_node_follows_the_work_and_the_other_owner_loses_nothing() -> None:
    fleet = fleet_of(nodes=3)
    holdings = [held("a", Level.NODE, 0), held("b", Level.NODE, 1)]
    # a's work runs on b's node; b's own runs on nobody's.
    busy = np.array([-1, -1, 0, 0, 1, -1], dtype=np.int32)
    assert follow_work(fleet, holdings, 1, {"a": 0, "b": 1}, busy) == ((Level.NODE, 1, 0),)
    # b uses its node itself: nothing to be had.
    busy = np.array([-1, -1, 0, 1, -1, -1], dtype=np.int32)
    assert follow_work(fleet, holdings, 1, {"a": 0, "b": 1}, busy) == ()


def test_single_gpus_follow_inside_a_node() -> None:
    fleet = fleet_of(nodes=2, gpus=3)
    holdings = [held("a", Level.GPU, 0), held("b", Level.GPU, 1), held("a", Level.NODE, 1, 10, 11)]
    busy = np.array([-1, 0, -1, -1, -1, -1], dtype=np.int32)
    assert follow_work(fleet, holdings, 1, {"a": 0, "b": 1}, busy) == ((Level.GPU, 1, 0),)
    tied = [*holdings, held("c", Level.NODE, 0, 10, 11)]
    assert follow_work(fleet, tied, 1, {"a": 0, "b": 1, "c": 2}, busy) == ()


def test_whole_domains_and_blocks_follow() -> None:
    fleet = fleet_of(blocks=2, domains=2, nodes=2)
    accounts = {"a": 0, "b": 1, "c": 2}
    for level, gpus in ((Level.NVLINK_DOMAIN, 4), (Level.FABRIC_BLOCK, 8)):
        busy = np.full(16, -1, dtype=np.int32)
        busy[gpus : gpus + 2] = 0
        # a's work runs in the second cell, where b holds one node; what b holds goes along.
        mine = held("a", level, 0)
        other = held("b", Level.NODE, gpus // 2 + 1)
        assert follow_work(fleet, [mine, other], 1, accounts, busy) == ((level, 1, 0),)
        assert follow_work(fleet, [mine, other, held("c", Level.SITE, 0, 20, 30)], 1, accounts, busy) == ()
        own = busy.copy()
        own[gpus + 2] = 1
        assert follow_work(fleet, [mine, other], 1, accounts, own) == ()
        ill = np.ones(16, dtype=np.bool_)
        ill[gpus + 3] = False
        assert follow_work(fleet, [mine, other], 1, accounts, busy, usable=ill) == ()


def test_names_follow_through_blocks_of_nine_domains_of_eight_nodes_of_eight() -> None:
    """Everything at once, and what a large cell brought home needs no small one."""
    fleet = fleet_of(blocks=8, domains=9, nodes=8, gpus=8)
    lots = (Level.FABRIC_BLOCK, 0), (Level.NVLINK_DOMAIN, 9), (Level.NODE, 18 * 8), (Level.GPU, 19 * 64)
    holdings = [held("a", level, cell) for level, cell in lots]
    busy = np.full(fleet.n_gpus, -1, dtype=np.int32)
    busy[4 * 576 : 4 * 576 + 64] = 0
    busy[5 * 576 : 5 * 576 + 32] = 0
    busy[6 * 576 : 6 * 576 + 8] = 0
    busy[7 * 576 + 5] = 0
    swaps = follow_work(fleet, holdings, 1, {"a": 0}, busy)
    assert swaps == (
        (Level.FABRIC_BLOCK, 4, 0),
        (Level.NVLINK_DOMAIN, 45, 9),
        (Level.NODE, 6 * 72, 18 * 8),
        (Level.GPU, 7 * 576 + 5, 19 * 64),
    )
    for level, left, right in swaps:
        holdings = list(swap_cells(fleet, holdings, level, left, right, 1))
    assert follow_work(fleet, holdings, 1, {"a": 0}, busy) == ()


def test_gpus_of_two_nodes_follow_where_nobody_loses_room_for_workers() -> None:
    fleet = fleet_of(nodes=2, gpus=4)
    accounts = {"a": 0, "b": 1}
    busy = np.array([-1, -1, -1, -1, 0, 0, -1, -1], dtype=np.int32)
    pair = [held("a", Level.GPU, gpu) for gpu in (0, 1)]
    assert follow_work(fleet, pair, 1, accounts, busy) == ((Level.GPU, 4, 0), (Level.GPU, 5, 1))
    # With a third GPU beside them a worker of three would lose its node.
    three = [*pair, held("a", Level.GPU, 2)]
    assert follow_work(fleet, three, 1, accounts, busy) == ()
    # b holds all of its node, now or later: a worker of four would lose it.
    four = [held("b", Level.GPU, gpu) for gpu in range(4, 8)]
    assert follow_work(fleet, [*pair, *four], 1, accounts, busy) == ()
    ahead = [held("b", Level.GPU, gpu, 20, 30) for gpu in range(4, 8)]
    assert follow_work(fleet, [*pair, *ahead], 1, accounts, busy) == ()
    two = [held("b", Level.GPU, gpu) for gpu in (4, 5)]
    assert follow_work(fleet, [*pair, *two], 1, accounts, busy) == ((Level.GPU, 4, 0), (Level.GPU, 5, 1))
    # Of two that cannot go together one goes where that leaves as much room.
    beside = [held("a", Level.GPU, 0), held("a", Level.GPU, 6)]
    alone = np.array([-1, -1, -1, -1, 0, -1, -1, -1], dtype=np.int32)
    assert follow_work(fleet, beside, 1, accounts, alone) == ((Level.GPU, 4, 6),)


def test_a_node_trades_gpus_with_one_other_at_a_time() -> None:
    """Each of the two trades alone leaves c its three pairs, both would not."""
    fleet = fleet_of(nodes=3, gpus=4)
    holdings = [held("c", Level.GPU, gpu) for gpu in (0, 1, 2, 4, 5, 8, 9)]
    holdings += [held("a", Level.GPU, 6), held("b", Level.GPU, 10)]
    busy = np.full(12, -1, dtype=np.int32)
    busy[[0, 1]] = 0, 1
    accounts = {"a": 0, "b": 1, "c": 2}
    assert follow_work(fleet, holdings, 1, accounts, busy) == ((Level.GPU, 0, 6),)
    busy[0] = -1
    assert follow_work(fleet, holdings, 1, accounts, busy) == ((Level.GPU, 1, 10),)


@pytest.mark.parametrize("level", [Level.NODE, Level.GPU])
def test_cells_of_two_pools_never_trade(level: Level) -> None:
    for grade in ("H100", "A100"):
        nodes = [NodeSpec(name=name, grade=kind, gpus=2) for name, kind in (("n0", "H100"), ("n1", grade))]
        busy = np.array([-1, -1, 0, -1], dtype=np.int32)
        swaps = follow_work(Fleet.of(tuple(nodes)), [held("a", level, 0)], 1, {"a": 0}, busy)
        assert swaps == (((level, {Level.NODE: 1, Level.GPU: 2}[level], 0),) if grade == "H100" else ())


@pytest.mark.parametrize(("sizes", "trades"), [((2, 2), 1), ((4, 2), 0), ((2, 4), 0)])
def test_cells_of_two_sizes_never_trade(sizes: tuple[int, int], trades: int) -> None:
    nodes = tuple(NodeSpec(name=f"n{k}", grade="H100", gpus=gpus) for k, gpus in enumerate(sizes))
    busy = np.array([-1] * sizes[0] + [0] * sizes[1], dtype=np.int32)
    assert len(follow_work(Fleet.of(nodes), [held("a", Level.NODE, 0)], 1, {"a": 0}, busy)) == trades


def test_work_that_cannot_be_preempted_keeps_the_turns_it_was_placed_by() -> None:
    fleet = fleet_of(nodes=2)
    busy = np.array([-1, -1, 0, 0], dtype=np.int32)
    fixed = busy >= 0
    assert follow_work(fleet, [held("a", Level.NODE, 0)], 1, {"a": 0}, busy, fixed=fixed) == ()
    assert follow_work(fleet, [held("a", Level.NODE, 0)], 1, {"a": 0}, busy) == ((Level.NODE, 1, 0),)
    equal = [held("a", Level.NODE, 0), held("b", Level.NODE, 1)]
    assert follow_work(fleet, equal, 1, {"a": 0, "b": 1}, busy, fixed=fixed) == ((Level.NODE, 1, 0),)


def test_what_cannot_be_preempted_never_comes_under_anothers_coverage() -> None:
    """Account a's work runs beside c's, which cannot be preempted, on a node of nobody's until b's lot on it begins."""
    fleet = fleet_of(nodes=2)
    holdings = [held("a", Level.NODE, 0), held("b", Level.NODE, 1, 9, 12)]
    accounts, busy = {"a": 0, "b": 1, "c": 2}, np.array([-1, -1, 0, 2], dtype=np.int32)
    assert follow_work(fleet, holdings, 1, accounts, busy) == ((Level.NODE, 1, 0),)
    assert follow_work(fleet, holdings, 1, accounts, busy, fixed=busy == 2) == ()
    assert follow_work(fleet, holdings, 1, accounts, busy, fixed=busy == 0) == ((Level.NODE, 1, 0),)


def test_ill_cells_never_trade() -> None:
    """An account whose own cell is ill does not hand it on by borrowing another's."""
    fleet = fleet_of(nodes=2)
    holdings = [held("a", Level.NODE, 0), held("b", Level.NODE, 1)]
    busy = np.array([-1, -1, 0, 0], dtype=np.int32)
    usable = np.array([True, False, True, True])
    assert follow_work(fleet, holdings, 1, {"a": 0, "b": 1}, busy, usable=usable) == ()
    assert follow_work(fleet, holdings, 1, {"a": 0, "b": 1}, busy) == ((Level.NODE, 1, 0),)
    single = [held("a", Level.GPU, 0), held("b", Level.GPU, 1)]
    busy = np.array([-1, 0, -1, -1], dtype=np.int32)
    usable = np.array([False, True, True, True])
    assert follow_work(fleet, single, 1, {"a": 0, "b": 1}, busy, usable=usable) == ()
    assert follow_work(fleet, single, 1, {"a": 0, "b": 1}, busy) == ((Level.GPU, 1, 0),)
