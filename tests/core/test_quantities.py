"""The divisions say how they round, and shares add up exactly, whatever the numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import INT64_MAX, ONE_PPM, apportion, ceil_div, floor_div, share_ppm

any_integer = st.integers(-(10**30), 10**30)
positive = st.integers(1, 10**30)
weights = st.lists(st.integers(0, 10**12), max_size=12)


@given(any_integer, positive)
def test_floor_div_is_the_floor_of_the_exact_quotient(numerator: int, denominator: int) -> None:
    assert floor_div(numerator, denominator) == floor(Fraction(numerator, denominator))


@given(any_integer, positive)
def test_ceil_div_is_the_ceiling_of_the_exact_quotient(numerator: int, denominator: int) -> None:
    assert ceil_div(numerator, denominator) == ceil(Fraction(numerator, denominator))


@given(any_integer, positive)
def test_floor_and_ceiling_differ_by_one_unless_the_division_is_exact(numerator: int, denominator: int) -> None:
    gap = ceil_div(numerator, denominator) - floor_div(numerator, denominator)
    assert gap == (0 if numerator % denominator == 0 else 1)


@pytest.mark.parametrize("divide", [floor_div, ceil_div])
@pytest.mark.parametrize("denominator", [0, -1, -ONE_PPM])
def test_a_denominator_that_is_not_positive_is_refused(divide: object, denominator: int) -> None:
    assert callable(divide)
    with pytest.raises(InvalidValue, match=rf"was {denominator}, expected a positive integer"):
        divide(1, denominator)


@given(st.integers(0, INT64_MAX), st.integers(1, INT64_MAX))
def test_a_share_is_never_rounded_up(part: int, whole: int) -> None:
    share = share_ppm(part, whole)
    assert share * whole <= part * ONE_PPM < (share + 1) * whole


def test_a_share_of_nothing_is_nothing() -> None:
    assert share_ppm(0, 0) == 0


@given(st.integers(0, INT64_MAX), weights.filter(any))
def test_shares_add_up_exactly(total: int, by: list[int]) -> None:
    assert sum(apportion(total, by)) == total


@given(st.integers(0, INT64_MAX), weights.filter(any))
def test_each_share_is_its_exact_quota_rounded_down_or_up(total: int, by: list[int]) -> None:
    """The quota rule: largest remainder never moves a share by a whole unit."""
    for share, weight in zip(apportion(total, by), by, strict=True):
        quota = Fraction(total * weight, sum(by))
        assert floor(quota) <= share <= ceil(quota)


@given(st.integers(0, INT64_MAX), weights.filter(any))
def test_nothing_is_given_to_a_weight_of_zero(total: int, by: list[int]) -> None:
    assert all(share == 0 for share, weight in zip(apportion(total, by), by, strict=True) if weight == 0)


@given(st.integers(0, INT64_MAX), weights.filter(any), st.data())
def test_a_larger_weight_never_gets_less(total: int, by: list[int], data: st.DataObject) -> None:
    i, j = (data.draw(st.integers(0, len(by) - 1)) for _ in range(2))
    shares = apportion(total, by)
    if by[i] > by[j]:
        assert shares[i] >= shares[j]


@given(st.integers(0, INT64_MAX), st.integers(0, 10**9), st.integers(1, 10))
def test_equal_weights_leave_the_odd_units_to_the_earliest(total: int, weight: int, count: int) -> None:
    shares = apportion(total, [weight + 1] * count)
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[0] - shares[-1] <= 1


@given(st.integers(0, 8), st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any))
def test_no_split_in_whole_units_is_nearer_to_the_quotas(total: int, by: list[int]) -> None:
    """Hamilton's method against every possible split: the deviations summed over the shares are the least there are."""

    def distance(shares: tuple[int, ...]) -> Fraction:
        quotas = [Fraction(total * weight, sum(by)) for weight in by]
        return sum((abs(share - quota) for share, quota in zip(shares, quotas, strict=True)), start=Fraction(0))

    every = [split for split in product(range(total + 1), repeat=len(by)) if sum(split) == total]
    assert distance(apportion(total, by)) == min(distance(split) for split in every)


def test_with_no_weight_only_nothing_can_be_shared() -> None:
    assert apportion(0, []) == ()
    assert apportion(0, [0, 0]) == (0, 0)
    with pytest.raises(InvalidValue, match="a positive sum to share 7 by"):
        apportion(7, [0, 0])
    with pytest.raises(InvalidValue, match="a positive sum to share 7 by"):
        apportion(7, [])


@pytest.mark.parametrize(("total", "by"), [(-1, [1]), (1, [-1, 2]), (0, [-1])])
def test_negative_amounts_are_refused(total: int, by: list[int]) -> None:
    with pytest.raises(InvalidValue, match="integers of 0 or more"):
        apportion(total, by)
