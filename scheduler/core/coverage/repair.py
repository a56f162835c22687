"""Repair by guided ejection: a lot that found no cell takes one where the lots in its way matter least, and those look
again.

Each time a lot is found without a cell its penalty grows, so that what is hard to place is no longer pushed out by what
is easy, and so that the next try goes to another. The cost of a cell is the sum of penalty × sqrt(GPU-hours) over the
lots in the way; pinned holdings are never in play. The best state seen is kept. Bounded by rounds, deterministic: ties
go to the earlier group and the lower number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.board import Board
from scheduler.core.coverage.packing import Group, Layout, Places, chosen, length_ms, lot_gpus
from scheduler.core.quantities import INT64_MAX, MS_PER_HOUR

NODES_LOOKED_INTO = 6
"""How many nodes, by a bound on their cost, are worked out exactly for a GPU lot."""
SQRT_SCALE = 1_000_000
"""Integer square roots keep three decimals."""


@dataclass(slots=True, eq=False)
class _Lots:
    """Every lot by itself: (n_lots) arrays. `at` is -1 without a cell."""

    group: IntArray
    level: IntArray
    i: IntArray
    j: IntArray
    at: IntArray
    first: IntArray
    end: IntArray
    gpu_ms: IntArray
    weight: IntArray
    penalty: IntArray


def repaired(empty: Board, layout: Layout, groups: Sequence[Group], rounds: int) -> Layout:
    """A layout at least as good, after so many rounds or once nothing is left. `empty` is the board without any
    group.
    """
    board, lots = layout.board.copy(), _lots_of(layout, groups)
    left = int(lots.gpu_ms[lots.at < 0].sum())
    best, best_at = left, lots.at.copy()
    allowed: dict[int, npt.NDArray[np.bool_]] = {}
    hopeless = np.zeros(len(lots.at), dtype=np.bool_)
    for _ in range(rounds):
        waiting = np.flatnonzero((lots.at < 0) & ~hopeless)
        if not len(waiting):
            break
        # Large lots first, but one that failed often lets others try: without this the largest would take all rounds.
        lot = int(waiting[np.argmax(lots.weight[waiting] // lots.penalty[waiting])])
        lots.penalty[lot] += 1
        group = groups[int(lots.group[lot])]
        found = chosen(board, group, 1)
        if found:
            at = found[0][0]
        else:
            g = int(lots.group[lot])
            if g not in allowed:
                allowed[g] = empty.room(group.level, group.i, group.j) > 0
            choice = _cheapest(board, lots, group, allowed[g])
            if choice is None:
                hopeless[lot] = True
                continue
            at, ejected = choice
            for other in ejected.tolist():
                _set(board, lots, other, -1)
        _set(board, lots, lot, at)
        left = int(lots.gpu_ms[lots.at < 0].sum())
        if left < best:
            best, best_at = left, lots.at.copy()
    return _layout_of(empty, lots, best_at, groups)


def _lots_of(layout: Layout, groups: Sequence[Group]) -> _Lots:
    rows: list[tuple[int, int]] = []
    for g, (group, places) in enumerate(zip(groups, layout.places, strict=True)):
        ats = [at for at in sorted(places) for _ in range(places[at])]
        rows += [(g, at) for at in ats] + [(g, -1)] * (group.lots - len(ats))
    board = layout.board
    gpu_ms = [length_ms(board, group) * lot_gpus(board, group.level) for group in groups]
    root = [max(1, math.isqrt(each * SQRT_SCALE // MS_PER_HOUR)) for each in gpu_ms]
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    of, at = table[:, 0], table[:, 1].copy()
    level, i, j = (np.array([group[k] for group in groups], dtype=np.int64)[of] for k in range(3))
    first, end = np.zeros(len(at), dtype=np.int64), np.zeros(len(at), dtype=np.int64)
    for row in np.flatnonzero(at >= 0).tolist():
        first[row], end[row] = board.nodes_of(Level(int(level[row])), int(at[row]))
    weight, size = np.array(root, dtype=np.int64)[of], np.array(gpu_ms, dtype=np.int64)[of]
    return _Lots(of, level, i, j, at, first, end, size, weight, np.ones(len(at), dtype=np.int64))


def _set(board: Board, lots: _Lots, lot: int, at: int) -> None:
    level, i, j = Level(int(lots.level[lot])), int(lots.i[lot]), int(lots.j[lot])
    if at < 0:
        board.place(level, int(lots.at[lot]), i, j, -1)
    else:
        board.place(level, at, i, j)
        lots.first[lot], lots.end[lot] = board.nodes_of(level, at)
    lots.at[lot] = at


def _cheapest(board: Board, lots: _Lots, group: Group, allowed: npt.NDArray[np.bool_]) -> tuple[int, IntArray] | None:
    """(place in the tier, lots in the way): where pushing them out costs least; None where pinned holdings bar all
    cells.
    """
    if not allowed.any():
        return None
    overlapping = np.flatnonzero((lots.at >= 0) & (lots.i < group.j) & (lots.j > group.i))
    cost = lots.penalty[overlapping] * lots.weight[overlapping]
    if group.level == Level.GPU:
        return _cheapest_node(board, lots, group, allowed, overlapping)
    of_node = board.tiers[group.level].of_node
    total = _spread(len(allowed), of_node[lots.first[overlapping]], of_node[lots.end[overlapping] - 1] + 1, cost)
    at = int(np.argmin(np.where(allowed, total, INT64_MAX)))
    first, end = board.nodes_of(group.level, at)
    return at, overlapping[(lots.first[overlapping] < end) & (lots.end[overlapping] > first)]


def _spread(n: int, first: IntArray, end: IntArray, cost: IntArray) -> IntArray:
    """(n): the sum of the costs of the ranges `[first, end)` over each cell."""
    steps = np.zeros(n + 1, dtype=np.int64)
    np.add.at(steps, first, cost)
    np.add.at(steps, end, -cost)
    return np.asarray(np.cumsum(steps)[:-1])


def _cheapest_node(
    board: Board, lots: _Lots, group: Group, allowed: npt.NDArray[np.bool_], overlapping: IntArray
) -> tuple[int, IntArray]:
    cost = lots.penalty[overlapping] * lots.weight[overlapping]
    single = lots.level[overlapping] == Level.GPU
    first, end = lots.first[overlapping], lots.end[overlapping]
    over = _spread(board.n_nodes, first[~single], end[~single], cost[~single])
    inside = _spread(board.n_nodes, first[single], end[single], cost[single])
    bound = np.where(allowed, over + inside // board.size, INT64_MAX)
    nodes = np.lexsort((np.arange(board.n_nodes), bound))[:NODES_LOOKED_INTO]
    best: tuple[int, int, IntArray] | None = None
    for node in nodes[allowed[nodes]].tolist():
        here = overlapping[(first <= node) & (end > node)]
        ejected, total = _making_room(board, lots, group, node, here)
        if best is None or total < best[0]:
            best = (total, node, ejected)
    assert best is not None, "some node is allowed"  # noqa: S101
    return best[1], best[2]


def _making_room(board: Board, lots: _Lots, group: Group, node: int, here: IntArray) -> tuple[IntArray, int]:
    """The lots to push out of a node so that one GPU lot fits: all larger ones, then GPU lots that relieve full
    slots best.
    """
    over = here[lots.level[here] > Level.GPU]
    ejected = over.tolist()
    used = board.used[node, group.i : group.j].astype(np.int64)
    for lot in ejected:
        used[max(0, int(lots.i[lot]) - group.i) : int(lots.j[lot]) - group.i] = 0
    single = here[lots.level[here] == Level.GPU]
    starts = np.maximum(lots.i[single] - group.i, 0)
    ends = np.minimum(lots.j[single], group.j) - group.i
    cost = lots.penalty[single] * lots.weight[single]
    while True:
        full = used >= board.size[node]
        if not full.any() or not len(single):
            break
        so_far = np.concatenate(([0], np.cumsum(full)))
        relieved = so_far[ends] - so_far[starts]
        # Least cost for each relieved slot; exact in integers by a common scale.
        ratio = np.where(relieved > 0, cost * 1_000 // np.maximum(relieved, 1), INT64_MAX)
        k = int(np.argmin(ratio))
        if relieved[k] == 0:
            break
        used[starts[k] : ends[k]] -= 1
        ejected.append(int(single[k]))
        keep = np.arange(len(single)) != k
        single, starts, ends, cost = single[keep], starts[keep], ends[keep], cost[keep]
    out = np.array(ejected, dtype=np.int64)
    return out, int((lots.penalty[out] * lots.weight[out]).sum())


def _layout_of(empty: Board, lots: _Lots, at: IntArray, groups: Sequence[Group]) -> Layout:
    board = empty.copy()
    places: list[Places] = [{} for _ in groups]
    for g, place in zip(lots.group.tolist(), at.tolist(), strict=True):
        if place >= 0:
            places[g][place] = places[g].get(place, 0) + 1
    for group, taken in zip(groups, places, strict=True):
        for place, count in taken.items():
            board.place(group.level, place, group.i, group.j, count)
    by_size = sorted(
        range(len(groups)), key=lambda g: (-lot_gpus(board, groups[g].level) * length_ms(board, groups[g]), g)
    )
    for g in by_size:
        group, short = groups[g], groups[g].lots - sum(places[g].values())
        for place, count in chosen(board, group, short) if short else ():
            board.place(group.level, place, group.i, group.j, count)
            places[g][place] = places[g].get(place, 0) + count
    return Layout(board, tuple(places))
