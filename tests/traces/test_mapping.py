"""Mapping by size, thinning, declarations: what the replay's documentation promises, as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces.arrays import Int64s
from scheduler.traces.declarations import CHECKPOINTS_MS, GRACES_MS, declare
from scheduler.traces.helios import HeliosCalendar
from scheduler.traces.mapping import gang_shape, gang_shapes, map_tenants, match_tenants
from scheduler.traces.philly import PhillyJobs, in_order
from scheduler.traces.scaling import keep, moved_ms


def calendar_of(gpus: list[list[int]]) -> HeliosCalendar:
    days = np.arange(len(gpus), dtype=np.int64) * MS_PER_DAY
    return HeliosCalendar(tuple(f"vc{i}" for i in range(len(gpus[0]))), days, np.array(gpus, dtype=np.int64))


def jobs_of(jobs: list[tuple[int, int, int, int]], tenants: int) -> PhillyJobs:
    """From (submitted, duration, GPUs, tenant)."""
    columns = np.array(jobs, dtype=np.int64).reshape(-1, 4)
    return in_order(
        PhillyJobs(
            columns[:, 0].copy(),
            columns[:, 1].copy(),
            columns[:, 2].astype(np.int32),
            columns[:, 3].astype(np.int32),
            np.arange(len(jobs), dtype=np.int64),
            tuple(f"p{i}" for i in range(tenants)),
        )
    )


nodes_by_day = st.integers(1, 5).flatmap(
    lambda tenants: st.lists(
        st.lists(st.integers(0, 5).map(lambda n: n * 8), min_size=tenants, max_size=tenants), min_size=1, max_size=4
    )
)
some_jobs = st.lists(
    st.tuples(st.integers(0, 4 * MS_PER_DAY), st.integers(1, 10**9), st.sampled_from([1, 2, 8, 32]), st.integers(0, 3)),
    max_size=40,
)
demands = st.lists(st.integers(1, 10**12), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.int64))


@pytest.mark.parametrize(
    ("gpus", "shape"),
    [(1, (1, 1)), (3, (1, 3)), (8, (1, 8)), (9, (9, 1)), (12, (3, 4)), (16, (2, 8)), (24, (3, 8)), (32, (4, 8))],
)
def test_a_gang_is_one_worker_up_to_a_node_and_equal_workers_beyond(gpus: int, shape: tuple[int, int]) -> None:
    assert gang_shape(gpus) == shape


def test_shapes_of_many_are_the_shapes_of_each() -> None:
    gpus = np.arange(1, 200, dtype=np.int32)
    workers, each = gang_shapes(gpus)
    assert list(zip(workers.tolist(), each.tolist(), strict=True)) == [gang_shape(k) for k in range(1, 200)]
    assert bool((workers * each == gpus).all())


def test_the_largest_owner_gets_the_largest_demand_until_it_is_met() -> None:
    # Scaled to 100 GPU-days: demand 60, 30, 10. 50 -> p0 (10 left), 30 -> p1 (0 left), then p0 and p2 tie at 10: p0.
    matched = match_tenants(np.array([15, 50, 30, 5], dtype=np.int64), np.array([6000, 3000, 1000], dtype=np.int64))
    assert matched.tolist() == [0, 0, 1, 2]


@given(nodes_by_day, some_jobs, st.integers())
def test_mapping_conserves_jobs_and_keeps_to_the_match(
    gpus: list[list[int]], listed: list[tuple[int, int, int, int]], seed: int
) -> None:
    calendar, jobs = calendar_of(gpus), jobs_of(listed, 4)
    mapped = map_tenants(calendar, jobs, 0, seed)
    assert len(mapped) == len(jobs)
    assert bool(((mapped >= 0) & (mapped < len(calendar.tenants))).all())
    owned = calendar.gpus.sum(axis=0)
    demand = np.bincount(jobs.tenant, weights=jobs.demand_gpu_ms(len(gpus) * MS_PER_DAY), minlength=4).astype(np.int64)
    matched = match_tenants(owned, demand)
    for helios, philly in zip(mapped.tolist(), jobs.tenant.tolist(), strict=True):
        has_owner = bool(((matched == philly) & (owned > 0)).any())
        assert matched[helios] == philly or not has_owner
        assert owned[helios] > 0 or not owned.any()


@given(nodes_by_day, some_jobs, st.integers())
def test_a_job_goes_to_somebody_who_owns_that_day_where_one_of_its_tenants_does(
    gpus: list[list[int]], listed: list[tuple[int, int, int, int]], seed: int
) -> None:
    calendar, jobs = calendar_of(gpus), jobs_of([(at, length, k, 0) for at, length, k, _ in listed], 1)
    mapped = map_tenants(calendar, jobs, 0, seed)
    for helios, at_ms in zip(mapped.tolist(), jobs.submitted_ms.tolist(), strict=True):
        day = min(at_ms // MS_PER_DAY, len(gpus) - 1)
        assert calendar.gpus[day, helios] > 0 or not calendar.gpus[day].any()


def test_jobs_split_in_proportion_to_what_is_owned() -> None:
    calendar = calendar_of([[80, 16, 0]])
    mapped = map_tenants(calendar, jobs_of([(i, 1000, 1, 0) for i in range(6000)], 1), 0)
    assert np.bincount(mapped, minlength=3)[2] == 0
    assert abs(int((mapped == 0).sum()) - 5000) < 150


@given(demands, st.integers(0, 4_000_000), st.integers(0, 4_000_000), st.integers())
def test_a_higher_load_has_every_job_of_a_lower_one(demand: Int64s, one_ppm: int, other_ppm: int, seed: int) -> None:
    natural, row = int(demand.sum()), np.arange(len(demand), dtype=np.int64)
    low, high = (keep(demand, row, natural * ppm // 1_000_000, seed) for ppm in sorted((one_ppm, other_ppm)))
    assert bool((low <= high).all())


@given(demands, st.integers(0, 4_000_000), st.integers())
def test_the_load_asked_for_is_met_to_within_one_job(demand: Int64s, ppm: int, seed: int) -> None:
    target = int(demand.sum()) * ppm // 1_000_000
    copies = keep(demand, np.arange(len(demand), dtype=np.int64), target, seed)
    assert target - int(demand.max()) < int((copies * demand).sum()) <= target


@given(demands, st.integers(0, 1_000_000), st.integers())
def test_thinning_does_not_depend_on_order(demand: Int64s, ppm: int, seed: int) -> None:
    row, target = np.arange(len(demand), dtype=np.int64), int(demand.sum()) * ppm // 1_000_000
    backwards = keep(demand[::-1], row[::-1], target, seed)[::-1]
    assert keep(demand, row, target, seed).tolist() == backwards.tolist()


def test_a_load_that_the_jobs_cannot_make_is_refused() -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(InvalidValue, match="load of the trace"):
        keep(none, none, 5)
    with pytest.raises(InvalidValue, match="load of the trace"):
        keep(np.array([1]), np.array([0]), 1001)


@given(st.integers(1, 10 * MS_PER_DAY), st.integers(), st.integers(1, 30))
def test_replicas_move_by_two_hours_at_most_and_stay_inside(end_ms: int, seed: int, copies: int) -> None:
    copy = np.arange(copies, dtype=np.int64)
    row, at_ms = np.full(copies, 3, dtype=np.int64), np.full(copies, end_ms - 1, dtype=np.int64)
    moved = moved_ms(row, copy, at_ms, end_ms, seed)
    assert moved[0] == end_ms - 1
    assert bool(((moved >= 0) & (moved < end_ms) & (np.abs(moved - at_ms) <= 7_200_000)).all())


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30, unique=True), st.integers())
def test_a_job_declares_the_same_whatever_else_is_loaded(rows: list[int], seed: int) -> None:
    row = np.array(rows, dtype=np.int64)
    duration_ms = np.full(len(rows), 1_000_000, dtype=np.int64)
    together, last = declare(seed, row, duration_ms), declare(seed, row[-1:], duration_ms[-1:])
    for field in ("declared_ms", "preemptible", "checkpoint_ms", "grace_ms"):
        assert getattr(together, field)[-1] == getattr(last, field)[0]
    assert set(together.declared_ms.tolist()) == {1_500_000}


def test_declarations_have_the_shares_that_were_measured() -> None:
    row = np.arange(30_000, dtype=np.int64)
    declared = declare(5, row, np.full(30_000, 60_000, dtype=np.int64))
    assert abs(int((~declared.preemptible).sum()) - 3000) < 200
    for values, choices in ((declared.checkpoint_ms, CHECKPOINTS_MS), (declared.grace_ms, GRACES_MS)):
        assert set(values.tolist()) == set(choices)
        assert all(abs(int((values == choice).sum()) - 10_000) < 400 for choice in choices)
