"""How long single changes of coverage take: on a fortnight of daily lots of 25 tenants on 1,280 GPUs.

A trade is timed twice: against holdings as such, and against the calendar that is kept open between trades.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.follow import follow_work
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.ownership import check, owner_at, swap_cells
from scheduler.core.coverage.replace import cover, replace_failed
from scheduler.core.holdings import Demand
from scheduler.core.quantities import MS_PER_DAY
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib, timed

TENANTS = 25
DAYS = 14

Row = dict[str, Figure]


def run(settings: Settings) -> Result:
    """Median seconds of each kind of change."""
    rows = changes(settings)
    took = {str(row["change"]): float(str(row["median_s"])) * 1_000 for row in rows if "change" in row}
    return Result(rows, ", ".join(f"{change} {ms:.1f} ms" for change, ms in took.items()))


def fleet_of(blocks: int, domains: int, nodes: int) -> Fleet:
    """Nodes of eight GPUs in domains in blocks."""
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{b}-{d}-{n}", grade="H100SXM", gpus=8, block=f"b{b}", domain=f"d{d}")
            for b in range(blocks)
            for d in range(domains)
            for n in range(nodes)
        )
    )


def changes(settings: Settings) -> list[Row]:
    """Seconds of each kind of change to a fortnight's calendar."""
    fleet = fleet_of(10, 4, 4)
    demands = [
        Demand(f"t{tenant}-{day}", Level.NODE, 2 + (tenant * 3 + day) % 7, day * MS_PER_DAY, (day + 1) * MS_PER_DAY, 0)
        for tenant in range(TENANTS)
        for day in range(DAYS)
    ]
    account_of = {demand.position: demand.position.split("-")[0] for demand in demands}
    index = {position: int(account[1:]) for position, account in account_of.items()}
    well = np.ones(fleet.n_gpus, dtype=np.bool_)
    sick = well.copy()
    sick[:8] = False
    covering = cover(fleet, demands, (), 0, well, account_of=account_of)
    if covering.refused:
        raise AssertionError(f"the fortnight does not fit: {covering.refused[:3]}")
    held = covering.holdings
    at_ms = MS_PER_DAY // 2
    columns = columns_of(held)
    owner = owner_at(fleet, columns, at_ms, index)
    trade = [Demand("new", Level.NODE, 1, 2 * MS_PER_DAY, 3 * MS_PER_DAY, 0)]
    kept = OpenCalendar(fleet, held)
    works: dict[str, Callable[[None], object]] = {
        "the whole fortnight": lambda _: cover(fleet, demands, (), 0, well, account_of=account_of),
        "one trade": lambda _: cover(fleet, trade, held, at_ms, well, account_of=account_of),
        "one trade, calendar kept open": lambda _: cover(
            fleet, trade, held, at_ms, well, account_of=account_of, calendar=kept
        ),
        "one node lost": lambda _: replace_failed(fleet, held, sick, at_ms, [159]),
        "one swap": lambda _: swap_cells(fleet, held, Level.NODE, 3, 9, at_ms),
        "owners at an instant": lambda _: owner_at(fleet, held, at_ms, index),
        "the law checked": lambda _: check(fleet, held),
        "the law checked, columns kept": lambda _: check(fleet, columns),
        "follow work, nothing to do": lambda _: follow_work(fleet, held, at_ms, index, owner[0], owner=owner),
        "follow work, 16 GPUs off": lambda _: follow_work(
            fleet, held, at_ms, index, np.roll(owner[0], 16), owner=owner
        ),
    }
    repeats = 5 if settings.quick else 25
    return [
        {"change": name, "holdings": len(held), **timed(work, lambda: None, repeats=repeats).row()}
        for name, work in works.items()
    ] + [{"peak_mib": peak_mib()}]
