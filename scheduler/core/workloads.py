"""Workloads: gangs of workers that start together, what they wish, and why they wait.

A gang is all-or-nothing: `workers` × `gpus_per_worker` GPUs, each worker inside one node. Two kinds bend that: an
*elastic* one starts with any number of workers from `min_workers` to `workers`, and a *share* is one worker that asks
for `gpu_milli` thousandths of one GPU, which gangs of its account share. A gang's life is the table of `TRANSITIONS`;
an illegal step raises. Gangs of one `Shape` are interchangeable to the planner, so a shape that was refused once in a
round need not be tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, ClassVar, NamedTuple

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.ids import Name
from scheduler.core.models import Model
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR, floor_div

Text = Annotated[str, StringConstraints(max_length=32_768)]

WHOLE_GPU_MILLI = 1_000
DEADLINE_LEAD_MS = MS_PER_DAY
"""A gang with a deadline is served as if it had been submitted this long before its latest start, if that is earlier
than when it was.
"""

EVICTION_MS = 200_000
"""Each eviction in the last hour makes the next one as dear as so much work lost on each of the gang's GPUs."""


class GangSpec(Model):
    """What a team asks for. Times in ms; 0 for `checkpoint_ms` means that it never checkpoints."""

    account: Name
    name: Name
    command: tuple[Text, ...] = Field(min_length=1, max_length=4_096)
    workers: int = Field(default=1, ge=1, le=100_000)
    gpus_per_worker: int = Field(default=1, ge=1, le=64)
    grade: Name | None = Field(default=None, description="Only GPUs of this grade; None: any grade the fleet has.")
    topology: Level | None = Field(default=None, description="All workers inside one cell of this level.")
    topology_required: bool = False
    spread: Level | None = Field(default=None, description="Every worker in another cell of this level.")
    spread_required: bool = False
    min_workers: int | None = Field(default=None, ge=1, description="Starts with so many where all do not fit.")
    gpu_milli: int = Field(default=WHOLE_GPU_MILLI, ge=1, le=WHOLE_GPU_MILLI, description="Of its one GPU.")
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    preemptible: bool = True
    max_runtime_ms: int | None = Field(default=None, ge=1, description="Declared run time; stopped when it is over.")
    min_runtime_ms: int = Field(default=0, ge=0, description="Wishes to be left alone until it ran so long.")
    deadline_ms: int | None = Field(default=None, ge=0, description="The instant by which it should be done.")
    grace_ms: int = Field(default=10_000, ge=0, le=3_600_000, description="From SIGTERM to SIGKILL.")
    checkpoint_ms: int = Field(default=0, ge=0, description="How often it checkpoints; 0: never.")
    restart_ms: int = Field(default=30_000, ge=0, description="What a restart costs before useful work resumes.")
    max_failures: int = Field(default=0, ge=0, le=1_000, description="Own failures to restart after, beyond the first.")
    env: dict[Text, Text] = Field(default_factory=dict)
    working_dir: Text | None = None

    @model_validator(mode="after")
    def _end_is_declared(self) -> GangSpec:
        if not self.preemptible and self.max_runtime_ms is None:
            raise ValueError("max_runtime_ms must be given where preemptible is false: nothing may outlast its window")
        return self

    @model_validator(mode="after")
    def _size_is_one_thing(self) -> GangSpec:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers must be 1..{self.workers}: it cannot start with more than it asks for")
        if self.is_share and (self.workers, self.gpus_per_worker) != (1, 1):
            raise ValueError("gpu_milli must be 1000 where it has more than one GPU: a share is a part of one")
        return self

    @model_validator(mode="after")
    def _wishes_agree(self) -> GangSpec:
        within, apart = self.topology, self.spread
        if within is not None and apart is not None and apart >= within and self.workers > 1:
            raise ValueError(f"spread must be of a lower level than topology, which is {within.name.lower()}")
        return self

    @property
    def gpus(self) -> int:
        """All GPUs of the gang, with all its workers."""
        return self.workers * self.gpus_per_worker

    @property
    def least_workers(self) -> int:
        """With how many workers it starts at the least."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def is_elastic(self) -> bool:
        """Whether it may run with fewer workers than it asks for."""
        return self.least_workers < self.workers

    @property
    def is_share(self) -> bool:
        """Whether it asks for a part of one GPU."""
        return self.gpu_milli < WHOLE_GPU_MILLI

    @property
    def latest_start_ms(self) -> int | None:
        """The instant by which it must start to be done by its deadline; None: it has none, or declares no run time."""
        if self.deadline_ms is None or self.max_runtime_ms is None:
            return None
        return self.deadline_ms - self.max_runtime_ms


class GangStatus(StrEnum):
    """Where a gang is in its life."""

    WAITING = "waiting"
    BINDING = "binding"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({GangStatus.SUCCEEDED, GangStatus.FAILED, GangStatus.CANCELLED})

TRANSITIONS: dict[GangStatus, frozenset[GangStatus]] = {
    # placed, or cancelled before it was
    GangStatus.WAITING: frozenset({GangStatus.BINDING, GangStatus.CANCELLED}),
    # all workers started; or a start failed, a cell was lost, its victims' owner was served first; or ended at once
    GangStatus.BINDING: frozenset(
        {GangStatus.RUNNING, GangStatus.STOPPING, GangStatus.WAITING, *ENDED},
    ),
    # asked to stop; or it ended by itself; or its node was lost with it
    GangStatus.RUNNING: frozenset({GangStatus.STOPPING, GangStatus.WAITING, *ENDED}),
    # gone: back to the queue after a reclaim, or ended (cancelled, or its declared run time was over)
    GangStatus.STOPPING: frozenset({GangStatus.WAITING, *ENDED}),
    GangStatus.SUCCEEDED: frozenset(),
    GangStatus.FAILED: frozenset(),
    GangStatus.CANCELLED: frozenset(),
}


class Basis(StrEnum):
    """Why a gang holds its GPUs: its account's coverage, another owner's idle coverage, or nobody's."""

    OWNED = "owned"
    LENT = "lent"
    UNSOLD = "unsold"


