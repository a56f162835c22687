"""Room for what cannot be preempted: which of its gangs wait though their accounts own enough for them, and the swaps
that give them idle cells of their own (`scheduler.core.coverage.exchange`), or such where making way costs least
(`scheduler.core.rounds.making_way`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.exchange import Asked, Ground, Nodes, idle_for_busy, room
from scheduler.core.coverage.neighbours import Neighbours
from scheduler.core.events import CellsSwapped
from scheduler.core.placement.wants import demand
from scheduler.core.rounds.held import Held
from scheduler.core.rounds.making_way import cheaper_ways
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangStatus

MOST_FOUND, MOST_TRIED = 8, 32
"""So many gangs are looked after in a round, and so many looked at."""


def make_room(state: State, now_ms: int) -> list[CellsSwapped]:
    """Swaps of an account's busy cells for idle ones of others, for its gangs that cannot be preempted and wait; where
    they are inside their entitlement and somebody must make way, for nodes on which the least is lost.
    """
    waiting, held = asked(state, now_ms), Held(state, now_ms)
    inside = [each for each in waiting if held.excess_of(each.account, each.pool) + each.parts * each.size <= 0]
    if not inside and not (waiting and len(_free(state))):
        return []
    ground = _ground(state, now_ms)
    nodes = Nodes(state.fleet, ground, waiting)
    swaps = list(idle_for_busy(state.fleet, ground, waiting, nodes)) if len(ground.free) else []
    served = {int(ground.owner[state.fleet.gpus_of_cell(level, right)[0]]) for level, _, right in swaps}
    left = [each for each in inside if each.account not in served and _is_missing(state, ground, each)]
    if left:
        swaps += cheaper_ways(state, ground, left, nodes, held)
    return [CellsSwapped(at_ms=now_ms, level=level, left=left, right=right) for level, left, right in swaps]


def _is_missing(state: State, ground: Ground, each: Asked) -> bool:
    return int(room(state.fleet, ground, each).sum()) < each.parts


def wanted(state: State, now_ms: int) -> npt.NDArray[np.bool_]:
    """(n_gpus): those of nodes on which such gangs have room among their account's own GPUs: they are not to trade."""
    nodes = np.zeros(len(state.fleet.nodes), dtype=np.bool_)
    waiting = asked(state, now_ms)
    if waiting and len(_free(state)):
        ground = _ground(state, now_ms)
        for each in waiting:
            nodes |= room(state.fleet, ground, each) > 0
    gpus: npt.NDArray[np.bool_] = nodes[state.fleet.node_of_gpu]
    return gpus


def asked(state: State, now_ms: int) -> list[Asked]:
    """What the first of each line of such gangs asks, in the order of borrowing, where its account owns enough of
    the pool to its declared end for all its gangs of that kind. Left out: elastic gangs, shares, wishes for a cell.
    """
    heads = [state.gangs.by_number(number) for _, (_, _, number) in state.gangs.firm_heads[:MOST_TRIED]]
    found: list[Asked] = []
    for gang in heads:
        found += _asked(state, gang, now_ms)
        if len(found) >= MOST_FOUND:
            break
    return found


def _asked(state: State, gang: Gang, now_ms: int) -> Iterator[Asked]:
    shape, want = gang.shape, demand(gang.shape)
    if want is None or shape.is_elastic or shape.is_share or want.level is not None or want.apart is not None:
        return
    account, end_ms = state.accounts[gang.account], now_ms + shape.runtime_ms
    owned = state.calendar.gpus_of(account)
    lasting = owned[state.health.usable[owned] & (state.calendar.until_ms[owned] >= end_ms)]
    pools = state.fleet.pool_of_node[state.fleet.node_of_gpu[lasting]]
    for pool, (grade, _) in enumerate(state.fleet.pools):
        if shape.grade in (None, grade) and _used(state, gang.account, pool) + shape.gpus <= int((pools == pool).sum()):
            yield Asked(account, pool, want.parts, want.size, end_ms)


def _used(state: State, account: str, pool: int) -> int:
    """GPUs of the account's placed gangs in the pool that cannot be preempted, and stay."""
    gangs = [state.gangs.placed[number] for number in state.gangs.firm_of.get(account, ())]
    pool_of_node, node_of_gpu = state.fleet.pool_of_node, state.fleet.node_of_gpu
    return sum(
        gang.shape.gpus
        for gang in gangs
        if gang.status is not GangStatus.STOPPING and pool_of_node[node_of_gpu[gang.gpu_numbers[0]]] == pool
    )


def _free(state: State) -> IntArray:
    """Numbers of the GPUs that are free."""
    nobody = (state.gangs.occupant == NOBODY) & (state.gangs.claimant == NOBODY)
    return np.flatnonzero(state.health.usable & nobody)


def _ground(state: State, now_ms: int) -> Ground:
    fixed = np.zeros(state.fleet.n_gpus, dtype=np.bool_)
    placed = state.gangs.placed
    fixed[list(chain.from_iterable([placed[number].gpu_numbers for number in state.gangs.firm]))] = True
    return Ground(
        owner=state.calendar.owner_account,
        until_ms=state.calendar.until_ms,
        whole=state.calendar.whole(state.fleet),
        fixed=fixed,
        free=_free(state),
        usable=state.health.usable,
        untied=lambda level: state.calendar.untied(state.fleet, level),
        levels=state.calendar.levels,
        neighbours=cache(
            lambda: Neighbours(state.fleet, columns_of(state.calendar.holdings), now_ms, state.account_of_position)
        ),
    )
