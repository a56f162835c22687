"""The unavoidable shortfall against a search over every way to cover what was sold with what was there."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import NodeSpec
from scheduler.core.events import NodeJoined
from scheduler.core.state.state import State
from scheduler.replay.shortage import UnavoidableShortfall

GPUS = 2
NODES = 4
cells = st.lists(st.integers(0, 2 ** (NODES * GPUS) - 1), min_size=1, max_size=5)
owned = st.lists(st.integers(0, 2**NODES - 1), min_size=5, max_size=5)
lengths = st.lists(st.integers(0, 20), min_size=5, max_size=5)


def site() -> State:
    state = State()
    for k in range(NODES):
        state.apply(NodeJoined(at_ms=0, node=NodeSpec(name=f"n-{k}", grade="H100", gpus=GPUS)))
    return state


def least_short_gpus(usable: list[bool], sold_nodes: int) -> int:
    """Over all ways to put the sold lots on whole nodes: the fewest GPUs of lots whose node is not whole."""
    whole = [all(usable[k * GPUS : (k + 1) * GPUS]) for k in range(NODES)]
    ways = combinations(range(NODES), sold_nodes)
    return min(GPUS * sum(not whole[node] for node in way) for way in ways)


@given(cells, owned, lengths)
def test_the_bound_is_what_the_best_placement_would_still_miss(
    ill: list[int], sold: list[int], lengths_ms: list[int]
) -> None:
    state, shortage = site(), UnavoidableShortfall()
    now_ms = expected = 0
    shortage.advance(state, now_ms)
    for bits, owners, length_ms in zip(ill, sold, lengths_ms, strict=False):
        usable = [not bits >> gpu & 1 for gpu in range(NODES * GPUS)]
        state.health.usable = np.array(usable)
        state.calendar.owner_position = np.repeat([0 if owners >> k & 1 else -1 for k in range(NODES)], GPUS).astype(
            np.int32
        )
        now_ms += length_ms
        shortage.advance(state, now_ms)
        shortage.advance(state, now_ms)
        expected += least_short_gpus(usable, owners.bit_count()) * length_ms
        assert shortage.gpu_ms == expected


def test_nothing_is_short_before_the_first_look_or_without_nodes() -> None:
    shortage = UnavoidableShortfall()
    state = site()
    state.health.usable[:] = False
    state.calendar.owner_position[:] = 0
    shortage.advance(state, 1_000)
    assert shortage.gpu_ms == 0
    shortage.advance(state, 1_001)
    assert shortage.gpu_ms == NODES * GPUS
    empty = UnavoidableShortfall()
    for at_ms in (0, 5):
        empty.advance(State(), at_ms)
    assert empty.gpu_ms == 0
