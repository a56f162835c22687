"""How many lots of nearly full calendars find their cells, and how long a whole plan and single changes take.

Calendars are those of `calendars/` in the folder of traces: `carved` ones were cut out of a perfect packing, for
`counted` ones a packing without a move may not exist. The baseline is first fit by level and start, without repair;
`reached` is the best figure known before. Changes are timed on a fortnight of daily lots of 25 tenants on 1,280 GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.follow import follow_work
from scheduler.core.coverage.ownership import check, owner_at, swap_cells
from scheduler.core.coverage.packing import ORDERS
from scheduler.core.coverage.planning import ROUNDS
from scheduler.core.coverage.replace import cover, replace_failed
from scheduler.core.holdings import Demand
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.traces.calendars import load
from tests.benchmarks.harness import Figure, Missing, Result, Settings, peak_mib, timed

REACHED = {
    "1024_carved_90": 0,
    "1024_carved_97": 27,
    "1024_carved_100": 198,
    "1024_counted_90": 0,
    "1024_counted_97": 119,
    "1024_counted_100": 463,
}
GPUS = (1, 8, 32, 128)
"""GPUs of a cell of each level in the calendars' fleet."""
TENANTS = 25
DAYS = 14

Row = dict[str, Figure]


def run(settings: Settings) -> Result:
    """Lots and GPU-hours unplaced by calendar, with the baseline's beside them; median seconds of each kind of
    change.
    """
    folder = settings.traces_folder("calendars")
    names = [name for name in REACHED if not settings.quick or name.endswith("_90")]
    rows: list[Row] = []
    fleet = fleet_of(8, 4, 4)
    for name in names:
        rows += calendar_rows(fleet, folder / f"{name}.csv", REACHED[name])
    rows += changes(settings)
    unplaced = {str(row["calendar"]): row["lots_unplaced"] for row in rows if row.get("method") == "ours"}
    shown = ", ".join(f"{name[5:]} {lots} ({REACHED[name]})" for name, lots in unplaced.items())
    took = {str(row["change"]): float(str(row["median_s"])) * 1_000 for row in rows if "change" in row}
    return Result(rows, f"lots unplaced (reached): {shown}; one trade {took['one trade']:.1f} ms")


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


def calendar_rows(fleet: Fleet, path: Path, reached: int) -> list[Row]:
    """One row for us and one for the baseline. Raises Missing."""
    if not path.is_file():
        raise Missing(f"{path} is not there")
    rows = load(path)
    columns = (rows.level.tolist(), rows.lots.tolist(), rows.start_hour.tolist(), rows.end_hour.tolist())
    demands = [
        Demand(f"p{k}", Level(level), lots, start * MS_PER_HOUR, end * MS_PER_HOUR, 0)
        for k, (level, lots, start, end) in enumerate(zip(*columns, strict=True))
    ]
    found: list[Row] = []
    for method, orders, rounds in (("ours", ORDERS, ROUNDS), ("first fit by start (baseline)", ORDERS[1:2], 0)):
        begun = time.perf_counter()
        made = assign(fleet, demands, orders=orders, rounds=rounds)
        seconds = time.perf_counter() - begun
        if check(fleet, made.holdings):
            raise AssertionError(f"{method} gave a GPU twice on {path.name}")
        hours = sum(d.lots * GPUS[d.level] * (d.end_ms - d.start_ms) for d in made.unplaced) // MS_PER_HOUR
        found.append(
            {
                "calendar": path.stem,
                "method": method,
                "lots": sum(d.lots for d in demands),
                "lots_unplaced": sum(d.lots for d in made.unplaced),
                "gpu_hours_unplaced": hours,
                "lots_unplaced_reached": reached,
                "seconds": round(seconds, 3),
            }
        )
    return found


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
    works: dict[str, Callable[[None], object]] = {
        "the whole fortnight": lambda _: cover(fleet, demands, (), 0, well, account_of=account_of),
        "one trade": lambda _: cover(fleet, trade, held, at_ms, well, account_of=account_of),
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
