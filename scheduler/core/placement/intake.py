"""What a run decided, taken into the books and the lines, as if turn by turn."""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.books import LATE, Books
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.roll import ACCOUNT, SHAPE, WORKER_GPUS, Listed, Roll
from scheduler.core.placement.runs import GANG, LAST_GPU, POOL, Record, Stage
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
        books.floor, search.orders, search.desk, search.cells, roll, books.tables, books.excess, books.firm_used, record
    )


def take_in(books: Books, lines: Lines, listed: Listed, record: Record, *, inside: bool) -> None:
    """Open a row and write an action for every placement of the record, and empty it."""
    n_placed, n_gpus = record.size.tolist()
    record.size[:] = 0
    if not n_placed:
        return
    places = record.placed[:n_placed]
    of_line = listed.lines[listed.line_of_gang[places[:, GANG]]]
    accounts: list[int] = of_line[:, ACCOUNT].tolist()
    shapes: list[int] = of_line[:, SHAPE].tolist()
    lines.take((listed.names[account], listed.shapes[shape]) for account, shape in zip(accounts, shapes, strict=True))
    gangs = [listed.gangs[at] for at in places[:, GANG].tolist()]
    gpus, highs = tuple(record.gpus[:n_gpus].tolist()), places[:, LAST_GPU].tolist()
    numbers = [gpus[low:high] for low, high in zip([0, *highs], highs, strict=False)]
    rows = range(len(books.rows), len(books.rows) + n_placed)
    books.open_rows(gangs, numbers, accounts, places[:, POOL].tolist(), range(LATE + rows.start, LATE + rows.stop))
    books.action_of_row.update(zip(rows, range(len(books.actions), len(books.actions) + n_placed), strict=True))
    books.decided.update((row, (gang, inside)) for row, gang in zip(rows, gangs, strict=True))
    host_of_gpu = books.fleet.host_of_gpu
    sizes = listed.shape_rows[of_line[:, SHAPE], WORKER_GPUS].tolist()
    books.actions += [
        Place(gang, gpu_numbers, tuple([host_of_gpu[gpu] for gpu in gpu_numbers[::size]]), inside, ())
        for gang, gpu_numbers, size in zip(gangs, numbers, sizes, strict=True)
    ]
