"""One placement round by fleet size: how long it takes, how much memory it holds, how many gangs it places a second.

Beside full rounds: the round after one event (a gang ends or is submitted, a node fails or is well again) of a planner
that keeps its books, idle nodes traded for those who wait included, as the service does before each plan; and the whole
path: those trades, a plan, its events, their fold; in memory, and with the events in a journal on disk, not synced and
synced.

Each size runs in a process of its own, for a true peak of memory (which includes the generated input). Inputs are those
of `tests.benchmarks.crowd`, by seed. The baseline is the same planner whose books scan the fleet for every question
(`tests.core.placement.naive`), which also must decide the same; it is left out where it would take minutes.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from scheduler.collecting import collections_wait
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Plan, Policy, Snapshot
from scheduler.ledger.journal import Journal
from tests.benchmarks.crowd import crowd_of
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib
from tests.benchmarks.live import Live
from tests.benchmarks.plots import growth
from tests.core.placement.naive import naive_plan

SIZES = (10_000, 100_000, 1_000_000)
NAIVE_UP_TO = 10_000
EVENTS = 300
OURS = "ours"
Row = dict[str, Figure]


def run(settings: Settings) -> Result:
    """Rows by size; `--quick` measures small fleets only."""
    sizes = (1_000, 4_000) if settings.quick else SIZES
    rows: list[Row] = []
    for gpus in sizes:
        repeats = 1 if gpus >= SIZES[-1] else 3
        rows += measured_apart(gpus, repeats, naive=gpus <= NAIVE_UP_TO)
    shown = (
        f"{int(str(row['gpus'])):,} GPUs {float(str(row['seconds'])):.3f} s, {row['rss_mib']} MiB"
        for row in rows
        if row["method"] == OURS
    )
    return Result(rows, f"a full round: {'; '.join(shown)}", {"svg": growth(rows)})


def measured_apart(gpus: int, repeats: int, *, naive: bool) -> list[Row]:
    """The rows of one size, measured by a process of its own. Raises CalledProcessError."""
    command = [sys.executable, "-m", "tests.benchmarks.round", str(gpus), str(repeats), str(int(naive))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def measured(gpus: int, repeats: int, *, naive: bool) -> list[Row]:
    """The rows of one size."""
    crowd = crowd_of(gpus)
    snapshot = crowd.snapshot
    plan(snapshot)  # machine code is loaded, or made where this machine never ran it
    gc.collect()
    gc.freeze()
    size: Row = {"gpus": snapshot.fleet.n_gpus, "gangs": crowd.waiting, "accounts": len(snapshot.accounts)}
    rows = [{**size, **timed_round(plan, snapshot, repeats, OURS)}]
    rows[0] |= after_events(snapshot, EVENTS)
    for what, durable in (("kept", False), ("synced", True)):
        rows[0] |= on_disk(snapshot, what, durable=durable)
    crowded = crowd_of(gpus, crowded=True).snapshot
    rows.append({**size, **timed_round(plan, crowded, 1, "ours, nearly full: owners reclaim")})
    if naive:
        rows.append(
            {**size, **timed_round(lambda seen: naive_plan(seen, Policy()), snapshot, 1, "scanning (baseline)")}
        )
        if rows[0]["actions"] != rows[-1]["actions"]:
            raise AssertionError("the planner and its naive twin decided differently")
    return rows


def after_events(snapshot: Snapshot, events: int) -> Row:
    """Milliseconds of the round after one event, of which so many look for nodes to trade, and how many traded any; and
    placements a second through the whole path in memory.
    """
    live = Live(snapshot, 1)
    live.round()
    path = path_rates(live, "path")
    for _ in range(3):  # what was stopped is gone and what it made room for placed: the fleet is at rest
        live.settle()
        live.round()
    gc.collect()
    gc.freeze()
    walls: list[float] = []
    cpus: list[float] = []
    looks: list[float] = []
    trading = 0
    for _ in range(events):
        swaps = live.swaps
        live.happen()
        live.round()
        cpus.append(live.room_cpu_s + live.plan_cpu_s)
        walls.append(live.room_s + live.plan_s)
        looks.append(live.room_cpu_s)
        trading += live.swaps > swaps
        live.settle()
    return {
        "event_p50_ms": milliseconds(walls, 50),
        "event_p99_ms": milliseconds(walls, 99),
        "event_cpu_p50_ms": milliseconds(cpus, 50),
        "event_cpu_p99_ms": milliseconds(cpus, 99),
        "trades_cpu_p50_ms": milliseconds(looks, 50),
        "trades_cpu_p99_ms": milliseconds(looks, 99),
        "rounds_with_trades": trading,
        **path,
    }


def on_disk(snapshot: Snapshot, what: str, *, durable: bool) -> Row:
    """Placements a second through the whole path into a journal on the disk of the temporary folder."""
    with TemporaryDirectory() as folder, Journal.open(Path(folder) / "journal.db", durable=durable) as journal:
        live = Live(snapshot, 1, journal)
        gc.collect()
        live.round()
        return path_rates(live, f"path_{what}")


def path_rates(live: Live, what: str) -> Row:
    """Of the last round, by wall clock and by processor time."""
    return {
        f"{what}_placements_per_s": round(live.placed / live.path_s),
        f"{what}_placements_per_cpu_s": round(live.placed / live.path_cpu_s),
    }


def milliseconds(seconds: Sequence[float], percentile: int) -> float:
    """A percentile, by nearest rank."""
    ranked = sorted(seconds)
    return round(ranked[max(0, -(-len(ranked) * percentile // 100) - 1)] * 1_000, 3)


def timed_round(planned: Callable[[Snapshot], Plan], snapshot: Snapshot, repeats: int, method: str) -> Row:
    """Full rounds from the same snapshot; the median is what to quote."""
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(repeats):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        with collections_wait():  # as the service does
            made = planned(snapshot)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    places = sum(isinstance(action, Place) for action in made.actions)
    return {
        "method": method,
        "seconds": round(median(walls), 4),
        "least_s": round(min(walls), 4),
        "cpu_s": round(median(cpus), 4),
        "rss_mib": peak_mib(),
        "placements": places,
        "placements_per_s": round(places / median(walls)),
        "actions": len(made.actions),
        "waiting": len(made.waiting),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure one size and print its rows as JSON."""
    gpus, repeats, naive = map(int, arguments)
    print(json.dumps(measured(gpus, repeats, naive=bool(naive))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
