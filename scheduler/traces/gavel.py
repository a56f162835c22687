"""Gavel (OSDI'20): measured steps a second of 26 job types on three GPU classes, and fifteen tenants' job traces.

Throughputs: JSON, `{class: {"('job type', gpus)": {"null": alone, "('other', gpus)": [own, other's]}}}`. A class ending
in `_unconsolidated` is the same GPU with the gang spread over nodes. Traces: tab-separated, no header, seven columns.
Measured rates are the one place where floats are kept as they are.
"""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.traces.arrays import Bools, Float64s, Int32s, Int64s, indexed, sealed
from scheduler.traces.table import read_headless, read_text

ALONE = "null"
SPREAD = "_unconsolidated"
MAX_GPUS = 100_000

_COLUMNS = ("job_type", "command", "steps_argument", "needs_data", "total_steps", "arrival_s", "gpus")

Job = tuple[str, int]
"""A job type and its number of GPUs."""


@dataclass(frozen=True, slots=True, eq=False)
class Colocations:
    """Two jobs on the same GPUs, as measured; a row a measurement, every array (n_pairs,).

    gpu_class: int32, index into `Throughputs.gpu_classes`
    job:       int32, index into `Throughputs.jobs`
    other:     int32, index into `Throughputs.jobs`
    own:       float64, steps a second of `job`
    others:    float64, steps a second of `other`
    """

    gpu_class: Int32s
    job: Int32s
    other: Int32s
    own: Float64s
    others: Float64s

    def __len__(self) -> int:
        return len(self.job)


@dataclass(frozen=True, slots=True, eq=False)
class Throughputs:
    """Rates of jobs on GPU classes.

    gpu_classes:   names, sorted, spread-out ones (`SPREAD`) among them
    jobs:          (job type, GPUs), sorted
    measured:      (n_classes, n_jobs) bool
    steps_per_s:   (n_classes, n_jobs) float64, alone; meaningful where `measured`, else 0
    colocations:   pairs that share their GPUs
    """

    gpu_classes: tuple[str, ...]
    jobs: tuple[Job, ...]
    measured: Bools
    steps_per_s: Float64s
    colocations: Colocations

    def alone(self, gpu_class: str, job_type: str, gpus: int) -> float | None:
        """Steps a second of a job alone, or None where it was not measured."""
        if gpu_class not in self.gpu_classes or (job_type, gpus) not in self.jobs:
            return None
        at = self.gpu_classes.index(gpu_class), self.jobs.index((job_type, gpus))
        return float(self.steps_per_s[at]) if self.measured[at] else None


@dataclass(frozen=True, slots=True, eq=False)
class GavelTrace:
    """One tenant's jobs by (arrival, line). Every array is (n_jobs,).

    job_type:       int32, index into `job_types`
    needs_data:     bool, whether the command reads a data set
    total_steps:    int64, positive
    arrival_ms:     int64, from the trace's own zero
    gpus:           int32, positive
    command:        one a job, with `%s` for the folders
    steps_argument: one a job, the command's option for the number of steps
    """

    tenant: str
    job_types: tuple[str, ...]
    job_type: Int32s
    needs_data: Bools
    total_steps: Int64s
    arrival_ms: Int64s
    gpus: Int32s
    command: tuple[str, ...]
    steps_argument: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.job_type)


def load_throughputs(path: Path) -> Throughputs:
    """Read the measured rates. Raises InvalidValue that names the file and the entry."""
    tables = _parse(path)
    gpu_classes = tuple(sorted(tables))
    rates = [(k, *entry) for k, name in enumerate(gpu_classes) for entry in _entries(path, name, tables[name])]
    jobs = tuple(sorted({job for _, job, _, _ in rates} | {other for _, _, other, _ in rates if other is not None}))
    index = {job: i for i, job in enumerate(jobs)}
    measured = np.zeros((len(gpu_classes), len(jobs)), dtype=np.bool_)
    steps_per_s = np.zeros((len(gpu_classes), len(jobs)), dtype=np.float64)
    pairs: list[tuple[int, int, int, float, float]] = []
    for k, job, other, rate in rates:
        if other is None:
            measured[k, index[job]] = True
            steps_per_s[k, index[job]] = rate[0]
        else:
            pairs.append((k, index[job], index[other], rate[0], rate[1]))
    return Throughputs(gpu_classes, jobs, sealed(measured), sealed(steps_per_s), _colocations(sorted(pairs)))


