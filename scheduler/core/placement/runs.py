"""A run of turns, served one after the other by machine code, up to the first that needs more than free GPUs.

Each turn follows the rules of `owned` and `borrowed`, to the letter; what it decides is written down (`Record`), and
the books take it in afterwards. What is rare or long-winded (reclaim, elastic gangs, shares, workers apart) is given
back to those modules, turn by turn.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.cells import Cells
from scheduler.core.placement.floor import AT_NODE, RING, UNTIL_MS, USABLE, Floor, hold
from scheduler.core.placement.orders import LASTING_OWN, LASTING_OWN_OR_UNSOLD, LASTING_UNSOLD, OF_UNSOLD, Orders
from scheduler.core.placement.repack import KEPT, LEVEL, NUMBER, Tables, repacks
from scheduler.core.placement.repack import PARTS as GANG_PARTS
from scheduler.core.placement.repack import SIZE as GANG_SIZE
from scheduler.core.placement.roll import (
    ACCOUNT,
    AFTER,
    AFTER_POOL,
    AFTER_WANT,
    ASKED,
    BY_HAND,
    BY_RULES,
    END_MS,
    FIRMLY,
    FIRST_POOL,
    FIRST_WANT,
    FREELY,
    GPUS,
    HEAD,
    IS_OUT,
    ORDER,
    PARTS,
    RECKLESS,
    REFUSED,
    ROW,
    SERVED,
    SHAPE,
    SIZE,
    Roll,
    pop,
    push,
)
from scheduler.core.placement.tight import Desk, fit

DONE, FULL, NO_ORDER = -1, -2, -3
"""Nobody is asked any more; the record must be emptied; this less a line: an order that it needs has to be made."""

GANG, POOL, LAST_GPU = range(3)
"""Columns of placements."""


class Record(NamedTuple):
    """What a run decided, in order."""

    size: IntArray
    """[placements, GPUs]."""
    placed: IntArray
    """(n, 3): the gang; its pool; behind its last entry in `gpus`."""
    gpus: IntArray
    """(n): the GPUs of all placements."""


class Stage(NamedTuple):
    """Everything that a run looks at and changes."""

    floor: Floor
    orders: Orders
    desk: Desk
    cells: Cells
    roll: Roll
    tables: Tables
    excess: IntArray
    """(n_pools, n_accounts): by how much each account is over its count."""
    firm_used: IntArray
    """(n_pools, n_accounts): GPUs of each account's gangs that cannot be preempted."""
    record: Record


@kernel
def has_room(stage: Stage, line: int) -> bool:
    """Whether the count of the line's account holds one of its gangs in some pool."""
    roll = stage.roll
    account, shape = roll.lines[line, ACCOUNT], roll.lines[line, SHAPE]
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        if -stage.excess[roll.pools[i], account] >= roll.shapes[shape, GPUS]:
            return True
    return False


@kernel
def ask(stage: Stage, line: int) -> None:
    """Put the line's head into the heap, if it has one, is not there, and its account has room for it."""
    lines = stage.roll.lines
    if not lines[line, ASKED] and lines[line, HEAD] < lines[line, AFTER] and has_room(stage, line):
        lines[line, ASKED] = 1
        push(stage.roll.heap, stage.roll.turns[lines[line, HEAD]])


@kernel
def is_full(stage: Stage, gpus: int) -> bool:
    """Whether the record has no room for one more placement of so many GPUs."""
    record = stage.record
    return bool(record.size[0] == len(record.placed) or record.size[1] + gpus > len(record.gpus))


@kernel
def entry_of(tables: Tables, part: int, row: int, parts: int, size: int) -> int:
    """Where the table of the part has this want; -1: it is kept elsewhere."""
    if not tables.state[part, KEPT]:
        return -1
    level = row + 2 if row >= 0 else 0
    for entry in range(tables.first[part], tables.first[part + 1]):
        known = tables.table[entry]
        if known[LEVEL] == level and known[GANG_PARTS] == parts and known[GANG_SIZE] == size:
            return entry
    return -1


