"""What must hold of every state between rounds, checked from the snapshot alone.

Written apart from the planner, in the plainest way, so that one can find the other's mistakes; it shares with it only
the words of the rules. Call it after a round was applied: between an event and the round that answers it, a gang may
well be inside its entitlement and wait. The laws:

- *no overfill*: a GPU's occupant and claimant are placed gangs that were given it; a claimant waits behind a leaver;
- *shares*: those of a device are of one account, all preemptible or none, and add up to 1000 milli at most;
- *gangs whole*: a placed gang has all its workers, an elastic one as many as it may have, each inside one node, all of
  one pool, of its grade;
- *topology*: where it is required, all workers are inside one cell of that level, or each in another;
- *firm stays*: what cannot be preempted stands where its account owns or nobody does, by the calendar as it is when it
  is placed to its declared end (what its account owns it may sell, and an unsold GPU may become its account's own);
- *firm within*: of what cannot be preempted no account stands on its own GPUs, or comes inside its entitlement, with
  more than it owns to the declared end, all its work of that kind that lasts as long included;
- *sharing safety*: no preemptible gang waits that is inside its entitlement (`scheduler.core.placement.inside`), an
  elastic one with its least workers, nor any share that could join a device of its account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np

from scheduler.core.cluster import Fleet, Level
from scheduler.core.placement.snapshot import Snapshot
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import MOVED, WHOLE_GPU_MILLI, Gang, GangStatus, Shape


def violations(snapshot: Snapshot) -> tuple[str, ...]:
    """Every law that the state breaks, in words; empty where all hold."""
    gangs = [snapshot.placed[number] for number in sorted(snapshot.placed)]
    return (
        *_overfill(snapshot, gangs),
        *_shares(snapshot, gangs),
        *_broken_gangs(snapshot, gangs),
        *_firm(snapshot, gangs),
        *_firm_within(snapshot, gangs),
        *_unsafe(snapshot, gangs),
    )


# ---- no overfill ----


def _overfill(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    """Arrays and gangs say the same: every entry has its gang, every gang that stays has its entries."""
    gangs = [gang for gang in gangs if not _rides_along(snapshot, gang)]
    given = np.fromiter(chain.from_iterable(gang.gpu_numbers for gang in gangs), dtype=np.int64)
    lengths = [len(gang.gpu_numbers) for gang in gangs]
    whose = np.repeat(np.array([gang.number for gang in gangs], dtype=np.int64), lengths)
    leaving = np.repeat(np.array([gang.status is GangStatus.STOPPING for gang in gangs], dtype=np.bool_), lengths)
    occupies = snapshot.occupant[given] == whose
    claims = snapshot.claimant[given] == whose
    entries = np.count_nonzero(snapshot.occupant >= 0), np.count_nonzero(snapshot.claimant >= 0)
    if (np.count_nonzero(occupies), np.count_nonzero(claims)) != entries:
        yield "a GPU has an occupant or a claimant that was not given it"
    for at in np.flatnonzero(~leaving & ~(occupies | claims)).tolist():
        yield f"gang {whose[at]} was given GPU {given[at]} and neither occupies nor claims it"
    for gpu in np.flatnonzero(snapshot.claimant >= 0).tolist():
        number = int(snapshot.claimant[gpu])
        claimant, occupant = snapshot.placed.get(number), snapshot.placed.get(int(snapshot.occupant[gpu]))
        if claimant is None or claimant.status is not GangStatus.BINDING:
            yield f"GPU {gpu} is claimed by gang {number}, which is not binding"
        if occupant is None or occupant.status is not GangStatus.STOPPING:
            yield f"GPU {gpu} is claimed by gang {number}, and nobody is leaving it"


# ---- shares ----


def _rides_along(snapshot: Snapshot, gang: Gang) -> bool:
    """Whether the gang shares a device that another one, the carrier, occupies in the arrays."""
    gpu = gang.gpu_numbers[0]
    return gang.number in snapshot.shares.get(gpu, {}) and int(snapshot.occupant[gpu]) != gang.number


def _shares(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    """Every device's shares are of placed gangs that asked for them, alike, and no more than it has."""
    asked = {gang.number for gang in gangs if gang.spec.gpu_milli < WHOLE_GPU_MILLI}
    listed = [number for there in snapshot.shares.values() for number in there]
    claiming = {number for number in asked if int(snapshot.claimant[snapshot.placed[number].gpu_numbers[0]]) == number}
    stopped = {number for number in asked if snapshot.placed[number].status is GangStatus.STOPPING}
    if len(listed) != len(set(listed)) or not asked - claiming - stopped <= set(listed) <= asked - claiming:
        yield f"gangs {sorted(listed)} share devices, expected {sorted(asked - claiming)}"
        return
    for gpu, there in sorted(snapshot.shares.items()):
        sharers = [snapshot.placed[number] for number in there]
        if int(snapshot.occupant[gpu]) not in there:
            yield f"GPU {gpu} is shared, and its occupant is none of its gangs"
        if any(gang.gpu_numbers != (gpu,) or gang.spec.gpu_milli != there[gang.number] for gang in sharers):
            yield f"GPU {gpu} is shared as {dict(there)}, which its gangs were not given"
        if sum(there.values()) > WHOLE_GPU_MILLI:
            yield f"GPU {gpu} is shared by {sum(there.values())} milli"
        if len({(gang.account, gang.shape.preemptible) for gang in sharers}) > 1:
            yield f"GPU {gpu} is shared by several accounts, or by gangs of which only some can be preempted"


