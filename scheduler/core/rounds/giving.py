"""Which cells a position may be given: of its lots' size, in its pools, whole and well; fast enough ones first.

What is slow is no reason to refuse a position, and coverage in force stays where it is: below the floor it is derated
and metered. But what is given anew, and what has not begun, is put on cells that reach the floor where there are any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.columns import clipped, merged
from scheduler.core.coverage.floors import Look, cell_ppm, looks
from scheduler.core.coverage.topology import topology_of
from scheduler.core.events import CoverageAssigned, PerformanceMeasured
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import INT64_MAX
from scheduler.core.rounds.claims import node_numbers, pools_of, promised_until_ms, terms_of
from scheduler.core.state.health import gpus_named
from scheduler.core.state.state import State

Mask = npt.NDArray[np.bool_]


def cell_of(state: State, name: str) -> tuple[Level, int]:
    """(level, GPUs) of a cell of the position's lots."""
    lot = terms_of(state, name).lot
    return lot.cell, lot.gpus // lot.cells


def floor_of(state: State, name: str) -> int:
    """The floor of a position in ppm. One on the total holds where each GPU reaches it, too."""
    return terms_of(state, name).throughput.floor_ppm


def fits(state: State, holding: Holding) -> bool:
    """Whether the cell has the size of the position's lots."""
    return len(state.fleet.gpus_of_cell(holding.level, holding.cell)) == cell_of(state, holding.position)[1]


def of_other_size(state: State, name: str) -> Mask:
    """(n_gpus): GPUs in cells of the position's pools that have another number of GPUs than a lot of it is."""
    topology, (level, gpus) = topology_of(state.fleet), cell_of(state, name)
    sizes = topology.end_gpu[level] - topology.first_gpu[level]
    odd = np.flatnonzero((sizes != gpus) & np.isin(topology.pool[level], pools_of(state, name)))
    _, ranks = topology.spread(level, odd)
    found = np.zeros(state.fleet.n_gpus, dtype=np.bool_)
    found[topology.gpu_at[ranks]] = True
    return found


def may_be_given(state: State, names: Iterable[str], from_ms: int, spares: Iterable[str]) -> Mask:
    """(n_gpus): well, of the positions' size, no spare, and not promised to work that goes on then."""
    usable = state.health.usable & (promised_until_ms(state) <= from_ms)
    for node in node_numbers(state, spares):
        usable[state.fleet.gpus_of_node(node).start : state.fleet.gpus_of_node(node).stop] = False
    for name in sorted(names):
        usable &= ~of_other_size(state, name)
    return usable


def looks_for(state: State, names: Iterable[str], usable: Mask) -> tuple[Look, ...]:
    """The looks for positions of one level and floor."""
    name = min(names)
    return looks(
        state.fleet, cell_of(state, name)[0], usable, state.health.ppm, floor_of(state, name), state.floors_ppm
    )


def alike(state: State, names: Sequence[str]) -> list[list[str]]:
    """The positions in groups that may be covered together: all of them where every cell of a level has one size, and
    is fast enough for everybody.
    """
    odd = any(of_other_size(state, name).any() for name in names)
    slow = len(state.floors_ppm) > 0 and bool((state.health.ppm < max(state.floors_ppm)).any())
    if not (odd or slow):
        return [list(names)]
    groups: dict[tuple[tuple[Level, int], int], list[str]] = {}
    for name in names:
        groups.setdefault((cell_of(state, name), floor_of(state, name) if slow else 0), []).append(name)
    return [groups[key] for key in sorted(groups, reverse=True)]


def slow_for(state: State, names: Iterable[str]) -> Mapping[str, Mask]:
    """By position, those for which some are: GPUs below its floor, (n_gpus) bool."""
    ppm = state.health.ppm
    below = {floor: ppm < floor for floor in state.floors_ppm if (ppm < floor).any()}
    floors = {name: floor_of(state, name) for name in names} if below else {}
    return {name: below[floor] for name, floor in floors.items() if floor in below}


def off_slow(
    state: State, event: PerformanceMeasured, now_ms: int, spares: Sequence[str]
) -> Iterator[CoverageAssigned]:
    """Lots that have not begun leave cells that were measured below their floor, where others are free throughout."""
    if event.ppm >= max(state.floors_ppm, default=0):
        return
    for name, hit in sorted(_ahead_on(state, gpus_named(state.fleet, event.node, event.gpus), now_ms).items()):
        if event.ppm < floor_of(state, name):
            found = _faster(state, name, hit, spares)
            if found is not None:
                ahead = (clipped(held, now_ms, INT64_MAX) for held in state.calendar.of(name) if held not in hit)
                holdings = merged((*(held for held in ahead if held is not None), *found))
                yield CoverageAssigned(
                    at_ms=now_ms, from_ms=now_ms, why="replaced", positions=(name,), holdings=holdings
                )


def _ahead_on(state: State, gpus: IntArray, now_ms: int) -> dict[str, list[Holding]]:
    """What has not begun on cells with one of the GPUs, by position."""
    topology = topology_of(state.fleet)
    ranks = topology.rank_of_gpu[gpus]
    cells = [set(topology.cell_of_rank[level][ranks].tolist()) for level in Level]
    found: dict[str, list[Holding]] = {}
    for held in state.calendar.holdings:
        if held.start_ms > now_ms and held.cell in cells[held.level]:
            found.setdefault(held.position, []).append(held)
    return found


def _faster(state: State, name: str, hit: Sequence[Holding], spares: Sequence[str]) -> tuple[Holding, ...] | None:
    """Cells that reach the floor for as many lots as those, free throughout, in the first of the position's pools that
    has so many; None: no pool has.
    """
    ppm = cell_ppm(state.fleet, cell_of(state, name)[0], state.health.ppm)
    usable = may_be_given(state, [name], min(held.start_ms for held in hit), spares) & (ppm >= floor_of(state, name))
    counts = Counter((held.level, held.start_ms, held.end_ms) for held in hit)
    for pool in pools_of(state, name):
        demands = [Demand(name, level, lots, start, end, pool) for (level, start, end), lots in sorted(counts.items())]
        found = state.calendar.opened(state.fleet).found(demands, usable)
        if found is not None:
            return found
    return None