def load_trace(path: Path) -> GavelTrace:
    """Read one tenant's trace; the tenant is the file's name. Raises InvalidValue with file, line and column."""
    table = read_headless(path, _COLUMNS, "\t")
    table.require_whole_last_line()
    arrival_ms = table.seconds_as_ms("arrival_s")
    needs_data = table.integers("needs_data", at_most=1)
    total_steps = table.integers("total_steps", at_least=1)
    gpus = table.integers("gpus", at_least=1, at_most=MAX_GPUS)
    job_types, job_type = indexed(table.names("job_type"))
    order = np.argsort(arrival_ms, kind="stable")
    commands, arguments = table.texts("command"), table.texts("steps_argument")
    return GavelTrace(
        tenant=path.stem,
        job_types=job_types,
        job_type=sealed(job_type[order]),
        needs_data=sealed(needs_data[order] == 1),
        total_steps=sealed(total_steps[order]),
        arrival_ms=sealed(arrival_ms[order]),
        gpus=sealed(gpus[order].astype(np.int32)),
        command=tuple(commands[i] for i in order.tolist()),
        steps_argument=tuple(arguments[i] for i in order.tolist()),
    )


def load_traces(folder: Path) -> tuple[GavelTrace, ...]:
    """Every `*.trace` of a folder, by tenant. Raises InvalidValue, also where there is none."""
    paths = sorted(folder.glob("*.trace"))
    if not paths:
        raise InvalidValue("traces", str(folder), 0, "at least one file *.trace")
    return tuple(load_trace(path) for path in paths)


def _parse(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        tables = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} of {path}"
        raise InvalidValue("JSON", where, error.msg, "a JSON object") from None
    except RecursionError:
        raise InvalidValue("JSON", str(path), "too deeply nested", "classes, jobs, rates") from None
    _require_object(path, "the document", tables)
    for name, table in tables.items():
        _require_object(path, name, table)
        for job, rates in table.items():
            _require_object(path, f"{name}/{job}", rates)
    return tables  # type: ignore[no-any-return]


def _require_object(path: Path, entry: str, value: object) -> None:
    if not isinstance(value, dict):
        raise InvalidValue(entry, str(path), type(value).__name__, "an object")


def _entries(
    path: Path, name: str, table: dict[str, dict[str, Any]]
) -> list[tuple[Job, Job | None, tuple[float, ...]]]:
    """(job, the other or None, rates) of one class: one rate alone, two together."""
    found: list[tuple[Job, Job | None, tuple[float, ...]]] = []
    for text, rates in table.items():
        job = _job(path, f"{name}/{text}", text)
        for other, rate in rates.items():
            entry = f"{name}/{text}/{other}"
            if other == ALONE:
                found.append((job, None, (_rate(path, entry, rate),)))
            elif isinstance(rate, list) and len(rate) == 2:
                found.append((job, _job(path, entry, other), tuple(_rate(path, entry, each) for each in rate)))
            else:
                raise InvalidValue(entry, str(path), rate, "two rates, its own and the other's")
    return found


def _job(path: Path, entry: str, text: str) -> Job:
    try:
        job = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        job = None
    match job:
        case (str() as job_type, int() as gpus) if gpus >= 1:
            return job_type, gpus
        case _:
            raise InvalidValue(entry, str(path), text, "a job as ('ResNet-18 (batch size 16)', 1)")


def _rate(path: Path, entry: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidValue(entry, str(path), value, "steps a second, 0 or more")
    return float(value)


def _colocations(pairs: list[tuple[int, int, int, float, float]]) -> Colocations:
    def column(at: int, dtype: type) -> Any:
        return sealed(np.array([pair[at] for pair in pairs], dtype=dtype))

    return Colocations(
        column(0, np.int32), column(1, np.int32), column(2, np.int32), column(3, np.float64), column(4, np.float64)
    )
