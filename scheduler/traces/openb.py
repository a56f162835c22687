"""openb (Alibaba, ATC'23): heterogeneous GPU nodes, and five lists of pods, many of which share a GPU.

Nodes: `sn,cpu_milli,memory_mib,gpu,model`. Pods: `name,cpu_milli,memory_mib,num_gpu,gpu_milli`, and in all lists but
multigpu30 also `gpu_spec` (`A|B`: the models allowed, empty for any), `qos`, `pod_phase` and times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from scheduler.traces.arrays import Bools, Int32s, Int64s, indexed, sealed
from scheduler.traces.table import Table, read_table

WHOLE_GPU_MILLI = 1000
MAX_GPUS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class OpenbNodes:
    """Nodes in the file's order. Every array is (n_nodes,).

    cpu_milli:  int64, thousandths of a virtual CPU
    memory_mib: int64
    gpus:       int32
    model:      int32, index into `models`
    names:      one a node, distinct
    models:     GPU models, sorted
    """

    names: tuple[str, ...]
    cpu_milli: Int64s
    memory_mib: Int64s
    gpus: Int32s
    model: Int32s
    models: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class OpenbTimes:
    """When pods came and went; every array is (n_pods,).

    created_ms, deleted_ms: int64, from the trace's own zero
    was_scheduled:          bool
    scheduled_ms:           int64, meaningful where `was_scheduled`, else 0
    """

    created_ms: Int64s
    deleted_ms: Int64s
    was_scheduled: Bools
    scheduled_ms: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class OpenbPods:
    """Pods in the file's order. Every array is (n_pods,).

    cpu_milli:  int64, thousandths of a virtual CPU
    memory_mib: int64
    gpus:       int32, 0 for a pod without GPU
    gpu_milli:  int32, of each GPU: 1000 for whole ones, less only where `gpus` is 1, 0 where it is 0
    spec:       int32, index into `specs`
    specs:      distinct sets of allowed models, each sorted; the empty one allows any
    times:      None where the list has none (multigpu30)
    """

    names: tuple[str, ...]
    cpu_milli: Int64s
    memory_mib: Int64s
    gpus: Int32s
    gpu_milli: Int32s
    spec: Int32s
    specs: tuple[tuple[str, ...], ...]
    times: OpenbTimes | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def demand_gpu_milli(self) -> Int64s:
        """GPUs times milli-GPU of each: (n_pods,) int64."""
        return self.gpus.astype(np.int64) * self.gpu_milli

    def allowed(self, models: tuple[str, ...]) -> Bools:
        """Which pods may use which models: (n_pods, n_models) bool."""
        by_spec = np.array([[not spec or model in spec for model in models] for spec in self.specs], dtype=np.bool_)
        return sealed(by_spec[self.spec])


@dataclass(frozen=True, slots=True)
class PublishedAllocation:
    """What the paper's simulation left unallocated under one policy on one list, mean over `seeds`."""

    pod_list: str
    policy: str
    seeds: int
    unallocated_at_100_ppm: int
    unallocated_at_end_ppm: int
    end_load_percent: int


def load_nodes(path: Path) -> OpenbNodes:
    """Read the nodes. Raises InvalidValue with file, line and column for anything else than the published format."""
    table = read_table(path, ("sn", "cpu_milli", "memory_mib", "gpu", "model"))
    models, model = indexed(table.names("model"))
    table.require_whole_last_line(
        lambda: table.columns[-1] == "model" and table.rows[-1][-1] in table.texts("model")[:-1]
    )
    return OpenbNodes(
        names=_distinct(table, "sn"),
        cpu_milli=table.integers("cpu_milli"),
        memory_mib=table.integers("memory_mib"),
        gpus=sealed(table.integers("gpu", at_most=MAX_GPUS).astype(np.int32)),
        model=model,
        models=models,
    )


def load_pods(path: Path) -> OpenbPods:
    """Read one list of pods. Raises InvalidValue with file, line and column for anything else than its format."""
    table = read_table(path, ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"))
    table.require_whole_last_line()
    gpus = table.integers("num_gpu", at_most=MAX_GPUS)
    gpu_milli = table.integers("gpu_milli", at_most=WHOLE_GPU_MILLI)
    table.require("gpu_milli", (gpus == 0) == (gpu_milli == 0), "0 exactly where num_gpu is 0")
    table.require("gpu_milli", (gpus <= 1) | (gpu_milli == WHOLE_GPU_MILLI), "1000 where num_gpu is over 1")
    texts, text = indexed(table.texts("gpu_spec") if table.has("gpu_spec") else [""] * len(table.rows))
    specs = tuple(tuple(sorted(spec.split("|"))) if spec else () for spec in texts)
    if table.has("gpu_spec"):
        whole = np.array([all(spec) for spec in specs], dtype=np.bool_)
        table.require("gpu_spec", whole[text], "models as P100|T4, or nothing")
    return OpenbPods(
        names=_distinct(table, "name"),
        cpu_milli=table.integers("cpu_milli"),
        memory_mib=table.integers("memory_mib"),
        gpus=sealed(gpus.astype(np.int32)),
        gpu_milli=sealed(gpu_milli.astype(np.int32)),
        spec=text,
        specs=specs,
        times=_times(table),
    )


def load_published(path: Path) -> tuple[PublishedAllocation, ...]:
    """Read the paper's results in the file's order. Raises InvalidValue with file, line and column."""
    at_100, at_end = "unallocated_pct_at_100", "unallocated_pct_at_end"
    table = read_table(path, ("pod_list", "policy", "seeds", at_100, at_end, "end_load_pct"))
    table.require_whole_last_line()
    seeds, end_load = table.integers("seeds", 1).tolist(), table.integers("end_load_pct", 1).tolist()
    pod_lists, policies = table.names("pod_list"), table.names("policy")
    return tuple(
        PublishedAllocation(
            pod_list=pod_lists[i].removeprefix("openb_pod_list_"),
            policy=policies[i],
            seeds=seeds[i],
            unallocated_at_100_ppm=_percent_as_ppm(table, at_100, i),
            unallocated_at_end_ppm=_percent_as_ppm(table, at_end, i),
            end_load_percent=end_load[i],
        )
        for i in range(len(table.rows))
    )


def _times(table: Table) -> OpenbTimes | None:
    if not all(table.has(column) for column in ("creation_time", "deletion_time", "scheduled_time")):
        return None
    created_ms, deleted_ms = table.seconds_as_ms("creation_time"), table.seconds_as_ms("deletion_time")
    table.require("deletion_time", deleted_ms >= created_ms, "no earlier than creation_time")
    scheduled = np.array([text != "" for text in table.texts("scheduled_time")], dtype=np.bool_)
    return OpenbTimes(created_ms, deleted_ms, sealed(scheduled), table.seconds_as_ms("scheduled_time", empty_as_ms=0))


def _distinct(table: Table, column: str) -> tuple[str, ...]:
    names = table.names(column)
    seen: set[str] = set()
    for row, name in enumerate(names):
        if name in seen:
            raise table.fault(column, row, "a name that no line before has")
        seen.add(name)
    return tuple(names)


def _percent_as_ppm(table: Table, column: str, row: int) -> int:
    text = table.texts(column)[row]
    try:
        ppm = Decimal(text) * 10_000
    except InvalidOperation:
        raise table.fault(column, row, "a percentage 0..100") from None
    if not ppm.is_finite() or not 0 <= ppm <= 1_000_000:
        raise table.fault(column, row, "a percentage 0..100")
    return int(ppm)
