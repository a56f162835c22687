"""How many GPUs a position contracts over time: what its meter records must add up to, and when accounts own more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from scheduler.core.entitlements import derive
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import StepFunction
from scheduler.core.placement.snapshot import Opening
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


def openings(contracted: Mapping[str, StepFunction], account_of: Mapping[str, str], now_ms: int) -> dict[str, Opening]:
    """For each account that will own more than now: the first instant at which it does, and how much it owns then."""
    owned: dict[str, int] = {}
    changes: dict[str, list[tuple[int, int]]] = {}
    for position, function in contracted.items():
        account = account_of[position]
        owned[account] = owned.get(account, 0) + function.at(now_ms)
        before = function.at(now_ms)
        for at_ms, gpus in function.steps:
            if at_ms > now_ms:
                changes.setdefault(account, []).append((at_ms, gpus - before))
                before = gpus
    found: dict[str, Opening] = {}
    for account, coming in sorted(changes.items()):
        total = owned[account]
        for at_ms, together in groupby(sorted(coming), key=lambda change: change[0]):
            total += sum(change for _, change in together)
            if total > owned[account]:
                found[account] = Opening(at_ms, total)
                break
    return found


def is_whole(due: StepFunction, held: Sequence[tuple[int, int, int]], now_ms: int) -> bool:
    """Whether as many GPUs stand behind a position as are due, now and whenever that changes; `held`: (from, until,
    GPUs).
    """
    edges = {now_ms, *(at_ms for at_ms, _ in due.steps), *(edge for start, end, _ in held for edge in (start, end))}
    return all(
        sum(gpus for start, end, gpus in held if start <= at_ms < end) >= due.at(at_ms)
        for at_ms in edges
        if at_ms >= now_ms
    )
