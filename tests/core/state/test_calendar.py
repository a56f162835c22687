"""The calendar against the plainest reading of its holdings: who owns what, until when, and what a swap trades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.ownership import may_swap
from scheduler.core.errors import Conflict
from scheduler.core.holdings import Holding
from scheduler.core.state.calendar import FOREVER_MS, UNSOLD, Calendar

FLEET = Fleet.of(
    tuple(NodeSpec(name=f"n-{i}", grade="H100", gpus=2, domain=f"d{i // 2}", block=f"b{i // 4}") for i in range(6))
)
CELLS = {Level.GPU: 12, Level.NODE: 6, Level.NVLINK_DOMAIN: 3, Level.FABRIC_BLOCK: 2}
GPUS = {(lv, k): FLEET.gpus_of_cell(lv, k).tolist() for lv, cells in CELLS.items() for k in range(cells)}
ACCOUNT_OF = {"a1": 0, "a2": 0, "b1": 1, "c1": 2}
INDEX = {name: i for i, name in enumerate(ACCOUNT_OF)}
LAST_MS = 7

drawn = st.sampled_from(
    [Level.GPU, Level.GPU, Level.NODE, Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK]
).flatmap(
    lambda level: st.builds(
        lambda position, cell, start_ms, length_ms: Holding(
            position=position, level=level, cell=cell, start_ms=start_ms, end_ms=start_ms + length_ms
        ),
        st.sampled_from(sorted(ACCOUNT_OF)),
        st.integers(0, CELLS[level] - 1),
        st.integers(0, LAST_MS - 1),
        st.integers(1, 4),
    )
)
Owners = Mapping[tuple[int, int], str]


def owners_by_the_millisecond(holdings: Sequence[Holding]) -> dict[tuple[int, int], str]:
    """Position by (GPU, instant)."""
    return {
        (gpu, at_ms): held.position
        for held in holdings
        for gpu in GPUS[held.level, held.cell]
        for at_ms in range(held.start_ms, held.end_ms)
    }


def untied(calendar: Calendar) -> dict[Level, list[bool]]:
    """What may trade places, by level."""
    return {level: calendar.untied(FLEET, level).tolist() for level in CELLS}


@st.composite
def lawful(draw: st.DrawFn) -> tuple[Holding, ...]:
    """Holdings of which no two share a GPU and an instant."""
    kept: list[Holding] = []
    taken: set[tuple[int, int]] = set()
    for held in draw(st.lists(drawn, max_size=7)):
        needed = owners_by_the_millisecond([held]).keys()
        if not needed & taken:
            taken |= needed
            kept.append(held)
    return tuple(kept)


def turned(holdings: tuple[Holding, ...], now_ms: int) -> Calendar:
    """A calendar of these holdings at an instant."""
    calendar = Calendar()
    calendar.grow(FLEET)
    calendar.keep(holdings)
    calendar.turn(FLEET, now_ms, INDEX, ACCOUNT_OF)
    return calendar


def account(owners: Owners, gpu: int, at_ms: int) -> int:
    position = owners.get((gpu, at_ms))
    return UNSOLD if position is None else ACCOUNT_OF[position]


def until(owners: Owners, gpu: int, now_ms: int) -> int:
    """The first later instant at which an account has the GPU that is not the one of now."""
    later = (at_ms for at_ms in range(now_ms + 1, 2 * LAST_MS))
    own = {UNSOLD, account(owners, gpu, now_ms)}
    return next((at_ms for at_ms in later if account(owners, gpu, at_ms) not in own), FOREVER_MS)


instants = st.integers(0, LAST_MS)


@settings(max_examples=40)
@given(lawful(), instants)
def test_a_turn_makes_owners_what_the_holdings_say(holdings: tuple[Holding, ...], now_ms: int) -> None:
    calendar, owners = turned(holdings, now_ms), owners_by_the_millisecond(holdings)
    gpus = range(FLEET.n_gpus)
    positions = [INDEX.get(owners.get((gpu, now_ms), ""), UNSOLD) for gpu in gpus]
    assert calendar.owner_position.tolist() == positions
    assert calendar.owner_account.tolist() == [account(owners, gpu, now_ms) for gpu in gpus]
    assert calendar.until_ms.tolist() == [until(owners, gpu, now_ms) for gpu in gpus]
    assert set(calendar.past) | set(calendar.holdings) == set(holdings)
    assert all(held.end_ms <= now_ms for held in calendar.past)
    assert all(held.end_ms > now_ms for held in calendar.holdings)
    edges = {edge_ms for held in holdings for edge_ms in (held.start_ms, held.end_ms)}
    assert calendar.turns == tuple(sorted(edge_ms for edge_ms in edges if edge_ms > now_ms))
    for at_ms in range(LAST_MS):
        then = [INDEX.get(owners.get((gpu, at_ms), ""), UNSOLD) for gpu in gpus]
        assert calendar.owners(FLEET, at_ms, INDEX).tolist() == then


@settings(max_examples=40)
@given(lawful())
def test_turns_from_one_edge_to_the_next_tell_every_change(holdings: tuple[Holding, ...]) -> None:
    calendar, owners = turned(holdings, -1), owners_by_the_millisecond(holdings)
    told = {}
    while calendar.turns:
        at_ms = calendar.turns[0]
        told[at_ms] = calendar.turn(FLEET, at_ms, INDEX, ACCOUNT_OF).tolist()
    for at_ms in range(2 * LAST_MS):
        changed = [g for g in range(FLEET.n_gpus) if owners.get((g, at_ms)) != owners.get((g, at_ms - 1))]
        assert told.get(at_ms, []) == changed
    assert calendar.holdings == ()


@settings(max_examples=40)
@given(lawful(), instants)
def test_a_cell_may_trade_places_where_nothing_above_it_is_held_any_more(
    holdings: tuple[Holding, ...], now_ms: int
) -> None:
    calendar = turned(holdings, now_ms)
    for level, cells in CELLS.items():
        bound = {
            gpu
            for held in holdings
            if held.level > level and held.end_ms > now_ms
            for gpu in GPUS[held.level, held.cell]
        }
        free = [not bound & set(GPUS[level, cell]) for cell in range(cells)]
        assert calendar.untied(FLEET, level).tolist() == free


@settings(max_examples=40)
@given(lawful(), instants, st.sampled_from([Level.GPU, Level.NODE, Level.NVLINK_DOMAIN]), st.data())
def test_a_swap_trades_owners_now_and_ahead_and_keeps_what_was(
    holdings: tuple[Holding, ...], now_ms: int, level: Level, data: st.DataObject
) -> None:
    left, right = (data.draw(st.integers(0, CELLS[level] - 1)) for _ in range(2))
    calendar, before = turned(holdings, now_ms), owners_by_the_millisecond(holdings)
    untied(calendar)
    if not may_swap(FLEET, calendar.holdings, level, left, right, now_ms):
        with pytest.raises(Conflict):
            calendar.swap(FLEET, level, left, right, now_ms)
        return
    calendar.swap(FLEET, level, left, right, now_ms)
    a, b = GPUS[level, left], GPUS[level, right]
    twin = dict(zip([*a, *b], [*b, *a], strict=True))
    swapped = {
        (gpu if at_ms < now_ms else twin.get(gpu, gpu), at_ms): position for (gpu, at_ms), position in before.items()
    }
    assert owners_by_the_millisecond((*calendar.past, *calendar.holdings)) == swapped
    anew = turned((*calendar.past, *calendar.holdings), now_ms)
    for name in ("owner_position", "owner_account", "until_ms"):
        assert getattr(calendar, name).tolist() == getattr(anew, name).tolist(), name
    assert untied(calendar) == untied(anew)
    assert calendar.turns == anew.turns


def test_blocks_trade_domain_for_domain_whatever_the_order_in_which_their_nodes_joined() -> None:
    domains = ((0, 0), (0, 1), (0, 0), (0, 1), (1, 2), (1, 2), (1, 3), (1, 3))
    fleet = Fleet.of(
        tuple(
            NodeSpec(name=f"n-{i}", grade="H100", gpus=1, domain=f"d{domain}", block=f"b{block}")
            for i, (block, domain) in enumerate(domains)
        )
    )
    calendar = Calendar()
    calendar.grow(fleet)
    calendar.keep((Holding(position="a1", level=Level.NVLINK_DOMAIN, cell=0, start_ms=0, end_ms=9),))
    calendar.turn(fleet, 1, INDEX, ACCOUNT_OF)
    calendar.swap(fleet, Level.FABRIC_BLOCK, 0, 1, 1)
    assert calendar.owner_account.tolist() == [UNSOLD] * 4 + [0, 0] + [UNSOLD] * 2
    assert calendar.owner_position.tolist() == calendar.owners(fleet, 1, INDEX).tolist()


@settings(max_examples=40)
@given(lawful(), instants, instants, lawful())
def test_an_assignment_replaces_its_positions_from_its_instant_on(
    holdings: tuple[Holding, ...], now_ms: int, from_ms: int, given_holdings: tuple[Holding, ...]
) -> None:
    named = ["a1", "b1"]
    new = tuple(held for held in given_holdings if held.position in named and held.start_ms >= from_ms)
    result = turned(holdings, now_ms).assigned(named, new, from_ms)

    def cells(of: Sequence[Holding]) -> set[tuple[str, Level, int, int]]:
        return {(h.position, h.level, h.cell, at_ms) for h in of for at_ms in range(h.start_ms, h.end_ms)}

    kept = {cell for cell in cells(holdings) if cell[0] not in named or cell[3] < from_ms}
    assert cells(result) == kept | cells(new)
    assert list(result) == sorted(result, key=lambda h: (h.start_ms, h.position, h.level, h.cell, h.end_ms))


@settings(max_examples=40)
@given(lawful(), instants, st.integers(-1, 2 * LAST_MS))
def test_only_what_was_over_by_then_is_forgotten(holdings: tuple[Holding, ...], now_ms: int, before_ms: int) -> None:
    calendar = turned(holdings, now_ms)
    past = calendar.past
    calendar.forget(before_ms)
    assert calendar.past == tuple(held for held in past if held.end_ms > before_ms)
    assert set(calendar.holdings) == {held for held in holdings if held.end_ms > now_ms}


@settings(max_examples=40)
@given(lawful(), instants)
def test_gpus_that_join_are_nobodys_for_ever_and_change_nothing_else(
    holdings: tuple[Holding, ...], now_ms: int
) -> None:
    calendar, before = turned(holdings, now_ms), turned(holdings, now_ms)
    untied(calendar)
    grown = FLEET.joined(NodeSpec(name="new", grade="H100", gpus=3, site="elsewhere"))
    calendar.grow(grown)
    assert calendar.owner_position.tolist() == [*before.owner_position.tolist(), *[UNSOLD] * 3]
    assert calendar.owner_account.tolist() == [*before.owner_account.tolist(), *[UNSOLD] * 3]
    assert calendar.until_ms.tolist() == [*before.until_ms.tolist(), *[FOREVER_MS] * 3]
    assert calendar.untied(grown, Level.NODE).tolist() == [*before.untied(FLEET, Level.NODE).tolist(), True]
    assert [array.dtype for array in (calendar.owner_account, calendar.until_ms)] == [np.int32, np.int64]


def held(position: str, start_ms: int, end_ms: int) -> Holding:
    return Holding(position=position, level=Level.NODE, cell=0, start_ms=start_ms, end_ms=end_ms)


@pytest.mark.parametrize(
    ("holdings", "until_ms"),
    [
        ((), FOREVER_MS),
        ((held("a1", 0, 5),), FOREVER_MS),
        ((held("a1", 0, 5), held("b1", 5, 9)), 5),
        ((held("a1", 0, 5), held("b1", 7, 9)), 7),
        ((held("a1", 0, 5), held("a2", 5, 7), held("b1", 8, 9)), 8),
        ((held("a1", 0, 3), held("a2", 7, 9)), FOREVER_MS),
        ((held("a1", 4, 9),), 4),
        ((held("a1", 4, 9), held("b1", 2, 3)), 2),
    ],
)
def test_until_when_no_other_account_gets_the_gpu(holdings: tuple[Holding, ...], until_ms: int) -> None:
    calendar = turned(holdings, 1)
    assert calendar.until_ms[:3].tolist() == [until_ms, until_ms, FOREVER_MS]
    assert calendar.of("a1") == tuple(each for each in holdings if each.position == "a1")
