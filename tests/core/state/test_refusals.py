"""An event that contradicts the state is refused by name, and then nothing has changed: the dump is the same."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.errors import Conflict, Equivocation, Fenced, InvalidValue, Refused, UnknownName
from scheduler.core.events import (
    BindOverdue,
    CancelAsked,
    CellsSwapped,
    CoverageRefused,
    DevicesSeen,
    DrainOrdered,
    Event,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    HealthChanged,
    InstrumentListed,
    IntervalClosed,
    NodeJoined,
    ObservationGap,
    PerformanceMeasured,
    PositionsLoaded,
)
from scheduler.core.positions import Cursor, Position
from scheduler.core.state.dump import dump
from scheduler.core.state.state import State
from scheduler.core.workloads import Piece, StopCause
from tests.core.state.folding import END, TERMS, T, assigned, folded, held, placed, submitted, traded


def world() -> State:
    """One gang of every status, two positions, one node covered by each."""
    return folded(
        traded(1, "acme-1"),
        traded(2, "bolt-1", "bolt"),
        assigned(held("acme-1", 0)),
        assigned(held("bolt-1", 1)),
        submitted("running"),
        placed("running", 0),
        GangStarted(at_ms=T, gang="running", attempt=1),
        submitted("stopping", account="bolt"),
        placed("stopping", 1),
        GangStarted(at_ms=T, gang="stopping", attempt=1),
        GangStopAsked(at_ms=T + 1, gang="stopping", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=T + 5),
        submitted("claiming", account="bolt"),
        placed("claiming", 1, at_ms=T + 1, waits_for=("stopping",)),
        submitted("waiting"),
        IntervalClosed(at_ms=T + 10_000, interval_ms=10_000, end_ms=T + 10_000, first_leaf=0, leaves=3),
    )


def stop(gang: str, attempt: int = 1) -> GangStopAsked:
    return GangStopAsked(at_ms=T, gang=gang, attempt=attempt, cause=StopCause.DRAINED, deadline_ms=T)


def pieces(*at: tuple[str, tuple[int, ...]]) -> GangPlaced:
    made = tuple(Piece(node=node, gpus=gpus) for node, gpus in at)
    return GangPlaced(at_ms=T, gang="waiting", attempt=1, pieces=made, inside=False)


def loaded(seq: int, stream: str = "exchange", **given: Any) -> PositionsLoaded:
    fields = {"id": "acme-1", "account": "acme", "instrument": TERMS.id, "acquired_ms": T, "lots": ((T, 1),), **given}
    position = Position.model_validate(fields)
    return PositionsLoaded(at_ms=T, cursor=Cursor(stream=stream, epoch=1, seq=seq), positions=(position,))


REFUSED: tuple[tuple[str, Event, type[Refused]], ...] = (
    ("submitted twice", submitted("running", account="new"), Conflict),
    ("placed while running", placed("running", 1, attempt=2), Conflict),
    ("unknown gang placed", placed("nobody", 1), UnknownName),
    ("placed on an occupied node", placed("waiting", 0), Conflict),
    ("placed on a claimed node", placed("waiting", 1), Conflict),
    ("placed as the wrong attempt", placed("waiting", 1, attempt=2), Conflict),
    ("placed on an unknown node", pieces(("node-9", (0, 1, 2, 3))), UnknownName),
    ("placed on a GPU beyond the node", pieces(("node-1", (1, 2, 3, 4))), UnknownName),
    ("placed on too few GPUs", pieces(("node-1", (0, 1))), Conflict),
    ("placed on a GPU twice", pieces(("node-1", (0, 0, 1, 2))), Conflict),
    ("placed nowhere", pieces(), Conflict),
    ("started twice", GangStarted(at_ms=T, gang="running", attempt=1), Conflict),
    ("started while it claims", GangStarted(at_ms=T, gang="claiming", attempt=1), Conflict),
    ("started while it stops", GangStarted(at_ms=T, gang="stopping", attempt=1), Conflict),
    ("started while it waits", GangStarted(at_ms=T, gang="waiting", attempt=0), Conflict),
    ("another attempt started", GangStarted(at_ms=T, gang="claiming", attempt=2), Conflict),
    ("stopped while it waits", stop("waiting", 0), Conflict),
    ("another attempt stopped", stop("running", 2), Conflict),
    ("ended while it waits", GangEnded(at_ms=T, gang="waiting", attempt=0), Conflict),
    ("overdue while it runs", BindOverdue(at_ms=T, gang="running", attempt=1), Conflict),
    ("unknown gang cancelled", CancelAsked(at_ms=T, gang="nobody"), UnknownName),
    ("node joined twice", NodeJoined(at_ms=T, node=NodeSpec(name="node-0", grade="H100", gpus=8)), Conflict),
    ("unknown node ill", HealthChanged(at_ms=T, node="node-9", cause=Cause.ECC), UnknownName),
    ("unknown GPU ill", HealthChanged(at_ms=T, node="node-0", gpus=(0, 4), cause=Cause.ECC), UnknownName),
    ("negative GPU ill", HealthChanged(at_ms=T, node="node-1", gpus=(-1,), cause=Cause.ECC), UnknownName),
    ("devices of an unknown node", DevicesSeen(at_ms=T, node="node-9", source="nvml"), UnknownName),
    ("unknown node measured", PerformanceMeasured(at_ms=T, node="node-9", ppm=1, suite="s"), UnknownName),
    ("unknown node drained", DrainOrdered(at_ms=T, node="node-9", by_ms=T), UnknownName),
    ("unknown node no more drained", DrainOrdered(at_ms=T, node="node-9", by_ms=None), UnknownName),
    ("unknown position covered", assigned(held("nobody", 0)), UnknownName),
    (
        "unknown position refused",
        CoverageRefused(at_ms=T, position="nobody", cause=Cause.OVERSOLD, uncovered_lots=1),
        UnknownName,
    ),
    ("a second owner", assigned(held("acme-1", 0), held("acme-1", 1)), Conflict),
    ("a cell twice", assigned(held("acme-1", 0), held("acme-1", 0)), Conflict),
    ("a GPU of another's node", assigned(held("acme-1", 6, level=Level.GPU)), Conflict),
    ("a cell that is not there", assigned(held("acme-1", 7)), Conflict),
    ("a holding of a position not named", assigned(held("acme-1", 0), positions=("bolt-1",)), Conflict),
    ("a holding before its assignment", assigned(held("acme-1", 0), from_ms=T + 1), Conflict),
    ("a cell swapped with itself", CellsSwapped(at_ms=T, level=Level.NODE, left=0, right=0), Conflict),
    ("unknown cells swapped", CellsSwapped(at_ms=T, level=Level.NODE, left=0, right=9), Conflict),
    (
        "other terms listed",
        InstrumentListed(at_ms=T, terms=TERMS.model_validate({**TERMS.model_dump(), "bind_limit_s": 99})),
        Equivocation,
    ),
    ("a position traded twice", traded(3, "acme-1"), Conflict),
    ("a gap in the stream", traded(4, "acme-2"), Conflict),
    ("a repeat with other content", traded(2, "acme-9"), Equivocation),
    ("a snapshot that is older", loaded(1), Fenced),
    ("a snapshot of another stream", loaded(9, "other"), Conflict),
    ("a snapshot of an unknown instrument", loaded(9, instrument="H200.NODE@1"), UnknownName),
    ("a snapshot in which a position changed hands", loaded(9, account="bolt"), Conflict),
    ("a snapshot with negative lots", loaded(9, lots=((T, -1),)), InvalidValue),
    (
        "an interval closed twice",
        IntervalClosed(at_ms=T, interval_ms=10_000, end_ms=T + 10_000, first_leaf=3, leaves=0),
        Conflict,
    ),
    ("a gap that ends before it begins", ObservationGap(at_ms=T, from_ms=T + 1, bridged=False), InvalidValue),
)


@pytest.mark.parametrize(("event", "error"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_contradicts_is_refused_and_changes_nothing(event: Event, error: type[Refused]) -> None:
    state = world()
    before = dump(state)
    queued = [gang.id for gang in state.gangs.waiting()]
    with pytest.raises(error):
        state.apply(event)
    assert dump(state) == before
    assert [gang.id for gang in state.gangs.waiting()] == queued
    assert state.gangs.waiting_count == 1
    state.apply(GangEnded(at_ms=T + 3, gang="stopping", attempt=1, exit_code=143))
    assert state.gangs.get("claiming").waits_for == ()


def test_the_world_of_these_tests_is_sound() -> None:
    state = world()
    assert state.gangs.occupant.tolist() == [0] * 4 + [1] * 4
    assert state.gangs.claimant.tolist() == [-1] * 4 + [2] * 4
    assert state.calendar.owner_position.tolist() == [0] * 4 + [1] * 4
    assert max(holding.end_ms for holding in state.calendar.holdings) == END
