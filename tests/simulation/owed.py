"""What an account is owed, worked out from its lots alone: the other side's arithmetic, by trying everything.

Sharing safety *over lots as sold*: take an account's healthy lots of a pool as what was sold, so many cells of each
level, and assume nothing of where they lie: every lot is alone in the world, its GPUs next to each other only inside
its own cell. A preemptible gang that some packing of the account's counted gangs and itself into those cells has room
for is owed its GPUs in the round that sees it, whatever other accounts did, do or own. Whoever was given neighbouring
cells has more room, never less. An elastic gang is owed its least workers; a device that shares of an account are on is
one GPU; a gang that may use several pools is owed a place where one of them owes it one.

Nothing here is shared with the planner but the words of the rule (`Want`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Holding
from scheduler.core.placement.wants import Want, demand, least_demand
from scheduler.core.state.state import State
from scheduler.core.workloads import MOVED, Gang, GangStatus

Domain = tuple[int, ...]
"""Free GPUs of each node, ascending."""
Block = tuple[Domain, ...]
Ground = tuple[Block, ...]
"""Cells as they nest; whatever is not in one tuple is not assumed to be near."""


def lots_of(state: State, account: str, lasting_until_ms: int | None = None, pool: int = 0) -> Ground:
    """The account's lots of a pool that are in force and whose GPUs are all well, each alone, less what work that
    cannot be preempted holds.

    `lasting_until_ms`: only lots of windows that end then or later.
    """
    firm = _held_firm(state, account)
    ground: list[Block] = []
    for holding in state.calendar.holdings:
        if state.book.positions[holding.position].account != account or holding.start_ms > state.now_ms:
            continue
        if lasting_until_ms is not None and holding.end_ms < lasting_until_ms:
            continue
        gpus = state.fleet.gpus_of_cell(holding.level, holding.cell).tolist()
        if not state.health.usable[gpus].all() or _pool_of(state, gpus[0]) != pool:
            continue
        ground.append(_cell(state, holding.level, [gpu for gpu in gpus if gpu not in firm]))
    return tuple(sorted(ground))


def _pool_of(state: State, gpu: int) -> int:
    return int(state.fleet.pool_of_node[state.fleet.node_of_gpu[gpu]])


def _held_firm(state: State, account: str) -> set[int]:
    """GPUs of the account's work that cannot be preempted."""
    return {
        gpu
        for gang in state.gangs.placed.values()
        if gang.account == account and not gang.shape.preemptible and _stays(gang)
        for gpu in gang.gpu_numbers
    }


def _stays(gang: Gang) -> bool:
    return gang.status is not GangStatus.STOPPING or gang.stop_cause in MOVED


def _cell(state: State, level: Level, gpus: list[int]) -> Block:
    """One lot as a block of its own: of a lot above NODE, its domains and nodes are near each other."""
    fleet = state.fleet
    if level <= Level.NODE:
        return ((len(gpus),),)
    domains: dict[int, dict[int, int]] = {}
    for gpu in gpus:
        node = int(fleet.node_of_gpu[gpu])
        nodes = domains.setdefault(int(fleet.domain_of_node[node]), {})
        nodes[node] = nodes.get(node, 0) + 1
    return tuple(sorted(tuple(sorted(nodes.values())) for nodes in domains.values()))


def counted(state: State, account: str, pool: int = 0) -> tuple[list[Want], int]:
    """(what the account's counted preemptible gangs of a pool want, GPUs of all that its count holds there)."""
    gangs = [
        gang
        for _, gang in sorted(state.gangs.placed.items())
        if gang.account == account and _stays(gang) and _pool_of(state, gang.gpu_numbers[0]) == pool
    ]
    whole = [gang for gang in gangs if not _rides_along(state, gang, gangs)]
    wants = [demand(gang.shape) for gang in whole if gang.shape.preemptible]
    return [want for want in wants if want is not None], sum(gang.shape.gpus for gang in whole)


def _rides_along(state: State, gang: Gang, counted_gangs: list[Gang]) -> bool:
    """Whether a device that it shares is counted for another gang already."""
    sharing = state.gangs.shares.of(gang.gpu_numbers[0])
    first = next((each.number for each in counted_gangs if each.number in sharing), gang.number)
    return gang.number in sharing and first != gang.number


def is_owed(state: State, gang: Gang) -> bool:
    """Whether the waiting gang is owed GPUs now, in some pool of its grade.

    What cannot be preempted is owed them, without looking at more, where its account runs nothing else in the pool and
    lots that last to its declared end have room.
    """
    pools = enumerate(state.fleet.pools)
    return any(_is_owed_in(state, gang, pool) for pool, (grade, _) in pools if gang.shape.grade in (None, grade))


def _is_owed_in(state: State, gang: Gang, pool: int) -> bool:
    want = least_demand(gang.shape)
    wants, used = counted(state, gang.account, pool)
    mine = state.health.usable & (state.calendar.owner_account == state.accounts[gang.account])
    owned = int((mine & (state.fleet.pool_of_node[state.fleet.node_of_gpu] == pool)).sum())
    if want is None or used + want.gpus > owned:
        return False
    if gang.shape.preemptible:
        return packable(lots_of(state, gang.account, pool=pool), (*wants, want))
    return used == 0 and packable(lots_of(state, gang.account, state.now_ms + gang.shape.runtime_ms, pool), (want,))


