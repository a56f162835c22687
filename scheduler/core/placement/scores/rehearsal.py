"""Which score suits the work that is seen: every entry of the table plays the observed mix, and the best is used.

The work is drawn with the observed stays at the offered load, so that services that outlast the filling of the fleet
and jobs that come and go each find their score. Hysteresis: the score in use stays unless another beats it clearly.
Law: a rehearsal is a function of its arguments; same ones, same answer, on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.placement.scores.kinds import Mix
from scheduler.core.placement.scores.learning import learnt
from scheduler.core.placement.scores.pool import IntArray, PoolState
from scheduler.core.placement.scores.table import SCORES, Score, gpus_of_model, rule, score
from scheduler.core.placement.scores.trials import Outcome, outcome, placed, sampled, work
from scheduler.core.quantities import floor_div

MARGIN_PPM = 1_000
"""By how much less of the GPU-time another score must leave unallocated to be taken instead of the one in use."""
TRIALS = 2
"""Stretches of work that each score plays; the mean counts."""
NODES_LEARNT, NODES_PLAYED = 2_000, 640
"""A larger fleet is rehearsed on a sample of its nodes."""
_TRIAL_SEEDS = 1_000
"""Seeds of trials lie this far behind those that values are learnt with: nobody is examined on what he learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is rehearsed. `inventory`: the pool's nodes, empty; `offered_ppm`: mean demand as a share of its GPUs."""

    inventory: PoolState
    mix: Mix
    offered_ppm: int
    seed: int


@dataclass(frozen=True, slots=True)
class Figure:
    """What one score left unallocated and refused in the rehearsal."""

    score: str
    unallocated_ppm: int
    refused_ppm: int


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The score to use, what it learnt ((101, 7) int64), and the figures that decided, in the table's order."""

    score: str
    values: IntArray
    figures: tuple[Figure, ...]


def rehearse(scene: Scene, current: str, *, compiled: bool = True) -> Chosen:
    """The whole rehearsal in one go. Raises UnknownName for a current score that the table lacks."""
    rule(current)
    values = learn(scene, compiled=compiled)
    figures = [
        figure(name, [trial(scene, name, values, k, compiled=compiled) for k in range(TRIALS)]) for name in SCORES
    ]
    return decided(figures, values, current)


def learn(scene: Scene, *, compiled: bool = True) -> IntArray:
    """The table of residual values for a scene."""
    return learnt(sampled(scene.inventory, NODES_LEARNT), scene.mix, scene.seed, compiled=compiled)


def trial(scene: Scene, name: str, values: IntArray, number: int, *, compiled: bool = True) -> Outcome:
    """What one score makes of one stretch of work; each number is another stretch, the same for all scores."""
    pool = sampled(scene.inventory, NODES_PLAYED)
    played = work(scene.mix, scene.seed + _TRIAL_SEEDS + number, pool.total_milli, scene.offered_ppm)
    ready = prepared(name, scene, values)
    return outcome(pool, scene.mix, played, placed(pool, scene.mix, played, ready, compiled=compiled))


def prepared(name: str, scene: Scene, values: IntArray) -> Score:
    """A score of the table, ready for a scene's pool."""
    return score(name, scene.mix, gpus_of_model(scene.inventory), values)


def figure(name: str, outcomes: Sequence[Outcome]) -> Figure:
    """The mean of a score's trials."""
    return Figure(
        name,
        floor_div(sum(one.unallocated_ppm for one in outcomes), len(outcomes)),
        floor_div(sum(one.refused_ppm for one in outcomes), len(outcomes)),
    )


def decided(figures: Sequence[Figure], values: IntArray, current: str) -> Chosen:
    """The score with least unallocated, unless it beats the current one by less than `MARGIN_PPM`."""
    order = {name: place for place, name in enumerate(SCORES)}
    ranked = sorted(figures, key=lambda one: (one.unallocated_ppm, order[one.score]))
    used = next((one for one in figures if one.score == current), None)
    stays = used is not None and used.unallocated_ppm - ranked[0].unallocated_ppm < MARGIN_PPM
    in_order = tuple(sorted(figures, key=lambda one: order[one.score]))
    return Chosen(current if stays else ranked[0].score, values, in_order)
