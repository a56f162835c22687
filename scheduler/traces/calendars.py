"""Generated calendars: a year of lots of whole cells, by hour, on a fleet that they nearly fill.

`cell,start_hour,end_hour,lots`, and `position` where the lots are those of numbered positions. Hours count from the
calendar's start; windows are `[start, end)`. The file's name says the fleet, up to its first underscore: how many GPUs
(`1024_carved_90`: 1,024 GPUs, 90 % sold), or the fan-outs themselves (`3x8x9x8_carved_90`: 3 blocks of 8 domains of 9
nodes of 8 GPUs). Of a number alone, nodes have 8 GPUs, and a block has as many domains as a domain has nodes: 8, 4, 2
or 1, the most of which the fleet has at least that many blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.traces.arrays import Int32s, Int64s, sealed
from scheduler.traces.table import read_table

HOURS_MAX = 1_000_000
NODE_GPUS = 8
FAN_OUTS = (8, 4, 2, 1)
CELLS_NAMED = 4
MOST_GPUS = 16_000_000


class FleetShape(NamedTuple):
    """How many of each cell the next larger one holds."""

    blocks: int
    domains: int
    nodes: int
    gpus: int


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


def fleet_shape(name: str) -> FleetShape:
    """The fleet that a calendar's name (the file's stem) says, by the rule of this module. Raises InvalidValue."""
    parts = name.partition("_")[0].split("x")
    wrong = InvalidValue("name", "a calendar", name, "GPUs in nodes of 8, or blocks x domains x nodes x GPUs, before _")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= MOST_GPUS for part in parts):
        raise wrong
    if len(parts) == CELLS_NAMED:
        return FleetShape(*(int(part) for part in parts))
    nodes, rest = divmod(int(parts[0]), NODE_GPUS)
    if len(parts) > 1 or rest:
        raise wrong
    fan_out = next(each for each in FAN_OUTS if nodes % each**2 == 0 and nodes // each**2 >= each)
    return FleetShape(nodes // fan_out**2, fan_out, fan_out, NODE_GPUS)
