"""The inner loops of planning one pool, as kernels: what is free, where a group goes, and guided ejection.

Cells are those of a `Nest`, windows are slots `[i, j)`. Ties go to the lower number, so the same input gives the
same bytes, compiled or not.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.coverage.nest import Int64s, Lots, Nest, Spans, Taken
from scheduler.core.kernels import kernel

# Levels as plain integers: kernels know no enumerations.
GPU, NODE, DOMAIN, BLOCK = 0, 1, 2, 3

NODES_LOOKED_INTO = 6
"""How many nodes, by a bound on their cost, are worked out exactly for a GPU lot."""
RATIO_SCALE = 1_000
"""Cost for each relieved slot keeps three decimals."""
HOPELESS = 1 << 40
"""The penalty of a lot that what is pinned bars from every cell."""


@kernel
def put(nest: Nest, taken: Taken, level: int, cell: int, i: int, j: int, times: int) -> None:
    """Take the cell (so many GPUs of that node) for the slots; negative gives back."""
    put_on_nodes(nest, taken, level, cell, i, j, times)
    put_above(nest, taken, level, cell, i, j, times)


@kernel
def put_on_nodes(nest: Nest, taken: Taken, level: int, cell: int, i: int, j: int, times: int) -> None:
    """`put`, on the nodes alone."""
    if level == GPU:
        taken.used[cell, i:j] += np.int8(times)
        return
    sign = 1 if times > 0 else -1
    for node in range(nest.first[cell], nest.end[cell]):
        taken.used[node, i:j] += np.int8(sign * nest.size[node])


@kernel
def put_above(nest: Nest, taken: Taken, level: int, cell: int, i: int, j: int, times: int) -> None:
    """`put`, on the cells above the nodes alone; `times` may add up several lots inside one domain."""
    first, end = nest.first[cell], nest.end[cell]
    nodes = len(nest.size)
    gpus = times * lot_size(nest, level, cell)
    for outer in range(DOMAIN, len(nest.offset) - 1):
        if outer >= level:
            taken.held[nest.above[outer, first] - nodes, i:j] += np.int32(gpus)
            continue
        for upper in range(nest.above[outer, first], nest.above[outer, end - 1] + 1):
            taken.held[upper - nodes, i:j] += np.int32(times * nest.gpus[upper])


@kernel
def lot_size(nest: Nest, level: int, cell: int) -> int:
    """GPUs of a lot on that cell."""
    return 1 if level == GPU else int(nest.gpus[cell])


@kernel
def room(nest: Nest, taken: Taken, level: int, cell: int, i: int, j: int) -> int:
    """How many lots of the level the cell (node) can still take throughout the slots."""
    if level > NODE:
        if not nest.whole[cell] or taken.held[cell - len(nest.size), i:j].max() > 0:
            return 0
        return 1
    size = nest.size[cell]
    if level == NODE:
        return 0 if taken.used[cell, i] > 0 or taken.used[cell, i:j].max() > 0 else 1
    if taken.used[cell, i] >= size:
        return 0
    free = size - taken.used[cell, i:j].max()
    if free > 0 and len(nest.pinned) > 0:
        never = 0
        for row in range(nest.first_row[cell], nest.first_row[cell + 1]):
            if not nest.pinned[row, i:j].any():
                never += 1
        free = min(free, never)
    return int(free)


@kernel
def may_have_room(nest: Nest, taken: Taken, level: int, outer: int, i: int, j: int) -> bool:
    """Whether a cell above the nodes has as many GPUs free at every instant as the smallest lot needs: mostly not, and
    then nothing inside needs to be looked at.
    """
    return bool(nest.gpus[outer] - taken.held[outer - len(nest.size), i:j].max() >= nest.least[level])


@kernel
def newly_broken(nest: Nest, taken: Taken, cell: int, i: int, j: int) -> int:
    """How long, of the slots, the cell is still untouched, in milliseconds; a cell in two pools is broken anyway."""
    nodes = len(nest.size)
    if cell < nodes:
        return int(((taken.used[cell, i:j] == 0) * nest.length[i:j]).sum())
    if not nest.whole[cell]:
        return 0
    return int(((taken.held[cell - nodes, i:j] == 0) * nest.length[i:j]).sum())


@kernel
def least_broken_first(nest: Nest, taken: Taken, cells: Int64s, i: int, j: int) -> Int64s:
    """The cells, those first that newly break for the shortest time."""
    cost = np.empty(len(cells), dtype=np.int64)
    for k in range(len(cells)):
        cost[k] = newly_broken(nest, taken, cells[k], i, j)
    return cells[np.argsort(cost, kind="mergesort")]


@kernel
def with_room(nest: Nest, taken: Taken, level: int, block: int, i: int, j: int) -> Int64s:
    """The cells of a block that can take a lot, by number."""
    start, stop = nest.first[block], nest.end[block]
    first, end = nest.above[level, start], nest.above[level, stop - 1] + 1
    found = np.empty(end - first, dtype=np.int64)
    n = 0
    domain, open_domain = -1, True
    for cell in range(first, end):
        if level < DOMAIN:
            if nest.above[DOMAIN, cell] != domain:
                domain = nest.above[DOMAIN, cell]
                open_domain = may_have_room(nest, taken, level, domain, i, j)
            if not open_domain:
                continue
        if room(nest, taken, level, cell, i, j) > 0:
            found[n] = cell
            n += 1
    return found[:n]


@kernel
def outer_cells(nest: Nest, level: int, cells: Int64s) -> Int64s:
    """The distinct cells of a level over ascending cells."""
    found = np.empty(len(cells), dtype=np.int64)
    n = 0
    for cell in cells:
        outer = nest.above[level, nest.first[cell]]
        if n == 0 or found[n - 1] != outer:
            found[n] = outer
            n += 1
    return found[:n]


@kernel
def choose(
    nest: Nest, taken: Taken, level: int, i: int, j: int, lots: int, first_fit: int, cells: Int64s, counts: Int64s
) -> int:
    """Fills `cells` and `counts` with places for up to `lots` lots and gives how many places: where the fewest hours
    are newly broken, blocks first, then domains, then nodes, ties by number; or the first that fit.
    """
    n = 0
    if level >= BLOCK:
        for cell in range(nest.offset[level], nest.offset[level + 1]):
            if n < lots and room(nest, taken, level, cell, i, j) > 0:
                cells[n], counts[n] = cell, 1
                n += 1
        return n
    blocks = open_blocks(nest, taken, level, i, j)
    for block in blocks if first_fit else least_broken_first(nest, taken, blocks, i, j):
        fit = with_room(nest, taken, level, block, i, j)
        if not first_fit and level < DOMAIN and len(fit) > 1:
            fit = compactly(nest, taken, level, fit, i, j)
        for cell in fit:
            free = min(lots, room(nest, taken, level, cell, i, j))
            cells[n], counts[n] = cell, free
            lots -= free
            n += 1
            if lots == 0:
                return n
    return n


@kernel
def open_blocks(nest: Nest, taken: Taken, level: int, i: int, j: int) -> Int64s:
    """The blocks in which a lot may find room."""
    first, end = nest.offset[BLOCK], nest.offset[BLOCK + 1]
    found = np.empty(end - first, dtype=np.int64)
    n = 0
    for block in range(first, end):
        if may_have_room(nest, taken, level, block, i, j):
            found[n] = block
            n += 1
    return found[:n]


@kernel
def compactly(nest: Nest, taken: Taken, level: int, fit: Int64s, i: int, j: int) -> Int64s:
    """The nodes that can take a lot, in the order in which they should: by domain, then by node."""
    n = 0
    ordered = np.empty(len(fit), dtype=np.int64)
    for domain in least_broken_first(nest, taken, outer_cells(nest, DOMAIN, fit), i, j):
        inside = fit[np.searchsorted(fit, nest.first[domain]) : np.searchsorted(fit, nest.end[domain])]
        if level == GPU:
            inside = least_broken_first(nest, taken, inside, i, j)
        ordered[n : n + len(inside)] = inside
        n += len(inside)
    return ordered


@kernel
def fill(
    nest: Nest,
    taken: Taken,
    groups: tuple[Int64s, Int64s, Int64s, Int64s],
    order: Int64s,
    liked: tuple[Int64s, Int64s],
    first_fit: int,
    placed: Int64s,
) -> int:
    """Places groups (level, i, j, lots) in an order; `placed` gets rows (group, cell, lots), the result says how many.

    `liked`: cells that are taken first where they are free, and (n_groups + 1) where each group's begin.
    """
    level, start, stop, lots = groups
    cells = np.empty(len(nest.first), dtype=np.int64)
    counts = np.empty(len(nest.first), dtype=np.int64)
    n = 0
    for g in order:
        left, i, j = lots[g], start[g], stop[g]
        for at in range(liked[1][g], liked[1][g + 1]):
            cell = liked[0][at]
            if left > 0 and room(nest, taken, level[g], cell, i, j) > 0:
                put(nest, taken, level[g], cell, i, j, 1)
                placed[n, 0], placed[n, 1], placed[n, 2] = g, cell, 1
                n += 1
                left -= 1
        found = choose(nest, taken, level[g], i, j, left, first_fit, cells, counts) if left > 0 else 0
        together = 0
        for k in range(found):
            put_on_nodes(nest, taken, level[g], cells[k], i, j, counts[k])
            placed[n, 0], placed[n, 1], placed[n, 2] = g, cells[k], counts[k]
            n += 1
            # What lies in one domain is put on it, and on what is above, once.
            together += counts[k]
            if k + 1 == found or level[g] >= DOMAIN or nest.above[DOMAIN, cells[k]] != nest.above[DOMAIN, cells[k + 1]]:
                put_above(nest, taken, level[g], cells[k], i, j, together)
                together = 0
    return n


@kernel
def overlapping(lots: Lots, spans: Spans, i: int, j: int, near: Int64s) -> int:
    """Fills `near` with the placed lots that share a slot with `[i, j)`, and gives how many."""
    n = 0
    for c in range(len(spans.longest)):
        lo, hi = spans.first[c], spans.first[c + 1]
        starts = spans.start[lo:hi]
        first = lo + np.searchsorted(starts, i - spans.longest[c] + 1)
        end = lo + np.searchsorted(starts, j)
        for at in range(first, end):
            lot = spans.lot[at]
            if lots.cell[lot] >= 0 and lots.j[lot] > i:
                near[n] = lot
                n += 1
    return n


@kernel
def cheapest_cell(
    nest: Nest, base: Taken, lots: Lots, penalty: Int64s, lot: int, near: Int64s, n_near: int, out: Int64s
) -> tuple[int, int]:
    """(cell, how many of `out`): the whole cell where pushing lots out costs least, and those lots; cell -1 where what
    is pinned bars all.
    """
    level, i, j = lots.level[lot], lots.i[lot], lots.j[lot]
    first, end = nest.offset[level], nest.offset[level + 1]
    steps = np.zeros(end - first + 1, dtype=np.int64)
    for k in range(n_near):
        other = near[k]
        cost = penalty[other] * lots.weight[other]
        at = lots.cell[other]
        steps[nest.above[level, nest.first[at]] - first] += cost
        steps[nest.above[level, nest.end[at] - 1] + 1 - first] -= cost
    best = -1
    least, running = np.int64(0), np.int64(0)
    for cell in range(first, end):
        running += steps[cell - first]
        if (best < 0 or running < least) and room(nest, base, level, cell, i, j) > 0:
            best, least = cell, running
    n = 0
    if best >= 0:
        for k in range(n_near):
            at = lots.cell[near[k]]
            if nest.first[at] < nest.end[best] and nest.end[at] > nest.first[best]:
                out[n] = near[k]
                n += 1
    return best, n


@kernel
def cheapest_node(
    nest: Nest,
    board: tuple[Taken, Taken],
    lots: Lots,
    penalty: Int64s,
    lot: int,
    near: Int64s,
    n_near: int,
    out: Int64s,
) -> tuple[int, int]:
    """`cheapest_cell` for a GPU lot; `board`: (what is pinned, all that is taken)."""
    i, j = lots.i[lot], lots.j[lot]
    nodes = len(nest.size)
    steps = np.zeros(nodes + 1, dtype=np.int64)
    single = np.zeros(nodes, dtype=np.int64)
    for k in range(n_near):
        other = near[k]
        cost = penalty[other] * lots.weight[other]
        at = lots.cell[other]
        if lots.level[other] == GPU:
            single[at] += cost
        else:
            steps[nest.first[at]] += cost
            steps[nest.end[at]] -= cost
    bound = np.cumsum(steps)[:nodes] + single // nest.size
    trial = np.empty(n_near, dtype=np.int64)
    best, n_best, looked = -1, 0, 0
    least = np.int64(0)
    for node in np.argsort(bound, kind="mergesort"):
        if looked == NODES_LOOKED_INTO or (best >= 0 and bound[node] >= least):
            break
        if room(nest, board[0], GPU, node, i, j) == 0:
            continue
        looked += 1
        cost, n = making_room(nest, board[1], lots, penalty, lot, node, near, n_near, trial)
        if best < 0 or cost < least:
            best, n_best, least = node, n, np.int64(cost)
            out[:n] = trial[:n]
    return best, n_best


@kernel
def making_room(
    nest: Nest,
    taken: Taken,
    lots: Lots,
    penalty: Int64s,
    lot: int,
    node: int,
    near: Int64s,
    n_near: int,
    out: Int64s,
) -> tuple[int, int]:
    """(cost, how many of `out`): the lots to push out of a node so that one GPU lot fits: all larger ones, then those
    GPU lots that relieve full slots at the least cost for each.
    """
    i, j = lots.i[lot], lots.j[lot]
    used = taken.used[node, i:j].copy()
    here = np.empty(n_near, dtype=np.int64)
    n_here, n = 0, 0
    total = np.int64(0)
    for k in range(n_near):
        other = near[k]
        at = lots.cell[other]
        if lots.level[other] == GPU:
            if at == node:
                here[n_here] = other
                n_here += 1
        elif nest.first[at] <= node < nest.end[at]:
            out[n] = other
            n += 1
            total += penalty[other] * lots.weight[other]
            used[max(i, lots.i[other]) - i : min(j, lots.j[other]) - i] = 0
    while used.max() >= nest.size[node]:
        best = -1
        least = np.int64(0)
        for k in range(n_here):
            other = here[k]
            a, b = max(i, lots.i[other]) - i, min(j, lots.j[other]) - i
            relieved = (used[a:b] >= nest.size[node]).sum()
            if relieved > 0:
                ratio = penalty[other] * lots.weight[other] * RATIO_SCALE // relieved
                if best < 0 or ratio < least:
                    best, least = k, ratio
        other = here[best]
        here[best] = here[n_here - 1]
        n_here -= 1
        out[n] = other
        n += 1
        total += penalty[other] * lots.weight[other]
        used[max(i, lots.i[other]) - i : min(j, lots.j[other]) - i] -= np.int8(1)
    return int(total), n


@kernel
def eject(nest: Nest, base: Taken, taken: Taken, lots: Lots, spans: Spans, rounds: int, best: Int64s) -> int:
    """Guided ejection: fills `best` with the cells of the best state of so many rounds, and gives the rounds it took.

    Each round: the waiting lot of the most weight for its penalty, whose penalty grows, goes where it is free, or where
    those in its way cost least, and they wait in its stead.
    """
    penalty = np.ones(len(lots.cell), dtype=np.int64)
    waiting = np.empty(len(lots.cell), dtype=np.int64)
    near = np.empty(len(lots.cell), dtype=np.int64)
    out = np.empty(len(lots.cell), dtype=np.int64)
    one_cell, one_count = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int64)
    n = 0
    left = np.int64(0)
    for lot in range(len(lots.cell)):
        if lots.cell[lot] < 0:
            waiting[n] = lot
            n += 1
            left += lots.weight[lot]
    best[:] = lots.cell
    least = left
    for done in range(rounds):
        if n == 0:
            return done
        at = next_waiting(lots.weight, penalty, waiting, n)
        lot = waiting[at]
        penalty[lot] += 1
        level, i, j = lots.level[lot], lots.i[lot], lots.j[lot]
        n_out = 0
        if choose(nest, taken, level, i, j, 1, 0, one_cell, one_count):
            cell = one_cell[0]
        else:
            n_near = overlapping(lots, spans, i, j, near)
            if level == GPU:
                cell, n_out = cheapest_node(nest, (base, taken), lots, penalty, lot, near, n_near, out)
            else:
                cell, n_out = cheapest_cell(nest, base, lots, penalty, lot, near, n_near, out)
            if cell < 0:
                penalty[lot] = HOPELESS
                continue
        waiting[at] = waiting[n - 1]
        n -= 1
        for k in range(n_out):
            other = out[k]
            put(nest, taken, lots.level[other], lots.cell[other], lots.i[other], lots.j[other], -1)
            lots.cell[other] = -1
            left += lots.weight[other]
            waiting[n] = other
            n += 1
        put(nest, taken, level, cell, i, j, 1)
        lots.cell[lot] = cell
        left -= lots.weight[lot]
        if left < least:
            least = left
            best[:] = lots.cell
    return rounds


@kernel
def next_waiting(weight: Int64s, penalty: Int64s, waiting: Int64s, n: int) -> int:
    """Which of the waiting lots is next: the most weight for its penalty, ties by number."""
    best = 0
    for k in range(1, n):
        lot, other = waiting[k], waiting[best]
        mine, theirs = weight[lot] // penalty[lot], weight[other] // penalty[other]
        if mine > theirs or (mine == theirs and lot < other):
            best = k
    return best


@kernel
def put_rows(nest: Nest, taken: Taken, level: Int64s, i: Int64s, j: Int64s, rows: Int64s) -> None:
    """`put` for rows (group, cell, lots) of groups with that level and window."""
    for row in rows:
        g = row[0]
        put(nest, taken, level[g], row[1], i[g], j[g], row[2])


@kernel
def free_until(nest: Nest, taken: Taken, level: int, cell: int, i: int, j: int) -> int:
    """The slot, at most `j`, up to which the cell can take a lot from `i` on; `i` where it cannot."""
    at = i
    if level > NODE:
        while at < j and nest.whole[cell] and taken.held[cell - len(nest.size), at] == 0:
            at += 1
        return at
    full = nest.size[cell] if level == GPU else 1
    while at < j and taken.used[cell, at] < full:
        at += 1
    return at if at > i and room(nest, taken, level, cell, i, at) > 0 else i


@kernel
def longest_free(nest: Nest, taken: Taken, level: int, i: int, j: int) -> tuple[int, int]:
    """(cell, until): where a lot can stay longest from `i` on; the cell is -1 where none is free at `i`."""
    cells, counts = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int64)
    if choose(nest, taken, level, i, j, 1, 0, cells, counts) > 0:
        return int(cells[0]), j
    best, until = -1, i
    for cell in range(nest.offset[level], nest.offset[max(level, NODE) + 1]):
        at = free_until(nest, taken, level, cell, i, j)
        if at > until:
            best, until = cell, at
    return best, until
