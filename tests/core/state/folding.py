"""States made of events, for tests of the fold: a fleet of two nodes of four GPUs, an instrument, and short names for
events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.events import (
    CoverageAssigned,
    Event,
    GangPlaced,
    GangSubmitted,
    InstrumentListed,
    NodeJoined,
    PositionChanged,
)
from scheduler.core.holdings import Holding
from scheduler.core.instruments import standard_terms
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.state.state import State
from scheduler.core.workloads import GangSpec, Piece

T = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
END = T + 600_000
TERMS = standard_terms(
    symbol="H100.NODE", start_ms=T, end_ms=END, grade="H100", cell=Level.NODE, gpus=4, metering_interval_s=10
)


def spec(account: str = "acme", gpus: int = 4, workers: int = 1, **wished: Any) -> GangSpec:
    """A gang that asks for little else."""
    return GangSpec(account=account, name="train", command=("run",), workers=workers, gpus_per_worker=gpus, **wished)


def submitted(gang: str, at_ms: int = T, **wished: Any) -> GangSubmitted:
    """A submission."""
    return GangSubmitted(at_ms=at_ms, gang=gang, spec=spec(**wished))


def placed(gang: str, *nodes: int, at_ms: int = T, attempt: int = 1, **given: Any) -> GangPlaced:
    """A placement on whole nodes."""
    pieces = tuple(Piece(node=f"node-{node}", gpus=(0, 1, 2, 3)) for node in nodes)
    return GangPlaced(at_ms=at_ms, gang=gang, attempt=attempt, pieces=pieces, inside=True, **given)


def traded(seq: int, position: str, account: str = "acme", lots: int = 1, at_ms: int = T) -> PositionChanged:
    """A trade, effective when committed."""
    return PositionChanged(
        at_ms=at_ms,
        event=PositionEvent(
            cursor=Cursor(stream="exchange", epoch=1, seq=seq),
            kind=PositionEventKind.TRADE,
            position=position,
            account=account,
            instrument=TERMS.id,
            lots=lots,
            effective_ms=at_ms,
            committed_ms=at_ms,
        ),
    )


def held(position: str, cell: int, start_ms: int = T, end_ms: int = END, level: Level = Level.NODE) -> Holding:
    """A holding of a whole node."""
    return Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms)


def assigned(*holdings: Holding, positions: tuple[str, ...] = (), at_ms: int = T, from_ms: int = T) -> CoverageAssigned:
    """Coverage of the holdings' positions, or of those named."""
    named = positions or tuple(sorted({holding.position for holding in holdings}))
    return CoverageAssigned(at_ms=at_ms, from_ms=from_ms, why="traded", positions=named, holdings=holdings)


FLEET: tuple[Event, ...] = (
    NodeJoined(at_ms=T, node=NodeSpec(name="node-0", grade="H100", gpus=4)),
    NodeJoined(at_ms=T, node=NodeSpec(name="node-1", grade="H100", gpus=4)),
    InstrumentListed(at_ms=T, terms=TERMS),
)


def folded(*events: Event, start: Iterable[Event] = FLEET) -> State:
    """The state after the fleet and these events."""
    state = State()
    for event in (*start, *events):
        state.apply(event)
    return state
