"""How much of a heterogeneous fleet stays unallocated while work comes and goes, by score, on every list that is there.

Poisson arrivals drawn from a list's mix, exponential stays, offered demand 0.95, 1 and 1.1 of the GPUs; what does not
fit is dropped; ten mean stays, the first four of them warm-up; four seeds. `tenor` is the choice of a rehearsal that
knows the fleet, the mix, the mean stay and the load. Baselines in the same run: `fgd`, `best-fit`, `first-fit`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scheduler.core.placement.scores.table import Score, gpus_of_model, score
from scheduler.core.placement.scores.trials import Work, outcome, placed
from tests.benchmarks.harness import Figure, Result, Settings
from tests.benchmarks.packing_inputs import PodList, in_processes, list_paths, pod_list, rehearsed
from tests.benchmarks.plots import churned

LOADS = (95, 100, 110)
SEEDS = (1, 2, 3, 4)
STAYS, WARM_UP = 10, 4
STAY_MS = 3_600_000
BASELINES = ("fgd", "best-fit", "first-fit")

Row = dict[str, Figure]
Case = tuple[Path, int, tuple[int, ...], int]


def run(settings: Settings) -> Result:
    """Rows by list, policy and load."""
    paths = list_paths(settings.traces_folder("openb"), quick=settings.quick)
    loads, seeds, stays = (LOADS[1:2], SEEDS[:1], 2) if settings.quick else (LOADS, SEEDS, STAYS)
    cases: list[Case] = [(path, load, seeds, stays) for path in paths for load in loads]
    rows = [row for rows in in_processes(_rows, cases) for row in rows]
    shown = [f"{name} {_mean(rows, name):.2f}" for name in ("tenor", *BASELINES)]
    line = f"mean unallocated % over {len(paths)} lists and {len(loads)} loads: {', '.join(shown)}"
    return Result(rows, line, {"svg": churned(rows)})


def _rows(case: Case) -> list[Row]:
    path, load, seeds, stays = case
    pods = pod_list(path)
    ready = rehearsed(pods, stay_ms=STAY_MS, offered_ppm=load * 10_000)
    gpus = gpus_of_model(pods.pool)
    scores = {"tenor": ready} | {name: score(name, pods.mix, gpus) for name in BASELINES}
    works = [_work(pods, load, seed, stays) for seed in seeds]
    return [_row(pods, policy, used, works) | {"load": load / 100} for policy, used in scores.items()]


def _row(pods: PodList, policy: str, used: Score, works: list[Work]) -> Row:
    made = [outcome(pods.pool, pods.mix, work, placed(pods.pool, pods.mix, work, used)) for work in works]
    return {
        "pod_list": pods.name,
        "policy": policy,
        "score": used.name,
        "seeds": len(works),
        "unallocated_pct": round(float(np.mean([one.unallocated_ppm for one in made])) / 10_000, 2),
        "refused_pct": round(float(np.mean([one.refused_ppm for one in made])) / 10_000, 2),
    }


def _work(pods: PodList, load: int, seed: int, stays: int) -> Work:
    """A draw of the protocol, apart from the one that rehearsals use."""
    generator = np.random.default_rng(seed)
    stay_us = STAY_MS * 1_000
    each = pods.mix.demand_milli / pods.mix.count
    gap_us = 100 * stay_us * each / (load * pods.pool.total_milli)
    count = int(1.2 * stays * stay_us / gap_us) + 100
    arrive_us = np.cumsum(generator.exponential(gap_us, count)).astype(np.int64)
    arrive_us = arrive_us[arrive_us < stays * stay_us]
    n = len(arrive_us)
    leave_us = arrive_us + 1 + generator.exponential(stay_us, n).astype(np.int64)
    kinds = pods.pods[generator.integers(0, len(pods.pods), n)]
    at_us = np.concatenate([arrive_us, leave_us])
    order = np.argsort(at_us, kind="stable")
    order = order[at_us[order] < stays * stay_us]
    workers = np.arange(n, dtype=np.int64)
    events = np.concatenate([workers, -1 - workers])[order]
    return Work(kinds, events, at_us[order], stays * stay_us * WARM_UP // STAYS, stays * stay_us)


def _mean(rows: list[Row], policy: str) -> float:
    return float(np.mean([float(str(row["unallocated_pct"])) for row in rows if row["policy"] == policy]))
