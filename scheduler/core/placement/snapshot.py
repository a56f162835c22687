"""What one round sees and what it answers. Arrays are the state's own and must not be written to; a plan is plain data.

A GPU's *occupant* is the gang whose processes are there (running, starting or stopping); its *claimant* is a BINDING
gang that gets it once the occupant is gone. A GPU is free where it is usable and has neither. Of the gangs that share a
device one, its *carrier*, is the occupant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet
from scheduler.core.workloads import Gang, Piece, Shape, StopCause, Waiting

Queue = Mapping[str, Mapping[Shape, Sequence[Gang]]]
"""Waiting gangs by account and shape, each sequence sorted by `Gang.order`."""


@dataclass(frozen=True, slots=True)
class Opening:
    """An account's next window: at `at_ms` it will own this many GPUs in all."""

    at_ms: int
    gpus: int


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state of the fleet and its workloads at `now_ms`, as planning needs it."""

    now_ms: int
    fleet: Fleet
    accounts: tuple[str, ...]
    """Account names by index; grows, never renumbered."""
    usable: npt.NDArray[np.bool_]
    """(n_gpus): healthy and not draining, so that a gang may be put there."""
    owner: npt.NDArray[np.int32]
    """(n_gpus): index of the account whose position the GPU covers, -1 unsold."""
    until_ms: npt.NDArray[np.int64]
    """(n_gpus): when another account than the owner above gets the GPU (unsold: when anybody does); INT64_MAX:
    never.
    """
    occupant: npt.NDArray[np.int64]
    """(n_gpus): number of the gang whose processes are on the GPU, -1 none."""
    claimant: npt.NDArray[np.int64]
    """(n_gpus): number of the BINDING gang that waits for the occupant to leave, -1 none."""
    placed: Mapping[int, Gang]
    """Every BINDING, RUNNING and STOPPING gang by number."""
    queue: Queue
    """Every WAITING gang."""
    shares: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    """By shared GPU: the milli-GPUs of each gang (by number) that is on it, in order of arrival."""
    growing: Collection[int] = ()
    """Numbers of the placed elastic gangs that have fewer workers than they ask for."""
    balance_gpu_ms: Mapping[str, int] = field(default_factory=dict)
    """Half-life decayed GPU-ms lent minus borrowed, by account; missing is 0."""
    opens: Mapping[str, Opening] = field(default_factory=dict)
    """When an account next owns more than now, where the calendar says so; only reasons speak of it."""


@dataclass(slots=True)
class Touched:
    """What changed in a state since it was asked last; whoever keeps books reads these anew."""

    gangs: set[int] = field(default_factory=set)
    """Numbers of gangs that were placed or are."""
    lines: set[tuple[str, Shape]] = field(default_factory=set)
    """(account, shape) where another gang waits, or one less."""
    gpus: set[int] = field(default_factory=set)
    """GPUs that may have become usable or not."""
    ownership: bool = False
    """Whether owners, windows or the fleet itself changed, beyond nodes that were traded."""
    traded: set[int] = field(default_factory=set)
    """Nodes that got other owners because cells traded places."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the gang's attempt (SIGTERM, its grace, SIGKILL); it returns to the queue."""

    gang: Gang
    cause: StopCause
    for_gang: str | None


class Place(NamedTuple):
    """Give the gang these GPUs; it starts once the gangs in `waits_for` are gone. A tuple, since a round makes one for
    each placement, in half the time of a frozen dataclass.
    """

    gang: Gang
    gpu_numbers: tuple[int, ...]
    """Of all its GPUs, worker by worker."""
    hosts: tuple[tuple[str, int], ...]
    """Each worker's node, and the number of that node's first GPU."""
    inside: bool
    waits_for: tuple[str, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Each worker's place."""
        size = self.gang.shape.gpus_per_worker
        ends = range(size, len(self.gpu_numbers) + size, size)
        return tuple(
            [
                Piece(name, tuple([gpu - first for gpu in self.gpu_numbers[end - size : end]]))
                for end, (name, first) in zip(ends, self.hosts, strict=True)
            ]
        )


Action = Stop | Place


@dataclass(frozen=True, slots=True)
class Backfill:
    """Which waiting gangs must not be delayed (`scheduler.core.placement.protect`), and who stands back for them: what
    a plan's actions do not tell. By (account, shape).
    """

    starts_ms: Mapping[tuple[str, Shape], int] = field(default_factory=dict)
    """When a gang that is protected should start."""
    held: Mapping[tuple[str, Shape], tuple[int, int]] = field(default_factory=dict)
    """Who would fit but for such a gang: its GPUs, and when it should start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The pure result of one round: actions in the order in which they hold, and one reason for each waiting shape."""

    actions: tuple[Action, ...]
    waiting: Mapping[tuple[str, Shape], Waiting]
    """By (account, shape): every gang that the round leaves waiting has an entry here."""
    backfill: Backfill = field(default_factory=Backfill)


@dataclass(frozen=True, slots=True)
class Policy:
    """What only orders and scores; no value here can break a law."""

    bind_limit_ms: int = 30_000
    """From an owner's request to bound GPUs, beside the victims' declared grace."""
    reckless_idle_ppm: int = 50_000
    """Gangs that never checkpoint and run for more than an hour borrow only while this share of the pool is idle."""
    consolidate: bool = True
    consolidate_gain_ppm: int = 200_000
    """Consolidate where the work lost is under this share of k × min(1 h, what remains)."""
    preferences: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = ()
    """By grade: which partly used node a worker prefers (`scheduler.core.placement.preference`)."""
    protect_after_ms: int = 21_600_000
    """The first borrower that has waited longer than this is not delayed by those behind it."""
    grow: bool = True
    grow_after_ms: int = 600_000
    """An elastic gang runs so long, at least, before it is restarted with more workers."""
    grow_gain_ppm: int = 200_000
    """Restart it where the work lost is under this share of what more workers do in an hour, or what remains of it."""
