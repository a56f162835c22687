"""Every calendar of lots in `calendars/` of the traces' folder, planned on the fleet that its name says.

`carved` calendars were cut out of a perfect packing, for `counted` ones a packing without a move may not exist. Rows
`tenor` are the production plan, `tenor, quick` one of about a second where not all lots fit; the baselines are first
fit, by start and by level and start, without repair. Of each: lots that find no cell, how many planned handovers
then place them (of ours), how much of the free capacity lies in whole domains, and the seconds of the plan. Then
trades, one after the other, on the largest calendar with positions: each finds cells for a position like one of the
calendar's, and takes them into the open calendar.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import Plan, plan
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.packing import BY_LEVEL_AND_START, BY_START, ORDERS, Order
from scheduler.core.coverage.planning import ROUNDS
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand
from scheduler.core.quantities import MS_PER_HOUR
from scheduler.traces.calendars import FleetShape, fleet_shape, load
from tests.benchmarks.harness import Figure, Missing, Result, Settings, peak_mib
from tests.benchmarks.plots import planned

QUICK_GPUS = 2_000
"""Larger fleets, and calendars that are sold out, are left out of a quick run."""
CHECKED_LOTS = 50_000
"""Calendars with more lots are not checked holding by holding here; the tests do that on smaller ones."""

TRADES = 500
WARM_UP_TRADES = 20
LOTS_OF_A_TRADE = 8

Row = dict[str, Figure]
METHODS: tuple[tuple[str, Sequence[Order], int, bool], ...] = (
    ("tenor", ORDERS, ROUNDS, False),
    ("tenor, quick", ORDERS, ROUNDS, True),
    ("first fit by start (baseline)", (BY_START,), 0, False),
    ("first fit by level and start (baseline)", (BY_LEVEL_AND_START,), 0, False),
)


def run(settings: Settings) -> Result:
    """A row for each calendar and method."""
    folder = settings.traces_folder("calendars")
    paths = sorted(folder.glob("*.csv"))
    if settings.quick:
        paths = [path for path in paths if _is_quick(path.stem)]
    if not paths:
        raise Missing(f"{folder} holds no calendars")
    rows: list[Row] = []
    _warm_up()
    for path in paths:
        rows += calendar_rows(path)
    with_positions = [path for path in paths if load(path).position is not None]
    trades = trade_row(max(with_positions or paths, key=lambda path: (path.stat().st_size, path.stem)))
    ours = [row for row in rows if row["method"] == "tenor"]
    shown = ", ".join(f"{row['calendar']} {row['unplaced_lots']}/{row['handovers']}" for row in ours)
    line = f"lots unplaced/handovers: {shown}; one trade {trades['median_ms']} ms, p99 {trades['p99_ms']} ms"
    return Result([*rows, trades, {"peak_mib": peak_mib()}], line, {"svg": planned(rows)})


def _is_quick(name: str) -> bool:
    shape = fleet_shape(name)
    return shape.blocks * shape.domains * shape.nodes * shape.gpus <= QUICK_GPUS and name.endswith("_90")


def fleet_of(shape: FleetShape) -> Fleet:
    """Blocks of domains of nodes, all alike."""
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{b}-{d}-{n}", grade="H100SXM", gpus=shape.gpus, block=f"b{b}", domain=f"d{d}")
            for b in range(shape.blocks)
            for d in range(shape.domains)
            for n in range(shape.nodes)
        )
    )


def demands_of(path: Path) -> list[Demand]:
    """The calendar's rows as demands of one pool; a row without a position is a position of its own."""
    rows = load(path)
    names = range(len(rows)) if rows.position is None else rows.position.tolist()
    columns = (rows.level.tolist(), rows.lots.tolist(), rows.start_hour.tolist(), rows.end_hour.tolist())
    return [
        Demand(f"p{name}", Level(level), lots, start * MS_PER_HOUR, end * MS_PER_HOUR, 0)
        for name, level, lots, start, end in zip(names, *columns, strict=True)
    ]


def calendar_rows(path: Path) -> list[Row]:
    """One row for each method."""
    fleet = fleet_of(fleet_shape(path.stem))
    demands = demands_of(path)
    topology_of(fleet)
    found: list[Row] = []
    for method, orders, rounds, quick in METHODS:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        made = plan(fleet, demands, orders=orders, rounds=rounds, quick=quick)
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
        begun = time.perf_counter()
        moved: Plan | None = made
        if made.left.any():
            # Only our own plan is completed by handovers, once: first fit would need thousands.
            moved = plan(fleet, demands, handovers=True) if rounds and not quick else None
        with_handovers = time.perf_counter() - begun
        for each in (made, moved):
            if each is not None:
                _checked(fleet, each, f"{method} on {path.name}")
        found.append(
            {
                "calendar": path.stem,
                "method": method,
                "gpus": fleet.n_gpus,
                "lots": sum(demand.lots for demand in demands),
                "unplaced_lots": int(made.left.sum()),
                "unplaced_gpu_hours": _gpu_hours_left(fleet, made),
                "handovers": None if moved is None else len(moved.handovers()),
                "unplaced_after_handovers": None if moved is None else int(moved.left.sum()),
                "whole_domains_pct": whole_domains_pct(fleet, made),
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu_seconds, 3),
                "seconds_with_handovers": round(with_handovers if made.left.any() else seconds, 3),
            }
        )
    return found


