"""Force majeure behind a shortage: who is displaced by what was beyond control is excused as who was hit by it.

A lot that the shortage rule displaced stands on nothing because cells of its pool are lost. At each instant as many of
the GPUs that displaced positions lack are excused as there are in cells that force majeure took and that nobody stands
on: with these, so many could be served. They would go to who comes first by the rule (class, then time of acquisition,
then id), so his are excused first; where his terms do not excuse, the seller owes him for them. Law: no more is excused
than is displaced, nor than force majeure took and nobody else bears.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.cells import cell_of_gpu
from scheduler.core.metering.declared import DeclaredKind, falls_under, with_declared
from scheduler.core.rounds.claims import pool_of, rank_of
from scheduler.core.state.calendar import UNSOLD
from scheduler.core.state.state import State


@dataclass(frozen=True, slots=True)
class _Displaced:
    """A position that is displaced at some instant of an interval."""

    name: str
    index: int
    pool: int
    level: Level
    excused: bool
    due: StepFunction
    causes: StepFunction

    def missing(self, owner: IntArray, at_ms: int) -> int:
        """How many GPUs the shortage rule keeps from it."""
        if self.causes.at(at_ms) != Cause.SHORTAGE_RULE:
            return 0
        return max(0, self.due.at(at_ms) - int(np.count_nonzero(owner == self.index)))


def excused_gpus(state: State, interval: Interval) -> dict[str, StepFunction]:
    """By position, how many of the GPUs that the shortage rule keeps from it are excused, over an interval."""
    told = [each for each in state.outages.declarations if each.kind is DeclaredKind.FORCE_MAJEURE]
    if not any(each.from_ms < interval.end_ms and each.until_ms > interval.start_ms for each in told):
        return {}
    displaced = _displaced(state, interval)
    if not displaced:
        return {}
    causes = with_declared(state.meter.history.cause, state.outages.declarations, state.fleet, interval)
    owners = state.meter.history.owner
    instants = {interval.start_ms}
    for changes in (causes, owners):
        instants |= set(changes.between(interval.start_ms, interval.end_ms)[0].tolist())
    for each in displaced:
        steps = (*each.due.steps, *each.causes.steps)
        instants |= {at_ms for at_ms, _ in steps if interval.start_ms < at_ms < interval.end_ms}
    excused: dict[str, list[tuple[int, int]]] = {each.name: [] for each in displaced}
    for at_ms in sorted(instants):
        owner, cause = owners.at(at_ms), causes.at(at_ms)
        beyond = falls_under(cause, state.outages.declarations, DeclaredKind.FORCE_MAJEURE)
        served, in_cells = Counter[int](), dict[tuple[int, Level], int]()
        for each in displaced:
            missing, where = each.missing(owner, at_ms), (each.pool, each.level)
            if missing and where not in in_cells:
                in_cells[where] = _taken(state.fleet, where, owner, cause, beyond)
            here = max(0, min(missing, in_cells[where] - served[each.pool])) if missing else 0
            served[each.pool] += here
            excused[each.name].append((at_ms, here if each.excused else 0))
    return {name: StepFunction.of(changes) for name, changes in excused.items()}


def _displaced(state: State, interval: Interval) -> list[_Displaced]:
    """By the order in which the rule serves."""
    found = []
    for name, causes in state.refusals.items():
        pool, position = pool_of(state, name), state.book.positions[name]
        if pool is None or all(code != Cause.SHORTAGE_RULE for _, code in causes.pieces(interval)):
            continue
        terms = state.instruments[position.instrument]
        level, excused = terms.lot.cell, terms.force_majeure_excuses
        found.append(_Displaced(name, state.position_index[name], pool, level, excused, state.due[name], causes))
    return sorted(found, key=lambda each: (rank_of(state, each.name), each.name))


def _taken(
    fleet: Fleet, where: tuple[int, Level], owner: IntArray, cause: IntArray, beyond: npt.NDArray[np.bool_]
) -> int:
    """GPUs of a pool in cells of a level that nobody stands on, and where all that is ill is force majeure's."""
    pool, level = where
    cells = cell_of_gpu(fleet, level)
    n_cells = int(cells.max()) + 1
    owned = np.bincount(cells[owner != UNSOLD], minlength=n_cells) > 0
    lost = np.bincount(cells[beyond], minlength=n_cells) > 0
    ill_otherwise = np.bincount(cells[(cause != 0) & ~beyond], minlength=n_cells) > 0
    taken = (lost & ~owned & ~ill_otherwise)[cells] & (fleet.pool_of_node[fleet.node_of_gpu] == pool)
    return int(np.count_nonzero(taken))
