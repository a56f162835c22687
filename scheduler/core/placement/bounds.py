"""What a node costs at the least, for every number of GPUs, and where that is least in a pool: kept up to date.

A *leaf* is a node of the pool. Its *bound* is a price from which on so many GPUs of it can be had from accounts over
their count, whatever each of them may lose: the least when it was looked at. Prices that rose since do no harm, so only
leaves where one fell must be looked at anew, and those that a question comes to are. Its *share* is the same where a
gang on several nodes counts with its part on this one alone, so that shares of several nodes may be added. Over the
leaves stands a tree that knows the least bound and the fewest open GPUs, by number of GPUs; a *walk* gives leaves in
such an order, and looks only at what comes first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.excess import DEAREST, Desk, victims_of
from scheduler.core.placement.floor import N_OPEN, PLACE, POOL, RING, Floor
from scheduler.core.placement.victims import GPUS, Victims
from scheduler.core.quantities import ceil_div

FAN = 16
NODE, OPEN, ROOM, ROUND, BOUND = range(5)
"""Columns by leaf; the bound for `g` GPUs is at `BOUND + g`, the share `most + 1` columns later."""
MORE, PARTS, OFFERED, NOTED = range(4)
"""Columns of the scratch by leaf."""
FIRST = 1 << 60
"""Whatever has to be looked at before a choice is made comes before all that may be chosen at the same price."""


class Bounds(NamedTuple):
    """See the module; one for each pool."""

    leaves: IntArray
    """(n_leaves, 6 + 2 most): the node, ascending; open GPUs; GPUs once all that can be ended is gone; the round in
    which it was looked at; by GPUs from 0 on the bound; and the share.
    """
    least: IntArray
    """(n_inner, 2, most + 1): by inner node of the tree and GPUs, the least bound and the fewest open GPUs below."""
    starts: IntArray
    """(levels + 1): where each level of the tree begins in `least`, from below, and where the last one ends."""
    tally: IntArray
    """(most + 1): how many leaves have so many open GPUs."""
    scratch: IntArray
    """(n_leaves, 4), zeros: GPUs that the rows ended so far add; parts put there; whether its key is what it costs;
    whether it is among the `seen`.
    """
    seen: IntArray
    """(n_leaves): leaves whose scratch may not be zeros."""
    heap: IntArray
    """(n_leaves + n_inner): the items of a walk; those from n_leaves on are inner nodes."""
    place: IntArray
    """(n_leaves + n_inner): where each item stands in the heap, -1 nowhere."""
    keys: IntArray
    """(n_leaves + n_inner, 2): its key."""
    used: IntArray
    """(2): items in the heap; leaves seen."""
    head: IntArray
    """(2): which of all pools' leaves (`floor.PLACE`) its first is; the number of the round."""


def bounds_of(nodes: IntArray, first: int, most: int) -> Bounds:
    """Bounds of these nodes, ascending, none of which has more GPUs; nothing is known of them yet. `first`: the place
    of the first one.
    """
    starts, width = [0], len(nodes)
    while width > 1 or len(starts) == 1:
        width = ceil_div(width, FAN)
        starts.append(starts[-1] + width)
    leaves = np.zeros((len(nodes), BOUND + 2 * most + 2), dtype=np.int64)
    leaves[:, NODE] = nodes
    items = len(nodes) + starts[-1]
    return Bounds(
        leaves=leaves,
        least=np.full((starts[-1], 2, most + 1), DEAREST, dtype=np.int64),
        starts=np.array(starts, dtype=np.int64),
        tally=np.zeros(most + 1, dtype=np.int64),
        scratch=np.zeros((len(nodes), 4), dtype=np.int64),
        seen=np.zeros(len(nodes), dtype=np.int64),
        heap=np.zeros(items, dtype=np.int64),
        place=np.full(items, -1, dtype=np.int64),
        keys=np.zeros((items, 2), dtype=np.int64),
        used=np.zeros(2, dtype=np.int64),
        head=np.array([first, -1], dtype=np.int64),
    )


@kernel
def leaf_of(floor: Floor, bounds: Bounds, node: int) -> int:
    """The node's leaf."""
    return int(floor.nodes[node, PLACE] - bounds.head[0])


# ---- what is known ----