@kernel
def place(stage: Stage, line: int, pool: int, n_gpus: int, row: int, entry: int) -> None:
    """Give the line's head the GPUs at the desk, as this row of the books; `entry`: where it counts, -1: elsewhere."""
    roll, record = stage.roll, stage.record
    gpus = stage.desk.gpus[:n_gpus]
    firm = int(roll.shapes[roll.lines[line, SHAPE], SERVED] == FIRMLY)
    hold(stage.floor, gpus, row, firm)
    stage.firm_used[pool, roll.lines[line, ACCOUNT]] += firm * n_gpus
    number, low = record.size[0], record.size[1]
    record.gpus[low : low + n_gpus] = gpus
    record.placed[number, GANG] = roll.lines[line, HEAD]
    record.placed[number, POOL] = pool
    record.placed[number, LAST_GPU] = low + n_gpus
    record.size[0] = number + 1
    record.size[1] = low + n_gpus
    stage.excess[pool, roll.lines[line, ACCOUNT]] += n_gpus
    if entry >= 0:
        stage.tables.table[entry, NUMBER] += 1
    roll.lines[line, HEAD] += 1


@kernel
def free_fit(stage: Stage, line: int, pool: int, kinds: int, lasting: int, end_ms: int, account: int) -> int:
    """GPUs for the best wish of the line that fits, in the earliest tier, at the desk; how many, 0: it does not fit."""
    roll, low, high = stage.roll, 0, 0
    if account >= 0:
        part = account * len(stage.excess) + pool
        low, high = stage.tables.first_unit[part], stage.tables.first_unit[part + 1]
    shape = roll.lines[line, SHAPE]
    for i in range(roll.shapes[shape, FIRST_WANT], roll.shapes[shape, AFTER_WANT]):
        found = fit_want(stage, i, pool, kinds, lasting, end_ms, account, low, high)
        if found > 0:
            return found
    return 0


@kernel
def fit_want(
    stage: Stage, want: int, pool: int, kinds: int, lasting: int, end_ms: int, account: int, low: int, high: int
) -> int:
    """GPUs for one of the wants, at the desk; how many, 0: it does not fit."""
    wants = stage.roll.wants
    return fit(
        stage.floor,
        stage.orders,
        stage.desk,
        stage.cells,
        kinds,
        lasting,
        pool,
        wants[want, ROW],
        wants[want, PARTS],
        wants[want, SIZE],
        account,
        end_ms,
        low,
        high,
        0,
    )


@kernel
def repack_part(stage: Stage, part: int, taken: IntArray) -> bool:
    """Whether what the part's table counts repacks into its own GPUs without the taken ones."""
    tables = stage.tables
    table = tables.table[tables.first[part] : tables.first[part + 1]]
    low, high = tables.first_unit[part], tables.first_unit[part + 1]
    return repacks(stage.floor, low, high, table, taken, stage.cells, stage.desk.by_cell)


@kernel
def place_inside(stage: Stage, line: int, kinds: int, row: int) -> int:
    """Place the line's head, which can be preempted, where it is inside its entitlement: 1; 0: it is not; -1: it is,
    but not on free GPUs, or that cannot be told here.
    """
    roll, tables = stage.roll, stage.tables
    account, shape = roll.lines[line, ACCOUNT], roll.lines[line, SHAPE]
    least = roll.shapes[shape, AFTER_WANT] - 1
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        pool = roll.pools[i]
        if -stage.excess[pool, account] < roll.shapes[shape, GPUS]:
            continue
        part = account * len(stage.excess) + pool
        entry = entry_of(tables, part, roll.wants[least, ROW], roll.wants[least, PARTS], roll.wants[least, SIZE])
        if entry < 0:
            return -1
        tables.table[entry, NUMBER] += 1
        repacked = repack_part(stage, part, stage.desk.none)
        tables.table[entry, NUMBER] -= 1
        if not repacked:
            roll.lines[line, REFUSED] = 1
            continue
        found = free_fit(stage, line, pool, kinds, OF_UNSOLD, 0, account)
        if found == 0:
            return -1
        place(stage, line, pool, found, row, entry)
        return 1
    return 0


@kernel
def owns_for(stage: Stage, line: int, pool: int) -> bool:
    """Whether the line's account owns enough until its head has ended, for all its gangs that cannot be preempted."""
    roll, tables = stage.roll, stage.tables
    account, shape = roll.lines[line, ACCOUNT], roll.lines[line, SHAPE]
    part = account * len(stage.excess) + pool
    lasting = 0
    for i in range(tables.first_gpu[part], tables.first_gpu[part + 1]):
        gpu = tables.gpus[i]
        if stage.floor.gpus[gpu, USABLE] and stage.floor.gpus[gpu, UNTIL_MS] >= roll.shapes[shape, END_MS]:
            lasting += 1
    return bool(stage.firm_used[pool, account] + roll.shapes[shape, GPUS] <= lasting)


