"""The benchmark of lending: its baselines obey their own laws, its tally counts what a pencil counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.execution.simulated import NodeDown, NodeUp
from scheduler.traces.generate import generate, write_folder
from scheduler.traces.helios import load_calendar
from scheduler.traces.philly import load_jobs
from scheduler.traces.replay_input import Gangs, Lots, ReplayInput
from tests.benchmarks.harness import Settings
from tests.benchmarks.lending import BASELINES, POLICIES, means, played, run, run_baseline
from tests.benchmarks.sharing.alone import Alone
from tests.benchmarks.sharing.cases import (
    BIND_LIMIT_MS,
    RESTART_MS,
    Asked,
    Case,
    case_of,
    firm_beyond_owned_gpu_ms,
    windows,
)
from tests.benchmarks.sharing.fitting import best_fit, first_fit
from tests.benchmarks.sharing.pools import Pool
from tests.benchmarks.sharing.quotas import Aware, Blind
from tests.benchmarks.sharing.site import Rule, Site, Where
from tests.benchmarks.sharing.tally import Tally, most_in_an_hour, packs_nodes, percentile
from tests.benchmarks.sharing.tenor import run_tenor

MINUTE_MS = 60_000
RULES = tuple(BASELINES.values())


def case(owned: list[list[int]], gangs: list[dict[str, int]], faults: tuple[NodeDown | NodeUp, ...] = ()) -> Case:
    """Nodes owned by day and tenant; gangs by minute: `at`, `tenant`, `workers`, `size`, `work`, `firm`, and so on."""
    columns = {
        "submitted_ms": [gang.get("at", 0) * MINUTE_MS for gang in gangs],
        "tenant": [gang.get("tenant", 0) for gang in gangs],
        "workers": [gang.get("workers", 1) for gang in gangs],
        "gpus_per_worker": [gang.get("size", 8) for gang in gangs],
        "duration_ms": [gang.get("work", 60) * MINUTE_MS for gang in gangs],
        "declared_ms": [gang.get("declared", gang.get("work", 60)) * MINUTE_MS for gang in gangs],
        "preemptible": [not gang.get("firm") for gang in gangs],
        "checkpoint_ms": [gang.get("checkpoint", 0) * MINUTE_MS for gang in gangs],
        "grace_ms": [gang.get("grace", 0) * MINUTE_MS for gang in gangs],
        "row": list(range(len(gangs))),
        "copy": [0] * len(gangs),
    }
    nodes = np.array(owned, dtype=np.int64)
    day, tenant = np.nonzero(nodes)
    replay = ReplayInput(
        tenants=tuple(f"vc{i}" for i in range(nodes.shape[1])),
        origin_ms=0,
        days=len(owned),
        warm_up_days=0,
        nodes=int(nodes.sum(axis=1).max()),
        lots=Lots(tenant.astype(np.int32), day.astype(np.int32), nodes[day, tenant].astype(np.int32)),
        gangs=Gangs(**{name: np.array(values) for name, values in columns.items()}),
        natural_load_ppm=0,
        load_ppm=0,
    )
    return Case(replay, np.vstack([nodes, nodes[-1:]]), faults)


def told(of: Case, rule: Rule) -> tuple[Tally, Site]:
    tally = Tally(of)
    site = Site(of, tally)
    site.run(rule)
    return tally, site


class Watched(Site):
    """A site that writes down who stood where, and when."""

    def __init__(self, of: Case, tally: Tally) -> None:
        super().__init__(of, tally)
        self.stood: list[tuple[int, int, int, Where]] = []
        self._since: dict[int, tuple[int, Where]] = {}

    def _start(self, gang: int) -> None:
        super()._start(gang)
        self._since[gang] = (self.now_ms, dict(self.placed[gang].where))

    def _let_go(self, gang: int, *, done: bool = False, failed: bool = False) -> None:
        if gang in self._since:
            since_ms, where = self._since.pop(gang)
            if since_ms < self.now_ms:
                self.stood.append((gang, since_ms, self.now_ms, where))
        super()._let_go(gang, done=done, failed=failed)


@pytest.mark.parametrize("rule", RULES, ids=BASELINES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), load=st.sampled_from([700_000, 1_300_000]), failing=st.sampled_from([0, 3]))
def test_no_baseline_overfills_a_node_or_splits_a_gang(
    rule: Callable[[], Rule], seed: int, load: int, failing: int
) -> None:
    of = case_of(Asked(load, seed=seed, failures_days=failing))
    tally = Tally(of)
    site = Watched(of, tally)
    site.run(rule())
    edges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for gang, from_ms, until_ms, where in site.stood:
        assert sum(where.values()) == site.gpus[gang]
        assert all(gpus % site.size[gang] == 0 for gpus in where.values())
        for node, gpus in where.items():
            edges[node] += [(from_ms, gpus), (until_ms, -gpus)]
    for changes in edges.values():
        there = 0
        for _, gpus in sorted(changes):
            there += gpus
            assert 0 <= there <= 8
    assert 0 < tally.useful_gpu_ms <= tally.occupied_gpu_ms <= of.replay.gpus * of.span_ms
    assert tally.occupied_gpu_ms == tally.useful_gpu_ms + tally.lost_gpu_ms + tally.lost_to_failures_gpu_ms
    assert failing or tally.lost_to_failures_gpu_ms == 0


def test_a_pool_serves_who_came_first_and_lets_others_fill_the_gap() -> None:
    of = case([[2]], [{"work": 60}, {"at": 1, "workers": 2}, {"at": 2, "work": 600}])
    plain, _ = told(of, Pool())
    assert plain.waits_ms(owed=True) + plain.waits_ms(owed=False) == [0, 0, (2 + 600 - 1) * MINUTE_MS]
    reserved, _ = told(of, Pool(reserving=True))
    assert sorted(reserved.waits_ms(owed=True) + reserved.waits_ms(owed=False)) == [0, 59 * MINUTE_MS, 118 * MINUTE_MS]
    assert plain.preemptions == reserved.preemptions == 0


def test_alone_nobody_uses_what_another_owns_and_lost_nodes_are_left() -> None:
    gangs = [{"work": 10}, {"at": 1, "work": 10}, {"at": 2, "tenant": 1, "work": 3_000, "checkpoint": 60, "grace": 5}]
    tally, _ = told(case([[1, 1], [2, 0]], gangs), Alone())
    # The second waits for the first though a node is idle; the third is stopped as its account's node goes.
    assert sorted(tally.waits_ms(owed=True) + tally.waits_ms(owed=False)) == [0, 0, 9 * MINUTE_MS]
    assert tally.preemptions == 1
    assert tally.useful_gpu_ms == 8 * (20 + 23 * 60) * MINUTE_MS
    assert tally.lost_gpu_ms == 8 * (58 + 5) * MINUTE_MS


@pytest.mark.parametrize("rule", [Aware, Blind])
def test_a_quota_is_reclaimed_from_the_newest_borrower(rule: Callable[[], Rule]) -> None:
    gangs = [
        {"work": 600},
        {"at": 1, "work": 600, "checkpoint": 30, "grace": 2},
        {"at": 2, "work": 600},
        {"at": 100, "tenant": 1, "work": 10},
    ]
    tally, _ = told(case([[1, 2]], gangs), rule())
    # The third is the newest; it never checkpoints and has no grace: its 98 minutes are lost, and it waits 10.
    assert tally.lost_gpu_ms == 8 * (98 * MINUTE_MS + RESTART_MS)
    assert tally.waits_ms(owed=True) == [0, 0]
    assert tally.preemptions == 1
    assert tally.evictions_in_an_hour() == [1]


def test_a_quota_that_is_blind_to_placement_frees_counts_where_a_gang_needs_nodes() -> None:
    # vc0's gangs of 2 stand on nodes 0, 2 and 1. To let vc1 have 8, the count of the third gang of 6 (on node 2) and of
    # the newest (on node 1) is enough; a whole node is not among what they leave.
    sizes = (6, 5, 6, 2, 2, 2)
    gangs = [{"at": at, "size": size, "work": 600} for at, size in enumerate(sizes)]
    of = case([[1, 2]], [*gangs, {"at": 10, "tenant": 1, "size": 8, "work": 10}])
    blind, _ = told(of, Blind())
    aware, _ = told(of, Aware())
    assert blind.waits_ms(owed=True)[-1] > BIND_LIMIT_MS
    assert aware.waits_ms(owed=True)[-1] == 0
    assert (blind.row()["shortfalls"], aware.row()["shortfalls"]) == (1, 0)
    assert blind.avoidable_gpu_ms == blind.short_gpu_ms > 0


def test_what_no_healthy_node_could_serve_was_not_avoidable() -> None:
    faults = (NodeDown("node-0000", 30 * MINUTE_MS), NodeUp("node-0000", 150 * MINUTE_MS))
    gangs = [{"tenant": 0, "work": 600}, {"at": 60, "tenant": 1, "work": 60}]
    lost, _ = told(case([[1, 1]], gangs, faults), Pool())
    # One node for two owed ones, from minute 60 + 5.5 until the node is back at 150: the gang was owed and short of it.
    assert lost.short_gpu_ms == 8 * (90 * MINUTE_MS - BIND_LIMIT_MS)
    assert lost.avoidable_gpu_ms == 0
    assert lost.lost_to_failures_gpu_ms == 8 * (30 * MINUTE_MS + RESTART_MS)
    late, _ = told(case([[1, 1]], [{"tenant": 0, "workers": 2, "work": 600}, {"at": 60, "tenant": 1}]), Pool())
    assert late.avoidable_gpu_ms == late.short_gpu_ms == 8 * (540 * MINUTE_MS - BIND_LIMIT_MS)


def test_a_gang_is_owed_by_count_by_cells_and_to_its_declared_end() -> None:
    day = 24 * 60
    gangs = [
        {"size": 5, "work": 10},  # fits
        {"size": 5, "work": 10},  # 10 of 16 GPUs, and two nodes take two fives
        {"size": 5, "work": 10},  # 15 of 16, but no node has five left
        {"at": 1, "tenant": 1, "firm": 1, "work": 10, "declared": day},  # its account owns nothing tomorrow
        {"at": 2, "tenant": 1, "firm": 1, "work": 10, "declared": day - 2},
        {"at": 3, "tenant": 0, "size": 2, "work": 10},  # beyond the count: 15 and two of 16
    ]
    tally, _ = told(case([[2, 1], [3, 0]], gangs), Pool())
    assert sorted(tally.owed) == [0, 1, 4]


@given(st.lists(st.integers(0, 3 * MS_PER_HOUR), max_size=12).map(sorted))
def test_evictions_within_an_hour_are_counted_by_any_hour(instants_ms: list[int]) -> None:
    slow = max((sum(at <= other < at + MS_PER_HOUR for other in instants_ms) for at in instants_ms), default=0)
    assert most_in_an_hour(instants_ms) == slow


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_fits_take_fullest_or_first_nodes_and_exactly_what_is_asked(free: list[int], workers: int, size: int) -> None:
    room = np.array(free, dtype=np.int64)
    possible = sum(there // size for there in free) >= workers
    for fit in (best_fit, first_fit):
        where = fit(room, workers, size)
        assert (where is not None) == possible
        if where is not None:
            assert sum(where.values()) == workers * size
            assert all(gpus <= free[node] for node, gpus in where.items())
            if workers == 1:
                (node,) = where
                allowed = [other for other, there in enumerate(free) if there >= size]
                best = min(allowed, key=lambda other: free[other] if fit is best_fit else other)
                assert node == best


def test_odd_sizes_pack_largest_first() -> None:
    assert packs_nodes(2, {5: 2, 3: 2})
    assert not packs_nodes(2, {5: 3})
    assert packs_nodes(1, {4: 1, 2: 1, 1: 2})
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile([], 99) == 0


def test_windows_hold_changes_of_ownership_and_do_not_overlap(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, seed=2, tenants=6, nodes=20, days=60, jobs=3_000)
    from_traces = case_of(Asked(900_000, window=1, traces=tmp_path))
    assert (from_traces.replay.days, from_traces.replay.warm_up_days) == (14, 4)
    assert np.diff(from_traces.nodes_owned[4:-1], axis=0).any()
    assert (from_traces.nodes_owned[-1] == from_traces.nodes_owned[-2]).all()
    calendar, jobs = load_calendar(folder.helios_calendar), load_jobs(folder.philly_jobs)
    starts = sorted(owned for _, owned in windows(calendar, jobs, 3))
    assert all((later - earlier).days >= 14 for earlier, later in pairwise(starts))


def test_tenor_and_the_tally_agree_on_what_gangs_did() -> None:
    of = case_of(Asked(1_100_000, seed=4, failures_days=20))
    row = run_tenor(of)
    # The tally itself checks that each gang that ended by itself did exactly its work.
    assert row["owed"]
    assert row["metered_avoidable_gpu_ms"] == 0
    assert {"further_stops", "moves", "evictions_max_per_gang_hour"} <= set(row)


def test_a_row_repeats_and_says_what_it_is() -> None:
    asked = Asked(950_000, seed=3)
    first, second = played(asked, POLICIES[0]), played(asked, POLICIES[0])
    assert first | {"seconds": 0} == second | {"seconds": 0}
    assert run_baseline(case_of(asked), Pool())["useful_gpu_h"] == first["useful_gpu_h"]
    assert generate(4, 6, 12, 4, 500, load_ppm=950_000, warm_up_days=1).sha256() == case_of(asked).replay.sha256()


def test_the_quick_run_has_every_policy_beside_the_pool(tmp_path: Path) -> None:
    result = run(Settings(traces=None, quick=True, scratch=tmp_path))
    by_policy = {row["policy"]: row for row in result.rows}
    assert tuple(by_policy) == POLICIES
    assert by_policy["one pool"]["useful_of_pool_pct"] == 100.0
    assert result.line.startswith("tenor: load 0.95: ")
    assert result.plots["svg"].startswith(b"<?xml")
    averaged = means([*result.rows, *result.rows])
    assert [row["runs"] for row in averaged] == [2] * len(POLICIES)
    assert averaged[0]["useful_gpu_h"] == pytest.approx(by_policy["one pool"]["useful_gpu_h"])


def test_a_span_after_the_warm_up_counts_alone() -> None:
    of = case([[1], [1]], [{"work": 2 * 24 * 60}])
    of = replace(of, replay=replace(of.replay, warm_up_days=1))
    tally, _ = told(of, Pool())
    assert tally.useful_gpu_ms == 8 * MS_PER_DAY
    assert tally.useful_from_start_gpu_ms == 16 * MS_PER_DAY


def test_what_cannot_be_preempted_is_beyond_what_its_account_owns_by_the_pencil() -> None:
    day_and_a_half = 36 * 60
    gangs = [{"work": day_and_a_half, "firm": 1}, {"work": day_and_a_half, "firm": 1}, {"work": 4 * day_and_a_half}]
    of = case([[1], [2], [1]], gangs)
    # The second finds a node too few on the first day, and so is beyond with all of its work.
    assert firm_beyond_owned_gpu_ms(of) == 12 * MS_PER_DAY
    assert firm_beyond_owned_gpu_ms(replace(of, replay=replace(of.replay, warm_up_days=1))) == 4 * MS_PER_DAY
    # Lots that end before its declared end do not carry a gang, however short it turns out to be.
    outliving = case([[1], [1], [0]], [{"work": 60, "declared": 72 * 60, "firm": 1}])
    assert firm_beyond_owned_gpu_ms(outliving) == 8 * MS_PER_HOUR
    # Who owns nothing is beyond with all of it, for as long as it runs within the days.
    stranger = case([[1, 0], [1, 0]], [{"at": 24 * 60, "tenant": 1, "size": 4, "work": 10 * 24 * 60, "firm": 1}])
    assert firm_beyond_owned_gpu_ms(stranger) == 4 * MS_PER_DAY
