"""What a run decided, taken into the books and the lines, as if turn by turn."""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.books import LATE, Books
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.roll import Listed, Roll
from scheduler.core.placement.runs import Record, Stage
from scheduler.core.placement.snapshot import Place


def new_record(books: Books, gangs: int) -> Record:
    """A record with room for what so many gangs may get of the free GPUs, a gang's worth at the least."""
    free = sum(books.free_gpus(pool) for pool in range(books.n_pools))
    most = max(free, books.fleet.n_gpus // 16)
    return Record(
        size=np.zeros(2, dtype=np.int64),
        placed=np.zeros((min(gangs, most) + 1, 3), dtype=np.int64),
        gpus=np.zeros(books.fleet.n_gpus, dtype=np.int64),
    )


def stage_of(books: Books, roll: Roll, record: Record) -> Stage:
    """What a run looks at and changes."""
    if books.tables is None:
        raise AssertionError("runs count in tables")
    search = books.search
    return Stage(
        books.floor, search.orders, search.desk, search.cells, roll, books.tables, books.excess, record
    )


def take_in(books: Books, lines: Lines, listed: Listed, record: Record, *, inside: bool) -> None:
    """Open a row and write an action for every placement of the record, and empty it."""
    n_placed, n_gpus = record.size.tolist()
    record.size[:] = 0
    if not n_placed:
        return
    gpus = record.gpus[:n_gpus].tolist()
    hosts = books.fleet.host_of_gpu
    low = 0
    lines_of = listed.line_of_gang[record.placed[:n_placed, 0]].tolist()
    for (at, pool, high), line in zip(record.placed[:n_placed].tolist(), lines_of, strict=True):
        gang, row = listed.gangs[at], len(books.rows)
        numbers = tuple(gpus[low:high])
        low = high
        account, shape = listed.keys[line]
        lines.of(account)[shape].take()
        index = books.account_index[account]
        books.part(index, pool).append(row)
        books.rows.append(gang)
        books.gpus_of_row.append(numbers)
        books.account_of_row.append(index)
        books.pool_of_row.append(pool)
        books.counts_of_row.append(True)
        books.firm_of_row.append(False)
        books.rank_of_row.append(LATE + row)
        used = books.used[index] = books.used[index].copy()
        used[pool] += len(numbers)
        books.action_of_row[row] = len(books.actions)
        books.decided[row] = (gang, inside)
        size = gang.shape.gpus_per_worker
        books.actions.append(
            Place(
                gang=gang,
                gpu_numbers=numbers,
                hosts=tuple([hosts[gpu] for gpu in numbers[::size]]),
                inside=inside,
                waits_for=(),
            )
        )
