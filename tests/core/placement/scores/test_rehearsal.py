"""Rehearsals: one seed gives one answer, compiled or not; they find what suits, and change it reluctantly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.placement.scores.kinds import Kind, Mix, mix_of
from scheduler.core.placement.scores.learning import learnt
from scheduler.core.placement.scores.pool import Ask, PoolState, whole_pool
from scheduler.core.placement.scores.rehearsal import MARGIN_PPM, Figure, Scene, decided, prepared, rehearse, trial
from scheduler.core.placement.scores.table import NO_VALUES, SCORES
from scheduler.core.placement.scores.trials import Work, drawn, exponential, outcome, placed, sampled, work
from scheduler.core.splitmix import stream
from tests.core.placement.scores.pools import HARD_VALUES, SERVERS, WORK, mixes, pools

HOUR_MS = 3_600_000
FLEET = SERVERS.take(np.repeat(np.arange(6), 4))


def staying(stay_ms: int) -> Mix:
    """The work with a stay."""
    return mix_of(replace(kind, stay_ms=stay_ms) for kind in WORK.kinds)


def test_the_same_seed_and_mix_give_the_same_values_and_another_gives_others() -> None:
    first, again, other = (learnt(SERVERS, WORK, seed, compiled=False, rehearsals=3) for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


def test_values_are_between_nothing_and_all_and_never_grow_with_cpu() -> None:
    values = learnt(FLEET, WORK, 5, compiled=True)
    assert values.shape == NO_VALUES.shape
    assert (values >= 0).all()
    assert (values <= HARD_VALUES).all()
    assert (np.diff(values, axis=1) <= 0).all()


def test_learning_and_trials_are_the_same_compiled() -> None:
    scene = Scene(SERVERS, staying(HOUR_MS), 1_000_000, 3)
    plain, fast = (learnt(SERVERS, scene.mix, 3, compiled=compiled, rehearsals=2) for compiled in (False, True))
    assert (plain == fast).all()
    played = work(scene.mix, 9, SERVERS.total_milli, 1_000_000)
    for name in SCORES:
        ready = prepared(name, scene, plain)
        nodes = [placed(SERVERS, scene.mix, played, ready, compiled=compiled) for compiled in (False, True)]
        assert (nodes[0] == nodes[1]).all(), name


def test_a_mix_without_gpus_cannot_be_rehearsed() -> None:
    with pytest.raises(InvalidValue, match="demand"):
        learnt(SERVERS, mix_of((Kind(Ask(0, 0, 1_000), 4),)), 1, compiled=False)


@given(pools(), mixes, st.integers(0, 9))
def test_a_stretch_of_work_leaves_no_device_overfilled(state: PoolState, mix: Mix, seed: int) -> None:
    if mix.demand_milli == 0 or state.total_milli == 0:
        return
    played = work(mix, seed, state.total_milli, 1_000_000)
    node_of = placed(state, mix, played, prepared("gradient", Scene(state, mix, 0, 0), HARD_VALUES), compiled=False)
    assert fullest(state, mix, played, node_of) <= 0


def fullest(state: PoolState, mix: Mix, played: Work, node_of: object) -> int:
    """By how much, at the worst instant, the workers on a node ask for more than it has of anything; 0: never."""
    nodes = np.asarray(node_of)
    worst = 0
    have = np.stack([state.free_milli.sum(axis=1), state.cpu_milli, state.memory_mib], axis=1)
    held = np.zeros_like(have)
    for event in played.events.tolist():
        worker = event if event >= 0 else -1 - event
        if nodes[worker] >= 0:
            devices, milli, cpu, memory, _ = mix.asks[played.kinds[worker]]
            held[nodes[worker]] += np.array([devices * milli, cpu, memory]) * (1 if event >= 0 else -1)
            worst = max(worst, int((held - have).max()))
    return worst


def test_work_offers_the_load_that_was_asked() -> None:
    mix = staying(HOUR_MS)
    played = work(mix, 4, FLEET.total_milli, 900_000)
    asked = (mix.asks[:, 0] * mix.asks[:, 1])[played.kinds]
    occupied = int(asked.sum()) * HOUR_MS * 1_000 / (int(played.at_us[-1]) * FLEET.total_milli)
    assert occupied == pytest.approx(0.9, rel=0.1)
    everywhere = np.zeros(len(played.kinds), dtype=np.int64)
    assert outcome(FLEET, mix, played, everywhere).refused_ppm == 0
    assert outcome(FLEET, mix, played, everywhere - 1).unallocated_ppm == 1_000_000


def test_stays_are_exponential() -> None:
    lengths = exponential(stream(1, 103, 100_000), np.full(100_000, 5_000_000))
    assert lengths.mean() == pytest.approx(5_000_000, rel=0.01)
    assert (lengths > 5_000_000).mean() == pytest.approx(np.exp(-1), rel=0.02)


def test_draws_follow_the_mix() -> None:
    counts = np.bincount(drawn(WORK, 3, 5_000_000), minlength=len(WORK.kinds))
    assert counts / counts.sum() == pytest.approx(WORK.weights / WORK.weights.sum(), abs=0.02)


def test_a_large_fleet_is_rehearsed_on_a_sample_in_proportion() -> None:
    some = sampled(whole_pool([8] * 30 + [4] * 10, [96] * 40, [9] * 40, [0] * 30 + [1] * 10), 8)
    assert (some.model == 0).sum() == 6
    assert (some.model == 1).sum() == 2
    assert sampled(SERVERS, 6) is SERVERS


def test_services_that_stay_get_values_and_nothing_better_is_left() -> None:
    chosen = rehearse(Scene(FLEET, staying(1_000 * HOUR_MS), 500_000_000, 3), "gradient")
    figures = {one.score: one.unallocated_ppm for one in chosen.figures}
    assert tuple(figures) == tuple(SCORES)
    assert figures[chosen.score] - min(figures.values()) < MARGIN_PPM
    assert figures["residual-values"] < figures["first-fit"]


def test_a_trial_is_the_same_for_all_scores_and_each_number_is_another() -> None:
    scene = Scene(FLEET, staying(HOUR_MS), 1_000_000, 3)
    one, again, other = (trial(scene, "best-fit", HARD_VALUES, number) for number in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("fgd", "gradient", "current", "winner"),
    [
        (60_000, 57_000, "fgd", "gradient"),
        (60_000, 60_000 - MARGIN_PPM, "fgd", "gradient"),
        (60_000, 60_000 - MARGIN_PPM + 1, "fgd", "fgd"),
        (60_000, 61_000, "fgd", "fgd"),
        (60_000, 60_500, "gradient", "gradient"),
        (60_000, 60_000, "gradient", "gradient"),
        (60_000, 62_000, "gradient", "fgd"),
        (60_000, 62_000, "first-fit", "fgd"),
    ],
)
def test_only_a_clear_margin_changes_the_score(fgd: int, gradient: int, current: str, winner: str) -> None:
    figures = [Figure("gradient", gradient, 0), Figure("fgd", fgd, 0)]
    chosen = decided(figures, NO_VALUES, current)
    assert chosen.score == winner
    assert [one.score for one in chosen.figures] == ["fgd", "gradient"]


def test_a_score_in_use_that_the_table_lacks_is_an_error() -> None:
    with pytest.raises(UnknownName):
        rehearse(Scene(SERVERS, WORK, 0, 0), "worst-fit", compiled=False)
