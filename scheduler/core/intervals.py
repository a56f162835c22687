"""Half-open intervals `[start_ms, end_ms)` and step functions over them: the shape of every fact that lasts.

Ownership, health, occupancy and performance are step functions of time, and metering is their integral. Laws (all
tested as properties): integrals add over adjacent intervals; a sum of functions integrates to the sum of integrals;
the steps of a function tile it, with no two equal neighbours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scheduler.core.errors import InvalidValue


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """`[start_ms, end_ms)` in UTC milliseconds; never empty."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise InvalidValue("end_ms", f"the interval from {self.start_ms}", self.end_ms, "a later instant")

    @property
    def length_ms(self) -> int:
        """How long it lasts."""
        return self.end_ms - self.start_ms

    def contains(self, at_ms: int) -> bool:
        """Whether the instant lies inside: the start does, the end does not."""
        return self.start_ms <= at_ms < self.end_ms

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share an instant."""
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms

    def intersection(self, other: Interval) -> Interval | None:
        """What both cover, or None."""
        start_ms, end_ms = max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms)
        return Interval(start_ms, end_ms) if start_ms < end_ms else None


def normalise(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same instants as sorted, disjoint intervals with no two touching."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start_ms <= merged[-1].end_ms:
            if interval.end_ms > merged[-1].end_ms:
                merged[-1] = Interval(merged[-1].start_ms, interval.end_ms)
        else:
            merged.append(interval)
    return tuple(merged)


def intersect(left: Iterable[Interval], right: Iterable[Interval]) -> tuple[Interval, ...]:
    """The instants in both of two normalised sequences, normalised."""
    a, b = normalise(left), normalise(right)
    found: list[Interval] = []
    i = j = 0
    while i < len(a) and j < len(b):
        both = a[i].intersection(b[j])
        if both is not None:
            found.append(both)
        if a[i].end_ms <= b[j].end_ms:
            i += 1
        else:
            j += 1
    return tuple(found)


def overlap(normalised: Sequence[Interval], interval: Interval) -> bool:
    """Whether a normalised sequence has an instant in common with an interval. O(log n)."""
    first = bisect_right(normalised, interval.start_ms, key=lambda each: each.end_ms)
    return first < len(normalised) and normalised[first].start_ms < interval.end_ms


def total_ms(intervals: Iterable[Interval]) -> int:
    """How long normalised intervals last together."""
    return sum(interval.length_ms for interval in intervals)


@dataclass(frozen=True, slots=True)
class StepFunction:
    """An integer function of time, constant between its steps, 0 before the first.

    `steps` are (instant, value from that instant on), sorted, instants distinct, no value equal to the one before.
    Build one with `of`, which normalises; the constructor checks.
    """

    steps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        before_ms, before = None, 0
        for at_ms, value in self.steps:
            if (before_ms is not None and at_ms <= before_ms) or value == before:
                raise InvalidValue("steps", "StepFunction", self.steps, "rising instants, each changing the value")
            before_ms, before = at_ms, value

    @staticmethod
    def of(changes: Iterable[tuple[int, int]]) -> StepFunction:
        """From (instant, value from then on) in any order; of two at one instant the later given one holds."""
        steps: list[tuple[int, int]] = []
        for at_ms, value in sorted(changes, key=lambda change: change[0]):
            if steps and steps[-1][0] == at_ms:
                steps.pop()
            if value != (steps[-1][1] if steps else 0):
                steps.append((at_ms, value))
        return StepFunction(tuple(steps))

    @staticmethod
    def pulse(interval: Interval, value: int) -> StepFunction:
        """`value` inside the interval, 0 outside."""
        return StepFunction.of(((interval.start_ms, value), (interval.end_ms, 0)))

    def at(self, at_ms: int) -> int:
        """The value at an instant."""
        i = bisect_right(self.steps, at_ms, key=lambda step: step[0])
        return self.steps[i - 1][1] if i else 0

    def since(self, from_ms: int) -> StepFunction:
        """The same function from an instant on, without the steps that no longer matter then."""
        kept = self.steps[max(0, bisect_right(self.steps, from_ms, key=lambda step: step[0]) - 1) :]
        return StepFunction(kept[1:] if kept and kept[0][1] == 0 else kept)

    def pieces(self, within: Interval) -> Iterator[tuple[Interval, int]]:
        """The constant pieces that tile `within`, in order, zeros included."""
        cuts = [within.start_ms]
        cuts += [at_ms for at_ms, _ in self.steps if within.start_ms < at_ms < within.end_ms]
        cuts.append(within.end_ms)
        for start_ms, end_ms in pairwise(cuts):
            yield Interval(start_ms, end_ms), self.at(start_ms)

    def integral(self, within: Interval) -> int:
        """The sum of value times milliseconds over `within`."""
        return sum(value * piece.length_ms for piece, value in self.pieces(within))

    def differs_from_ms(self, other: StepFunction) -> int | None:
        """The first instant at which the two differ; None where they are equal."""
        instants = sorted({at_ms for at_ms, _ in (*self.steps, *other.steps)})
        return next((at_ms for at_ms in instants if self.at(at_ms) != other.at(at_ms)), None)

    def combine(self, other: StepFunction, how: Callable[[int, int], int]) -> StepFunction:
        """The function whose value is `how` of both values at each instant; `how(0, 0)` must be 0."""
        instants = sorted({at_ms for at_ms, _ in self.steps} | {at_ms for at_ms, _ in other.steps})
        return StepFunction.of((at_ms, how(self.at(at_ms), other.at(at_ms))) for at_ms in instants)

    def __add__(self, other: StepFunction) -> StepFunction:
        return self.combine(other, lambda mine, theirs: mine + theirs)

    def __sub__(self, other: StepFunction) -> StepFunction:
        return self.combine(other, lambda mine, theirs: mine - theirs)

    def minimum(self, within: Interval) -> int:
        """The least value in `within`."""
        return min(value for _, value in self.pieces(within))

    def maximum(self, within: Interval) -> int:
        """The greatest value in `within`."""
        return max(value for _, value in self.pieces(within))