def trade_row(path: Path) -> Row:
    """Milliseconds of single trades, each of at most as many lots as are usual, on a calendar that holds all others."""
    fleet = fleet_of(fleet_shape(path.stem))
    demands = demands_of(path)
    made = plan(fleet, demands).assignment()
    begun = time.perf_counter()
    calendar = OpenCalendar(fleet, made.holdings)
    opened = time.perf_counter() - begun
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    now_ms = min(demand.start_ms for demand in demands) - 1
    seconds: list[float] = []
    refused = 0
    for k in range(TRADES + WARM_UP_TRADES):
        like = demands[k * len(demands) // (TRADES + WARM_UP_TRADES)]
        trade = like._replace(position=f"trade{k}", lots=min(like.lots, LOTS_OF_A_TRADE))
        begun = time.perf_counter()
        found = calendar.found([trade], usable)
        if found is not None:
            calendar.changed([trade.position], found, now_ms)
        seconds.append(time.perf_counter() - begun)
        refused += found is None
    measured = np.sort(np.array(seconds[WARM_UP_TRADES:])) * 1_000
    return {
        "change": "one trade",
        "calendar": path.stem,
        "holdings": len(made.holdings),
        "trades": len(measured),
        "not_free_at_once": refused,
        "median_ms": round(float(np.median(measured)), 3),
        "p99_ms": round(float(measured[len(measured) * 99 // 100]), 3),
        "opened_s": round(opened, 3),
    }


def whole_domains_pct(fleet: Fleet, made: Plan) -> float:
    """How much of the GPU-hours that nobody holds, in percent, lies in domains that nobody holds any of."""
    topology = topology_of(fleet)
    level = np.array([demand.level for demand in made.demands], dtype=np.int64)[made.demand]
    cuts, where = np.unique(np.concatenate((made.start_ms, made.end_ms)), return_inverse=True)
    starts, ends = where[: len(made)], where[len(made) :]
    sizes = topology.end_gpu[Level.NVLINK_DOMAIN] - topology.first_gpu[Level.NVLINK_DOMAIN]
    change = np.zeros((len(sizes), len(cuts)), dtype=np.int64)
    for each in Level:
        rows = np.flatnonzero(level == each)
        if each <= Level.NVLINK_DOMAIN:
            ranks, which = topology.first_gpu[each][made.cell[rows]], np.arange(len(rows))
            held = topology.end_gpu[each][made.cell[rows]] - ranks
            domains = topology.cell_of_rank[Level.NVLINK_DOMAIN][ranks]
        else:
            which, ranks = topology.spread(each, made.cell[rows])
            domains, held = topology.cell_of_rank[Level.NVLINK_DOMAIN][ranks], np.ones(len(ranks), dtype=np.int64)
        np.add.at(change, (domains, starts[rows][which]), held)
        np.add.at(change, (domains, ends[rows][which]), -held)
    held_gpus = np.cumsum(change, axis=1)[:, :-1]
    length = np.diff(cuts)
    free = int(((sizes[:, None] - held_gpus).sum(axis=0) * length).sum())
    whole = int((((held_gpus == 0) * sizes[:, None]).sum(axis=0) * length).sum())
    return round(100 * whole / free, 2) if free else 100.0


def _gpu_hours_left(fleet: Fleet, made: Plan) -> int:
    topology = topology_of(fleet)
    gpus = [int(topology.end_gpu[level][0] - topology.first_gpu[level][0]) for level in Level]
    short = np.flatnonzero(made.left).tolist()
    left = [(made.demands[d], int(made.left[d])) for d in short]
    return sum(lots * gpus[d.level] * (d.end_ms - d.start_ms) for d, lots in left) // MS_PER_HOUR


def _checked(fleet: Fleet, made: Plan, what: str) -> None:
    if len(made) <= CHECKED_LOTS and (faults := check(fleet, columns_of(made.assignment().holdings))):
        raise AssertionError(f"{what} gave a GPU twice: {faults[0]}")


def _warm_up() -> None:
    """Machine code for the inner loops is made once on a machine and is no part of a plan."""
    fleet = fleet_of(FleetShape(2, 2, 64, 8))
    demands = [
        Demand(f"p{k}", Level(k % 4), 1 + k % 3, k % 97 * MS_PER_HOUR, (k % 97 + 1 + k % 31) * MS_PER_HOUR, 0)
        for k in range(4_000)
    ]
    plan(fleet, demands, handovers=True)
