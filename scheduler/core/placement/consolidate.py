"""Emptying nodes for a gang of whole nodes: small gangs move where they fit at once, if little work is lost by it.

One gang a round, the one first in line. Only gangs that run on one node alone, and did for as long as they wished, are
moved, and only if all of them fit free GPUs elsewhere; they are stopped as CONSOLIDATED, keep their turn, and find that
room when they come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.borrowed import roomy
from scheduler.core.placement.elastic import sized
from scheduler.core.placement.inside import packs
from scheduler.core.placement.lines import Line, Lines
from scheduler.core.placement.protect import Protected
from scheduler.core.placement.wants import Want, demand, least_demand
from scheduler.core.quantities import MS_PER_HOUR, ONE_PPM
from scheduler.core.workloads import Gang, GangStatus, Shape, StopCause, ran_for_ms


def consolidate(books: Books, lines: Lines, guarded: Mapping[int, Protected]) -> None:
    """Empty the cheapest nodes for the first whole-node gang for which that is worth it; not where another is guarded,
    by pool, that it might delay.
    """
    free_gpus = sum(books.free_gpus(pool) for pool in range(books.n_pools))
    if not free_gpus:
        return
    sizes = set(np.diff(books.fleet.first_gpu).tolist())
    heads: list[tuple[tuple[int, tuple[int, int, int]], Line]] = []
    for shape, of_shape in lines.by_shape().items():
        if shape.least_gpus <= free_gpus and _asks_whole_nodes(shape, sizes):
            turns = (((head.queued_ms, head.order), line) for line in of_shape.values() if (head := line.head()))
            first = min(turns, default=None)
            if first is not None:
                heads.append(first)
    yards: dict[tuple[int, int], Yard] = {}
    for _, line in sorted(heads):
        gang = line.head()
        if gang is None:
            continue
        gang = sized(gang, gang.shape.min_workers) if gang.shape.is_elastic else gang
        if any(_emptied(books, gang, pool, yards) for pool in _pools(books, gang, guarded)):
            line.take()
            return


def _pools(books: Books, gang: Gang, guarded: Mapping[int, Protected]) -> list[int]:
    """The pools in which the gang delays nobody."""
    pools = books.pools_for(gang.shape.grade)
    return [pool for pool in pools if pool not in guarded or guarded[pool].gang.number == gang.number]


def _asks_whole_nodes(shape: Shape, sizes: set[int]) -> bool:
    want = least_demand(shape)
    return shape.preemptible and want is not None and want.size in sizes


@dataclass(frozen=True, slots=True)
class Yard:
    """The whole nodes of one size in a pool: those that are empty, and those that can be emptied."""

    empty: list[int]
    offers: list[tuple[int, int, list[int]]]
    """(price, node, rows to move), the cheapest first."""

    @classmethod
    def of(cls, books: Books, pool: int, size: int) -> Yard:
        """Partly used nodes without leavers whose gangs can all be moved."""
        floor = books.floor
        nodes = np.flatnonzero((np.diff(floor.first_gpu) == size) & (floor.pool_of_node == pool))
        nodes = nodes[floor.free_by_node[nodes] > 0]
        usable = np.array([floor.usable[range(*floor.first_gpu[node : node + 2])].all() for node in nodes.tolist()])
        nodes = nodes[usable.astype(np.bool_)]
        free = floor.free_by_node[nodes] == size
        offers = []
        for node in nodes[~free].tolist():
            gpus = slice(*floor.first_gpu[node : node + 2].tolist())
            rows = books.holders(np.arange(gpus.start, gpus.stop))
            if (floor.leaver[gpus] < 0).all() and all(_moves(books, row) for row in rows):
                offers.append((sum(books.price(row) for row in rows), node, rows))
        return cls(nodes[free].tolist(), sorted(offers))


def _emptied(books: Books, gang: Gang, pool: int, yards: dict[tuple[int, int], Yard]) -> bool:
    want = demand(gang.shape)
    if (
        want is None
        or want.level is not None
        or want.apart is not None
        or books.free_gpus(pool) < want.gpus
        or not roomy(books, gang.shape, pool)
    ):
        return False
    yard = yards.get((pool, want.size))
    if yard is None:
        yard = yards[pool, want.size] = Yard.of(books, pool, want.size)
    missing = want.parts - len(yard.empty)
    if missing <= 0 or len(yard.offers) < missing:
        return False
    chosen = yard.offers[:missing]
    emptied = [*yard.empty, *(node for _, node, _ in chosen)]
    movers = [row for _, _, rows in chosen for row in rows]
    if not _is_worth_it(books, gang, sum(price for price, _, _ in chosen)):
        return False
    if not _fit_elsewhere(books, movers, emptied, pool):
        return False
    for row in movers:
        books.stop(row, gang, StopCause.CONSOLIDATED)
    gpus = [gpu for node in sorted(emptied) for gpu in books.fleet.gpus_of_node(node)]
    books.place(gang, np.array(gpus, dtype=np.int64), inside=False)
    return True


def _moves(books: Books, row: int) -> bool:
    gangs = [books.rows[row], *books.devices.riding(row)]
    nodes = {int(books.floor.node_of_gpu[gpu]) for gpu in gangs[0].gpu_numbers}
    return len(nodes) == 1 and all(_may_move(gang, books.now_ms) for gang in gangs)


def _may_move(gang: Gang, now_ms: int) -> bool:
    """Whether it runs, may be preempted, does not lose all its work, and has run for as long as it wished."""
    runs = gang.status is GangStatus.RUNNING and gang.shape.preemptible and not gang.shape.reckless
    return runs and ran_for_ms(gang, now_ms) >= gang.spec.min_runtime_ms


def _is_worth_it(books: Books, gang: Gang, lost_gpu_ms: int) -> bool:
    remaining_ms = min(MS_PER_HOUR, gang.spec.max_runtime_ms or MS_PER_HOUR)
    return lost_gpu_ms * ONE_PPM < books.policy.consolidate_gain_ppm * gang.shape.gpus * remaining_ms


def _fit_elsewhere(books: Books, movers: list[int], emptied: list[int], pool: int) -> bool:
    room: IntArray = np.where(books.floor.pool_of_node == pool, books.floor.free_by_node, 0)
    room[emptied] = 0
    wanted: dict[Want, int] = {}
    for row in movers:
        want = demand(books.rows[row].shape)
        if want is None:
            return False
        wanted[want] = wanted.get(want, 0) + 1
    return packs(room, wanted, books.fleet)
