"""A score's table of partly used nodes: what `choose` would take, a rank for each count, the default without one."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.placement.preference import LARGEST_NODE, preferences, ranks
from scheduler.core.placement.scores.choice import choose
from scheduler.core.placement.scores.kinds import Kind, mix_of
from scheduler.core.placement.scores.pool import WHOLE_MILLI, Ask, PoolState
from scheduler.core.placement.scores.table import SCORES, score

MIX = mix_of(
    (Kind(Ask(1, WHOLE_MILLI), 6, 60_000), Kind(Ask(2, WHOLE_MILLI), 3, 60_000), Kind(Ask(8, 1_000), 1, 9_000))
)
VALUES = np.tile(np.arange(101, dtype=np.int64)[:, None] * 5, (1, 7))


def nodes(free: list[int]) -> PoolState:
    """Nodes of eight GPUs of which so many are free."""
    counts = np.array(free, dtype=np.int64)
    milli = np.where(np.arange(8)[None, :] < counts[:, None], WHOLE_MILLI, 0).astype(np.int64)
    nothing = np.zeros(len(free), dtype=np.int64)
    return PoolState(milli, nothing, nothing, nothing)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("size", range(1, 9))
def test_the_table_takes_the_node_that_the_score_would(name: str, size: int) -> None:
    used = score(name, MIX, {0: 64}, VALUES if SCORES[name].learns else None)
    ((_, table),) = preferences(used, ("H100",), 8)
    for free in ([8, 7, 6, 5, 4, 3, 2, 1], [3, 5, 8], [8, 4], [2, 6, 7]):
        ordered = sorted(free) if name != "first-fit" else free
        found = choose(nodes(ordered), Ask(size, WHOLE_MILLI), used)
        fitting = [count for count in ordered if count >= size]
        if found is None:
            assert not fitting
        elif name != "first-fit":  # which knows nodes by their place alone
            assert ordered[found[0]] == min(fitting, key=lambda count: table[size][count])


@pytest.mark.parametrize("name", SCORES)
def test_no_two_counts_of_one_size_have_the_same_rank(name: str) -> None:
    used = score(name, MIX, {0: 64}, VALUES if SCORES[name].learns else None)
    for _, table in preferences(used, ("H100", "A100"), 8):
        assert [sorted(row) for row in table] == [list(range(9))] * 9


def test_without_a_table_the_fewest_free_gpus_go_first() -> None:
    assert (ranks((), 4) == np.arange(5)).all()


def test_a_table_for_other_nodes_is_used_as_far_as_it_goes() -> None:
    table = ranks(((0, 1, 2), (0, 2, 1)), 3)
    assert table.tolist() == [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_very_large_nodes_have_no_table() -> None:
    assert preferences(score("fgd", MIX, {0: 64}), ("H100",), LARGEST_NODE + 1) == ()
