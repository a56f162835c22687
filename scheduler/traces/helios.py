"""Helios (SC'21): how many GPUs each tenant of a real cluster owned on each day.

A changing entitlement calendar: 25 tenants ("virtual clusters"), 181 days, always whole nodes of 8. The file has a
column `date`, one column for each tenant and a column `total`, which is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces.arrays import Int64s, sealed
from scheduler.traces.dates import day_of, day_start_ms, parse_day
from scheduler.traces.table import Table, read_table

GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, eq=False)
class HeliosCalendar:
    """GPUs owned, a row a day without gaps.

    tenants:      (n_tenants,) names in the file's order
    day_start_ms: (n_days,) int64, the day's first instant, UTC
    gpus:         (n_days, n_tenants) int64, multiples of 8
    """

    tenants: tuple[str, ...]
    day_start_ms: Int64s
    gpus: Int64s

    @property
    def first_day(self) -> date:
        """The first day it knows."""
        return day_of(int(self.day_start_ms[0]))

    @property
    def last_day(self) -> date:
        """The last day it knows."""
        return day_of(int(self.day_start_ms[-1]))

    @property
    def peak_gpus(self) -> int:
        """The most GPUs owned on any one day."""
        return int(self.gpus.sum(axis=1).max())

    def slice(self, from_date: date, days: int) -> HeliosCalendar:
        """The `days` days from `from_date` on. Raises InvalidValue where the calendar does not hold them all."""
        at = (from_date - self.first_day).days
        if days < 1 or at < 0 or at + days > len(self.gpus):
            raise InvalidValue(
                "days",
                "the Helios calendar",
                f"{days} from {from_date}",
                f"days within {self.first_day}..{self.last_day}",
            )
        return HeliosCalendar(self.tenants, self.day_start_ms[at : at + days], self.gpus[at : at + days])


def load_calendar(path: Path) -> HeliosCalendar:
    """Read a Helios calendar. Rows may come in any order; days may not repeat or be missing.

    Raises InvalidValue with file, line and column for anything that is not the published format, for a number that is
    not a multiple of 8 and for a total that is not the sum.
    """
    table = read_table(path, ("date", "total"))
    tenants = tuple(column for column in table.columns if column not in ("date", "total"))
    if not tenants:
        raise InvalidValue("header", f"line 1 of {path}", ",".join(table.columns), "a column for each tenant")
    gpus = np.stack([_whole_nodes(table, tenant) for tenant in tenants], axis=1)
    table.require("total", table.integers("total") == gpus.sum(axis=1), "the sum of the row's tenants")
    table.require_whole_last_line(lambda: table.columns[-1] == "total")
    starts = [
        day_start_ms(parse_day(text, "date", f"line {row + 2} of {path}"))
        for row, text in enumerate(table.texts("date"))
    ]
    start_ms = np.array(starts, dtype=np.int64)
    order = np.argsort(start_ms, kind="stable")
    _require_every_day_once(table, start_ms, order)
    return HeliosCalendar(tenants, sealed(start_ms[order]), sealed(gpus[order]))


def _whole_nodes(table: Table, tenant: str) -> Int64s:
    gpus = table.integers(tenant, at_most=10**9)
    table.require(tenant, gpus % GPUS_PER_NODE == 0, f"whole nodes: a multiple of {GPUS_PER_NODE}")
    return gpus


def _require_every_day_once(table: Table, start_ms: Int64s, order: Int64s) -> None:
    for i, step_ms in enumerate(np.diff(start_ms[order]).tolist()):
        if step_ms != MS_PER_DAY:
            after = day_of(int(start_ms[order[i]]))
            raise table.fault("date", int(order[i + 1]), f"the day after {after}, each day once")