def packable(ground: Ground, wants: tuple[Want, ...]) -> bool:
    """Whether any packing of the wants into the ground exists."""
    if sum(want.gpus for want in wants) > sum(gpus for block in ground for domain in block for gpus in domain):
        return False
    return _packable(_sorted(ground), tuple(sorted(wants, key=lambda want: (-want.size, -want.parts, want.level or 0))))


@lru_cache(maxsize=200_000)
def _packable(ground: Ground, wants: tuple[Want, ...]) -> bool:
    if not wants:
        return True
    first, *rest = wants
    return any(_packable(left, tuple(rest)) for left in _placings(ground, first))


def _placings(ground: Ground, want: Want) -> set[Ground]:
    """Every ground that is left after the want was put somewhere."""
    found: set[Ground] = set()
    match want.level:
        case Level.NVLINK_DOMAIN:
            for i, block in enumerate(ground):
                for j, domain in enumerate(block):
                    for (left,) in _parts(((domain,),), want.size, want.parts):
                        found.add(_sorted((*ground[:i], (*block[:j], *left, *block[j + 1 :]), *ground[i + 1 :])))
        case Level.FABRIC_BLOCK:
            for i, block in enumerate(ground):
                for (left,) in _parts((block,), want.size, want.parts):
                    found.add(_sorted((*ground[:i], left, *ground[i + 1 :])))
        case _:
            found = _parts(ground, want.size, want.parts)
    return found


def _parts(ground: Ground, size: int, parts: int) -> set[Ground]:
    """Every ground that is left after so many parts of a size were put on nodes."""
    found = {_sorted(ground)}
    for _ in range(parts):
        found = {
            _sorted(
                (
                    *each[:i],
                    (*block[:j], (*domain[:k], gpus - size, *domain[k + 1 :]), *block[j + 1 :]),
                    *each[i + 1 :],
                )
            )
            for each in found
            for i, block in enumerate(each)
            for j, domain in enumerate(block)
            for k, gpus in enumerate(domain)
            if gpus >= size
        }
    return found


def _sorted(ground: Ground) -> Ground:
    return tuple(sorted(tuple(sorted(tuple(sorted(domain)) for domain in block)) for block in ground))


def unaccounted(state: State, now_ms: int) -> list[str]:
    """Positions of which what stands behind them is not what is contracted now, though nobody said so."""
    found = []
    for name, contracted in sorted(state.contracted.items()):
        covered = sum(
            len(state.fleet.gpus_of_cell(holding.level, holding.cell))
            for holding in state.calendar.of(name)
            if holding.start_ms <= now_ms < holding.end_ms
        )
        if covered > contracted.at(now_ms) or (covered < contracted.at(now_ms) and name not in state.refused):
            found.append(f"{name} is covered by {covered} GPUs, {contracted.at(now_ms)} are contracted")
    return found


def out_of_turn(state: State, now_ms: int) -> list[str]:
    """Where lower firmness classes alone hold a healthy cell while a higher one's lot of its level and size, or without
    a cell by the rule, waits; at any level, whatever the levels of the lots that hold it.
    """
    force = [held for held in state.calendar.holdings if held.start_ms <= now_ms < held.end_ms]
    gpus = {(held.level, held.cell): set(state.fleet.gpus_of_cell(held.level, held.cell).tolist()) for held in force}
    terms = {name: state.instruments[position.instrument] for name, position in state.book.positions.items()}
    rank = {name: each.firmness_rank for name, each in terms.items()}
    displaced = {name for name, cause in state.refused.items() if cause == Cause.SHORTAGE_RULE and name in terms}
    short = {name for name in displaced if state.contracted[name].at(now_ms) > _held_gpus(force, gpus, name)}
    waiting = {(held.position, held.level) for held in force if not _well(state, gpus[held.level, held.cell])}
    waiting |= {(name, terms[name].lot.cell) for name in short}
    topology = topology_of(state.fleet)
    found = []
    for name, level in sorted(waiting):
        pool = state.fleet.pools.index((terms[name].grade.klass, terms[name].site))
        for cell in np.flatnonzero(topology.pool[level] == pool).tolist():
            inside = set(state.fleet.gpus_of_cell(level, cell).tolist())
            if len(inside) != terms[name].lot.gpus:
                continue
            holders = {held.position for held in force if gpus[held.level, held.cell] & inside}
            if holders and _well(state, inside) and all(rank[each] > rank[name] for each in holders):
                found.append(f"{name} waits for a {level.name}, {', '.join(sorted(holders))} of lower classes hold one")
    return found


def _well(state: State, gpus: set[int]) -> bool:
    return bool(state.health.usable[sorted(gpus)].all())


def _held_gpus(force: list[Holding], gpus: dict[tuple[Level, int], set[int]], name: str) -> int:
    return sum(len(gpus[held.level, held.cell]) for held in force if held.position == name)