@kernel
def place_firm(stage: Stage, line: int, row: int) -> int:
    """The same for one that cannot be preempted (see `firm`); NO_ORDER - line: the order of its end is not made yet."""
    roll, tables = stage.roll, stage.tables
    account, shape = roll.lines[line, ACCOUNT], roll.lines[line, SHAPE]
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        pool = roll.pools[i]
        if -stage.excess[pool, account] < roll.shapes[shape, GPUS] or not owns_for(stage, line, pool):
            continue
        part = account * len(stage.excess) + pool
        if not tables.state[part, KEPT]:
            return -1
        if not repack_part(stage, part, stage.desk.none):
            continue
        order, end_ms = roll.shapes[shape, ORDER], roll.shapes[shape, END_MS]
        if order < 0:
            return NO_ORDER - line
        low, high = tables.first_unit[part], tables.first_unit[part + 1]
        for at in range(roll.shapes[shape, FIRST_WANT], roll.shapes[shape, AFTER_WANT]):
            for kind in range(LASTING_OWN, LASTING_OWN_OR_UNSOLD + 1):
                found = fit_want(stage, at, pool, 1 << kind, order, end_ms, account, low, high)
                if found > 0 and repack_part(stage, part, stage.desk.gpus[:found]):
                    place(stage, line, pool, found, row, -1)
                    return 1
        return -1
    return 0


@kernel
def serve_inside(stage: Stage, kinds: int, row: int) -> int:
    """Serve gangs inside their entitlement (see `owned`), the first as this row; the line whose turn it is and which
    is not for here, DONE, FULL, or NO_ORDER and below.
    """
    roll = stage.roll
    while roll.heap[0] > 0:
        line = int(roll.line_of_turn[roll.heap[1]])
        shape = roll.lines[line, SHAPE]
        if is_full(stage, roll.shapes[shape, GPUS]):
            return FULL
        placed = -1
        if not roll.lines[line, BY_HAND] and roll.lines[line, HEAD] == roll.lines[line, AFTER]:
            placed = 0
        elif not roll.lines[line, BY_HAND] and roll.shapes[shape, SERVED] == FREELY:
            placed = place_inside(stage, line, kinds, row + stage.record.size[0])
        elif not roll.lines[line, BY_HAND] and roll.shapes[shape, SERVED] == FIRMLY:
            placed = place_firm(stage, line, row + stage.record.size[0])
        if placed <= NO_ORDER:
            return placed
        pop(roll.heap)
        roll.lines[line, ASKED] = 0
        if placed < 0:
            return line
        if placed:
            ask_again(stage, line)
    return DONE


@kernel
def ask_again(stage: Stage, line: int) -> None:
    """Gangs of the line were placed: ask the next one, and the lines that its account's cells refused before."""
    roll = stage.roll
    ask(stage, line)
    account = roll.lines[line, ACCOUNT]
    for other in range(roll.of_account[account], roll.of_account[account + 1]):
        if roll.lines[other, REFUSED]:
            roll.lines[other, REFUSED] = 0
            ask(stage, other)


class Terms(NamedTuple):
    """What borrowers are bound to."""

    kinds: IntArray
    """[tiers of a gang that declares an end, tiers where that does not matter]."""
    ends: IntArray
    """(n, 2): instants at which ownership changes, and the order of GPUs that last until then; -1: not made yet."""
    end: IntArray
    """(n_gangs): which of these instants its GPUs should last to; -1: that tells no GPUs apart."""
    gone_ms: IntArray
    """(n_gangs): when it has ended, should it start now."""
    idle: IntArray
    """(n_pools): GPUs that those must leave idle who borrow only while the pool is roomy."""
    start_ms: IntArray
    """(n_pools): when the protected gang should start; INT64_MAX where there is none."""
    spare: IntArray
    """(n_nodes): GPUs that may be taken beyond that."""
    not_unsold: IntArray
    """(n_shapes, n_pools): whether unsold GPUs have no room for the shape, which cannot be preempted."""


@kernel
def spares(stage: Stage, terms: Terms, n_gpus: int, taken: int) -> bool:
    """Whether the protected gang does not need the GPUs at the desk; with `taken`, they are taken."""
    low = 0
    while low < n_gpus:
        node = stage.floor.gpus[stage.desk.gpus[low], AT_NODE]
        high = low
        while high < n_gpus and stage.floor.gpus[stage.desk.gpus[high], AT_NODE] == node:
            high += 1
        if taken:
            terms.spare[node] -= high - low
        elif high - low > terms.spare[node]:
            return False
        low = high
    return True


