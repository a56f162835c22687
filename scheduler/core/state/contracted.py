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


def next_contracted_ms(contracted: StepFunction, from_ms: int | None) -> int | None:
    """The first instant at or after `from_ms` (None: any) at which something is contracted; None: never again."""
    steps = contracted.steps
    for i, (at_ms, gpus) in enumerate(steps):
        ends_later = from_ms is None or i + 1 == len(steps) or steps[i + 1][0] > from_ms
        if gpus > 0 and ends_later:
            return at_ms if from_ms is None else max(at_ms, from_ms)
    return None
