"""What scores know: thresholds that are the published sigmoid, prices, frequent kinds, exact logarithms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue
from scheduler.core.placement.scores.kinds import MAX_WEIGHT, Kind, Mix, mix_of, prices
from scheduler.core.placement.scores.logarithms import ONE, ln
from scheduler.core.placement.scores.pool import Ask, models_mask
from scheduler.core.placement.scores.table import gpus_of_model, sigmoid_thresholds
from tests.core.placement.scores.pools import SERVERS, WORK, mixes


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_logarithms_are_those_of_floats(numerator: int, denominator: int) -> None:
    assert ln(numerator, denominator) == pytest.approx(
        math.log(numerator / denominator) * ONE, abs=1e-12 * ONE, rel=1e-12
    )


def test_logarithms_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidValue):
        ln(0, 1)


@given(st.integers(1, 1_000_000), st.integers(-8_000_000, 8_000_000))
def test_thresholds_are_the_published_score(weight: int, gain: int) -> None:
    weighted = gain * weight // 1_000
    score = int(np.searchsorted(sigmoid_thresholds(weight), weighted, side="right"))
    exact = 100 / (1 + math.exp(-weighted / weight / 1_000))
    assert score == int(exact) or abs(exact - round(exact)) < 1e-9


def test_no_gain_scores_fifty() -> None:
    thresholds = sigmoid_thresholds(7)
    assert (thresholds[49], thresholds[48] < 0, thresholds[50] > 0) == (0, True, True)


@given(mixes)
def test_a_mix_is_the_same_however_it_was_counted(mix: Mix) -> None:
    again = mix_of(Kind(kind.ask, 1, kind.stay_ms) for kind in reversed(mix.kinds) for _ in range(kind.count))
    assert (again, again.digest) == (mix, mix.digest)


@given(mixes, st.integers(0, 1_000_000))
def test_frequent_kinds_cover_what_was_asked_and_none_is_too_many(mix: Mix, share_ppm: int) -> None:
    kept = mix.frequent(share_ppm)
    assert kept.count * 1_000_000 >= mix.count * share_ppm
    if kept.kinds:
        rarest = min(kind.count for kind in kept.kinds)
        assert (kept.count - rarest) * 1_000_000 < mix.count * share_ppm


def test_counts_stay_within_what_products_can_hold() -> None:
    many = mix_of((Kind(Ask(1, 500), 3 * 10**12), Kind(Ask(1, 600), 10**12)))
    assert many.weights.tolist() == [MAX_WEIGHT * 3 // 4, MAX_WEIGHT // 4]


def test_a_model_that_restricted_work_needs_has_a_price() -> None:
    """A tenth of the demand may only use model 1, which has half of all GPUs: 0.1 × 20 ÷ 10."""
    mix = mix_of((Kind(Ask(1, 1_000), 9), Kind(Ask(1, 1_000, models=models_mask([1])), 1)))
    assert prices(mix, {0: 10, 1: 10})[:3].tolist() == [0, 20, 0]
    assert gpus_of_model(SERVERS) == {0: 18, 1: 20}
    assert prices(WORK, gpus_of_model(SERVERS))[0] == 0 < prices(WORK, gpus_of_model(SERVERS))[1]


def test_a_kind_was_counted_at_least_once() -> None:
    with pytest.raises(InvalidValue):
        mix_of((Kind(Ask(1, 500), 0),))