@kernel
def place_borrower(stage: Stage, terms: Terms, line: int, row: int) -> int:
    """Place the line's head, which can be preempted, on free GPUs: 1; 0: they do not have room; -1: they would, but
    another gang needs them; NO_ORDER and below: see there.
    """
    roll = stage.roll
    shape, head = roll.lines[line, SHAPE], roll.lines[line, HEAD]
    end, kinds, lasting, end_ms = terms.end[head], terms.kinds[1], OF_UNSOLD, 0
    if end >= 0:
        kinds, end_ms, lasting = terms.kinds[0], terms.ends[end, 0], terms.ends[end, 1]
        if lasting < 0:
            return NO_ORDER - line
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        pool = roll.pools[i]
        left = stage.floor.ring[RING + 1 + pool] - roll.shapes[shape, GPUS]
        if roll.shapes[shape, RECKLESS] and left < terms.idle[pool]:
            continue
        found = free_fit(stage, line, pool, kinds, lasting, end_ms, -2)
        if found > 0:
            least = roll.shapes[shape, AFTER_WANT] - 1
            part = roll.lines[line, ACCOUNT] * len(stage.excess) + pool
            wants = roll.wants
            entry = entry_of(stage.tables, part, wants[least, ROW], wants[least, PARTS], wants[least, SIZE])
            return beside(stage, terms, line, pool, found, row, entry)
    return 0


@kernel
def beside(stage: Stage, terms: Terms, line: int, pool: int, found: int, row: int, entry: int) -> int:
    """Give the line's head the GPUs at the desk: 1; -1: a protected gang needs them before it has ended."""
    if terms.gone_ms[stage.roll.lines[line, HEAD]] > terms.start_ms[pool]:
        if not spares(stage, terms, found, 0):
            return -1
        spares(stage, terms, found, 1)
    place(stage, line, pool, found, row, entry)
    return 1


@kernel
def place_firm_borrower(stage: Stage, terms: Terms, line: int, row: int) -> int:
    """The same for one that cannot be preempted; -1 also where its account's own GPUs have room."""
    roll = stage.roll
    shape, order = roll.lines[line, SHAPE], roll.shapes[roll.lines[line, SHAPE], ORDER]
    if order < 0:
        return NO_ORDER - line
    end_ms = roll.shapes[shape, END_MS]
    own = 1 << LASTING_OWN | 1 << LASTING_UNSOLD | 1 << LASTING_OWN_OR_UNSOLD
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        pool = roll.pools[i]
        if owns_for(stage, line, pool) and free_fit(stage, line, pool, own, order, end_ms, roll.lines[line, ACCOUNT]):
            return -1
        if terms.not_unsold[shape, pool]:
            continue
        found = free_fit(stage, line, pool, 1 << LASTING_UNSOLD, order, end_ms, -2)
        if found > 0:
            return beside(stage, terms, line, pool, found, row, -1)
        terms.not_unsold[shape, pool] = 1
    return 0


@kernel
def serve_borrowers(stage: Stage, terms: Terms, row: int) -> int:
    """Serve those who borrow (see `borrowed`), the first as this row; the line whose turn it is and which is not for
    here, DONE, FULL, or NO_ORDER and below.
    """
    roll = stage.roll
    while roll.heap[0] > 0:
        line = int(roll.line_of_turn[roll.heap[1]])
        shape = roll.lines[line, SHAPE]
        served = BY_RULES if roll.lines[line, BY_HAND] else roll.shapes[shape, SERVED]
        if is_full(stage, roll.shapes[shape, GPUS]):
            return FULL
        placed = 0
        if not roll.shapes[shape, IS_OUT] and roll.lines[line, HEAD] < roll.lines[line, AFTER]:
            if served == FREELY:
                placed = place_borrower(stage, terms, line, row + stage.record.size[0])
                if placed == 0:
                    roll.shapes[shape, IS_OUT] = 1
            elif served == FIRMLY:
                placed = place_firm_borrower(stage, terms, line, row + stage.record.size[0])
            else:
                placed = -1
        if placed <= NO_ORDER:
            return placed
        pop(roll.heap)
        if placed < 0:
            return line
        if placed and roll.lines[line, HEAD] < roll.lines[line, AFTER]:
            push(roll.heap, roll.turns[roll.lines[line, HEAD]])
    return DONE
