"""How much of a heterogeneous fleet stays unallocated while it fills, by score, on every list of pods that is there.

The published protocol (ATC'23): an empty fleet, the list and draws from it until they ask for 130 % of the GPUs,
shuffled, seeds 42 .. 51; nothing leaves, what does not fit is dropped. `tenor` is what production would use: the choice
of a rehearsal that knows the fleet and the mix, and nothing of what comes. Baselines in the same run: `fgd`,
`best-fit`, `first-fit`; beside them the published figures of FGD, and two bounds: `bound` may refuse whom it likes and
spread its work as it likes, `bound-fitting` must take what is smaller than something that it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from scheduler.core.placement.scores.pool import IntArray
from scheduler.core.placement.scores.table import Score, gpus_of_model, score
from scheduler.core.placement.scores.trials import Work, placed
from scheduler.traces.openb import load_published
from tests.benchmarks.harness import Figure, Result, Settings
from tests.benchmarks.packing_bound import bound_pct
from tests.benchmarks.packing_inputs import PodList, in_processes, list_paths, pod_list, rehearsed
from tests.benchmarks.plots import filled

SEEDS = tuple(range(42, 52))
END_PERCENT = 130
BASELINES = ("fgd", "best-fit", "first-fit")

Row = dict[str, Figure]


class Filled(NamedTuple):
    """One seed: per cent unallocated at 100 % and at the end, and pods of eight GPUs refused before 100 %."""

    at_100: float
    at_end: float
    refused_of_8: int


def run(settings: Settings) -> Result:
    """Rows as in the published table, by list and policy."""
    folder = settings.traces_folder("openb")
    seeds = SEEDS[:1] if settings.quick else SEEDS
    paths = list_paths(folder, quick=settings.quick)
    by_list = in_processes(_rows, [(path, seeds, not settings.quick) for path in paths])
    published = _published(folder / "published_allocation.csv", {path.stem for path in paths})
    rows = [*(row for rows in by_list for row in rows), *published]
    line = "unallocated % at 100/130: " + "; ".join(_line(path.stem, rows) for path in paths)
    return Result(rows, line, {"svg": filled(rows)})


def _rows(asked: tuple[Path, tuple[int, ...], bool]) -> list[Row]:
    path, seeds, bounds = asked
    pods = pod_list(path)
    ready = rehearsed(pods, stay_ms=0, offered_ppm=1_000_000)
    gpus = gpus_of_model(pods.pool)
    scores = {"tenor": ready} | {name: score(name, pods.mix, gpus) for name in BASELINES}
    rows: list[Row] = []
    for policy, used in scores.items():
        filled = [_filled(pods, arrivals(pods, seed), used) for seed in seeds]
        rows.append(_row(pods.name, policy, filled) | {"score": used.name})
    if bounds:
        for policy, fitting in (("bound", False), ("bound-fitting", True)):
            pct = round(bound_pct(pods, fitting=fitting), 2)
            rows.append(_bound_row(pods.name, policy, pct))
    return rows


def arrivals(pods: PodList, seed: int) -> IntArray:
    """The kinds that arrive, in order."""
    generator = np.random.default_rng(seed)
    wanted = pods.pool.total_milli * END_PERCENT // 100
    drawn = pods.pods[generator.integers(0, len(pods.pods), 4 * len(pods.pods))]
    kinds = np.concatenate([pods.pods, drawn])
    until = int(np.searchsorted(np.cumsum(pods.asked_milli[kinds]), wanted)) + 1
    return generator.permutation(kinds[: max(until, len(pods.pods))])


def _filled(pods: PodList, kinds: IntArray, used: Score) -> Filled:
    moments = np.arange(len(kinds), dtype=np.int64)
    taken = placed(pods.pool, pods.mix, Work(kinds, moments, moments, 0, len(kinds)), used) >= 0
    asked = pods.asked_milli[kinds]
    total = pods.pool.total_milli
    allocated = np.cumsum(asked * taken)
    full = int(np.searchsorted(np.cumsum(asked), total))
    refused = ~taken[: full + 1] & (pods.mix.asks[kinds[: full + 1], 0] == 8)
    at_100, at_end = (100 * (1 - int(allocated[at]) / total) for at in (full, -1))
    return Filled(at_100, at_end, int(refused.sum()))


def _row(name: str, policy: str, filled: list[Filled]) -> Row:
    return {
        "pod_list": name,
        "policy": policy,
        "seeds": len(filled),
        "unallocated_pct_at_100": round(float(np.mean([one.at_100 for one in filled])), 2),
        "unallocated_pct_at_end": round(float(np.mean([one.at_end for one in filled])), 2),
        "end_load_pct": END_PERCENT,
        "refused_of_8_gpus": round(float(np.mean([one.refused_of_8 for one in filled])), 1),
    }


def _bound_row(name: str, policy: str, pct: float) -> Row:
    """Of the demand at 100 % of the GPUs, whatever the order of arrival: no seeds, and nothing later."""
    return {
        "pod_list": name,
        "policy": policy,
        "seeds": 0,
        "unallocated_pct_at_100": pct,
        "unallocated_pct_at_end": None,
        "end_load_pct": 100,
    }


def _published(path: Path, names: set[str]) -> list[Row]:
    if not path.is_file():
        return []
    return [
        {
            "pod_list": f"openb_pod_list_{one.pod_list}",
            "policy": "fgd-published",
            "seeds": one.seeds,
            "unallocated_pct_at_100": one.unallocated_at_100_ppm / 10_000,
            "unallocated_pct_at_end": one.unallocated_at_end_ppm / 10_000,
            "end_load_pct": one.end_load_percent,
        }
        for one in load_published(path)
        if one.policy.endswith("FGD") and f"openb_pod_list_{one.pod_list}" in names
    ]


def _line(name: str, rows: list[Row]) -> str:
    shown = {
        row["policy"]: f"{row['unallocated_pct_at_100']}/{row['unallocated_pct_at_end']}"
        for row in rows
        if row["pod_list"] == name and row["unallocated_pct_at_end"] is not None
    }
    return (
        f"{name.removeprefix('openb_pod_list_')} {shown['tenor']} (fgd {shown['fgd']}, first-fit {shown['first-fit']})"
    )
