"""Expected starts equal what waiting through the declared ends, one by one, would show."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.placement.fits import has_slots
from scheduler.core.placement.profile import Profile, expected_start
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import INT64_MAX
from tests.core.placement.world import fleet_of

NOW_MS = 100
levels = st.sampled_from(
    ((None, None), (None, Level.NODE), (Level.NVLINK_DOMAIN, None), (Level.FABRIC_BLOCK, Level.NODE))
)
instants = st.sampled_from((0, NOW_MS, NOW_MS + 1, NOW_MS + 7, NOW_MS + 50, INT64_MAX))


@given(st.lists(instants, min_size=32, max_size=32), st.integers(1, 6), st.integers(1, 4), levels)
def test_a_gang_starts_at_the_first_end_after_which_it_fits(
    free_ms: list[int], parts: int, size: int, level: tuple[Level | None, Level | None]
) -> None:
    fleet, want = fleet_of([4] * 8), Want(parts, size, *level)
    at_ms = np.array(free_ms)
    profile = Profile.of(8, fleet.node_of_gpu, at_ms, NOW_MS)
    slow = None
    for instant in sorted({NOW_MS, *free_ms} - {INT64_MAX}):
        counts = np.bincount(fleet.node_of_gpu[at_ms <= max(instant, NOW_MS)], minlength=8)
        if slow is None and instant >= NOW_MS and has_slots(fleet, counts, want):
            slow = (0 if instant == NOW_MS else instant, counts.tolist())
    found = expected_start(fleet, profile, want)
    assert (None if found is None else (found[0], found[1].tolist())) == slow


def test_what_declares_no_end_never_becomes_free() -> None:
    fleet = fleet_of([4])
    profile = Profile.of(1, fleet.node_of_gpu, np.array([INT64_MAX, 0, 500, 500]), NOW_MS)
    assert profile.freed == ((500, 0, 2),)
    assert expected_start(fleet, profile, Want(1, 4, None)) is None
    found = expected_start(fleet, profile, Want(1, 3, None))
    assert found is not None
    assert (found[0], found[1].tolist()) == (500, [3])
