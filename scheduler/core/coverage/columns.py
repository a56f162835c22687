"""Holdings as columns: the same facts as arrays, so that questions about thousands of holdings are a few vector
operations.

Whoever asks several questions of one set of holdings makes the columns once; every function here takes either form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.holdings import Holding


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Holdings and, row for row, their fields: all (n_holdings) int64."""

    holdings: tuple[Holding, ...]
    level: IntArray
    cell: IntArray
    start_ms: IntArray
    end_ms: IntArray

    def __len__(self) -> int:
        return len(self.holdings)


Holdings = Sequence[Holding] | Columns


def columns_of(holdings: Iterable[Holding] | Columns) -> Columns:
    """The columns of holdings; columns come back as they are."""
    if isinstance(holdings, Columns):
        return holdings
    rows = tuple(holdings)
    # One list for each field: several times faster than rows of tuples, and this is what all questions begin with.
    fields = (
        [held.level for held in rows],
        [held.cell for held in rows],
        [held.start_ms for held in rows],
        [held.end_ms for held in rows],
    )
    level, cell, start_ms, end_ms = (np.fromiter(field, dtype=np.int64, count=len(rows)) for field in fields)
    return Columns(rows, level, cell, start_ms, end_ms)


def rows_of(holdings: Holdings) -> Sequence[Holding]:
    """The holdings themselves."""
    return holdings.holdings if isinstance(holdings, Columns) else holdings


def order(holding: Holding) -> tuple[str, int, int, int, int]:
    """The order in which holdings are listed: by position, then time, then cell."""
    return holding.position, holding.start_ms, holding.end_ms, holding.level, holding.cell


def merged(holdings: Iterable[Holding]) -> tuple[Holding, ...]:
    """The same coverage, sorted, with no two holdings of one position on one cell that touch in time."""
    by_cell: dict[tuple[str, Level, int], list[Holding]] = {}
    for holding in holdings:
        by_cell.setdefault((holding.position, holding.level, holding.cell), []).append(holding)
    kept: list[Holding] = []
    for (position, level, cell), parts in by_cell.items():
        if len(parts) == 1:
            kept += parts
            continue
        parts.sort(key=order)
        start_ms, end_ms = parts[0].start_ms, parts[0].end_ms
        for part in parts[1:]:
            if part.start_ms > end_ms:
                kept.append(Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms))
                start_ms, end_ms = part.start_ms, part.end_ms
            else:
                end_ms = max(end_ms, part.end_ms)
        kept.append(Holding(position=position, level=level, cell=cell, start_ms=start_ms, end_ms=end_ms))
    return tuple(sorted(kept, key=order))


def clipped(holding: Holding, from_ms: int, until_ms: int) -> Holding | None:
    """The part of a holding in `[from_ms, until_ms)`, or None."""
    start_ms, end_ms = max(holding.start_ms, from_ms), min(holding.end_ms, until_ms)
    if start_ms >= end_ms:
        return None
    if start_ms == holding.start_ms and end_ms == holding.end_ms:
        return holding
    return moved(holding, start_ms=start_ms, end_ms=end_ms)


def moved(
    holding: Holding,
    *,
    position: str | None = None,
    cell: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Holding:
    """The holding with some fields changed, validated anew."""
    return Holding(
        position=holding.position if position is None else position,
        level=holding.level,
        cell=holding.cell if cell is None else cell,
        start_ms=holding.start_ms if start_ms is None else start_ms,
        end_ms=holding.end_ms if end_ms is None else end_ms,
    )
