"""Intervals and step functions against brute force over every millisecond of a small world."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue
from scheduler.core.intervals import Interval, StepFunction, intersect, normalise, total_ms

WORLD = range(-5, 41)
"""Every instant that a drawn interval or step may touch, and some around."""

instants = st.integers(0, 35)
values = st.integers(-6, 6)


def ordered(two: tuple[int, int]) -> Interval:
    return Interval(min(two), max(two))


intervals = st.tuples(instants, instants).filter(lambda two: two[0] != two[1]).map(ordered)
sets_of_intervals = st.lists(intervals, max_size=8)
changes = st.lists(st.tuples(instants, values), max_size=10)
functions = changes.map(StepFunction.of)


def covered(by: list[Interval] | tuple[Interval, ...]) -> set[int]:
    return {at_ms for at_ms in WORLD if any(interval.contains(at_ms) for interval in by)}


def drawn_out(function: StepFunction) -> list[int]:
    return [function.at(at_ms) for at_ms in WORLD]


@pytest.mark.parametrize(("start_ms", "end_ms"), [(5, 5), (5, 4), (0, -1)])
def test_an_interval_is_never_empty(start_ms: int, end_ms: int) -> None:
    with pytest.raises(InvalidValue, match=f"end_ms of the interval from {start_ms} was {end_ms}"):
        Interval(start_ms, end_ms)


@given(intervals)
def test_the_start_is_inside_and_the_end_is_not(interval: Interval) -> None:
    assert interval.contains(interval.start_ms)
    assert interval.contains(interval.end_ms - 1)
    assert not interval.contains(interval.start_ms - 1)
    assert not interval.contains(interval.end_ms)
    assert interval.length_ms == len(covered([interval]))


@given(intervals, intervals)
def test_overlap_and_intersection_are_those_of_the_instants(one: Interval, other: Interval) -> None:
    both = covered([one]) & covered([other])
    assert one.overlaps(other) == other.overlaps(one) == bool(both)
    shared = one.intersection(other)
    assert shared == other.intersection(one)
    assert covered([shared] if shared else []) == both


def test_intervals_that_touch_share_no_instant() -> None:
    assert not Interval(0, 10).overlaps(Interval(10, 20))
    assert Interval(0, 10).intersection(Interval(10, 20)) is None


@given(sets_of_intervals)
def test_normalised_intervals_are_the_same_instants_sorted_and_apart(some: list[Interval]) -> None:
    normal = normalise(some)
    assert covered(normal) == covered(some)
    assert all(before.end_ms < after.start_ms for before, after in pairwise(normal))
    assert normalise(normal) == normal
    assert normalise(reversed(some)) == normal
    assert total_ms(normal) == len(covered(some))


@given(sets_of_intervals, sets_of_intervals)
def test_an_intersection_of_sets_is_that_of_their_instants(left: list[Interval], right: list[Interval]) -> None:
    both = intersect(left, right)
    assert covered(both) == covered(left) & covered(right)
    assert both == normalise(both) == intersect(right, left)


@given(changes)
def test_a_function_holds_the_last_value_given_at_or_before(some: list[tuple[int, int]]) -> None:
    function = StepFunction.of(some)
    for at_ms in WORLD:
        given_before = [(step_ms, order) for order, (step_ms, _) in enumerate(some) if step_ms <= at_ms]
        expected = some[max(given_before)[1]][1] if given_before else 0
        assert function.at(at_ms) == expected


@given(functions)
def test_two_functions_with_the_same_values_are_equal(function: StepFunction) -> None:
    """Normal form: what is drawn out instant by instant comes back as the same steps."""
    assert StepFunction.of(zip(WORLD, drawn_out(function), strict=True)) == function
    assert StepFunction.of(function.steps) == function


@given(functions, instants)
def test_a_function_since_an_instant_is_the_same_from_then_on(function: StepFunction, from_ms: int) -> None:
    since = function.since(from_ms)
    assert all(since.at(at_ms) == function.at(at_ms) for at_ms in WORLD if at_ms >= from_ms)
    assert sum(at_ms <= from_ms for at_ms, _ in since.steps) <= 1


@given(functions, intervals)
def test_pieces_tile_what_was_asked_for(function: StepFunction, within: Interval) -> None:
    pieces = list(function.pieces(within))
    assert pieces[0][0].start_ms == within.start_ms
    assert pieces[-1][0].end_ms == within.end_ms
    for (before, value), (after, next_value) in pairwise(pieces):
        assert before.end_ms == after.start_ms
        assert value != next_value
    for piece, value in pieces:
        assert {function.at(at_ms) for at_ms in range(piece.start_ms, piece.end_ms)} == {value}


@given(functions, intervals)
def test_an_integral_is_the_sum_over_every_millisecond(function: StepFunction, within: Interval) -> None:
    inside = [function.at(at_ms) for at_ms in range(within.start_ms, within.end_ms)]
    assert function.integral(within) == sum(inside)
    assert function.minimum(within) == min(inside)
    assert function.maximum(within) == max(inside)


@given(functions, st.lists(instants, min_size=3, max_size=3, unique=True).map(sorted))
def test_integrals_add_over_adjacent_intervals(function: StepFunction, cuts: list[int]) -> None:
    first, middle, last = cuts
    parts = function.integral(Interval(first, middle)) + function.integral(Interval(middle, last))
    assert function.integral(Interval(first, last)) == parts


@given(functions, functions, intervals)
def test_sums_and_differences_integrate_to_sums_and_differences(
    one: StepFunction, other: StepFunction, within: Interval
) -> None:
    assert (one + other).integral(within) == one.integral(within) + other.integral(within)
    assert (one - other).integral(within) == one.integral(within) - other.integral(within)


@given(functions, functions)
def test_combining_is_instant_by_instant(one: StepFunction, other: StepFunction) -> None:
    ways: tuple[Callable[[int, int], int], ...] = (min, max, mul)
    for how in ways:
        expected = [how(mine, theirs) for mine, theirs in zip(drawn_out(one), drawn_out(other), strict=True)]
        assert drawn_out(one.combine(other, how)) == expected


@given(functions, functions, functions)
def test_functions_add_as_numbers_do(one: StepFunction, two: StepFunction, three: StepFunction) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + StepFunction() == one
    assert one - one == StepFunction()


@given(intervals, values)
def test_a_pulse_is_its_value_inside_and_nothing_outside(interval: Interval, value: int) -> None:
    pulse = StepFunction.pulse(interval, value)
    assert drawn_out(pulse) == [value if interval.contains(at_ms) else 0 for at_ms in WORLD]


@pytest.mark.parametrize(
    "steps",
    [
        ((0, 0),),  # 0 is the value before the first step
        ((0, 1), (5, 1)),
        ((5, 1), (0, 2)),
        ((5, 1), (5, 2)),
    ],
)
def test_steps_out_of_normal_form_are_refused(steps: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InvalidValue, match="rising instants, each changing the value"):
        StepFunction(steps)
