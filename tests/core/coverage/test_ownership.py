"""The plan at an instant, the law over all instants, and swaps that relabel without breaking it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import merged
from scheduler.core.coverage.ownership import check, may_swap, owner_at, swap_cells
from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.holdings import Holding
from scheduler.core.quantities import INT64_MAX
from tests.core.coverage.drawn import SOLD_LEVELS, calendars, cells_at, faults, fleet_of, fleets, lots_placed


def held(position: str, level: Level, cell: int, start_ms: int, end_ms: int) -> Holding:
    return Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms)


@st.composite
def any_holdings(draw: st.DrawFn, fleet: Fleet) -> list[Holding]:
    """Holdings that may break the law."""
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(SOLD_LEVELS), st.integers(0, 20), st.integers(0, 5), st.integers(1, 3)),
            max_size=6,
        )
    )
    sizes = {Level.GPU: fleet.n_gpus, Level.NODE: len(fleet.nodes), Level.NVLINK_DOMAIN: len(fleet.domains)}
    return [
        held(f"p{k}", level, cell % sizes[level], start, start + n) for k, (level, cell, start, n) in enumerate(rows)
    ]


@given(st.data())
def test_the_check_finds_a_fault_exactly_where_there_is_one(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    holdings = data.draw(any_holdings(fleet))
    assert (check(fleet, holdings) == ()) == (faults(fleet, holdings) == [])


def test_a_fault_is_named() -> None:
    fleet = fleet_of()
    both = [held("a", Level.NODE, 1, 0, 5), held("b", Level.GPU, 3, 4, 6)]
    assert check(fleet, both) == ("b on GPU 3 in [4, 6) and a on NODE 1 in [0, 5) share a GPU and an instant",)
    assert check(fleet, [held("a", Level.NODE, 2, 0, 5)]) == ("cell of a on NODE 2 in [0, 5) does not exist",)


def test_the_check_holds_over_spans_that_fill_an_integer() -> None:
    fleet = fleet_of()
    far = [held("a", Level.NODE, 1, 0, 2**62), held("b", Level.GPU, 3, 2**62, 2**62 + 1)]
    assert check(fleet, far) == ()
    assert len(check(fleet, [*far, held("c", Level.GPU, 2, 2**62 - 1, 2**62)])) == 1


@given(st.data(), st.integers(-1, 8))
def test_owners_are_those_of_the_holdings_in_force(data: st.DataObject, at_ms: int) -> None:
    fleet = data.draw(fleets())
    holdings = assign(fleet, data.draw(calendars(fleet))).holdings
    names = sorted({h.position for h in holdings})
    owner, until_ms = owner_at(fleet, holdings, at_ms, {name: k for k, name in enumerate(names)})
    for gpu in range(fleet.n_gpus):
        over = [h for h in holdings if gpu in fleet.gpus_of_cell(h.level, h.cell)]
        now = [h for h in over if h.start_ms <= at_ms < h.end_ms]
        assert owner[gpu] == (names.index(now[0].position) if now else -1)
        later = min((h.start_ms for h in over if h.start_ms > at_ms), default=INT64_MAX)
        assert until_ms[gpu] == (now[0].end_ms if now else later)


def test_a_holding_of_an_unknown_position_is_named() -> None:
    with pytest.raises(UnknownName, match="'a'"):
        owner_at(fleet_of(), [held("a", Level.NODE, 0, 0, 1)], 0, {})


@given(st.data(), st.integers(0, 7))
def test_a_swap_keeps_the_law_and_everybodys_cells(data: st.DataObject, at_ms: int) -> None:
    fleet = data.draw(fleets())
    holdings = assign(fleet, data.draw(calendars(fleet))).holdings
    level = data.draw(st.sampled_from(SOLD_LEVELS))
    n = {Level.GPU: fleet.n_gpus, Level.NODE: len(fleet.nodes), Level.NVLINK_DOMAIN: len(fleet.domains)}[level]
    left, right = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    if not may_swap(fleet, holdings, level, left, right, at_ms):
        with pytest.raises(Conflict):
            swap_cells(fleet, holdings, level, left, right, at_ms)
        return
    after = swap_cells(fleet, holdings, level, left, right, at_ms)
    assert faults(fleet, after) == []
    for name in {h.position for h in holdings}:
        for instant in range(8):
            assert cells_at(fleet, after, name, instant) == cells_at(fleet, holdings, name, instant)
    was = [h for h in holdings if h.start_ms < at_ms]
    assert {(h.position, h.level, h.cell, h.start_ms) for h in was} == {
        (h.position, h.level, h.cell, h.start_ms) for h in after if h.start_ms < at_ms
    }
    assert merged(swap_cells(fleet, after, level, right, left, at_ms)) == merged(holdings)


def test_a_swap_splits_what_is_in_force() -> None:
    fleet = fleet_of()
    after = swap_cells(fleet, [held("a", Level.NODE, 0, 0, 9), held("b", Level.GPU, 3, 6, 8)], Level.NODE, 0, 1, 4)
    assert after == (
        held("a", Level.NODE, 1, 4, 9),
        held("b", Level.GPU, 1, 6, 8),
        held("a", Level.NODE, 0, 0, 4),
    )


def test_a_cell_under_a_larger_lot_does_not_move() -> None:
    fleet = fleet_of(domains=2)
    larger = [held("a", Level.NVLINK_DOMAIN, 1, 5, 6)]
    assert not may_swap(fleet, larger, Level.NODE, 0, 2, 0)
    assert may_swap(fleet, larger, Level.NODE, 0, 2, 6)
    assert may_swap(fleet, larger, Level.NODE, 0, 1, 0)
    assert not may_swap(fleet, larger, Level.NODE, 0, 9, 0)


@given(st.data())
def test_merging_changes_nothing_but_the_seams(data: st.DataObject) -> None:
    fleet = fleet_of(nodes=3)
    holdings = assign(fleet, data.draw(calendars(fleet))).holdings
    cut = data.draw(st.integers(1, 6))
    pieces = [
        held(h.position, h.level, h.cell, start, end)
        for h in holdings
        for start, end in ((h.start_ms, min(h.end_ms, cut)), (max(h.start_ms, cut), h.end_ms))
        if start < end
    ]
    whole = merged(pieces)
    assert lots_placed(whole).total() <= len(pieces)
    assert merged(holdings) == whole
    assert np.all(np.diff([h.start_ms for h in whole if h.position == "p0"]) >= 0)
