"""The bounds beside the packing figures, against an example worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.placement.scores.kinds import Kind, mix_of
from scheduler.core.placement.scores.pool import Ask, whole_pool
from tests.benchmarks.packing_bound import bound_pct
from tests.benchmarks.packing_inputs import PodList

HALF = mix_of((Kind(Ask(1, 810, 1_000), 5), Kind(Ask(1, 1_000, 9_000), 5)))
TEN = PodList("ten", whole_pool([1] * 10, [9_000] * 10, [0] * 10, [0] * 10), HALF, np.zeros(0, dtype=np.int64))


def test_who_may_refuse_takes_whole_devices_first() -> None:
    """Of each kind 10 ÷ 1.81 arrive. All that ask for a whole device, and 810 of each device left: 9.15 of 10."""
    assert bound_pct(TEN, fitting=False) == pytest.approx(8.5, abs=0.01)


def test_who_takes_what_fits_takes_as_many_of_the_smaller() -> None:
    """Ten devices for equally many of both: 5 + 5 × 0.81 of 10."""
    assert bound_pct(TEN, fitting=True) == pytest.approx(9.5, abs=0.01)


def test_what_must_not_be_smaller_in_every_respect_may_be_refused() -> None:
    """The one that asks for less of the GPU asks for more CPU: nothing says that it fits where the other does."""
    crossed = mix_of((Kind(Ask(1, 810, 9_000), 5), Kind(Ask(1, 1_000, 1_000), 5)))
    assert bound_pct(PodList("ten", TEN.pool, crossed, TEN.pods), fitting=True) == pytest.approx(8.5, abs=0.01)
