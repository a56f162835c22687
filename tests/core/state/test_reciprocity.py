"""Balances of lent less borrowed GPU-ms: by whole steps, half after a week, the same however often anybody looked."""

from __future__ import annotations

import pytest

from scheduler.core.errors import Conflict
from scheduler.core.events import CalendarTurned, Event, GangEnded, GangStarted
from scheduler.core.quantities import MS_PER_DAY
from scheduler.core.state.dump import dump, load
from scheduler.core.state.reciprocity import STEP_MS
from scheduler.core.state.state import State
from tests.core.state.folding import T, assigned, folded, held, placed, submitted, traded

FAR = T + 400 * MS_PER_DAY
A_STEP = 4 * STEP_MS
"""GPU-ms of four GPUs throughout a step."""

LENDS: tuple[Event, ...] = (
    traded(1, "acme-1"),
    assigned(held("acme-1", 0, end_ms=FAR)),
    submitted("b", account="bolt"),
    placed("b", 0),
    GangStarted(at_ms=T, gang="b", attempt=1),
)
"""acme owns node-0, and bolt works there from T on."""


def heard(at_ms: int) -> CalendarTurned:
    """Something that changes nothing."""
    return CalendarTurned(at_ms=at_ms)


def balances(state: State, now_ms: int) -> dict[str, int]:
    return dict(state.snapshot(now_ms).balance_gpu_ms)


def ended(at_ms: int) -> GangEnded:
    return GangEnded(at_ms=at_ms, gang="b", attempt=1, exit_code=0)


def test_what_was_lent_counts_once_its_step_is_over_and_not_before() -> None:
    state = folded(*LENDS, heard(T + STEP_MS - 1))
    assert balances(state, T + STEP_MS) == {}
    state.apply(heard(T + STEP_MS))
    assert balances(state, T + STEP_MS) == {"acme": A_STEP, "bolt": -A_STEP}


def test_it_counts_to_the_millisecond() -> None:
    state = folded(*LENDS, ended(T + 12_345), heard(T + STEP_MS))
    assert balances(state, T + STEP_MS) == {"acme": 4 * 12_345, "bolt": -4 * 12_345}


def test_own_work_and_unsold_gpus_are_lent_by_nobody() -> None:
    own = (submitted("a"), placed("a", 0), GangStarted(at_ms=T, gang="a", attempt=1))
    unsold = (submitted("b", account="bolt"), placed("b", 1), GangStarted(at_ms=T, gang="b", attempt=1))
    state = folded(*LENDS[:2], *own, *unsold, heard(T + 3 * STEP_MS))
    assert balances(state, T + 3 * STEP_MS) == {}


def test_a_mapping_stays_the_same_until_a_step_is_over() -> None:
    """What a planner compares with what it knows."""
    state = folded(*LENDS, heard(T + STEP_MS))
    before = state.snapshot(T + STEP_MS).balance_gpu_ms
    state.apply(heard(T + 2 * STEP_MS - 1))
    assert state.snapshot(T + 2 * STEP_MS - 1).balance_gpu_ms is before
    state.apply(heard(T + 2 * STEP_MS))
    assert state.snapshot(T + 2 * STEP_MS).balance_gpu_ms["acme"] > before["acme"]


def test_half_counts_after_a_week_and_nothing_in_the_end() -> None:
    state = folded(*LENDS, ended(T + STEP_MS), heard(T + STEP_MS))
    for days, least, most in ((7, 499, 501), (14, 249, 251), (70, 0, 1), (399, 0, 0)):
        state.apply(heard(T + STEP_MS + days * MS_PER_DAY))
        known = balances(state, state.now_ms)
        assert least * A_STEP <= 1_000 * known.get("acme", 0) <= most * A_STEP
        assert known.get("acme", 0) == -known.get("bolt", 0)
    assert balances(state, state.now_ms) == {}


@pytest.mark.parametrize("days", [1, 20, 60, 300])
def test_a_silence_is_settled_as_if_somebody_had_looked(days: int) -> None:
    """Up to eight weeks at once; what is older counts for less than a percent and is left out after a longer one."""
    end_ms = T + days * MS_PER_DAY
    looked, silent = folded(*LENDS), folded(*LENDS, heard(end_ms))
    for at_ms in range(T + 7 * STEP_MS // 2, end_ms, 500 * STEP_MS):
        looked.apply(heard(at_ms))
    looked.apply(heard(end_ms))
    known, at_once = balances(looked, end_ms)["acme"], balances(silent, end_ms)["acme"]
    assert at_once == known if days < 56 else known * 99 <= at_once * 100 <= known * 100


def test_changes_inside_a_silence_are_all_in() -> None:
    """Told late, each step by what was on the GPUs in it."""
    state = folded(*LENDS, ended(T + 2 * STEP_MS + STEP_MS // 2), heard(T + 5 * STEP_MS))
    alike = folded(*LENDS, heard(T + 2 * STEP_MS), ended(T + 2 * STEP_MS + STEP_MS // 2))
    for step in range(3, 6):
        alike.apply(heard(T + step * STEP_MS))
    assert balances(state, state.now_ms) == balances(alike, state.now_ms)
    assert 2.4 * A_STEP < balances(state, state.now_ms)["acme"] < 2.5 * A_STEP


def test_balances_are_in_a_snapshot() -> None:
    live = folded(*LENDS, heard(T + STEP_MS))
    loaded = load(dump(live))
    for state in (live, loaded):
        state.apply(heard(T + 3 * STEP_MS))
    assert dump(loaded) == dump(live)
    assert balances(loaded, loaded.now_ms) == balances(live, live.now_ms) != {}


def test_a_refused_event_settles_nothing() -> None:
    state = folded(*LENDS)
    body = dump(state)
    with pytest.raises(Conflict):
        state.apply(placed("b", 1, at_ms=T + 2 * STEP_MS))
    assert dump(state) == body