@kernel
def note_leaf(floor: Floor, bounds: Bounds, victims: Victims, excess: IntArray, desk: Desk, leaf: int) -> None:
    """What is known of a leaf, anew."""
    row = bounds.leaves[leaf]
    is_open, most = floor.nodes[row[NODE], N_OPEN], bounds.least.shape[2] - 1
    found, freed, spans = victims_of(floor, victims, excess, desk, row[NODE]), 0, False
    for at in range(found):
        freed += desk.victims[at, 2]
        spans = spans or desk.victims[at, 2] < victims.rows[desk.victims[at, 3], GPUS]
    bounds.tally[row[OPEN]] -= 1
    bounds.tally[is_open] += 1
    row[OPEN], row[ROOM], row[ROUND] = is_open, is_open + freed, bounds.head[1]
    note_prices(desk, found, freed, row[BOUND : BOUND + most + 1], is_open)
    if spans:
        for at in range(found):
            desk.victims[at, 0] = desk.victims[at, 0] * desk.victims[at, 2] // victims.rows[desk.victims[at, 3], GPUS]
        note_prices(desk, found, freed, row[BOUND + most + 1 :], is_open)
    else:
        row[BOUND + most + 1 :] = row[BOUND : BOUND + most + 1]


@kernel
def note_prices(desk: Desk, found: int, freed: int, prices: IntArray, is_open: int) -> None:
    """By GPUs from 0 on, the least price of so many on a node where so many are open and the victims at the desk, who
    can free so many, may be ended.
    """
    desk.price[0], so_far = 0, 0
    for at in range(found):
        price, number = desk.victims[at, 0], desk.victims[at, 2]
        desk.price[so_far + 1 : so_far + number + 1] = DEAREST
        for have in range(so_far, -1, -1):
            if desk.price[have] < DEAREST and desk.price[have] + price < desk.price[have + number]:
                desk.price[have + number] = desk.price[have] + price
        so_far += number
    prices[: is_open + 1] = 0
    prices[is_open + freed + 1 :] = DEAREST
    least = DEAREST
    for have in range(freed, 0, -1):
        least = min(least, desk.price[have])
        prices[is_open + have] = least


@kernel
def refresh(bounds: Bounds, leaf: int) -> None:
    """Carry a changed leaf up the tree, as far as it makes a difference."""
    most = bounds.least.shape[2] - 1
    at = leaf // FAN
    for level in range(len(bounds.starts) - 1):
        same = True
        for gpus in range(1, most + 1):
            price = is_open = DEAREST
            if level == 0:
                for below in range(at * FAN, min(at * FAN + FAN, len(bounds.leaves))):
                    price = min(price, bounds.leaves[below, BOUND + gpus])
                    if bounds.leaves[below, OPEN] >= gpus:
                        is_open = min(is_open, bounds.leaves[below, OPEN])
            else:
                low = bounds.starts[level - 1] + at * FAN
                for below in range(low, min(low + FAN, bounds.starts[level])):
                    price = min(price, bounds.least[below, 0, gpus])
                    is_open = min(is_open, bounds.least[below, 1, gpus])
            its = bounds.least[bounds.starts[level] + at]
            same = same and its[0, gpus] == price and its[1, gpus] == is_open
            its[0, gpus], its[1, gpus] = price, is_open
        if same:
            return
        at //= FAN


@kernel
def begin(floor: Floor, bounds: Bounds, victims: Victims, excess: IntArray, desk: Desk) -> int:
    """Look at every leaf. What of the ring was seen."""
    bounds.tally[:] = 0
    for leaf in range(len(bounds.leaves)):
        bounds.tally[bounds.leaves[leaf, OPEN]] += 1  # the leaf takes this back
        note_leaf(floor, bounds, victims, excess, desk, leaf)
    bounds.least[:] = -1
    for leaf in range(0, len(bounds.leaves), FAN):
        refresh(bounds, leaf)
    return int(floor.ring[RING])


@kernel
def catch_up(
    floor: Floor, bounds: Bounds, victims: Victims, excess: IntArray, desk: Desk, pool: int, seen: int, more: IntArray
) -> int:
    """Look anew at nodes touched since `seen`, and at these; at all where the ring lost some. What is seen now."""
    if seen < 0 or floor.ring[RING] - seen > RING:
        return begin(floor, bounds, victims, excess, desk)
    touched, last = floor.ring[RING] - seen, -1
    for at in range(touched + len(more)):
        node = floor.ring[(seen + at) % RING] if at < touched else more[at - touched]
        if node != last and floor.nodes[node, POOL] == pool:
            leaf = leaf_of(floor, bounds, node)
            note_leaf(floor, bounds, victims, excess, desk, leaf)
            refresh(bounds, leaf)
        last = node
    return int(floor.ring[RING])