class StopCause(StrEnum):
    """Why the scheduler ended a gang's attempt."""

    RECLAIMED = "reclaimed"
    CONSOLIDATED = "consolidated"
    WINDOW_ENDED = "window_ended"
    NODE_LOST = "node_lost"
    GPU_ILL = "gpu_ill"
    DRAINED = "drained"
    CANCELLED = "cancelled"
    RUNTIME_OVER = "runtime_over"
    SHUTDOWN = "shutdown"
    RESIZED = "resized"
    RECALLED = "recalled"


MOVED = frozenset({StopCause.CONSOLIDATED, StopCause.RESIZED})
"""Causes with which a gang comes back at once, for its account's sake or its own: meanwhile it counts as before."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One worker's place: `gpus` are indices on the node (0 .. n - 1), ascending.

    Plain, since a fleet has a million of them: it is checked where it is read from bytes, and by the fold.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    node: Name
    gpus: Annotated[tuple[int, ...], Field(min_length=1)]


class Shape(NamedTuple):
    """What the planner sees of a gang, beside who and when. Equal shapes of one account share their fate in a round.

    A waiting gang's shape is what it asks for; a placed one's has the workers that it has (`held_shape`).
    """

    workers: int
    gpus_per_worker: int
    grade: str | None
    topology: int | None
    topology_required: bool
    preemptible: bool
    runtime_ms: int
    """Declared run time where it decides (not preemptible), else 0."""
    reckless: bool
    """Never checkpoints and declares more than an hour (or nothing): borrows only while the pool is roomy."""
    min_workers: int
    """How few workers will do; as many as `workers` where it is not elastic."""
    gpu_milli: int
    """Below 1000: a share of one GPU."""
    spread: int | None
    spread_required: bool

    @property
    def gpus(self) -> int:
        """All GPUs of a gang of this shape; a share counts as the whole GPU that it is on."""
        return self.workers * self.gpus_per_worker

    @property
    def least_gpus(self) -> int:
        """All GPUs of a gang of this shape with as few workers as will do."""
        return self.min_workers * self.gpus_per_worker

    @property
    def is_elastic(self) -> bool:
        """Whether fewer workers will do."""
        return self.min_workers < self.workers

    @property
    def is_share(self) -> bool:
        """Whether it asks for a part of one GPU."""
        return self.gpu_milli < WHOLE_GPU_MILLI

    def sized(self, workers: int) -> Shape:
        """The shape with exactly so many workers."""
        return self._replace(workers=workers, min_workers=workers)


def shape_of(spec: GangSpec) -> Shape:
    """The shape of a gang."""
    runtime_ms = spec.max_runtime_ms or 0
    return Shape(
        workers=spec.workers,
        gpus_per_worker=spec.gpus_per_worker,
        grade=spec.grade,
        topology=None if spec.topology is None else int(spec.topology),
        topology_required=spec.topology_required,
        preemptible=spec.preemptible,
        runtime_ms=0 if spec.preemptible else runtime_ms,
        reckless=spec.checkpoint_ms == 0 and not 0 < runtime_ms <= MS_PER_HOUR,
        min_workers=spec.least_workers,
        gpu_milli=spec.gpu_milli,
        spread=None if spec.spread is None else int(spec.spread),
        spread_required=spec.spread_required,
    )


def held_shape(spec: GangSpec, pieces: tuple[Piece, ...]) -> Shape:
    """The shape of a gang that stands on these pieces, one worker each; without any, as asked."""
    shape = shape_of(spec)
    return shape.sized(len(pieces)) if pieces else shape


@dataclass(frozen=True, slots=True)
class Gang:
    """A gang at an instant: what was asked, where it is in its life, and where its workers are."""

    id: str
    number: int
    """Dense, in order of submission: the last tie-break everywhere."""
    spec: GangSpec
    shape: Shape
    """As asked while it waits, as placed (`held_shape`) while it is."""
    submitted_ms: int
    status: GangStatus = GangStatus.WAITING
    attempt: int = 0
    """How many times it was placed; the current attempt's number while it is placed."""
    pieces: tuple[Piece, ...] = ()
    gpu_numbers: tuple[int, ...] = ()
    """The fleet's numbers of all its GPUs, in worker order; empty unless placed."""
    waits_for: tuple[str, ...] = ()
    """Gangs that must be gone before this one (BINDING) may start."""
    placed_ms: int = 0
    inside: bool = False
    """Whether the current attempt was placed inside its account's entitlement."""
    bind_by_ms: int | None = None
    """When the bind of an inside gang is late."""
    overdue: bool = False
    started_ms: int | None = None
    """When all workers of the current attempt ran."""
    stop_cause: StopCause | None = None
    stop_deadline_ms: int | None = None
    failures: int = 0
    ended_ms: int | None = None
    exit_code: int | None = None
    evictions: int = 0
    evicted_ms: tuple[int, ...] = ()
    """When it was evicted, the earliest first: within the hour up to the last time."""
    queued_ms: int = 0
    """Since when it waits: submission, or its last return to the queue."""

    @property
    def account(self) -> str:
        """The account it runs for."""
        return self.spec.account

    @property
    def head_start_ms(self) -> int:
        """How much older than it is a near deadline makes the gang; 0 without one, or where it cannot be met."""
        if self.spec.deadline_ms is None:  # as most have none
            return 0
        latest_ms = self.spec.latest_start_ms
        if latest_ms is None or latest_ms < self.submitted_ms:
            return 0
        return max(0, self.submitted_ms - (latest_ms - DEADLINE_LEAD_MS))

    @property
    def order(self) -> tuple[int, int, int]:
        """By priority, then age, which a near deadline adds to, then number: the published order of service."""
        return (-self.spec.priority, self.submitted_ms - self.head_start_ms, self.number)

    def moved(self, status: GangStatus, **changes: object) -> Gang:
        """The gang in its next status. Raises InvalidValue on a step that the table does not have."""
        self._check_step(status)
        return self.changed(status=status, **changes)

    def bound(
        self,
        attempt: int,
        pieces: tuple[Piece, ...],
        gpu_numbers: tuple[int, ...],
        *,
        at_ms: int,
        inside: bool,
        bind_by_ms: int | None,
        waits_for: tuple[str, ...],
    ) -> Gang:
        """The waiting gang, placed there. Raises InvalidValue where it does not wait."""
        self._check_step(GangStatus.BINDING)
        return Gang(  # a round does this for each placement: by position, which takes a quarter of the time of `moved`
            self.id,
            self.number,
            self.spec,
            self.shape.sized(len(pieces)) if self.shape.is_elastic else self.shape,
            self.submitted_ms,
            GangStatus.BINDING,
            attempt,
            pieces,
            gpu_numbers,
            waits_for,
            at_ms,
            inside,
            bind_by_ms,
            False,  # noqa: FBT003 - not overdue
            None,
            None,
            None,
            self.failures,
            self.ended_ms,
            self.exit_code,
            self.evictions,
            self.evicted_ms,
            self.queued_ms,
        )

    def _check_step(self, status: GangStatus) -> None:
        if status not in TRANSITIONS[self.status]:
            allowed = ", ".join(sorted(TRANSITIONS[self.status])) or "nothing: it has ended"
            raise InvalidValue("status", self.id, f"{self.status} to {status}", f"one of {allowed}")

    def changed(self, **changes: object) -> Gang:
        """The gang with other values in some fields: `dataclasses.replace`, in half its time."""
        made = Gang(*map(changes.pop, _GANG_FIELDS, _gang_values(self)))  # type: ignore[arg-type]
        if changes:
            raise TypeError(f"a gang has no {', '.join(changes)}")
        return made


