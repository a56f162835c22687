"""What the scheduler and a rehearsal's process say to each other: one JSON document each way. Neither is kept."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from scheduler.core.models import Model
from scheduler.core.placement.scores.kinds import Kind, mix_of
from scheduler.core.placement.scores.pool import Ask, PoolState
from scheduler.core.placement.scores.rehearsal import Chosen, Figure, Scene

Integers = tuple[int, ...]


class Request(Model):
    """A scene to rehearse, the score in use, and the Ray cluster to do it on (None: without Ray)."""

    address: str | None
    current: str
    seed: int
    offered_ppm: int = Field(ge=0)
    free_milli: tuple[Integers, ...]
    cpu_milli: Integers
    memory_mib: Integers
    model: Integers
    kinds: tuple[tuple[int, int, int, int, int, int, int], ...]
    """devices, milli, cpu_milli, memory_mib, models, count and stay_ms of each."""


class Answer(Model):
    """What was chosen, and where it was rehearsed, in words."""

    where: str
    score: str
    values: tuple[Integers, ...]
    figures: tuple[tuple[str, int, int], ...]
    """score, unallocated_ppm and refused_ppm of each."""


def request_of(scene: Scene, current: str, address: str | None) -> Request:
    """The request for a scene."""
    pool = scene.inventory
    return Request(
        address=address,
        current=current,
        seed=scene.seed,
        offered_ppm=scene.offered_ppm,
        free_milli=tuple(tuple(row) for row in pool.free_milli.tolist()),
        cpu_milli=tuple(pool.cpu_milli.tolist()),
        memory_mib=tuple(pool.memory_mib.tolist()),
        model=tuple(pool.model.tolist()),
        kinds=tuple(
            (k.ask.devices, k.ask.milli, k.ask.cpu_milli, k.ask.memory_mib, k.ask.models, k.count, k.stay_ms)
            for k in scene.mix.kinds
        ),
    )


def scene_of(request: Request) -> Scene:
    """The scene of a request."""
    pool = PoolState(
        np.array(request.free_milli, dtype=np.int64).reshape(len(request.model), -1),
        np.array(request.cpu_milli, dtype=np.int64),
        np.array(request.memory_mib, dtype=np.int64),
        np.array(request.model, dtype=np.int64),
    )
    mix = mix_of(Kind(Ask(*ask), count, stay_ms) for *ask, count, stay_ms in request.kinds)
    return Scene(pool, mix, request.offered_ppm, request.seed)


def answer_of(chosen: Chosen, where: str) -> Answer:
    """The answer that tells of a choice."""
    return Answer(
        where=where,
        score=chosen.score,
        values=tuple(tuple(row) for row in chosen.values.tolist()),
        figures=tuple((one.score, one.unallocated_ppm, one.refused_ppm) for one in chosen.figures),
    )


def chosen_of(answer: Answer) -> Chosen:
    """The choice that an answer tells of."""
    values = np.array(answer.values, dtype=np.int64)
    return Chosen(answer.score, values, tuple(Figure(*one) for one in answer.figures))
