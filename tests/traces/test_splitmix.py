"""Draws: the published sequence, and independence of order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.splitmix import splitmix64
from scheduler.traces.splitmix import Purpose, below, draw_below, draws


def test_it_is_the_published_splitmix64() -> None:
    # The first outputs for seed 0: state advances by the golden constant, which `splitmix64` adds itself.
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], dtype=np.uint64)
    assert [hex(value) for value in splitmix64(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@given(st.integers(), st.lists(st.integers(0, 2**40), min_size=1, max_size=20, unique=True))
def test_a_draw_depends_on_its_key_alone(seed: int, keys: list[int]) -> None:
    together = draws(seed, Purpose.TENANT, np.array(keys, dtype=np.int64)).tolist()
    alone = [int(draws(seed, Purpose.TENANT, np.array([key], dtype=np.int64))[0]) for key in keys]
    assert together == alone


@given(st.integers(1, 2**32 - 1), st.integers())
def test_a_scaled_draw_stays_below_its_limit(limit: int, seed: int) -> None:
    drawn = draw_below(limit, seed, Purpose.SIZE, np.arange(100, dtype=np.int64))
    assert drawn.min() >= 0
    assert drawn.max() < limit
    assert below(np.array([0, 2**64 - 1], dtype=np.uint64), limit).tolist() == [0, limit - 1]


def test_purposes_and_seeds_draw_differently() -> None:
    keys = np.arange(50, dtype=np.int64)
    assert len({draws(1, purpose, keys).tobytes() for purpose in Purpose}) == len(Purpose)
    assert draws(1, Purpose.SIZE, keys).tobytes() != draws(2, Purpose.SIZE, keys).tobytes()
