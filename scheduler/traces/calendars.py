"""Generated calendars: a year of lots of whole cells, by hour, on a fleet that they nearly fill.

`cell,start_hour,end_hour,lots`, and `position` where the lots are those of numbered positions. Hours count from the
calendar's start; windows are `[start, end)`. The file's name says the fleet: `1024_carved_90` is 1,024 GPUs, 90 % sold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.core.cluster import Level
from scheduler.traces.arrays import Int32s, Int64s, sealed
from scheduler.traces.table import read_table

HOURS_MAX = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class LotCalendar:
    """Lots in the file's order. Every array is (n_rows,).

    level:      int32, a `Level`: which cells
    start_hour: int64
    end_hour:   int64, after start_hour, not in the window
    lots:       int64, positive
    position:   int64, the position's number; None for a file without
    """

    level: Int32s
    start_hour: Int64s
    end_hour: Int64s
    lots: Int64s
    position: Int64s | None

    def __len__(self) -> int:
        return len(self.level)


def load(path: Path) -> LotCalendar:
    """Read one calendar. Raises InvalidValue with file, line and column: an unknown cell, an empty window, no lots."""
    table = read_table(path, ("cell", "start_hour", "end_hour", "lots"))
    table.require_whole_last_line()
    cells = table.texts("cell")
    known = np.array([cell in Level.__members__ for cell in cells], dtype=np.bool_)
    table.require("cell", known, f"one of {', '.join(Level.__members__)}")
    start_hour = table.integers("start_hour", at_most=HOURS_MAX)
    end_hour = table.integers("end_hour", at_most=HOURS_MAX)
    table.require("end_hour", end_hour > start_hour, "an hour after start_hour")
    return LotCalendar(
        level=sealed(np.array([Level[cell].value for cell in cells], dtype=np.int32)),
        start_hour=start_hour,
        end_hour=end_hour,
        lots=table.integers("lots", at_least=1),
        position=table.integers("position") if table.has("position") else None,
    )
