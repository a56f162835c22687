"""What the packing benchmarks share: pools and mixes from openb's files, and a stretch of work through a score.

Lists are those that the folder holds; nothing here knows one by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from scheduler.core.placement.scores.kinds import Kind, Mix, mix_of
from scheduler.core.placement.scores.pool import Ask, IntArray, PoolState, models_mask, whole_pool
from scheduler.core.placement.scores.rehearsal import Scene, prepared, rehearse
from scheduler.core.placement.scores.table import DEFAULT, Score
from scheduler.traces.openb import OpenbPods, load_nodes, load_pods
from tests.benchmarks.harness import Missing

PREFIX = "openb_pod_list_"
OWN_SEED = 20_261_124
"""The seed of the rehearsals, which has nothing to do with those of what is measured."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PodList:
    """A pool, and a list of pods for it. `pods`: (n_pods) int64, the row of each in the kinds of `mix`."""

    name: str
    pool: PoolState
    mix: Mix
    pods: IntArray

    @property
    def asked_milli(self) -> IntArray:
        """(n_kinds) int64: milli-GPU of each kind."""
        return self.mix.asks[:, 0] * self.mix.asks[:, 1]


def list_paths(folder: Path, *, quick: bool) -> list[Path]:
    """The lists of a folder, sorted; the first alone where it must be quick. Raises Missing."""
    paths = sorted(folder.glob(f"{PREFIX}*.csv"))
    if not paths:
        raise Missing(f"{folder} holds no {PREFIX}*.csv")
    return paths[:1] if quick else paths


def pod_list(path: Path) -> PodList:
    """A list with the nodes beside it. The order of nodes is that of their names."""
    nodes = load_nodes(path.parent / "openb_node_list_gpu_node.csv")
    order = sorted(range(len(nodes)), key=lambda n: nodes.names[n])
    columns = (nodes.gpus, nodes.cpu_milli, nodes.memory_mib, nodes.model)
    pool = whole_pool(*([int(column[n]) for n in order] for column in columns))
    asks = _asks(load_pods(path), nodes.models)
    mix = mix_of(Kind(ask, 1) for ask in asks)
    row = {kind.ask: k for k, kind in enumerate(mix.kinds)}
    return PodList(path.stem, pool, mix, np.array([row[ask] for ask in asks], dtype=np.int64))


def _asks(pods: OpenbPods, models: tuple[str, ...]) -> list[Ask]:
    masks = [models_mask([models.index(m) for m in spec if m in models] if spec else None) for spec in pods.specs]
    columns = (pods.gpus, pods.gpu_milli, pods.cpu_milli, pods.memory_mib, pods.spec)
    return [
        Ask(gpus, milli, cpu, memory, masks[spec])
        for gpus, milli, cpu, memory, spec in zip(*(column.tolist() for column in columns), strict=True)
    ]


def rehearsed(pods: PodList, *, stay_ms: int, offered_ppm: int) -> Score:
    """What production uses for the mix of a list: the choice of a rehearsal that starts from the default."""
    mix = mix_of(Kind(kind.ask, kind.count, stay_ms) for kind in pods.mix.kinds)
    scene = Scene(pods.pool, mix, offered_ppm, OWN_SEED)
    chosen = rehearse(scene, DEFAULT)
    return prepared(chosen.score, scene, chosen.values)


def in_processes(work: Callable[[T], R], inputs: Iterable[T]) -> list[R]:
    """The results in order, made by as many processes as there are processors."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as processes:
        return list(processes.map(work, inputs, chunksize=1))
