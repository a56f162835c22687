"""Writing traces in the published formats, for `generate.write_folder`. Each file loads by its own loader.

What has no counterpart in a replay's input (openb, Gavel, calendars) is small and only well formed: it lets tests and
users exercise the loaders, and says nothing about any real cluster.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scheduler.traces.dates import day_of
from scheduler.traces.folder import (
    GAVEL_THROUGHPUTS,
    GAVEL_TRACES,
    HELIOS_CALENDAR,
    OPENB_NODES,
    OPENB_POD_LISTS,
    PHILLY_JOBS,
)
from scheduler.traces.helios import HeliosCalendar
from scheduler.traces.philly import PhillyJobs
from scheduler.traces.splitmix import Purpose, draw_below

_MODELS = (("G2", 8), ("T4", 2), ("V100M32", 8))
_JOB_TYPES = ("A3C", "LM (batch size 20)", "ResNet-18 (batch size 64)")
_GPU_CLASSES = ("k80", "k80_unconsolidated", "p100", "p100_unconsolidated", "v100", "v100_unconsolidated")
_OPENB_PODS_MAX = 200


def write_helios(root: Path, calendar: HeliosCalendar) -> None:
    """The calendar as Helios publishes it, with its total column."""
    lines = [",".join(("date", *calendar.tenants, "total"))]
    for start_ms, gpus in zip(calendar.day_start_ms.tolist(), calendar.gpus.tolist(), strict=True):
        lines.append(",".join(map(str, (day_of(start_ms), *gpus, sum(gpus)))))
    _write(root / HELIOS_CALENDAR, lines)


def write_philly(root: Path, jobs: PhillyJobs) -> None:
    """The jobs in the order of their rows, times to the second."""
    lines = ["timestamp,duration,num_gpus,gpu_time,cluster"]
    instants = jobs.submitted_ms.astype("datetime64[ms]").astype("datetime64[s]")
    for i in np.argsort(jobs.row, kind="stable").tolist():
        duration_s, gpus = int(jobs.duration_ms[i]) // 1000, int(jobs.gpus[i])
        timestamp = str(instants[i]).replace("T", " ")
        lines.append(f"{timestamp},{duration_s}.0,{gpus},{duration_s * gpus}.0,{jobs.tenants[jobs.tenant[i]]}")
    _write(root / PHILLY_JOBS, lines)


def write_openb(root: Path, seed: int, nodes: int, jobs: int) -> None:
    """`nodes` nodes of three models, and the five lists of up to 200 pods each."""
    lines = ["sn,cpu_milli,memory_mib,gpu,model"]
    for i in range(nodes):
        model, gpus = _MODELS[i % len(_MODELS)]
        lines.append(f"openb-node-{i:04d},{12_000 * gpus},{49_152 * gpus},{gpus},{model}")
    _write(root / OPENB_NODES, lines)
    for at, name in enumerate(OPENB_POD_LISTS):
        _write(root / f"openb/openb_pod_list_{name}.csv", _pods(seed, at, min(jobs, _OPENB_PODS_MAX)))


def write_gavel(root: Path, seed: int, tenants: int, jobs: int) -> None:
    """Rates of three job types on the six classes, and a trace for each tenant."""
    rates = {gpu_class: _rates(seed, k) for k, gpu_class in enumerate(_GPU_CLASSES)}
    _write(root / GAVEL_THROUGHPUTS, json.dumps(rates, indent=1).splitlines())
    each = max(1, min(jobs, 1000) // tenants)
    for tenant in range(tenants):
        job = np.arange(each, dtype=np.int64) + tenant * each
        arrivals_s = np.sort(draw_below(86_400, seed, Purpose.ARRIVAL, job)).tolist()
        steps = (draw_below(100_000, seed, Purpose.DURATION, job) + 1).tolist()
        types = draw_below(len(_JOB_TYPES), seed, Purpose.RATE, job).tolist()
        _write(
            root / GAVEL_TRACES / f"{0xB00000 + tenant:06x}.trace",
            [
                f"{_JOB_TYPES[types[i]]}\tpython3 main.py --data %s\t--steps\t1\t{steps[i]}\t{arrivals_s[i]}.000000\t1"
                for i in range(each)
            ],
        )


def write_calendar(root: Path, seed: int, nodes: int) -> None:
    """One calendar of `nodes` lots of nodes, and the same with positions, named by the fleet's GPUs."""
    lot = np.arange(nodes, dtype=np.int64)
    starts = draw_below(8000, seed, Purpose.ARRIVAL, lot).tolist()
    lengths = (draw_below(760, seed, Purpose.DURATION, lot) + 1).tolist()
    lines = [f"NODE,{start},{start + length},1" for start, length in zip(starts, lengths, strict=True)]
    _write(root / f"calendars/{nodes * 8}_carved_90.csv", ["cell,start_hour,end_hour,lots", *lines])
    numbered = [f"{line},{i}" for i, line in enumerate(lines)]
    _write(root / f"calendars/{nodes * 8}_{nodes}_90.csv", ["cell,start_hour,end_hour,lots,position", *numbered])


def _pods(seed: int, pod_list: int, pods: int) -> list[str]:
    name = OPENB_POD_LISTS[pod_list]
    plain = name == "multigpu30"
    pod = np.arange(pods, dtype=np.int64) + pod_list * 1_000_000
    shares = ((0, 0), (1, 460), (1, 810), (1, 1000), (2, 1000), (8, 1000))
    kinds = draw_below(len(shares), seed, Purpose.SIZE, pod).tolist()
    arrivals_s = draw_below(1_000_000, seed, Purpose.ARRIVAL, pod).tolist()
    lines = ["name,cpu_milli,memory_mib,num_gpu,gpu_milli"]
    lines[0] += "" if plain else ",gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"
    for i, (kind, at_s) in enumerate(zip(kinds, arrivals_s, strict=True)):
        gpus, gpu_milli = shares[kind]
        spec = "T4|V100M32" if name == "gpuspec10" and gpus and i % 10 == 0 else ""
        # Every seventh pod was never scheduled, as the published lists have some.
        scheduled = "" if i % 7 == 6 else str(at_s + 3)
        rest = "" if plain else f",{spec},LS,Running,{at_s},{at_s + 600},{scheduled}"
        lines.append(f"openb-pod-{i:04d},{4000 * max(gpus, 1)},16384,{gpus},{gpu_milli}{rest}")
    return lines


def _rates(seed: int, gpu_class: int) -> dict[str, dict[str, float | list[float]]]:
    """Rates of each job type on 1 GPU, alone and beside each other type, to a thousandth of a step a second."""
    job = np.arange(len(_JOB_TYPES), dtype=np.int64) + gpu_class * 100
    alone = [(milli + 500) / 1000 for milli in draw_below(50_000, seed, Purpose.RATE, job).tolist()]
    names = [str((job_type, 1)) for job_type in _JOB_TYPES]
    table: dict[str, dict[str, float | list[float]]] = {}
    for name, rate in zip(names, alone, strict=True):
        table[name] = {"null": rate}
        for other, others in zip(names, alone, strict=True):
            table[name][other] = [round(rate * 0.6, 3), round(others * 0.6, 3)]
    return table


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
