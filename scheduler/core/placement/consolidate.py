"""Emptying nodes for a gang of whole nodes: small gangs move where they fit at once, if little work is lost by it.

One gang a round, the one first in line. Only gangs that run on one node alone are moved, and only if all of them fit
free GPUs elsewhere; they are stopped as CONSOLIDATED, keep their turn, and find that room when they come back.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books, BoolArray
from scheduler.core.placement.borrowed import roomy
from scheduler.core.placement.inside import packs
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.wants import Want, demand
from scheduler.core.quantities import MS_PER_HOUR, ONE_PPM
from scheduler.core.workloads import Gang, GangStatus, Shape, StopCause


def consolidate(books: Books, lines: Lines) -> None:
    """Empty the cheapest nodes for the first whole-node gang for which that is worth it."""
    free_gpus = int(np.count_nonzero(books.free))
    if not free_gpus:
        return
    sizes = {node.gpus for node in books.fleet.nodes}
    heads = [
        head
        for line in lines.all()
        if _asks_whole_nodes(line[1], sizes, free_gpus) and (head := lines.head(line)) is not None
    ]
    refused: set[Shape] = set()
    for gang in sorted(heads, key=lambda head: (head.queued_ms, head.order)):
        if gang.shape in refused:
            continue
        if any(_emptied(books, gang, pool) for pool in books.pools_for(gang.shape.grade)):
            lines.take((gang.spec.account, gang.shape))
            return
        refused.add(gang.shape)


def _asks_whole_nodes(shape: Shape, sizes: set[int], free_gpus: int) -> bool:
    want = demand(shape)
    return shape.preemptible and shape.gpus <= free_gpus and want is not None and want.size in sizes


def _emptied(books: Books, gang: Gang, pool: int) -> bool:
    want = demand(gang.shape)
    in_pool = books.of_pool(pool)
    free = books.free & in_pool
    if want is None or want.level is not None or int(np.count_nonzero(free)) < want.gpus:
        return False
    nodes = np.diff(books.fleet.first_gpu)
    whole = (nodes == want.size) & (books.by_node(in_pool) == want.size)
    if not whole.any() or not roomy(books, gang.shape, pool):
        return False
    empty = np.flatnonzero(whole & (books.by_node(free) == want.size))
    missing = want.parts - len(empty)
    offers = _offers(books, whole)
    if missing <= 0 or len(offers) < missing:
        return False
    chosen = offers[:missing]
    emptied = [*empty.tolist(), *(node for _, node, _ in chosen)]
    movers = [row for _, _, rows in chosen for row in rows]
    if not _is_worth_it(books, gang, sum(price for price, _, _ in chosen)):
        return False
    if not _fit_elsewhere(books, movers, emptied, free):
        return False
    for row in movers:
        books.stop(row, gang, StopCause.CONSOLIDATED)
    gpus = [gpu for node in sorted(emptied) for gpu in books.fleet.gpus_of_node(node)]
    books.place(gang, gpus, inside=False)
    return True


def _offers(books: Books, whole: BoolArray) -> list[tuple[int, int, list[int]]]:
    """(price, node, rows to move) of every partly used node that can be emptied, the cheapest first."""
    rows_of_node: dict[int, set[int]] = {}
    for gpu in np.flatnonzero(whole[books.node_of_gpu] & (books.holder >= 0)).tolist():
        rows_of_node.setdefault(int(books.node_of_gpu[gpu]), set()).add(int(books.holder[gpu]))
    left_by_node = books.by_node(books.leaver >= 0)
    offers = []
    for node, rows in rows_of_node.items():
        if books.free_by_node[node] and not left_by_node[node] and all(_moves(books, row) for row in rows):
            offers.append((sum(books.price(row) for row in rows), node, sorted(rows)))
    return sorted(offers)


def _moves(books: Books, row: int) -> bool:
    gang = books.rows[row]
    return (
        gang.status is GangStatus.RUNNING
        and gang.shape.preemptible
        and not gang.shape.reckless
        and len({int(books.node_of_gpu[gpu]) for gpu in gang.gpu_numbers}) == 1
    )


def _is_worth_it(books: Books, gang: Gang, lost_gpu_ms: int) -> bool:
    remaining_ms = min(MS_PER_HOUR, gang.spec.max_runtime_ms or MS_PER_HOUR)
    return lost_gpu_ms * ONE_PPM < books.policy.consolidate_gain_ppm * gang.shape.gpus * remaining_ms


def _fit_elsewhere(books: Books, movers: list[int], emptied: list[int], free: BoolArray) -> bool:
    room: IntArray = books.by_node(free)
    room[emptied] = 0
    wanted: dict[Want, int] = {}
    for row in movers:
        want = demand(books.rows[row].shape)
        if want is None:
            return False
        wanted[want] = wanted.get(want, 0) + 1
    return packs(room, wanted, books.fleet)
