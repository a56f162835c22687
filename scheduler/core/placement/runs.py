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
from scheduler.core.placement.floor import AT_NODE, RING, Floor, hold
from scheduler.core.placement.orders import OF_UNSOLD, Orders
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
    FIRST_POOL,
    FIRST_WANT,
    GPUS,
    HEAD,
    IS_OUT,
    PARTS,
    PLAIN,
    RECKLESS,
    REFUSED,
    ROW,
    SHAPE,
    SIZE,
    Roll,
    pop,
    push,
)
from scheduler.core.placement.tight import Desk, fit

DONE, FULL = -1, -2
"""Nobody is asked any more; the record must be emptied first."""

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
    """Give the line's head the GPUs at the desk, as this row of the books."""
    roll, record = stage.roll, stage.record
    gpus = stage.desk.gpus[:n_gpus]
    hold(stage.floor, gpus, row, 0)
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
        found = fit(
            stage.floor,
            stage.orders,
            stage.desk,
            stage.cells,
            kinds,
            lasting,
            pool,
            roll.wants[i, ROW],
            roll.wants[i, PARTS],
            roll.wants[i, SIZE],
            account,
            end_ms,
            low,
            high,
            0,
        )
        if found > 0:
            return found
    return 0


@kernel
def place_inside(stage: Stage, line: int, kinds: int, row: int) -> int:
    """Place the line's head where it is inside its entitlement: 1; 0: it is not; -1: it is, but not on free GPUs, or
    that cannot be told here.
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
        low, high = tables.first_unit[part], tables.first_unit[part + 1]
        table = tables.table[tables.first[part] : tables.first[part + 1]]
        repacked = repacks(stage.floor, low, high, table, stage.desk.none, stage.cells, stage.desk.by_cell)
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
def serve_inside(stage: Stage, kinds: int, row: int) -> int:
    """Serve gangs inside their entitlement (see `owned`), the first as this row; the line whose turn it is and which
    is not for here, DONE, or FULL.
    """
    roll = stage.roll
    while roll.heap[0] > 0:
        line = roll.line_of_turn[roll.heap[1]]
        if is_full(stage, roll.shapes[roll.lines[line, SHAPE], GPUS]):
            return FULL
        pop(roll.heap)
        roll.lines[line, ASKED] = 0
        if roll.lines[line, BY_HAND] or not roll.shapes[roll.lines[line, SHAPE], PLAIN]:
            return int(line)
        if roll.lines[line, HEAD] == roll.lines[line, AFTER]:
            continue
        placed = place_inside(stage, line, kinds, row + stage.record.size[0])
        if placed < 0:
            return int(line)
        if placed:
            ask(stage, line)
            account = roll.lines[line, ACCOUNT]
            for other in range(roll.of_account[account], roll.of_account[account + 1]):
                if roll.lines[other, REFUSED]:
                    roll.lines[other, REFUSED] = 0
                    ask(stage, other)
    return DONE


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


NO_ORDER = -3
"""This and below: the order of an end has to be made first."""


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
    """Place the line's head on free GPUs: 1; 0: they do not have room; -1: they would, but another gang needs them;
    NO_ORDER and below: see there.
    """
    roll = stage.roll
    shape, head = roll.lines[line, SHAPE], roll.lines[line, HEAD]
    end, kinds, lasting, end_ms = terms.end[head], terms.kinds[1], OF_UNSOLD, 0
    if end >= 0:
        kinds, end_ms, lasting = terms.kinds[0], terms.ends[end, 0], terms.ends[end, 1]
        if lasting < 0:
            return int(NO_ORDER - end)
    for i in range(roll.shapes[shape, FIRST_POOL], roll.shapes[shape, AFTER_POOL]):
        pool = roll.pools[i]
        left = stage.floor.ring[RING + 1 + pool] - roll.shapes[shape, GPUS]
        if roll.shapes[shape, RECKLESS] and left < terms.idle[pool]:
            continue
        found = free_fit(stage, line, pool, kinds, lasting, end_ms, -2)
        if found == 0:
            continue
        if terms.gone_ms[head] > terms.start_ms[pool]:
            if not spares(stage, terms, found, 0):
                return -1
            spares(stage, terms, found, 1)
        account = roll.lines[line, ACCOUNT]
        least = roll.shapes[shape, AFTER_WANT] - 1
        part = account * len(stage.excess) + pool
        entry = entry_of(stage.tables, part, roll.wants[least, ROW], roll.wants[least, PARTS], roll.wants[least, SIZE])
        place(stage, line, pool, found, row, entry)
        return 1
    return 0


@kernel
def serve_borrowers(stage: Stage, terms: Terms, row: int) -> int:
    """Serve those who borrow (see `borrowed`), the first as this row; the line whose turn it is and which is not for
    here, DONE, FULL, or NO_ORDER and below.
    """
    roll = stage.roll
    while roll.heap[0] > 0:
        line = roll.line_of_turn[roll.heap[1]]
        shape = roll.lines[line, SHAPE]
        if roll.shapes[shape, IS_OUT] or roll.lines[line, HEAD] == roll.lines[line, AFTER]:
            pop(roll.heap)
            continue
        if is_full(stage, roll.shapes[shape, GPUS]):
            return FULL
        if roll.lines[line, BY_HAND] or not roll.shapes[shape, PLAIN]:
            pop(roll.heap)
            return int(line)
        placed = place_borrower(stage, terms, line, row + stage.record.size[0])
        if placed <= NO_ORDER:
            return placed
        pop(roll.heap)
        if placed < 0:
            return int(line)
        if placed:
            if roll.lines[line, HEAD] < roll.lines[line, AFTER]:
                push(roll.heap, roll.turns[roll.lines[line, HEAD]])
        else:
            roll.shapes[shape, IS_OUT] = 1
    return DONE
