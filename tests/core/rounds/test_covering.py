"""Coverage follows positions and health: as events, each fitting what the ones before made of the state."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.coverage.columns import merged, moved
from scheduler.core.coverage.ownership import check
from scheduler.core.events import (
    CalendarTurned,
    CellsSwapped,
    CoverageAssigned,
    CoverageRefused,
    Event,
    HealthChanged,
    NodeJoined,
    PositionChanged,
    ShortageDecided,
)
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.rounds import covering
from scheduler.core.state.state import State
from tests.core.state.folding import END, FLEET, TERMS, T, folded

NOW = T + 20_000
SPARE = ("node-2",)


def told(state: State, kind: PositionEventKind, position: str, **given: object) -> list[str]:
    """The exchange tells now; the kinds of what follows, all folded in."""
    seq = 1 if state.book.cursor is None else state.book.cursor.seq + 1
    fields: dict[str, object] = {
        "cursor": Cursor(stream="exchange", epoch=1, seq=seq),
        "kind": kind,
        "position": position,
        "account": "acme",
        "instrument": TERMS.id,
        "lots": 1,
        "effective_ms": NOW,
        "committed_ms": NOW,
        **given,
    }
    event = PositionEvent.model_validate(fields)
    state.apply(PositionChanged(at_ms=NOW, event=event))
    return after(state, covering.after_position_event(state, event, NOW, SPARE))


def after(state: State, events: Iterable[Event]) -> list[str]:
    """Fold events as they come; their kinds. Nothing may overlap at any step."""
    kinds: list[str] = []
    for event in events:
        state.apply(event)
        kinds.append(event.kind)
        assert check(state.fleet, state.calendar.holdings) == ()
    return kinds


def cells(state: State, position: str) -> list[tuple[int, int]]:
    """(cell, from, in ms after NOW) of a position's holdings."""
    return [(held.cell, held.start_ms - NOW) for held in state.calendar.of(position)]


def test_a_trade_is_covered_from_its_effect_or_refused_whole() -> None:
    state = folded()
    assert told(state, PositionEventKind.TRADE, "one") == ["coverage_assigned"]
    assert told(state, PositionEventKind.TRADE, "two", lots=2) == ["coverage_refused"]
    assert state.refused == {"two": Cause.OVERSOLD}
    assert told(state, PositionEventKind.TRADE, "three") == ["coverage_assigned"]
    assert len(cells(state, "one")) == len(cells(state, "three")) == 1


def test_what_ends_makes_room_for_what_was_refused() -> None:
    state = folded()
    told(state, PositionEventKind.TRADE, "one", lots=2)
    told(state, PositionEventKind.TRADE, "two", account="bolt")
    kinds = told(state, PositionEventKind.EXPIRY, "one", lots=0)
    assert kinds == ["coverage_assigned", "coverage_assigned"]
    assert (cells(state, "one"), len(cells(state, "two")), state.refused) == ([], 1, {})


def test_fewer_lots_keep_what_is_left_and_more_are_found() -> None:
    state = folded()
    told(state, PositionEventKind.TRADE, "one", lots=2)
    told(state, PositionEventKind.CORRECTION, "one", lots=1, effective_ms=NOW + 5_000)
    assert [
        (held.cell, held.start_ms, held.end_ms)
        for held in sorted(merged(state.calendar.of("one")), key=lambda held: held.cell)
    ] == [
        (0, NOW, END),
        (1, NOW, NOW + 5_000),
    ]
    told(state, PositionEventKind.CORRECTION, "one", lots=2, effective_ms=NOW + 5_000)
    assert sum(held.end_ms - held.start_ms for held in state.calendar.of("one")) == 2 * (END - NOW)


def test_a_transfer_of_a_refused_position_is_covered_where_it_fits_by_then() -> None:
    state = folded()
    told(state, PositionEventKind.TRADE, "big", lots=3)
    kinds = told(state, PositionEventKind.TRANSFER, "small", source="big", account="bolt")
    assert "coverage_assigned" in kinds
    assert len(cells(state, "big")) + len(cells(state, "small")) == 2


