"""How many GPUs a position contracts over time: what its meter records must add up to."""

from __future__ import annotations

from scheduler.core.entitlements import derive
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import StepFunction
from scheduler.core.positions import Position


def contracted_gpus(terms: InstrumentTerms, position: Position) -> StepFunction:
    """GPUs contracted over time: lots × GPUs a lot, where the profile is on."""
    changes: list[tuple[int, int]] = []
    for entitled in derive((position,), {terms.id: terms}, terms.window.interval):
        # Where the next stretch begins as this one ends, its beginning is given later and holds.
        changes += [(entitled.interval.start_ms, entitled.gpus), (entitled.interval.end_ms, 0)]
    return StepFunction.of(changes)
