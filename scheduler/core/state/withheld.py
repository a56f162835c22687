"""Lots that nothing is to stand behind for a while: recalled by their seller, or given back by their owner.

A position stays what the exchange says; what coverage has to find for it is less meanwhile, and the difference is
metered as what it is. What is withheld stays with its position: where lots leave it, no more is withheld than are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from scheduler.core.causes import Cause
from scheduler.core.events import LotsRecalled, LotsReleased
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.positions import Position

BY_CAUSE = (Cause.RECALL, Cause.BUYER_RELEASE)
"""Why lots are withheld; of those that both say, the first holds."""


class Withheld(NamedTuple):
    """So many lots of a position in `[from_ms, until_ms)`, as was told at `told_ms`."""

    cause: Cause
    lots: int
    from_ms: int
    until_ms: int
    told_ms: int

    @property
    def interval(self) -> Interval:
        """When."""
        return Interval(self.from_ms, self.until_ms)


def told(event: LotsRecalled | LotsReleased) -> Withheld:
    """What an event withholds."""
    cause = Cause.RECALL if isinstance(event, LotsRecalled) else Cause.BUYER_RELEASE
    return Withheld(cause, event.lots, event.from_ms, event.until_ms, event.at_ms)


def lots_withheld(withheld: Iterable[Withheld], cause: Cause | None = None) -> StepFunction:
    """How many lots are withheld over time, for a cause or for any."""
    total = StepFunction()
    for each in withheld:
        if cause in (None, each.cause):
            total += StepFunction.pulse(each.interval, each.lots)
    return total


def due(position: Position, withheld: Iterable[Withheld]) -> Position:
    """The position less what is withheld of it: what coverage has to find."""
    away = lots_withheld(withheld)
    if not away.steps:
        return position
    lots = position.lots_over_time.combine(away, lambda held, less: max(0, held - less))
    return Position(
        id=position.id,
        account=position.account,
        instrument=position.instrument,
        acquired_ms=position.acquired_ms,
        lots=lots.steps,
        consents=position.consents,
    )


def gpus_withheld(withheld: Iterable[Withheld], gpus_per_lot: int) -> tuple[tuple[Cause, StepFunction], ...]:
    """GPUs that are withheld over time, by cause."""
    held = tuple(withheld)
    functions = ((cause, lots_withheld(held, cause)) for cause in BY_CAUSE)
    return tuple(
        (cause, StepFunction(tuple((at_ms, lots * gpus_per_lot) for at_ms, lots in function.steps)))
        for cause, function in functions
        if function.steps
    )


def dumped(withheld: Mapping[str, tuple[Withheld, ...]]) -> dict[str, list[list[int]]]:
    """As JSON."""
    return {name: [[int(number) for number in each] for each in told_of] for name, told_of in withheld.items()}


def loaded(plain: Mapping[str, Iterable[Iterable[int]]]) -> dict[str, tuple[Withheld, ...]]:
    """What was dumped."""
    return {name: tuple(Withheld(Cause(cause), *rest) for cause, *rest in told_of) for name, told_of in plain.items()}