_GANG_FIELDS = tuple(field.name for field in fields(Gang))
_gang_values = attrgetter(*_GANG_FIELDS)


def asked_shape(gang: Gang) -> Shape:
    """What the gang asks for, also where its shape is that of fewer workers."""
    return shape_of(gang.spec) if gang.spec.is_elastic else gang.shape


def lost_work_ms(gang: Gang, now_ms: int) -> int:
    """GPU-ms that ending the gang now would waste: k × (work since its checkpoint + restart + grace).

    k are the GPUs that it has, of a share its part of one, rounded down.
    """
    ran_ms = ran_for_ms(gang, now_ms)
    since_ms = ran_ms % gang.spec.checkpoint_ms if gang.spec.checkpoint_ms else ran_ms
    lost_ms = gang.shape.gpus * (since_ms + gang.spec.restart_ms + gang.spec.grace_ms)
    return floor_div(lost_ms * gang.shape.gpu_milli, WHOLE_GPU_MILLI)


def stop_price_ms(gang: Gang, now_ms: int) -> int:
    """What ending the gang now weighs, in GPU-ms: the work that it would waste; what it has not yet run of the minimum
    run time that it wishes, of which an hour counts at most; and EVICTION_MS for each eviction in the last hour, since
    what was just restarted has least to lose and would always go next.
    """
    wished_ms = max(0, min(MS_PER_HOUR, gang.spec.min_runtime_ms - ran_for_ms(gang, now_ms)))
    weight_ms = gang.shape.gpus * (wished_ms + EVICTION_MS * evictions_in_an_hour(gang, now_ms))
    return lost_work_ms(gang, now_ms) + floor_div(weight_ms * gang.shape.gpu_milli, WHOLE_GPU_MILLI)