# ---- gangs whole, topology, grade ----


def _broken_gangs(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    """Workers and cells of all gangs at once; pieces of those placed now alone, since they never change after."""
    fleet = snapshot.fleet
    placed = [gang for gang in gangs if gang.status is not GangStatus.STOPPING]
    whole = [gang.shape.workers * gang.shape.gpus_per_worker for gang in placed]
    for gang, gpus in zip(placed, whole, strict=True):
        if len(gang.gpu_numbers) != gpus:
            yield f"gang {gang.number} has {len(gang.gpu_numbers)} GPUs, expected {gpus}"
            return
        if gang.placed_ms == snapshot.now_ms:
            yield from _pieces(snapshot, gang)
    given = np.fromiter(chain.from_iterable(gang.gpu_numbers for gang in placed), dtype=np.int64)
    if not len(given):
        return
    nodes = fleet.node_of_gpu[given]
    workers = [gang.shape.workers for gang in placed]
    sizes = np.repeat(np.array([gang.shape.gpus_per_worker for gang in placed], dtype=np.int64), workers)
    firsts = np.cumsum(sizes) - sizes
    if (np.minimum.reduceat(nodes, firsts) != np.maximum.reduceat(nodes, firsts)).any():
        yield "a worker is spread over several nodes"
    starts = np.cumsum([0, *whole[:-1]], dtype=np.int64)
    pools = fleet.pool_of_node[nodes]
    if (np.minimum.reduceat(pools, starts) != np.maximum.reduceat(pools, starts)).any():
        yield "a gang is spread over several pools"
    for gang, pool in zip(placed, pools[starts].tolist(), strict=True):
        yield from _wishes(snapshot, gang, pool)


def _wishes(snapshot: Snapshot, gang: Gang, pool: int) -> Iterator[str]:
    fleet, shape = snapshot.fleet, gang.shape
    parts = floor_div(len(gang.gpu_numbers), gang.spec.gpus_per_worker)
    if not gang.spec.least_workers <= parts <= gang.spec.workers:
        yield f"gang {gang.number} has {parts} workers, expected {gang.spec.least_workers}..{gang.spec.workers}"
    if shape.grade is not None and shape.grade != fleet.pools[pool][0]:
        yield f"gang {gang.number} asked for grade {shape.grade} and is on {fleet.pools[pool][0]}"
    if shape.topology_required and len(_cells(snapshot, shape.topology, gang.gpu_numbers)) > 1:
        yield f"gang {gang.number} must be inside one cell of level {gang.shape.topology} and is in several"
    if shape.spread_required and shape.spread is not None and not _is_spread(snapshot, gang):
        yield f"gang {gang.number} must have each worker in another cell of level {shape.spread} and has not"


def _pieces(snapshot: Snapshot, gang: Gang) -> Iterator[str]:
    fleet = snapshot.fleet
    meant = tuple(
        int(fleet.first_gpu[fleet.index_of_node[piece.node]]) + index for piece in gang.pieces for index in piece.gpus
    )
    sizes = {len(piece.gpus) for piece in gang.pieces}
    if meant != gang.gpu_numbers or len(gang.pieces) != gang.shape.workers or sizes != {gang.shape.gpus_per_worker}:
        yield f"gang {gang.number} has pieces {gang.pieces}, which are not its workers on GPUs {gang.gpu_numbers}"
    if len(set(gang.gpu_numbers)) != len(gang.gpu_numbers):
        yield f"gang {gang.number} was given a GPU twice: {gang.gpu_numbers}"
    for gpu in gang.gpu_numbers:
        if not snapshot.usable[gpu]:
            yield f"gang {gang.number} was placed on GPU {gpu}, which is not usable"


def _is_spread(snapshot: Snapshot, gang: Gang) -> bool:
    firsts = gang.gpu_numbers[:: gang.spec.gpus_per_worker]
    if gang.shape.spread == Level.SITE:
        return len(firsts) == 1
    return len(_cells(snapshot, gang.shape.spread, firsts)) == len(firsts)


def _cells(snapshot: Snapshot, level: int | None, gpus: tuple[int, ...]) -> set[int]:
    """The cells of the level that some of the gang's GPUs are in."""
    fleet = snapshot.fleet
    nodes = fleet.node_of_gpu[list(gpus)].tolist()
    match level:
        case Level.GPU:
            return set(gpus)
        case Level.NODE:
            return set(nodes)
        case Level.NVLINK_DOMAIN:
            return {int(fleet.domain_of_node[node]) for node in nodes}
        case Level.FABRIC_BLOCK:
            return {int(fleet.block_of_node[node]) for node in nodes}
        case _:
            return set()


# ---- firm stays ----


def _firm(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    for gang in gangs:
        if gang.shape.preemptible or gang.status is GangStatus.STOPPING:
            continue
        account = snapshot.accounts.index(gang.account) if gang.account in snapshot.accounts else None
        for gpu in gang.gpu_numbers:
            owner = int(snapshot.owner[gpu])
            if owner not in (-1, account):
                yield f"gang {gang.number} cannot be preempted and is on GPU {gpu}, which another account owns"
            elif gang.placed_ms == snapshot.now_ms > int(snapshot.until_ms[gpu]) - gang.shape.runtime_ms:
                yield f"gang {gang.number} cannot be preempted and outlasts the ownership of GPU {gpu}"


def _firm_within(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    """Asked of each gang placed now, with all that run until its end: the last of these was asked with the others."""
    pool_of = snapshot.fleet.pool_of_node[snapshot.fleet.node_of_gpu]
    firm = [gang for gang in _one_a_device(snapshot, gangs) if not gang.shape.preemptible and _counts(gang)]
    for gang in firm:
        if gang.placed_ms != snapshot.now_ms or not _asked(snapshot, gang):
            continue
        pool, end_ms = int(pool_of[gang.gpu_numbers[0]]), snapshot.now_ms + gang.shape.runtime_ms
        mine = snapshot.usable & (snapshot.owner == snapshot.accounts.index(gang.account)) & (pool_of == pool)
        lasting = int((mine & (snapshot.until_ms >= end_ms)).sum())
        beside = sum(
            len(each.gpu_numbers)
            for each in firm
            if each.account == gang.account and int(pool_of[each.gpu_numbers[0]]) == pool and _asked(snapshot, each)
            if each.placed_ms + each.shape.runtime_ms >= end_ms
        )
        if beside > lasting:
            yield f"gang {gang.number} makes {beside} GPUs of work that cannot be preempted, {lasting} last as long"


def _asked(snapshot: Snapshot, gang: Gang) -> bool:
    """Whether its account's own GPUs mattered when it was placed: not where it borrows unsold ones alone, now."""
    return gang.inside or gang.placed_ms < snapshot.now_ms or bool((snapshot.owner[list(gang.gpu_numbers)] >= 0).any())


# ---- sharing safety ----


def _unsafe(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[str]:
    fleet = snapshot.fleet
    pool_of = fleet.pool_of_node[fleet.node_of_gpu].tolist() if fleet.nodes else []
    counted = [(gang, pool_of[gang.gpu_numbers[0]]) for gang in _one_a_device(snapshot, gangs) if _counts(gang)]
    used: dict[tuple[str, int], int] = {}
    for gang, pool in counted:
        key = (gang.spec.account, pool)
        used[key] = used.get(key, 0) + len(gang.gpu_numbers)
    usable = snapshot.owner[snapshot.usable].tolist()
    owned = Counter(zip(usable, fleet.pool_of_node[fleet.node_of_gpu[snapshot.usable]].tolist(), strict=True))
    yield from _unjoined(snapshot)
    for index, account in enumerate(snapshot.accounts):
        for pool, (grade, _) in enumerate(fleet.pools):
            left = owned[index, pool] - used.get((account, pool), 0)
            if left <= 0:
                continue
            for shape, waiting in snapshot.queue.get(account, {}).items():
                if not waiting or not shape.preemptible or shape.grade not in (None, grade) or shape.least_gpus > left:
                    continue
                mine = [
                    gang.shape
                    for gang, its_pool in counted
                    if gang.account == account and gang.shape.preemptible and its_pool == pool
                ]
                if _repack(snapshot, _room(snapshot, index, pool), [*mine, shape.sized(shape.min_workers)]):
                    yield f"gang {waiting[0].number} of account {account} is inside its entitlement and waits: {shape}"


def _unjoined(snapshot: Snapshot) -> Iterator[str]:
    """Shares that wait beside a device of their account that has room for them."""
    room: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    for gpu, there in sorted(snapshot.shares.items()):
        sharers = [snapshot.placed[number] for number in there]
        stays = any(gang.status is not GangStatus.STOPPING for gang in sharers)
        if stays and snapshot.usable[gpu] and int(snapshot.claimant[gpu]) < 0:
            grade = snapshot.fleet.nodes[int(snapshot.fleet.node_of_gpu[gpu])].grade
            key = (sharers[0].account, sharers[0].shape.preemptible)
            room.setdefault(key, []).append((WHOLE_GPU_MILLI - sum(there.values()), grade))
    for account, shapes in sorted(snapshot.queue.items()):
        for shape, waiting in shapes.items():
            devices = room.get((account, True), []) if waiting and shape.is_share and shape.preemptible else []
            if any(left >= shape.gpu_milli and shape.grade in (None, grade) for left, grade in devices):
                yield f"gang {waiting[0].number} of account {account} waits and could join a device: {shape}"


def _one_a_device(snapshot: Snapshot, gangs: list[Gang]) -> Iterator[Gang]:
    """Gangs that count for GPUs of their account: all but the second and later ones that count on a shared device. Who
    claims a device shares it with nobody yet.
    """
    devices: set[int] = set()
    for gang in gangs:
        gpu = gang.gpu_numbers[0]
        if gang.number not in snapshot.shares.get(gpu, ()) or not _counts(gang):
            yield gang
        elif gpu not in devices:
            devices.add(gpu)
            yield gang


def _counts(gang: Gang) -> bool:
    moving = gang.status is GangStatus.STOPPING and gang.stop_cause in MOVED
    return moving or gang.status in (GangStatus.BINDING, GangStatus.RUNNING)


def _room(snapshot: Snapshot, account: int, pool: int) -> dict[int, int]:
    """Own usable GPUs of each node that hold nothing non-preemptible."""
    fleet = snapshot.fleet
    room: dict[int, int] = {}
    for gpu in np.flatnonzero(snapshot.usable & (snapshot.owner == account)).tolist():
        node = int(fleet.node_of_gpu[gpu])
        there = [snapshot.placed.get(int(holders[gpu])) for holders in (snapshot.occupant, snapshot.claimant)]
        firm = any(gang and not gang.shape.preemptible and gang.status is not GangStatus.STOPPING for gang in there)
        if int(fleet.pool_of_node[node]) == pool and not firm:
            room[node] = room.get(node, 0) + 1
    return room


def _repack(snapshot: Snapshot, room: dict[int, int], shapes: list[Shape]) -> bool:
    """The published rule, worker by worker."""
    bound: list[tuple[int, int, int, int, int]] = []
    spread: list[tuple[int, int, int, int]] = []
    loose: list[int] = []
    for shape in shapes:
        level, apart = _required(shape)
        if apart == Level.SITE or (level == Level.GPU and shape.gpus > 1):
            return False
        if level in (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK) and shape.workers > 1:
            bound.append((level, -shape.gpus, -shape.gpus_per_worker, apart, shape.workers))
        elif apart:
            spread.append((apart, -shape.gpus, -shape.gpus_per_worker, shape.workers))
        else:
            loose += [shape.gpus] if level == Level.NODE else [shape.gpus_per_worker] * shape.workers
    fleet = snapshot.fleet
    for level, _, minus_size, apart, workers in sorted(bound):
        for cell in sorted({_cell(fleet, level, node) for node in room}):
            nodes = [node for node in sorted(room) if _cell(fleet, level, node) == cell]
            if _put(room, _apart(fleet, apart, room, nodes, -minus_size), [-minus_size] * workers):
                break
        else:
            return False
    for apart, _, minus_size, workers in sorted(spread):
        if not _put(room, _apart(fleet, apart, room, sorted(room), -minus_size), [-minus_size] * workers):
            return False
    return all(_put(room, _apart(fleet, 0, room, sorted(room), size), [size]) for size in sorted(loose, reverse=True))


def _required(shape: Shape) -> tuple[int, int]:
    """(level of the one cell that it must be in, level of the cells that its workers must be apart in); -1, 0: none."""
    level = int(shape.topology) if shape.topology_required and shape.topology is not None else -1
    apart = int(shape.spread or 0) if shape.spread_required and shape.workers > 1 else 0
    return level, apart


def _cell(fleet: Fleet, level: int, node: int) -> int:
    match level:
        case Level.NVLINK_DOMAIN:
            return int(fleet.domain_of_node[node])
        case Level.FABRIC_BLOCK:
            return int(fleet.block_of_node[node])
        case _:
            return node


def _apart(fleet: Fleet, level: int, room: dict[int, int], nodes: list[int], size: int) -> Iterator[int]:
    """The nodes again and again; where workers must be apart, the first node with room of each cell, and once."""
    if not level:
        yield from (node for node in nodes for _ in range(room[node] // size))
        return
    seen: set[int] = set()
    for node in nodes:
        if room[node] >= size and _cell(fleet, level, node) not in seen:
            seen.add(_cell(fleet, level, node))
            yield node


def _put(room: dict[int, int], places: Iterable[int], sizes: list[int]) -> bool:
    """First fit of equal sizes, in order, on the places, in order; changes `room` only where all fit."""
    chosen = list(islice(places, len(sizes)))
    if len(chosen) < len(sizes):
        return False
    for node, size in zip(chosen, sizes, strict=True):
        room[node] -= size
    return True
