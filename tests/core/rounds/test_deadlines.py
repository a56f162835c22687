"""What falls due by itself, in order, and only while it still matters; and what observations become."""

from __future__ import annotations

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.events import (
    BindOverdue,
    DrainOrdered,
    GangEnded,
    GangStarted,
    GangStopAsked,
    HealthChanged,
)
from scheduler.core.rounds import deadlines, observing
from scheduler.core.state.state import State
from scheduler.core.workloads import StopCause
from tests.core.state.folding import T, folded, placed, submitted, traded

NODE = NodeSpec(name="node-0", grade="H100", gpus=4)


def busy() -> State:
    """One gang runs with a declared run time, one binds with a limit, one node drains."""
    return folded(
        submitted("runs", max_runtime_ms=5_000, grace_ms=700),
        submitted("binds"),
        placed("runs", 0),
        GangStarted(at_ms=T + 100, gang="runs", attempt=1),
        placed("binds", 1, bind_by_ms=T + 3_000),
        DrainOrdered(at_ms=T, node="node-0", by_ms=T + 4_000),
    )


def test_deadlines_come_in_order_and_not_before_their_time() -> None:
    state = busy()
    assert deadlines.next_due_ms(state) == T + 3_000
    assert list(deadlines.due(state, T + 2_999)) == []
    due = list(deadlines.due(state, T + 9_000))
    assert [type(event) for event in due] == [BindOverdue, HealthChanged, GangStopAsked]
    assert [event.at_ms - T for event in due] == [3_000, 4_000, 5_100]


def test_a_run_time_that_was_over_while_nobody_looked_still_leaves_the_grace() -> None:
    state = busy()
    (*_, stop) = deadlines.due(state, T + 60_000)
    assert isinstance(stop, GangStopAsked)
    assert (stop.at_ms, stop.deadline_ms) == (T + 5_100, T + 60_000 + 700)


def test_what_an_earlier_deadline_made_moot_is_left_out() -> None:
    state = busy()
    due = deadlines.due(state, T + 9_000)
    assert isinstance(next(due), BindOverdue)
    state.apply(HealthChanged(at_ms=T + 4_000, node="node-0", cause=Cause.NODE_LOST))
    state.apply(GangEnded(at_ms=T + 4_000, gang="runs", attempt=1))
    assert list(due) == []


def test_an_overdue_bind_is_told_once() -> None:
    state = busy()
    state.apply(BindOverdue(at_ms=T + 3_000, gang="binds", attempt=1))
    assert deadlines.next_due_ms(state) == T + 4_000


def test_the_tightest_bind_limit_of_an_account_holds_and_graces_are_cut_to_it() -> None:
    state = folded(traded(1, "acme-1"), submitted("g", grace_ms=3_600_000))
    limit_ms = deadlines.bind_limits_ms(state)["acme"]
    assert limit_ms == state.instruments["H100.NODE@1"].bind_limit_s * 1_000
    assert "nobody" not in deadlines.bind_limits_ms(state)
    assert deadlines.grace_given_ms(state.gangs.get("g"), limit_ms) == limit_ms - deadlines.START_ALLOWANCE_MS


# -- observing


def test_echoes_of_attempts_and_nodes_that_are_not_current_are_nothing() -> None:
    state = busy()
    assert observing.started(state, "runs", 1, T + 200) == []
    assert observing.started(state, "nobody", 1, T) == []
    assert observing.ended(state, "runs", 2, 0, "", T) == []
    assert observing.node_seen(state, NODE, T + 1) == []
    assert observing.node_missing(state, "node-9", Cause.NODE_LOST, T) == []
    assert observing.gpus_ill(state, "node-9", (0,), Cause.ECC, T) == []
    assert observing.gpus_ill(state, "node-0", (0,), None, T) == []
    assert observing.measured(state, "node-9", None, 1, "s", T) == []


def test_what_is_older_than_what_is_known_of_a_node_is_an_echo() -> None:
    state = busy()
    state.apply(HealthChanged(at_ms=T + 500, node="node-0", cause=Cause.NODE_LOST))
    state.apply(HealthChanged(at_ms=T + 900, node="node-0"))
    assert observing.node_missing(state, "node-0", Cause.NODE_LOST, T + 500) == []
    assert len(observing.node_missing(state, "node-0", Cause.NODE_LOST, T + 901)) == 1


def test_a_lost_nodes_gpus_are_well_again_only_when_it_is_seen() -> None:
    state = busy()
    state.apply(HealthChanged(at_ms=T + 500, node="node-0", cause=Cause.NODE_LOST))
    assert observing.gpus_ill(state, "node-0", (0, 1), None, T + 600) == []
    assert observing.gpus_ill(state, "node-0", (0, 1), Cause.ECC, T + 600) == []
    (back,) = observing.node_seen(state, NODE, T + 700)
    state.apply(back)
    assert not state.health.cause.any()


def test_who_must_leave_ill_gpus() -> None:
    state = busy()
    lost = HealthChanged(at_ms=T, node="node-1", cause=Cause.NODE_LOST)
    ill = HealthChanged(at_ms=T, node="node-0", gpus=(2,), cause=Cause.ECC)
    well = HealthChanged(at_ms=T, node="node-0", gpus=(2,))
    assert [(gang.id, cause) for gang, cause in observing.to_stop_after(lost, state)] == [
        ("binds", StopCause.NODE_LOST)
    ]
    assert [(gang.id, cause) for gang, cause in observing.to_stop_after(ill, state)] == [("runs", StopCause.GPU_ILL)]
    assert observing.to_stop_after(well, state) == []
