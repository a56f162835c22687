"""Shares of one GPU and elastic gangs in the fold: who carries a device, who waits for it, and what is metered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import Conflict, TenorError
from scheduler.core.events import (
    BindOverdue,
    CalendarTurned,
    Event,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    GangSubmitted,
)
from scheduler.core.metering.records import MeterRecord
from scheduler.core.placement.laws import violations
from scheduler.core.rounds.closing import close, due_intervals
from scheduler.core.state.dump import LAYOUT, dump, is_readable, load
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus, Piece, StopCause, shape_of
from tests.core.state.folding import T, assigned, folded, held, placed, spec, submitted, traded


def share(gang: str, milli: int, account: str = "acme", **wished: Any) -> GangSubmitted:
    return GangSubmitted(at_ms=T, gang=gang, spec=spec(account, 1, gpu_milli=milli, **wished))


def shared(gang: str, gpu: int = 0, *, at_ms: int = T, attempt: int = 1, **given: Any) -> GangPlaced:
    pieces = (Piece(node="node-0", gpus=(gpu,)),)
    return GangPlaced(at_ms=at_ms, gang=gang, attempt=attempt, pieces=pieces, inside=True, **given)


def started(gang: str, at_ms: int = T) -> GangStarted:
    return GangStarted(at_ms=at_ms, gang=gang, attempt=1)


def stopped(gang: str, at_ms: int = T) -> GangStopAsked:
    return GangStopAsked(at_ms=at_ms, gang=gang, attempt=1, cause=StopCause.RECLAIMED, deadline_ms=at_ms)


def ended(gang: str, at_ms: int = T) -> GangEnded:
    return GangEnded(at_ms=at_ms, gang=gang, attempt=1, exit_code=0)


def carrier(state: State, gpu: int = 0) -> str | None:
    number = int(state.gangs.occupant[gpu])
    return None if number < 0 else state.gangs.ids[number]


def names(state: State, gpu: int = 0) -> list[str]:
    return [state.gangs.ids[number] for number in state.gangs.on_gpu(gpu)]


TWO = (share("a", 300), share("b", 700), shared("a"), shared("b"))


def test_shares_of_one_account_are_on_one_gpu_and_the_first_carries_it() -> None:
    state = folded(*TWO)
    assert (names(state), carrier(state), state.gangs.shares.room_milli(0)) == (["a", "b"], "a", 0)
    assert violations(state.snapshot(T)) == ()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (share("c", 301), "that others hold"),
        (share("c", 1, "bolt"), "that others hold"),
        (share("c", 1, preemptible=False, max_runtime_ms=1), "that others hold"),
        (submitted("c", gpus=1), "that others hold"),
    ],
)
def test_what_may_not_join_is_refused(other: GangSubmitted, why: str) -> None:
    state = folded(share("a", 400), share("b", 300), shared("a"), shared("b"), other)
    with pytest.raises(Conflict, match=why):
        state.apply(shared("c"))
    assert names(state) == ["a", "b"]


def test_a_share_does_not_join_a_gang_of_whole_gpus() -> None:
    state = folded(submitted("a"), placed("a", 0), share("b", 1))
    with pytest.raises(Conflict, match="that others hold"):
        state.apply(shared("b"))


def test_the_carrier_is_who_stays() -> None:
    state = folded(*TWO, started("a"), started("b"), stopped("a"))
    assert (names(state), carrier(state)) == (["a", "b"], "b")
    state.apply(ended("a"))
    assert (names(state), carrier(state), state.gangs.shares.room_milli(0)) == (["b"], "b", 300)
    state.apply(ended("b"))
    assert (names(state), carrier(state), state.gangs.shares.by_gpu) == ([], None, {})


def test_a_claimant_waits_for_all_who_share() -> None:
    state = folded(*TWO, submitted("whole", account="bolt", gpus=4), stopped("a"))
    with pytest.raises(Conflict, match="that others hold"):
        state.apply(placed("whole", 0))
    state.apply(stopped("b"))
    state.apply(placed("whole", 0))
    assert state.gangs.get("whole").waits_for == ("a", "b")
    state.apply(ended("a"))
    assert (state.gangs.get("whole").waits_for, carrier(state)) == (("b",), "b")
    assert violations(state.snapshot(T)) == ()
    state.apply(ended("b"))
    assert (state.gangs.get("whole").waits_for, carrier(state)) == ((), "whole")
    assert state.gangs.claimant.tolist() == [-1] * 8


def test_a_share_may_claim_a_gpu_and_others_join_it_later() -> None:
    state = folded(submitted("whole"), placed("whole", 0), stopped("whole"), share("a", 500), share("b", 500))
    state.apply(shared("a"))
    assert (state.gangs.get("a").waits_for, names(state)) == (("whole",), ["whole"])
    with pytest.raises(Conflict, match="that others hold or claim"):
        state.apply(shared("b"))
    state.apply(ended("whole"))
    state.apply(shared("b"))
    assert (names(state), carrier(state), state.gangs.get("a").waits_for) == (["a", "b"], "a", ())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(0, 7), st.integers(0, 3)),
        st.tuples(st.sampled_from(("start", "stop", "end")), st.integers(0, 7), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.lists(st.integers(1, 1_000), min_size=8, max_size=8))
def test_no_order_of_events_overfills_a_device(steps: list[tuple[str, int, int]], sizes: list[int]) -> None:
    """Whatever the fold takes, its state is lawful, and its dump loads to the same."""
    accounts = ("acme", "bolt")
    state = folded(*(share(f"g{i}", milli, accounts[i % 2]) for i, milli in enumerate(sizes)))
    for step, i, gpu in steps:
        attempt = state.gangs.get(f"g{i}").attempt
        told: dict[str, Event] = {
            "place": shared(f"g{i}", gpu, attempt=attempt + 1),
            "start": GangStarted(at_ms=T, gang=f"g{i}", attempt=attempt),
            "stop": GangStopAsked(at_ms=T, gang=f"g{i}", attempt=attempt, cause=StopCause.RECLAIMED, deadline_ms=T),
            "end": GangEnded(at_ms=T, gang=f"g{i}", attempt=attempt, exit_code=1),
        }
        before = dump(state)
        try:
            state.apply(told[step])
        except TenorError:
            assert dump(state) == before
            continue
        # That a share waits which might join is for the planner to mend.
        assert [found for found in violations(state.snapshot(T)) if "could join" not in found] == []
        assert dump(load(dump(state))) == dump(state)


def metered(*events: Event) -> MeterRecord:
    """The record of the first ten seconds of acme's node."""
    state = folded(traded(1, "acme-1"), assigned(held("acme-1", 0)), *events)
    (due,) = due_intervals(state, T + 10_000, 0)
    (record,) = close(state, due).records
    return record


