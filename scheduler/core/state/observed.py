"""What the state shows of the work and the fleet, as rehearsals want it; and a choice back as a score.

The mix is counted from gangs submitted within a window: a kind's mean stay is the time that its workers have run, by
how many of them have ended (the estimate for exponential stays of which some are not over). Pure: the same state at
the same instant gives the same scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scheduler.core.events import ScoreChosen, ScoredKind, ScoreFigure
from scheduler.core.placement.preference import Preference, preferences
from scheduler.core.placement.scores.kinds import Kind, Mix, mix_of
from scheduler.core.placement.scores.pool import Ask, PoolState, models_mask, whole_pool
from scheduler.core.placement.scores.rehearsal import Chosen, Scene
from scheduler.core.placement.scores.table import N_RESIDUALS, Score, score
from scheduler.core.quantities import MS_PER_DAY, ONE_PPM, floor_div
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangSpec

WINDOW_MS = 14 * MS_PER_DAY
"""How far back submissions count."""
MOST_OFFERED_PPM = 1_000 * ONE_PPM
"""A load beyond this is the same to a rehearsal: nothing leaves before the fleet is full."""


def grades_of(state: State) -> tuple[str, ...]:
    """The fleet's grades, sorted; their places are the models of asks and pools."""
    return tuple(sorted({node.grade for node in state.fleet.nodes}))


def ask_of(spec: GangSpec, grades: Sequence[str]) -> Ask:
    """What one worker of a gang asks."""
    allowed = None if spec.grade is None else [place for place, grade in enumerate(grades) if grade == spec.grade]
    return Ask(spec.gpus_per_worker, spec.gpu_milli, models=models_mask(allowed))


def inventory(state: State) -> PoolState:
    """Every node as if empty, in the fleet's order; CPU and memory are not known, and not asked."""
    place = {grade: i for i, grade in enumerate(grades_of(state))}
    nodes = state.fleet.nodes
    none = [0] * len(nodes)
    return whole_pool([node.gpus for node in nodes], none, none, [place[node.grade] for node in nodes])


def observed_mix(state: State, now_ms: int) -> Mix:
    """Kinds of worker submitted in the window before `now_ms`, with their counts and mean stays."""
    grades = grades_of(state)
    counts: dict[Ask, list[int]] = {}
    for gang in _recent(state, now_ms):
        ran_ms, ended = _ran(gang, now_ms)
        workers = gang.spec.workers
        tally = counts.setdefault(ask_of(gang.spec, grades), [0, 0, 0])
        for i, more in enumerate((workers, workers * ran_ms, workers * ended)):
            tally[i] += more
    return mix_of(Kind(ask, count, floor_div(ran_ms, max(1, ended))) for ask, (count, ran_ms, ended) in counts.items())


def offered_ppm(state: State, mix: Mix, now_ms: int) -> int:
    """The mix's mean demand as a share of the fleet's GPUs: arrivals a time × what they ask × how long they stay."""
    recent = _recent(state, now_ms)
    since_ms = min((gang.submitted_ms for gang in recent), default=now_ms)
    whole = max(1, now_ms - since_ms) * max(1, state.fleet.n_gpus) * 1_000
    return min(MOST_OFFERED_PPM, floor_div(mix.demand_milli_ms * ONE_PPM, whole))


def scene(state: State, now_ms: int, seed: int) -> Scene | None:
    """What to rehearse; None while there is no fleet, or nothing has asked for a GPU."""
    mix = observed_mix(state, now_ms)
    if not state.fleet.nodes or mix.demand_milli == 0:
        return None
    return Scene(inventory(state), mix, offered_ppm(state, mix, now_ms), seed)


def chosen_event(at_ms: int, played: Scene, chosen: Chosen, grades: Sequence[str]) -> ScoreChosen:
    """The choice as the journal keeps it."""
    return ScoreChosen(
        at_ms=at_ms,
        score=chosen.score,
        seed=played.seed,
        offered_ppm=played.offered_ppm,
        mix=played.mix.digest,
        kinds=tuple(_scored(kind, grades) for kind in played.mix.kinds),
        grades=tuple(grades),
        values=tuple(chosen.values.ravel().tolist()),
        figures=tuple(
            ScoreFigure(score=one.score, unallocated_ppm=one.unallocated_ppm, refused_ppm=one.refused_ppm)
            for one in chosen.figures
        ),
    )


def score_in_use(state: State) -> Score | None:
    """The score that the last choice gives, for the fleet as it is; None before any: the caller has a default.

    Grades that have joined since the rehearsal are usable by the kinds that may use any.
    """
    event = state.score
    if event is None or not state.fleet.nodes:
        return None
    grades = grades_of(state)
    mix = mix_of(Kind(_asked(kind, grades), kind.count, kind.stay_ms) for kind in event.kinds)
    gpus = {place: sum(node.gpus for node in state.fleet.nodes if node.grade == g) for place, g in enumerate(grades)}
    values = np.array(event.values, dtype=np.int64).reshape(N_RESIDUALS, -1) if event.values else None
    return score(event.score, mix, gpus, values)


def preferences_in_use(state: State) -> tuple[tuple[str, Preference], ...]:
    """By grade, what the score in use says of partly used nodes; empty before any choice."""
    used = score_in_use(state)
    if used is None:
        return ()
    return preferences(used, grades_of(state), max(node.gpus for node in state.fleet.nodes))


def _scored(kind: Kind, grades: Sequence[str]) -> ScoredKind:
    ask = kind.ask
    anywhere = ask == replace(ask, models=models_mask(None))
    return ScoredKind(
        devices=ask.devices,
        milli=ask.milli,
        cpu_milli=ask.cpu_milli,
        memory_mib=ask.memory_mib,
        grades=() if anywhere else tuple(grade for place, grade in enumerate(grades) if ask.models >> place & 1),
        count=kind.count,
        stay_ms=kind.stay_ms,
    )


def _asked(kind: ScoredKind, grades: Sequence[str]) -> Ask:
    allowed = [place for place, grade in enumerate(grades) if grade in kind.grades] if kind.grades else None
    return Ask(kind.devices, kind.milli, kind.cpu_milli, kind.memory_mib, models_mask(allowed))


def _recent(state: State, now_ms: int) -> list[Gang]:
    """Gangs submitted within the window, by number."""
    gangs = (state.gangs.by_id[gang_id] for gang_id in state.gangs.ids)
    return [gang for gang in gangs if now_ms - WINDOW_MS < gang.submitted_ms <= now_ms]


def _ran(gang: Gang, now_ms: int) -> tuple[int, int]:
    """For how long a gang's last attempt has run, and whether (1) it is over."""
    if gang.started_ms is None:
        return 0, 0
    over = gang.ended_ms is not None
    until_ms = gang.ended_ms if gang.ended_ms is not None else now_ms
    return max(0, until_ms - gang.started_ms), int(over)
