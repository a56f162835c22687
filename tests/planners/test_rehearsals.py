"""Rehearsals beside the loop: on Ray and without it the same answer, and a lost one says why."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from scheduler.core.cluster import NodeSpec
from scheduler.core.placement.scores.kinds import Kind, mix_of
from scheduler.core.placement.scores.pool import Ask, whole_pool
from scheduler.core.placement.scores.rehearsal import Scene, rehearse
from scheduler.execution.local_ray import LocalRay
from scheduler.planners.rehearsal_lines import answer_of, chosen_of, request_of, scene_of
from scheduler.planners.rehearsals import Lost, Rehearsals, Rehearsed

WITHIN_S = 120.0
MIX = mix_of((Kind(Ask(1, 470), 5, 60_000), Kind(Ask(1, 810), 3, 60_000), Kind(Ask(4, 1_000), 1, 60_000)))
SCENE = Scene(whole_pool([8] * 4, [96_000] * 4, [9_000] * 4, [0, 0, 1, 1]), MIX, 1_000_000, 5)


def taken(rehearsals: Rehearsals) -> Rehearsed | Lost:
    """What the rehearsal under way gives."""
    deadline = time.monotonic() + WITHIN_S
    while (found := rehearsals.take()) is None:
        assert time.monotonic() < deadline, f"no answer within {WITHIN_S:g} s"
        time.sleep(0.05)
    return found


@pytest.fixture
def here() -> Iterator[Rehearsals]:
    """Rehearsals without Ray."""
    rehearsals = Rehearsals(None)
    yield rehearsals
    rehearsals.close()


def test_a_request_and_an_answer_come_through_whole() -> None:
    scene = scene_of(request_of(SCENE, "fgd", None))
    assert (scene.mix, scene.offered_ppm, scene.seed) == (MIX, SCENE.offered_ppm, SCENE.seed)
    assert (scene.inventory.free_milli == SCENE.inventory.free_milli).all()
    chosen = rehearse(SCENE, "fgd", compiled=False)
    back = chosen_of(answer_of(chosen, "here"))
    assert (back.score, back.figures) == (chosen.score, chosen.figures)
    assert np.array_equal(back.values, chosen.values)


@pytest.mark.slow
def test_without_ray_it_is_played_here_and_says_so(here: Rehearsals) -> None:
    assert here.ask(SCENE, "fgd")
    assert here.running
    assert not here.ask(SCENE, "fgd"), "one at a time"
    found = taken(here)
    assert isinstance(found, Rehearsed)
    assert found.where == "in one process of this machine: no Ray cluster was given"
    expected = rehearse(SCENE, "fgd")
    assert (found.chosen.score, found.chosen.figures) == (expected.score, expected.figures)
    assert np.array_equal(found.chosen.values, expected.values)
    assert (here.running, here.take()) == (False, None)


@pytest.mark.slow
def test_a_rehearsal_that_fails_is_lost_and_another_may_be_asked(here: Rehearsals) -> None:
    assert here.ask(SCENE, "no-such-score")
    found = taken(here)
    assert isinstance(found, Lost)
    assert "no-such-score" in found.why
    assert here.ask(SCENE, "fgd")


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_trials_are_tasks_and_the_answer_is_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalRay.start(tmp_path_factory.mktemp("rehearsals"), (NodeSpec(name="node-0", grade="H100SXM", gpus=8),))
    rehearsals = Rehearsals(cluster.address, token_path=cluster.token_path)
    try:
        assert rehearsals.ask(SCENE, "fgd")
        found = taken(rehearsals)
    finally:
        rehearsals.close()
        cluster.stop()
    assert isinstance(found, Rehearsed)
    assert found.where == f"as tasks on Ray at {cluster.address}"
    expected = rehearse(SCENE, "fgd")
    assert (found.chosen.score, found.chosen.figures) == (expected.score, expected.figures)
    assert np.array_equal(found.chosen.values, expected.values)


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_costs_no_answer() -> None:
    rehearsals = Rehearsals("127.0.0.1:1")
    try:
        assert rehearsals.ask(SCENE, "fgd")
        found = taken(rehearsals)
    finally:
        rehearsals.close()
    assert isinstance(found, Rehearsed)
    assert found.where.startswith("in one process of this machine: Ray at 127.0.0.1:1 failed")