def test_a_shared_gpu_is_used_as_one_gpu_as_long_as_any_of_its_gangs_runs() -> None:
    story = (*TWO, started("a", T + 1_000), started("b", T + 2_000), ended("a", T + 4_000), ended("b", T + 7_000))
    record = metered(*story)
    assert (record.used_gpu_ms, record.available_unused_gpu_ms) == (6_000, 34_000)


def test_a_start_learnt_after_anothers_end_leaves_no_gap() -> None:
    story = (*TWO, started("a", T + 1_000), ended("a", T + 4_000), started("b", T + 2_000), ended("b", T + 7_000))
    record = metered(*story)
    assert record.used_gpu_ms == 6_000


def test_an_idle_gap_between_two_shares_is_not_used() -> None:
    story = (*TWO, started("a", T + 1_000), started("b", T + 6_000), ended("a", T + 4_000), ended("b", T + 7_000))
    record = metered(*story)
    assert record.used_gpu_ms == 4_000


def test_a_share_that_binds_late_beside_a_running_one_costs_its_owner_nothing() -> None:
    late = (started("a"), BindOverdue(at_ms=T + 1_000, gang="b", attempt=1))
    record = metered(*TWO, *late, CalendarTurned(at_ms=T + 9_000))
    assert record.used_gpu_ms == 10_000


def test_the_last_overdue_share_that_goes_ends_what_counts_as_late() -> None:
    overdue = tuple(BindOverdue(at_ms=T + 1_000, gang=gang, attempt=1) for gang in ("a", "b"))
    lost = [GangEnded(at_ms=T + at_ms, gang=gang, attempt=1) for gang, at_ms in (("a", 3_000), ("b", 5_000))]
    record = metered(*TWO, *overdue, *lost)
    assert record.available_unused_gpu_ms == 40_000 - 4_000


# -- elastic gangs


def test_an_elastic_gang_has_the_shape_that_it_stands_in_and_asks_again_for_all() -> None:
    asked = GangSubmitted(at_ms=T, gang="e", spec=spec("acme", 4, 2, min_workers=1))
    state = folded(asked, placed("e", 1), started("e"))
    standing = state.gangs.get("e")
    assert (standing.shape.workers, standing.shape.gpus, standing.gpu_numbers) == (1, 4, (4, 5, 6, 7))
    assert violations(state.snapshot(T)) == ()
    assert dump(load(dump(state))) == dump(state)
    state.apply(stopped("e"))
    state.apply(ended("e"))
    assert state.gangs.get("e").shape == shape_of(asked.spec)
    assert state.gangs.get("e").status is GangStatus.WAITING
    state.apply(placed("e", 0, 1, attempt=2))
    assert state.gangs.get("e").shape.workers == 2


def test_no_gang_gets_fewer_or_more_workers_than_it_asked_for() -> None:
    rigid = GangSubmitted(at_ms=T, gang="r", spec=spec("acme", 4, 2))
    single = GangSubmitted(at_ms=T, gang="s", spec=spec("acme", 4, 1))
    state = folded(rigid, single)
    for event in (placed("r", 0), placed("s", 0, 1)):
        with pytest.raises(Conflict, match="as it asked"):
            state.apply(event)


# -- old snapshots


def test_a_snapshot_in_another_layout_is_told_apart() -> None:
    body = dump(folded(*TWO))
    assert is_readable(body)
    assert not is_readable(body.replace(b'"layout":%d' % LAYOUT, b'"layout":%d' % (LAYOUT - 1)))
    assert is_readable(b"no snapshot")  # for `load` to refuse
