"""Expected starts equal what waiting through the declared ends, one by one, would show."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.placement.fits import has_slots
from scheduler.core.placement.floor import AT_NODE, FIRST_GPU, HOLDER, LEAVER, NOBODY, USABLE, Floor
from scheduler.core.placement.profile import Profile, expected_start, released
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import INT64_MAX
from tests.core.placement.world import fleet_of

NOW_MS = 100
levels = st.sampled_from(
    ((None, None), (None, Level.NODE), (Level.NVLINK_DOMAIN, None), (Level.FABRIC_BLOCK, Level.NODE))
)
instants = st.sampled_from((0, NOW_MS, NOW_MS + 1, NOW_MS + 7, NOW_MS + 50, INT64_MAX))


def profile_of(fleet: Fleet, free_ms: list[int], *, compiled: bool = False) -> Profile:
    """The profile where each GPU is held by a row of its own, which leaves it at its instant."""
    gpus = np.zeros((fleet.n_gpus, 8), dtype=np.int64)
    gpus[:, AT_NODE], gpus[:, USABLE] = fleet.node_of_gpu, 1
    gpus[:, HOLDER], gpus[:, LEAVER] = np.arange(fleet.n_gpus), NOBODY
    nodes = np.zeros((len(fleet.nodes) + 1, 7), dtype=np.int64)
    nodes[:, FIRST_GPU] = fleet.first_gpu
    floor = Floor(gpus, nodes, np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64))
    now, ends_ms = np.zeros(len(fleet.nodes), dtype=np.int64), np.array([*free_ms, NOW_MS])
    table = released(floor, np.arange(len(fleet.nodes)), ends_ms, NOW_MS, now, compiled=compiled)
    return Profile(now, table)


@given(st.lists(instants, min_size=32, max_size=32), st.integers(1, 6), st.integers(1, 4), levels)
def test_a_gang_starts_at_the_first_end_after_which_it_fits(
    free_ms: list[int], parts: int, size: int, level: tuple[Level | None, Level | None]
) -> None:
    fleet, want = fleet_of([4] * 8), Want(parts, size, *level)
    at_ms = np.array(free_ms)
    profile = profile_of(fleet, free_ms)
    slow = None
    for instant in sorted({NOW_MS, *free_ms} - {INT64_MAX}):
        counts = np.bincount(fleet.node_of_gpu[at_ms <= max(instant, NOW_MS)], minlength=8)
        if slow is None and instant >= NOW_MS and has_slots(fleet, counts, want):
            slow = (0 if instant == NOW_MS else instant, counts.tolist())
    found = expected_start(fleet, profile, want)
    assert (None if found is None else (found[0], found[1].tolist())) == slow
    compiled = profile_of(fleet, free_ms, compiled=True)
    again = expected_start(fleet, compiled, want, compiled=True)
    assert (compiled.now.tolist(), compiled.freed) == (profile.now.tolist(), profile.freed)
    assert (None if again is None else (again[0], again[1].tolist())) == slow


def test_what_declares_no_end_never_becomes_free() -> None:
    fleet = fleet_of([4])
    profile = profile_of(fleet, [INT64_MAX, 0, 500, 500])
    assert profile.freed == ((500, 0, 2),)
    assert expected_start(fleet, profile, Want(1, 4, None)) is None
    found = expected_start(fleet, profile, Want(1, 3, None))
    assert found is not None
    assert (found[0], found[1].tolist()) == (500, [3])