def test_a_lost_node_moves_its_lots_to_the_spare_and_a_second_one_is_short_by_the_rule() -> None:
    state = folded()
    state.apply(NodeJoined(at_ms=T, node=NodeSpec(name="node-2", grade="H100", gpus=4)))
    told(state, PositionEventKind.TRADE, "one", lots=2)
    assert {cell for cell, _ in cells(state, "one")} == {0, 1}
    for node, expected in (("node-0", [CoverageAssigned]), ("node-1", [ShortageDecided])):
        lost = HealthChanged(at_ms=NOW, node=node, cause=Cause.NODE_LOST)
        state.apply(lost)
        events = list(covering.after_health(state, lost, NOW, SPARE))
        assert [type(event) for event in events] == expected
        after(state, events)
    assert {cell for cell, _ in cells(state, "one")} == {1, 2}
    back = HealthChanged(at_ms=NOW, node="node-0")
    state.apply(back)
    assert after(state, covering.after_health(state, back, NOW, SPARE)) == ["coverage_assigned", "shortage_over"]
    assert {cell for cell, _ in cells(state, "one")} == {0, 2}


def test_spares_are_never_sold() -> None:
    state = folded()
    state.apply(NodeJoined(at_ms=T, node=NodeSpec(name="node-2", grade="H100", gpus=4)))
    assert told(state, PositionEventKind.TRADE, "all", lots=3) == ["coverage_refused"]


def test_a_refused_position_is_covered_when_its_node_joins_and_refusals_are_told_once() -> None:
    state = folded(start=FLEET[2:])
    assert told(state, PositionEventKind.TRADE, "early") == ["coverage_refused"]
    assert after(state, covering.retry(state, NOW, SPARE)) == []
    joined = NodeJoined(at_ms=NOW, node=NodeSpec(name="node-0", grade="H100", gpus=4))
    state.apply(joined)
    assert after(state, covering.after_health(state, joined, NOW, SPARE)) == ["coverage_assigned"]
    assert not any(isinstance(event, CoverageRefused) for event in covering.retry(state, NOW, SPARE))


def test_a_planned_handover_is_two_holdings_and_the_turn_at_its_instant_is_the_move() -> None:
    state = folded()
    told(state, PositionEventKind.TRADE, "one")
    [held] = state.calendar.of("one")
    seam_ms = NOW + 30_000
    other = next(cell for cell in range(len(state.fleet.nodes)) if cell != held.cell)
    pieces = (moved(held, end_ms=seam_ms), moved(held, cell=other, start_ms=seam_ms))
    state.apply(CoverageAssigned(at_ms=NOW, from_ms=held.start_ms, why="planned", positions=("one",), holdings=pieces))
    assert check(state.fleet, state.calendar.holdings) == ()
    assert seam_ms in state.calendar.turns
    state.apply(CalendarTurned(at_ms=seam_ms))
    owned = np.flatnonzero(state.calendar.owner_position == state.position_index["one"])
    assert owned.tolist() == list(state.fleet.gpus_of_node(other))


def test_the_calendar_kept_open_follows_every_change() -> None:
    state = folded()
    told(state, PositionEventKind.TRADE, "one")
    opened = state.calendar.opened(state.fleet)
    told(state, PositionEventKind.TRADE, "two", account="bolt")
    [one], [two] = state.calendar.of("one"), state.calendar.of("two")
    state.apply(CellsSwapped(at_ms=NOW + 5_000, level=one.level, left=one.cell, right=two.cell))
    told(state, PositionEventKind.EXPIRY, "one", lots=0, effective_ms=NOW + 9_000)
    assert state.calendar.opened(state.fleet) is opened
    everything = (*state.calendar.past, *state.calendar.holdings)
    assert merged(opened.holdings()) == merged(everything)
