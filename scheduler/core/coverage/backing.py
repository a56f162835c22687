"""What stands behind promises beyond the cells themselves: what would stand in for a lost one, and which cells are to
change hands by plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.columns import merged
from scheduler.core.coverage.standing import Mask, Standing, counted, none_of
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Holding


@dataclass(frozen=True, slots=True)
class Handover:
    """At `at_ms` a position leaves these cells of a level and enters those, by plan; as many lots as the fewer are."""

    position: str
    at_ms: int
    level: Level
    leaves: tuple[int, ...]
    enters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StandIns:
    """Whole cells that are free now and would stand in, by the fleet's numbers: spares first, then unsold ones."""

    spares: tuple[int, ...]
    unsold: tuple[int, ...]


def handovers(holdings: Iterable[Holding], from_ms: int, to_ms: int) -> tuple[Handover, ...]:
    """The planned handovers of each position inside `(from_ms, to_ms)`, by position, instant and level."""
    leaving: dict[tuple[str, int, Level], list[int]] = {}
    entering: dict[tuple[str, int, Level], list[int]] = {}
    for held in merged(holdings):
        if from_ms < held.end_ms < to_ms:
            leaving.setdefault((held.position, held.end_ms, Level(held.level)), []).append(held.cell)
        if from_ms < held.start_ms < to_ms:
            entering.setdefault((held.position, held.start_ms, Level(held.level)), []).append(held.cell)
    return tuple(
        Handover(position, at_ms, level, tuple(sorted(cells)), tuple(sorted(entering[position, at_ms, level])))
        for (position, at_ms, level), cells in sorted(leaving.items())
        if (position, at_ms, level) in entering
    )


def stand_ins(fleet: Fleet, state: Standing, level: Level, spare: Mask) -> StandIns:
    """What would stand in for a lot of a level. `spare` is (n_gpus) bool: the GPUs of spare nodes."""
    cells = state.cells
    of_spares = none_of(cells, level, counted(~spare[topology_of(fleet).gpu_at]))
    numbers, free = cells.cells[level], state.free[level]
    return StandIns(_listed(numbers[free & of_spares]), _listed(numbers[free & ~of_spares]))


def _listed(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[int, ...]:
    return tuple(sorted(numbers.tolist()))
