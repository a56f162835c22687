"""Lending and reclaim against what others give: useful work, loss, and the wait of those who are owed their GPUs.

The calendar of one cluster, the jobs of another, and what teams declare: `tests/benchmarks/sharing/cases.py`. Rows are
told apart by load, policy, window and seed; `useful_of_pool_pct` is of the pool's useful work in the same case, the
first-come pool with backfill and no contract. One window, one seed and four loads by default; five windows, more seeds
and failing nodes with `python -m tests.benchmarks.lending --traces FOLDER --out FILE --windows 5 --seeds 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from types import MappingProxyType

from scheduler.core.quantities import MS_PER_HOUR
from tests.benchmarks.harness import Figure, Missing, Result, Row, Settings
from tests.benchmarks.sharing.alone import Alone
from tests.benchmarks.sharing.cases import WINDOWS, Asked, Case, case_of, firm_beyond_owned_gpu_ms
from tests.benchmarks.sharing.charts import drawn
from tests.benchmarks.sharing.fitting import first_fit
from tests.benchmarks.sharing.pools import Pool
from tests.benchmarks.sharing.quotas import Aware, Blind
from tests.benchmarks.sharing.site import Rule, Site
from tests.benchmarks.sharing.tally import Tally, mean
from tests.benchmarks.sharing.tenor import run_tenor

LOADS_PPM = (600_000, 800_000, 950_000, 1_100_000)
POOL = "one pool"
TENOR = "tenor"
BASELINES: MappingProxyType[str, Callable[[], Rule]] = MappingProxyType(
    {
        POOL: Pool,
        "one pool, head reserved": lambda: Pool(reserving=True),
        "one pool, first-fit": lambda: Pool(first_fit),
        "every account alone": Alone,
        "count quota, blind to placement": Blind,
        "count quota, topology-aware": Aware,
    }
)
POLICIES = (*BASELINES, TENOR)
KEYS = ("load", "policy", "window", "seed")
"""What tells rows apart."""


def run(settings: Settings) -> Result:
    """Every policy on every case; quickly: a small generated trace at one load."""
    if settings.quick:
        rows = rows_of([Asked(950_000)], processes=1)
    else:
        for name in ("helios", "philly"):
            settings.traces_folder(name)
        rows = rows_of(grid(settings.traces, windows=1, seeds=1), processes=os.cpu_count() or 1)
    return Result(rows, line_of(rows), {"svg": drawn(means(rows), POLICIES)})


def grid(traces: Path | None, *, windows: int, seeds: int, failures_days: int = 0) -> list[Asked]:
    """Every load in every window with every seed."""
    if traces is None:
        raise Missing("no folder of traces given")
    every = product(LOADS_PPM, range(windows), range(seeds))
    return [Asked(load_ppm, window, seed, failures_days, traces) for load_ppm, window, seed in every]


def rows_of(cases: Iterable[Asked], *, processes: int, policies: Sequence[str] = POLICIES) -> list[Row]:
    """The rows of all policies on all cases, in that order, each with its share of the pool's useful work."""
    # The longest first, so that the last one running is a short one.
    asked = [(case, policy) for case in cases for policy in policies]
    order = sorted(asked, key=lambda pair: (pair[1] != TENOR, -(pair[0].load_ppm or 0)))
    if processes == 1:
        found = dict(zip(order, map(played, *zip(*order, strict=True)), strict=True))
    else:
        with ProcessPoolExecutor(processes) as workers:
            found = dict(zip(order, workers.map(played, *zip(*order, strict=True)), strict=True))
    return [_beside_pool(found[pair], found[pair[0], POOL]) for pair in asked]


def played(asked: Asked, policy: str) -> dict[str, Figure]:
    """One run: its figures, and what it was."""
    case = case_of(asked)
    began = time.perf_counter()
    figures = run_tenor(case) if policy == TENOR else run_baseline(case, BASELINES[policy]())
    row: dict[str, Figure] = {
        "load": (asked.load_ppm or case.replay.load_ppm) / 1_000_000,
        "policy": policy,
        "window": asked.window,
        "seed": asked.seed,
        "failures_days": asked.failures_days,
        "gpus": case.replay.gpus,
        "gangs": len(case.replay.gangs),
        "firm_beyond_owned_gpu_h": round(firm_beyond_owned_gpu_ms(case) / MS_PER_HOUR, 1),
        **figures,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(row), file=sys.stderr)
    return row


def run_baseline(case: Case, rule: Rule) -> dict[str, Figure]:
    """The figures of a baseline."""
    tally = Tally(case)
    Site(case, tally).run(rule)
    return tally.row()


def _beside_pool(row: dict[str, Figure], pool: dict[str, Figure]) -> dict[str, Figure]:
    shares: dict[str, Figure] = {}
    for since in ("", "_from_start"):
        name = f"useful{since}_gpu_h"
        shares[f"useful{since}_of_pool_pct"] = round(100 * _number(row, name) / _number(pool, name), 2)
    return {**row, **shares}


def means(rows: Iterable[Row]) -> list[dict[str, Figure]]:
    """By load and policy: the mean over windows and seeds of each figure, and the worst loss of a run."""
    groups: dict[tuple[Figure, Figure], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["load"], row["policy"]), []).append(row)
    found: list[dict[str, Figure]] = []
    for (load, policy), group in groups.items():
        names = [name for name in group[0] if name not in KEYS]
        averages: dict[str, Figure] = {name: round(mean([_number(row, name) for row in group]), 3) for name in names}
        worst = {"lost_worst_pct": max(_number(row, "lost_pct") for row in group), "runs": len(group)}
        found.append({"load": load, "policy": policy, **averages, **worst})
    return found


def line_of(rows: Sequence[Row]) -> str:
    """What Tenor reached at each load, in a line."""
    reached = [row for row in means(rows) if row["policy"] == TENOR]
    return "tenor: " + "; ".join(
        f"load {row['load']}: {row['useful_of_pool_pct']:.1f} % of the pool, lost {row['lost_pct']:.2f} % "
        f"(worst {row['lost_worst_pct']:.2f}), {row['shortfalls']:.0f} shortfalls, wait inside at most "
        f"{row['wait_inside_max_s']:.0f} s"
        for row in reached
    )


def _number(row: Row, name: str) -> float:
    number = row[name]
    assert isinstance(number, int | float)
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """The larger grid: writes the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lending", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--failures", type=int, default=0, help="mean days between failures of a node; 0: none fails")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="these alone, and the pool")
    parser.add_argument("--load", action="append", type=int, help="these loads alone, in ppm of the peak")
    asked = parser.parse_args(arguments)
    cases = grid(asked.traces, windows=asked.windows, seeds=asked.seeds, failures_days=asked.failures)
    chosen = [case for case in cases if not asked.load or case.load_ppm in asked.load]
    policies = list(dict.fromkeys([POOL, *asked.policy])) if asked.policy else POLICIES
    rows = rows_of(chosen, processes=os.cpu_count() or 1, policies=policies)
    asked.out.write_text(json.dumps({"rows": [dict(row) for row in rows]}, indent=1) + "\n", encoding="utf-8")
    asked.out.with_suffix(".svg").write_bytes(drawn(means(rows), policies))
    print(line_of(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
