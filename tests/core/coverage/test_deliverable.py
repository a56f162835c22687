"""What more may be sold: exact at an instant against trying everything, safe over windows, and as a trade would go."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.accreditation import accredited
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.deliverable import Deliverable, deliverable, planned_lots
from scheduler.core.coverage.prospects import Offer, prospects
from scheduler.core.coverage.replace import cover
from scheduler.core.coverage.standing import pool_cells
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.by_trying import most_by_trying, survives_over_time
from tests.core.coverage.drawn import calendars, fleet_of, fleets

SHAPES = (
    (1, 2, 2, 2),
    (2, 2, 2, 1),
    (1, 3, 2, 2),
    (2, 1, 2, 3),
    (1, 4, 2, 1),
    (2, 2, 1, 3),
    (3, 1, 2, 2),
    (2, 3, 2, 1),
)
"""Blocks, domains, nodes, GPUs: a dozen GPUs at most."""
CASES = 400


def held(position: str, level: Level, cell: int, start_ms: int = 0, end_ms: int = 9) -> Holding:
    return Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms)


def well(fleet: Fleet) -> np.ndarray:
    return np.ones(fleet.n_gpus, dtype=np.bool_)


def offered(
    level: Level, losses: int = 1, domain: Level = Level.NVLINK_DOMAIN, window: tuple[int, int] = (0, 9)
) -> Offer:
    return Offer((Demand("offered", level, 1, *window, 0),), losses, domain)


def scattered(fleet: Fleet, chance: random.Random, most: int = 6) -> list[Holding]:
    """Lots of any level on any cells that are free by then."""
    topology, taken = topology_of(fleet), set[int]()
    lots: list[Holding] = []
    for number in range(chance.randint(0, most)):
        level = chance.choice((Level.GPU, Level.GPU, Level.NODE, Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
        cell = chance.randrange(topology.n_cells(level))
        gpus = set(fleet.gpus_of_cell(level, cell).tolist())
        if not gpus & taken:
            taken |= gpus
            lots.append(held(f"p{number}", level, cell))
    return lots


@pytest.mark.parametrize("seed", range(4))
def test_at_an_instant_the_answer_is_that_of_trying_everything(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(CASES):
        fleet = fleet_of(*chance.choice(SHAPES))
        lots = scattered(fleet, chance)
        level = chance.choice((Level.GPU, Level.GPU, Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
        domain = chance.choice((Level.NODE, Level.NVLINK_DOMAIN, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
        losses = chance.choice((0, 1, 1, 1, 2, 3))
        found = deliverable(fleet, lots, offered(level, losses, domain), 0, well(fleet))
        tried = most_by_trying(fleet, 0, lots, level, domain, losses)
        case = (fleet.domains, [(each.level, each.cell) for each in lots], level, domain, losses)
        assert found.survives == (tried >= 0), case
        assert found.proven <= max(tried, 0) <= found.at_most, case
        if not (level == Level.GPU and domain >= Level.FABRIC_BLOCK):
            assert found.proven == found.at_most, case


UNEVEN: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((2, 2), (2, 2), (1, 1), (1, 1)),  # nodes of two sizes, a domain of each alike
    ((2, 1), (2, 1), (2, 1)),  # nodes of two sizes in each domain
    ((1, 1), (1, 1, 1), (1, 1), (1, 1, 1)),  # domains of two sizes
    ((2,), (1, 1), (2,), (1, 1), (2,)),  # domains of one size, of different nodes
    ((2, 1), (2, 2), (1, 1), (2,)),  # no two alike
)
"""GPUs of each node, domain by domain."""


def uneven_fleet(shape: tuple[tuple[int, ...], ...], domains_a_block: int) -> Fleet:
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{d}-{n}", grade="H100", gpus=gpus, domain=f"d{d}", block=f"b{d // domains_a_block}")
            for d, domain in enumerate(shape)
            for n, gpus in enumerate(domain)
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_where_cells_differ_in_size_what_is_proven_is_never_more_than_trying_everything_finds(seed: int) -> None:
    chance = random.Random(seed)
    proven = possible = shown = safe = 0
    for _ in range(CASES // 2):
        fleet = uneven_fleet(chance.choice(UNEVEN), chance.choice((1, 2, 3)))
        topology = topology_of(fleet)
        lots = scattered(fleet, chance, most=4)
        level = chance.choice((Level.GPU, Level.NODE, Level.NODE, Level.NVLINK_DOMAIN))
        domain = chance.choice((Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
        losses = chance.choice((0, 1, 1, 2))
        size = chance.choice((topology.end_gpu[level] - topology.first_gpu[level]).tolist())
        of_size = np.zeros(fleet.n_gpus, dtype=np.bool_)
        for cell in range(topology.n_cells(level)):
            gpus = fleet.gpus_of_cell(level, cell)
            of_size[gpus] = len(gpus) == size
        found = deliverable(fleet, lots, offered(level, losses, domain), 0, well(fleet), of_size)
        tried = most_by_trying(fleet, 0, lots, level, domain, losses, size)
        case = (fleet.nodes, [(each.level, each.cell) for each in lots], level, size, domain, losses)
        assert found.proven <= max(tried, 0) <= found.at_most, case
        assert tried >= 0 or not found.survives, case
        if losses:
            proven, possible = proven + found.proven, possible + max(tried, 0)
            shown, safe = shown + found.survives, safe + (tried >= 0)
    assert proven > 0.6 * possible
    assert shown > 0.6 * safe


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2), st.sampled_from([Level.NODE, Level.NVLINK_DOMAIN]))
def test_over_a_window_what_is_proven_survives_any_loss_at_any_instant(
    data: st.DataObject, losses: int, domain: Level
) -> None:
    even, uneven = [(1, 3, 2, 1), (2, 2, 2, 1), (1, 4, 1, 2), (1, 2, 3, 1)], [UNEVEN[1], UNEVEN[3], UNEVEN[4][:3]]
    fleet = data.draw(
        st.sampled_from([*(fleet_of(*shape) for shape in even), *(uneven_fleet(shape, 2) for shape in uneven)])
    )
    lots = list(assign(fleet, data.draw(calendars(fleet, most=4)), rounds=50).holdings)
    level = data.draw(st.sampled_from([Level.GPU, Level.NODE, Level.NVLINK_DOMAIN]))
    found = deliverable(fleet, lots, offered(level, losses, domain), 0, well(fleet))
    if not found.proven:
        return
    free = [cell for cell in range(topology_of(fleet).n_cells(level)) if not _touched(fleet, lots, level, cell)]
    assert any(
        survives_over_time(fleet, [*lots, *(held("new", level, cell) for cell in chosen)], domain, losses)
        for chosen in combinations(free, found.proven)
    )


def _touched(fleet: Fleet, lots: list[Holding], level: Level, cell: int) -> bool:
    gpus = set(fleet.gpus_of_cell(level, cell).tolist())
    return any(gpus & set(fleet.gpus_of_cell(each.level, each.cell).tolist()) for each in lots)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 4))
def test_with_no_losses_the_plan_is_what_a_trade_is_granted(data: st.DataObject, now_ms: int) -> None:
    fleet = data.draw(fleets())
    lots = list(assign(fleet, data.draw(calendars(fleet, most=6)), rounds=50).holdings)
    start_ms = data.draw(st.integers(now_ms, 6))
    level = data.draw(st.sampled_from([Level.GPU, Level.NODE, Level.NVLINK_DOMAIN]))
    offer = offered(level, 0, window=(start_ms, 8))
    usable = well(fleet)
    bounds = deliverable(fleet, lots, offer, now_ms, usable)
    found = planned_lots(fleet, lots, offer, now_ms, usable, usable, bounds, rounds=50)
    assert found.planned is not None
    assert found.proven <= found.planned <= found.at_most

    def granted(n: int) -> bool:
        want = Demand("new", level, n, start_ms, 8, 0)
        return not cover(fleet, [want], lots, now_ms, usable, rounds=50).refused

    assert granted(found.planned)
    assert not granted(found.planned + 1)
    assert not granted(found.at_most + 1)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2))
def test_unequal_cells_sick_ones_and_spares_never_make_the_answer_unsafe(data: st.DataObject, losses: int) -> None:
    """Proven never exceeds the upper bound, nor the cells that may be sold; ill cells and spares are not sold."""
    fleet = data.draw(fleets())
    lots = list(assign(fleet, data.draw(calendars(fleet, most=5)), rounds=50).holdings)
    masks = st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus)
    usable, sellable = np.array(data.draw(masks)), np.array(data.draw(masks))
    level = data.draw(st.sampled_from(LEVELS))
    offer = offered(level, losses, window=(0, 8))
    found = deliverable(fleet, lots, offer, 0, usable, sellable)
    assert 0 <= found.proven <= found.at_most
    may = usable & sellable
    whole = [
        cell
        for cell in range(topology_of(fleet).n_cells(level))
        if may[fleet.gpus_of_cell(level, cell)].all() and not _touched(fleet, lots, level, cell)
    ]
    assert found.proven <= len(whole)
    short = prospects(fleet, columns_of(lots), offer, 0, 8, usable)
    assert found.survives == short.survives
    if not found.survives:
        assert found.proven == 0


def test_spares_stand_in_and_are_not_sold() -> None:
    fleet = fleet_of(1, 1, 4, 2)
    lots = [held("a", Level.NODE, 0), held("b", Level.NODE, 1)]
    spare = well(fleet)
    spare[fleet.gpus_of_cell(Level.NODE, 3)] = False
    one = offered(Level.NODE, 1, Level.NODE)
    assert deliverable(fleet, lots, one, 0, well(fleet)).proven == 1
    assert deliverable(fleet, lots, one, 0, well(fleet), spare).proven == 1
    assert deliverable(fleet, lots, one, 0, spare).proven == 0


def test_lots_that_wait_come_first() -> None:
    fleet = fleet_of(1, 4, 1, 2)
    waiting = (Demand("owed", Level.NODE, 2, 0, 9, 0),)
    offer = Offer(offered(Level.NODE, 0).stretches, 0, Level.NODE, waiting)
    assert deliverable(fleet, [], offer, 0, well(fleet)) == Deliverable(2, 2, None, 0, survives=True)
    sick = well(fleet)
    sick[0] = False
    lots = [held("a", Level.NODE, 0)]
    assert deliverable(fleet, lots, offered(Level.NODE, 1, Level.NODE), 0, sick).proven == 1


def test_a_lot_of_several_gpus_counts_whole_and_each_stretch_must_hold() -> None:
    fleet = fleet_of(1, 4, 1, 4)
    busy = [held("a", Level.NODE, cell, 5, 6) for cell in range(2)]
    three = Demand("offered", Level.GPU, 3, 0, 5, 0)
    assert deliverable(fleet, busy, Offer((three,), 0), 0, well(fleet)).proven == 5
    both = Offer((three, three._replace(start_ms=5, end_ms=9)), 0)
    assert deliverable(fleet, busy, both, 0, well(fleet)).proven == 2
    assert deliverable(fleet, busy, both, 6, well(fleet)).proven == 5


def test_other_grades_do_not_help() -> None:
    nodes = tuple(NodeSpec(name=f"n{k}", grade="H100" if k < 2 else "A100", gpus=2, domain=f"d{k}") for k in range(6))
    fleet = Fleet.of(nodes)
    assert deliverable(fleet, [held("a", Level.NODE, 0)], offered(Level.NODE), 0, well(fleet)).proven == 0


@given(st.data(), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_accredited_is_what_is_sold_and_the_margin(data: st.DataObject, losses: int) -> None:
    fleet = data.draw(fleets())
    lots = list(assign(fleet, data.draw(calendars(fleet, most=5)), rounds=50).holdings)
    rows = accredited(fleet, lots, well(fleet), 0, 8, losses=losses)
    for pool in range(len(fleet.pools)):
        for level in {row.level for row in rows if row.pool == pool}:
            theirs = [row for row in rows if (row.pool, row.level) == (pool, level)]
            assert [row.start_ms for row in theirs[1:]] == [row.end_ms for row in theirs[:-1]]
            assert (theirs[0].start_ms, theirs[-1].end_ms) == (0, 8)
    for row in rows:
        offer = Offer((Demand("offered", row.level, 1, row.start_ms, row.end_ms, row.pool),), losses)
        found = deliverable(fleet, lots, offer, row.start_ms, well(fleet))
        assert row.more == found.proven
        assert 0 <= row.free <= row.healthy <= row.cells
        assert row.margin <= row.free - row.lost
        if pool_cells(fleet, row.pool).alike:
            assert row.margin == row.free - row.lost
        if row.margin < 0:
            assert not found.survives


def test_each_interval_between_two_changes_is_accredited_by_itself() -> None:
    fleet = fleet_of(domains=4, nodes=1)
    lots = [held("a", Level.NODE, 0, 0, 5), held("b", Level.NODE, 1, 3, 9)]
    rows = accredited(fleet, lots, well(fleet), 1, 9, levels=(Level.NODE,))
    assert [(row.start_ms, row.end_ms, row.sold, row.more) for row in rows] == [
        (1, 3, 1, 2),
        (3, 5, 2, 1),
        (5, 9, 1, 2),
    ]


def test_what_is_planned_survives_the_loss_too() -> None:
    """One node of three is free throughout, and each of the others is sold for a while: counts leave room for one more
    at every instant, the planner finds a node for it, and then nothing could stand in for a lost one.
    """
    fleet = fleet_of(domains=3, nodes=1)
    lots = [held("a", Level.NODE, 0, 0, 5), held("b", Level.NODE, 1, 5, 9)]
    for losses, expected in ((0, (1, 2, 2)), (1, (0, 0, 1))):
        offer = offered(Level.NODE, losses)
        found = deliverable(fleet, lots, offer, 0, well(fleet))
        planned = planned_lots(fleet, lots, offer, 0, well(fleet), well(fleet), found)
        assert (planned.proven, planned.planned, planned.at_most) == expected


def test_what_cannot_be_asked_is_refused() -> None:
    fleet = fleet_of()
    for offer, says in (
        (Offer((), 1), "window of what may be sold was 'over', expected a delivery that ends after 0"),
        (offered(Level.NODE, -1), "losses of what may be sold was -1, expected 0 or more"),
        (offered(Level.NODE, 1, Level.GPU), "level of what may be sold was 'GPU', expected NODE or higher"),
    ):
        with pytest.raises(InvalidValue, match=says):
            deliverable(fleet, [], offer, 0, well(fleet))
    with pytest.raises(InvalidValue, match="ends after 9"):
        deliverable(fleet, [], offered(Level.NODE), 9, well(fleet))
    with pytest.raises(InvalidValue, match="an end after the start"):
        accredited(fleet, [], well(fleet), 5, 5)
