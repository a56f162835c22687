"""The packing rule: exact where sizes divide each other, and never more than fits."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.placement.inside import packed, packs
from scheduler.core.placement.wants import Want
from tests.core.placement.world import fleet_of

rooms = st.lists(st.integers(0, 8), min_size=1, max_size=4)


@lru_cache(maxsize=100_000)
def any_packing(room: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """By trying everything."""
    if not sizes:
        return True
    return any(
        any_packing(tuple(sorted((*room[:i], left - sizes[0], *room[i + 1 :]))), sizes[1:])
        for i, left in enumerate(room)
        if left >= sizes[0]
    )


@given(rooms, st.lists(st.sampled_from((1, 2, 4, 8)), max_size=10))
def test_the_rule_is_exact_where_each_size_divides_the_next(room: list[int], sizes: list[int]) -> None:
    wanted = {Want(1, size, None): number for size, number in Counter(sizes).items()}
    expected = any_packing(tuple(sorted(room)), tuple(sorted(sizes, reverse=True)))
    assert packs(np.array(room), wanted, fleet_of([8] * len(room))) == expected


wants = st.builds(
    Want,
    st.integers(1, 3),
    st.integers(1, 8),
    st.sampled_from((None, None, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)),
)


@given(rooms, st.lists(wants, max_size=6))
def test_a_packing_is_whole_and_fits(room: list[int], asked: list[Want]) -> None:
    fleet = fleet_of([8] * len(room))
    steps = packed(np.array(room), Counter(asked).items(), fleet)
    if steps is None:
        return
    used = np.zeros(len(room), dtype=np.int64)
    parts: Counter[Want] = Counter()
    for want, taken in steps:
        used += taken * want.size
        parts[want] += int(taken.sum())
        cells = {Level.NVLINK_DOMAIN: fleet.domain_of_node, Level.FABRIC_BLOCK: fleet.block_of_node}
        if want.level is not None:
            assert len(set(cells[want.level][taken > 0].tolist())) == 1
    assert (used <= room).all()
    assert parts == Counter({want: want.parts * number for want, number in Counter(asked).items()})
