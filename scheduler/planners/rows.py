"""A gang as a replica needs it: everything that planning may look at, and nothing that only execution does.

Commands, environments and folders never leave the scheduler: they may hold secrets, and are most of a gang's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import Gang, GangSpec, GangStatus, StopCause, shape_of

SPEC_LEFT_OUT = frozenset({"name", "command", "env", "working_dir", "max_failures"})
GANG_LEFT_OUT = frozenset({"spec", "shape", "pieces", "waits_for"})
"""Beside the spec, which is carried by its own fields, and what follows from others."""
_UNSAID = "unsaid"


class GangRow(NamedTuple):
    """The fields of a `Gang` and of its `GangSpec` by their names; `gpu_numbers` are those of the part."""

    # of the spec
    account: str
    workers: int
    gpus_per_worker: int
    grade: str | None
    topology: Level | None
    topology_required: bool
    priority: int
    preemptible: bool
    max_runtime_ms: int | None
    grace_ms: int
    checkpoint_ms: int
    restart_ms: int
    min_workers: int | None
    gpu_milli: int
    min_runtime_ms: int
    deadline_ms: int | None
    spread: Level | None
    spread_required: bool
    # of the gang
    id: str
    number: int
    submitted_ms: int
    status: GangStatus
    attempt: int
    gpu_numbers: tuple[int, ...]
    placed_ms: int
    inside: bool
    bind_by_ms: int | None
    overdue: bool
    started_ms: int | None
    stop_cause: StopCause | None
    stop_deadline_ms: int | None
    failures: int
    ended_ms: int | None
    exit_code: int | None
    evictions: int
    evicted_ms: tuple[int, ...]
    queued_ms: int

    @property
    def gang(self) -> Gang:
        """The gang as far as planning may see it."""
        of_spec: dict[str, Any] = dict(zip(_OF_SPEC, self, strict=False))
        of_gang: dict[str, Any] = dict(zip(_OF_GANG, self[len(_OF_SPEC) :], strict=True))
        spec = GangSpec(name=_UNSAID, command=(_UNSAID,), **of_spec)
        shape = shape_of(spec)
        if self.gpu_numbers:
            shape = shape.sized(floor_div(len(self.gpu_numbers), spec.gpus_per_worker))
        return Gang(spec=spec, shape=shape, **of_gang)


_OF_SPEC = tuple(name for name in GangRow._fields if name in GangSpec.model_fields)
_OF_GANG = GangRow._fields[len(_OF_SPEC) :]
_NUMBERS = GangRow._fields.index("gpu_numbers")


def row_of(gang: Gang, gpu_numbers: Sequence[int]) -> GangRow:
    """The gang's row, standing on these GPUs of the part."""
    spec = gang.spec
    fields = [*(getattr(spec, name) for name in _OF_SPEC), *(getattr(gang, name) for name in _OF_GANG)]
    fields[_NUMBERS] = tuple(gpu_numbers)
    return GangRow(*fields)
