"""What changed of a pool since its replica was last told, and the bytes of it.

A message is one line of JSON and then arrays, little-endian, one after the other as the line says. Replica and
coordinator are one installation, so there are no versions. Both ends keep a *mark*: how many deltas were applied, and a
digest over all their bytes in order; a replica whose mark is another than the asker's refuses, and is loaded anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Damaged
from scheduler.core.placement.snapshot import Policy
from scheduler.core.workloads import StopCause
from scheduler.planners.rows import GangRow

Array = npt.NDArray[Any]


class Mark(NamedTuple):
    """Where a replica stands: deltas applied since it was loaded, and the digest of all their bytes."""

    deltas: int
    digest: str


NOWHERE = Mark(0, "")
"""Where a replica stands that holds nothing."""


class Column(NamedTuple):
    """An array of the part: its name in `Snapshot`, its type, and what new entries are until they are told."""

    name: str
    kind: str
    fresh: int


BY_GPU = (
    Column("usable", "?", 0),
    Column("owner", "<i4", -1),
    Column("until_ms", "<i8", 0),
    Column("occupant", "<i8", -1),
    Column("claimant", "<i8", -1),
)
BY_NODE = (Column("swappable", "?", 0),)
COLUMNS = (*BY_GPU, *BY_NODE)


@dataclass(frozen=True, slots=True)
class PoolNodes:
    """The nodes of a part, with the order of its domains and blocks (`scheduler.core.placement.pools.PoolFleet`)."""

    nodes: tuple[NodeSpec, ...]
    domains: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What changed. With `pool`: everything, from nothing."""

    pool: PoolNodes | None
    accounts: tuple[str, ...]
    """Accounts that are new, in order."""
    balances: tuple[tuple[str, int], ...] | None
    """All balances that are not 0, where they changed."""
    gangs: tuple[GangRow, ...]
    """Gangs that are new or changed."""
    gone: tuple[int, ...]
    """Numbers of gangs that are not the pool's any more."""
    shares: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """(GPU of the part, the milli-GPUs of each gang on it, in order of arrival) where they changed; none: unshared."""
    changes: tuple[tuple[npt.NDArray[np.int64], Array], ...]
    """For each of `COLUMNS`: at which entries, and what is there now."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        told = (self.pool, self.accounts, self.gangs, self.gone, self.shares)
        return self.balances is None and not any(told) and not any(len(where) for where, _ in self.changes)


@dataclass(frozen=True, slots=True)
class Ask:
    """Apply the delta, being at `mark`, and plan. `policy` None: apply it only."""

    mark: Mark
    now_ms: int
    policy: Policy | None


class Placed(NamedTuple):
    """A placement, by numbers: gangs of the fleet, GPUs of the part."""

    gang: int
    gpus: tuple[int, ...]
    inside: bool
    waits_for: tuple[int, ...]


class Stopped(NamedTuple):
    """A stop, by numbers."""

    gang: int
    cause: StopCause
    for_gang: int | None


class Verdicts(NamedTuple):
    """A pool's plan, by numbers."""

    actions: tuple[Placed | Stopped, ...] = ()
    """In order."""
    protected: tuple[tuple[int, int], ...] = ()
    """(a gang of the line, when it should start) of each line that must not be delayed."""
    held: tuple[tuple[int, int, int], ...] = ()
    """(a gang of the line, GPUs of the gang for which it stands back, when that one should start)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the replica stands now, and the plan. None: it stands elsewhere and did nothing."""

    mark: Mark
    verdicts: Verdicts | None


_ASK = TypeAdapter(Ask)
_ANSWER = TypeAdapter(Answer)
_HEAD = TypeAdapter(
    tuple[
        PoolNodes | None,
        tuple[str, ...],
        tuple[tuple[str, int], ...] | None,
        tuple[GangRow, ...],
        tuple[int, ...],
        tuple[tuple[int, tuple[tuple[int, int], ...]], ...],
    ]
)


def next_mark(mark: Mark, delta: bytes) -> Mark:
    """Where a replica stands after one more delta of these bytes."""
    digest = hashlib.blake2b(mark.digest.encode() + delta, digest_size=16).hexdigest()
    return Mark(mark.deltas + 1, digest)


def encode_ask(ask: Ask, delta: bytes) -> bytes:
    """The ask with its delta, which may be empty bytes: nothing changed."""
    return _ASK.dump_json(ask) + b"\n" + delta


def decode_ask(body: bytes) -> tuple[Ask, bytes]:
    """The ask, and the bytes of its delta. Raises Damaged."""
    head, _, delta = body.partition(b"\n")
    try:
        return _ASK.validate_json(head), delta
    except ValueError as error:
        raise Damaged(f"an ask cannot be read: {error}") from error


def encode_answer(answer: Answer) -> bytes:
    """The answer's bytes; equal answers give equal bytes."""
    return _ANSWER.dump_json(answer)


def decode_answer(body: bytes) -> Answer:
    """The answer. Raises Damaged."""
    try:
        return _ANSWER.validate_json(body)
    except ValueError as error:
        raise Damaged(f"an answer cannot be read: {error}") from error


def encode_delta(delta: Delta) -> bytes:
    """The delta's bytes: its line, then its arrays."""
    line = _HEAD.dump_json((delta.pool, delta.accounts, delta.balances, delta.gangs, delta.gone, delta.shares))
    lengths = json.dumps([len(where) for where, _ in delta.changes]).encode()
    arrays = [
        part
        for (where, values), column in zip(delta.changes, COLUMNS, strict=True)
        for part in (where.astype("<i8").tobytes(), values.astype(column.kind).tobytes())
    ]
    return b"\n".join([line, lengths, b"".join(arrays)])


def decode_delta(body: bytes) -> Delta:
    """The delta. Raises Damaged on bytes that `encode_delta` did not write."""
    try:
        line, lengths, arrays = body.split(b"\n", 2)
        return Delta(*_HEAD.validate_json(line), _changes(json.loads(lengths), arrays))
    except ValueError as error:
        raise Damaged(f"a delta cannot be read: {error}") from error


def _changes(lengths: Sequence[int], arrays: bytes) -> tuple[tuple[npt.NDArray[np.int64], Array], ...]:
    changes: list[tuple[npt.NDArray[np.int64], Array]] = []
    at = 0
    for length, column in zip(lengths, COLUMNS, strict=True):
        where = np.frombuffer(arrays, dtype="<i8", count=length, offset=at)
        at += where.nbytes
        values = np.frombuffer(arrays, dtype=column.kind, count=length, offset=at)
        at += values.nbytes
        changes.append((where, values))
    if at != len(arrays):
        raise ValueError(f"it has {len(arrays)} bytes of arrays, expected {at}")
    return tuple(changes)
