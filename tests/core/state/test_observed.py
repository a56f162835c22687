"""What the state shows of the work: kinds, counts, stays, load; and a choice of score back from the journal."""

from __future__ import annotations

import numpy as np

from scheduler.core.cluster import NodeSpec
from scheduler.core.events import Event, GangEnded, GangStarted, NodeJoined
from scheduler.core.placement.scores.kinds import Kind
from scheduler.core.placement.scores.pool import Ask, models_mask
from scheduler.core.placement.scores.rehearsal import Chosen, Figure
from scheduler.core.placement.scores.table import NO_VALUES
from scheduler.core.state.dump import dump, load
from scheduler.core.state.observed import (
    WINDOW_MS,
    chosen_event,
    grades_of,
    inventory,
    observed_mix,
    offered_ppm,
    scene,
    score_in_use,
)
from tests.core.state.folding import T, folded, placed, submitted

OTHER = NodeJoined(at_ms=T, node=NodeSpec(name="node-2", grade="A100", gpus=2))
ANY = models_mask(None)


def ran(gang: str, node: int, from_ms: int, until_ms: int | None, **wished: object) -> tuple[Event, ...]:
    """A gang of four GPUs on a node, from its submission on."""
    started = (
        submitted(gang, at_ms=T + from_ms, **wished),
        placed(gang, node, at_ms=T + from_ms),
        GangStarted(at_ms=T + from_ms, gang=gang, attempt=1),
    )
    return started if until_ms is None else (*started, GangEnded(at_ms=T + until_ms, gang=gang, attempt=1, exit_code=0))


def test_kinds_are_counted_with_the_stays_that_what_ended_and_what_runs_show() -> None:
    """One of a kind ran 100 and ended, one has run 300 and goes on: 400 for one end. A third has not started."""
    state = folded(OTHER, *ran("a", 0, 0, 100), *ran("b", 0, 100, None), submitted("c", gpus=2, grade="H100", at_ms=T))
    assert grades_of(state) == ("A100", "H100")
    assert observed_mix(state, T + 400).kinds == (
        Kind(Ask(2, 1_000, models=models_mask([1])), 1, 0),
        Kind(Ask(4, 1_000, models=ANY), 2, 400),
    )


def test_load_is_arrivals_times_size_times_stay_of_the_fleet() -> None:
    """In 400 ms two of 4 GPUs for 400 ms, on 10 GPUs."""
    state = folded(OTHER, *ran("a", 0, 0, 100), *ran("b", 0, 100, None))
    mix = observed_mix(state, T + 400)
    assert offered_ppm(state, mix, T + 400) == 2 * 4 * 400 * 1_000_000 // (400 * 10)


def test_what_was_submitted_long_ago_or_later_does_not_count() -> None:
    state = folded(*ran("a", 0, 0, 100))
    assert observed_mix(state, T + WINDOW_MS - 1).count == 1
    assert observed_mix(state, T + WINDOW_MS).count == 0
    assert observed_mix(state, T - 1).count == 0


def test_there_is_nothing_to_rehearse_before_somebody_asks() -> None:
    assert scene(folded(start=()), T, 1) is None
    assert scene(folded(), T, 1) is None
    shown = scene(folded(submitted("a")), T, 1)
    assert shown is not None
    assert shown.inventory.free_milli.sum(axis=1).tolist() == [4_000, 4_000]


def test_the_inventory_is_every_node_as_if_empty() -> None:
    state = folded(OTHER, *ran("a", 0, 0, None))
    pool = inventory(state)
    assert pool.free_milli.tolist() == [[1_000] * 4, [1_000] * 4, [1_000, 1_000, 0, 0]]
    assert pool.model.tolist() == [1, 1, 0]


def test_a_choice_is_the_score_in_use_from_then_on_and_after_a_snapshot() -> None:
    state = folded(OTHER, submitted("a", gpus=2, grade="H100"), submitted("b"))
    shown = scene(state, T, 1)
    assert shown is not None
    assert score_in_use(state) is None
    values = NO_VALUES + np.arange(NO_VALUES.shape[1])[::-1]
    chosen = Chosen("residual-values", values, (Figure("residual-values", 38_000, 20_000),))
    state.apply(chosen_event(T + 5, shown, chosen, grades_of(state)))
    for each in (state, load(dump(state))):
        used = score_in_use(each)
        assert used is not None
        assert used.name == "residual-values"
        assert (used.known.values == values).all()
        assert used.known.prices[:2].tolist() == [0, 100 * 2 * 10 // (6 * 8)]
    assert dump(load(dump(state))) == dump(state)


def test_a_fleet_that_has_grown_another_grade_still_knows_whom_the_kinds_meant() -> None:
    state = folded(submitted("a", gpus=2, grade="H100"), submitted("b"))
    shown = scene(state, T, 1)
    assert shown is not None
    state.apply(chosen_event(T + 5, shown, Chosen("gradient", NO_VALUES, ()), grades_of(state)))
    state.apply(OTHER)
    used = score_in_use(state)
    assert used is not None
    assert sorted(used.known.shapes[:, 4].tolist()) == [models_mask([1]), ANY]