def evictions_in_an_hour(gang: Gang, now_ms: int) -> int:
    """How often the gang was evicted within the last hour."""
    return sum(at_ms > now_ms - MS_PER_HOUR for at_ms in gang.evicted_ms)


def evicted_again(gang: Gang, at_ms: int) -> tuple[int, ...]:
    """The instants to keep (`Gang.evicted_ms`) once the gang is evicted at this one too."""
    return (*(each for each in gang.evicted_ms if each > at_ms - MS_PER_HOUR), at_ms)


def ran_for_ms(gang: Gang, now_ms: int) -> int:
    """How long the current attempt has run."""
    return 0 if gang.started_ms is None else max(0, now_ms - gang.started_ms)


def ends_by_ms(gang: Gang) -> int:
    """When a placed gang that declared its run time is over at the latest, its bind limit and its grace included."""
    began_ms = gang.started_ms if gang.started_ms is not None else max(gang.placed_ms, gang.bind_by_ms or 0)
    return began_ms + (gang.spec.max_runtime_ms or 0) + gang.spec.grace_ms


class Reason(StrEnum):
    """Why a gang waits, as a closed list. Each comes with its numbers and with what would change it."""

    OVER_ENTITLEMENT = "over_entitlement"
    FRAGMENTED = "fragmented"
    AWAITING_RECLAIM = "awaiting_reclaim"
    BEFORE_WINDOW = "before_window"
    NO_SUCH_GRADE = "no_such_grade"
    LARGER_THAN_FLEET = "larger_than_fleet"
    OUTLASTS_WINDOW = "outlasts_window"
    BORROWING_RESTRICTED = "borrowing_restricted"
    UNHEALTHY_CELLS = "unhealthy_cells"
    PAUSED = "paused"
    HELD_BACK = "held_back"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A refusal as data: the reason, the numbers behind it, when it should start, and what would change it."""

    reason: Reason
    numbers: tuple[tuple[str, int], ...] = ()
    expected_start_ms: int | None = None
    remedy: str = ""
