"""Small pools, asks and mixes, drawn and written by hand, for tests of the scores."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from scheduler.core.placement.scores.kinds import Kind, Mix, mix_of
from scheduler.core.placement.scores.pool import Ask, PoolState, models_mask, whole_pool
from scheduler.core.placement.scores.table import NO_VALUES, SCORES, Score, score

HARD_VALUES = np.repeat(np.arange(0, 1_010, 10, dtype=np.int64)[:, None], NO_VALUES.shape[1], axis=1)
"""Nothing that is left of a device will ever be used."""
SERVERS = whole_pool([2, 4, 8, 8, 8, 8], [64_000, 96_000, 96_000, 96_000, 128_000, 128_000], [262_144] * 6, [0, 1] * 3)
WORK = mix_of(
    (
        Kind(Ask(1, 1_000, 10_000, 32_768), 50),
        Kind(Ask(1, 810, 3_000, 8_192), 14),
        Kind(Ask(1, 470, 8_000, 30_000), 12),
        Kind(Ask(1, 190, 2_000, 4_096), 5),
        Kind(Ask(1, 320, 4_000, 16_384, models_mask([1])), 5),
        Kind(Ask(4, 1_000, 40_000, 65_536), 3),
        Kind(Ask(8, 1_000, 80_000, 131_072), 2),
        Kind(Ask(0, 0, 12_000, 16_384), 9),
    )
)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """Asks of every form."""
    devices = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    milli = {0: 0, 1: draw(st.sampled_from([100, 190, 470, 505, 810, 1_000]))}.get(devices, 1_000)
    models = draw(st.sampled_from([None, [0], [1], [0, 1]]))
    cpu, memory = draw(st.integers(0, 9_000)), draw(st.integers(0, 9_000))
    return Ask(devices, milli, cpu, memory, models_mask(models))


@st.composite
def pools(draw: st.DrawFn) -> PoolState:
    """Nodes of up to four devices in any state, some of them alike."""
    n = draw(st.integers(1, 6))
    left = st.sampled_from([0, 100, 190, 300, 530, 810, 1_000])
    rows = [draw(st.lists(left, min_size=4, max_size=4)) for _ in range(n)]
    cpu = [draw(st.sampled_from([0, 3_000, 8_000, 30_000, 90_000])) for _ in range(n)]
    memory = [draw(st.sampled_from([0, 8_000, 60_000])) for _ in range(n)]
    model = [draw(st.integers(0, 1)) for _ in range(n)]
    twice = [k for k in range(n) for _ in range(draw(st.integers(1, 2)))]
    state = PoolState(*(np.array(column, dtype=np.int64) for column in (rows, cpu, memory, model)))
    return state.take(np.array(twice, dtype=np.int64))


mixes: st.SearchStrategy[Mix] = st.lists(
    st.builds(Kind, asks(), st.integers(1, 9), st.integers(0, 9_000)), min_size=1, max_size=5
).map(mix_of)


@st.composite
def scores(draw: st.DrawFn, names: tuple[str, ...] = tuple(SCORES)) -> Score:
    """Any score of the table, for any mix, with values that no rehearsal need have given."""
    known = draw(st.lists(st.integers(0, 1_000), min_size=20, max_size=20))
    values = np.resize(np.array(known, dtype=np.int64), NO_VALUES.shape)
    return score(draw(st.sampled_from(names)), draw(mixes), {0: 6, 1: 18}, values)