# ---- walks ----


@kernel
def comes_before(bounds: Bounds, item: int, other: int) -> bool:
    """Whether the item is nearer to the front."""
    if bounds.keys[item, 0] != bounds.keys[other, 0]:
        return bool(bounds.keys[item, 0] < bounds.keys[other, 0])
    return bool(bounds.keys[item, 1] < bounds.keys[other, 1])


@kernel
def put(bounds: Bounds, item: int, key: int, tie: int) -> None:
    """Put the item where this key belongs, also if it stood elsewhere."""
    bounds.keys[item, 0], bounds.keys[item, 1] = key, tie
    at = bounds.place[item]
    if at < 0:
        at = bounds.used[0]
        bounds.used[0] += 1
    while at > 0:
        above = bounds.heap[(at - 1) // 2]
        if not comes_before(bounds, item, above):
            break
        bounds.heap[at], bounds.place[above] = above, at
        at = (at - 1) // 2
    sink(bounds, item, at)


@kernel
def sink(bounds: Bounds, item: int, at: int) -> None:
    """Put the item at this place of the heap or as far below as it belongs."""
    while True:
        below = 2 * at + 1
        if below >= bounds.used[0]:
            break
        if below + 1 < bounds.used[0] and comes_before(bounds, bounds.heap[below + 1], bounds.heap[below]):
            below += 1
        if not comes_before(bounds, bounds.heap[below], item):
            break
        bounds.heap[at], bounds.place[bounds.heap[below]] = bounds.heap[below], at
        at = below
    bounds.heap[at], bounds.place[item] = item, at


@kernel
def remove(bounds: Bounds, item: int) -> None:
    """Take the item out of the heap, if it is there."""
    at = bounds.place[item]
    if at < 0:
        return
    bounds.place[item] = -1
    bounds.used[0] -= 1
    last = bounds.heap[bounds.used[0]]
    if last != item:
        bounds.place[last] = -1
        while at > 0 and comes_before(bounds, last, bounds.heap[(at - 1) // 2]):
            above = bounds.heap[(at - 1) // 2]
            bounds.heap[at], bounds.place[above] = above, at
            at = (at - 1) // 2
        sink(bounds, last, at)


@kernel
def clear(bounds: Bounds) -> None:
    """No walk: everything is as it was found."""
    for at in range(bounds.used[0]):
        bounds.place[bounds.heap[at]] = -1
    for at in range(bounds.used[1]):
        bounds.scratch[bounds.seen[at]] = 0
    bounds.used[:] = 0


@kernel
def note(bounds: Bounds, leaf: int) -> None:
    """Remember that the leaf's scratch is in use."""
    if not bounds.scratch[leaf, NOTED]:
        bounds.scratch[leaf, NOTED] = 1
        bounds.seen[bounds.used[1]] = leaf
        bounds.used[1] += 1


@kernel
def put_root(bounds: Bounds, gpus: int, by_open: int) -> None:
    """Begin a walk over all leaves with so many GPUs."""
    root = len(bounds.least) - 1
    if bounds.least[root, by_open, gpus] < DEAREST:
        put(bounds, len(bounds.leaves) + root, bounds.least[root, by_open, gpus], -FIRST)


@kernel
def open_up(bounds: Bounds, item: int, gpus: int, by_open: int) -> None:
    """Put what is below the inner node, which is at the front, in its place: by bound all that has to be looked at, by
    open GPUs the leaves as they stand; but no leaf that was seen.
    """
    remove(bounds, item)
    at, level = item - len(bounds.leaves), 0
    while at >= bounds.starts[level + 1]:
        level += 1
    low = (at - bounds.starts[level]) * FAN
    if level == 0:
        for leaf in range(low, min(low + FAN, len(bounds.leaves))):
            if bounds.scratch[leaf, NOTED]:
                continue
            if not by_open and bounds.leaves[leaf, BOUND + gpus] < DEAREST:
                put(bounds, leaf, bounds.leaves[leaf, BOUND + gpus], -FIRST)
            elif by_open and bounds.leaves[leaf, OPEN] >= gpus:
                put(bounds, leaf, bounds.leaves[leaf, OPEN], leaf)
        return
    low += bounds.starts[level - 1]
    for below in range(low, min(low + FAN, bounds.starts[level])):
        if bounds.least[below, by_open, gpus] < DEAREST:
            put(bounds, len(bounds.leaves) + below, bounds.least[below, by_open, gpus], -FIRST)
