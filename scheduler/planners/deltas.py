"""What changed of a pool since its replica was last told, and the bytes of it.

A message is one line of JSON and then arrays (`arrays`): what there is one of for each gang or GPU is in columns.
Replica and coordinator are one installation, so there are no versions. Both ends keep a *mark*: how many deltas were
applied, and a digest over all their bytes in order; a replica whose mark is another than the asker's refuses, and is
loaded anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import TypeAdapter

from scheduler.core.cluster import IntArray, NodeSpec
from scheduler.core.errors import Damaged
from scheduler.core.placement.snapshot import Policy
from scheduler.planners.arrays import Array, pack, unpack
from scheduler.planners.rows import N_ARRAYS, GangTable, SpecRow
from scheduler.planners.verdicts import NOTHING, Verdicts


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


COLUMNS = (
    Column("usable", "?", 0),
    Column("owner", "<i4", -1),
    Column("until_ms", "<i8", 0),
    Column("occupant", "<i8", -1),
    Column("claimant", "<i8", -1),
)


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
    gangs: GangTable
    """Gangs that are new or changed."""
    gone: tuple[int, ...]
    """Numbers of gangs that are not the pool's any more."""
    shares: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """(GPU of the part, the milli-GPUs of each gang on it, in order of arrival) where they changed; none: unshared."""
    changes: tuple[tuple[IntArray, Array], ...]
    """For each of `COLUMNS`: at which entries, and what is there now."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        told = (self.pool, self.accounts, self.gone, self.shares)
        arrays = (self.gangs.number, *(where for where, _ in self.changes))
        return self.balances is None and not any(told) and not any(map(len, arrays))


@dataclass(frozen=True, slots=True)
class Ask:
    """Apply the delta, being at `mark`, and plan. `policy` None: apply it only."""

    mark: Mark
    now_ms: int
    policy: Policy | None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Where the replica stands now, and what its plan decided. None: it stands elsewhere and did nothing."""

    mark: Mark
    verdicts: Verdicts | None


_ASK = TypeAdapter(Ask)
_ANSWER = TypeAdapter(tuple[Mark, bool])
_HEAD = TypeAdapter(
    tuple[
        PoolNodes | None,
        tuple[str, ...],
        tuple[tuple[str, int], ...] | None,
        tuple[int, ...],
        tuple[tuple[int, tuple[tuple[int, int], ...]], ...],
        tuple[SpecRow, ...],
        tuple[str, ...],
    ]
)
_NUMBERS = "<i8"
_OF_COLUMNS = tuple(kind for column in COLUMNS for kind in (_NUMBERS, column.kind))


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
    line = _ANSWER.dump_json((answer.mark, answer.verdicts is not None))
    arrays = () if answer.verdicts is None else answer.verdicts.arrays
    return line + b"\n" + pack(arrays, [_NUMBERS] * len(arrays))


def decode_answer(body: bytes) -> Answer:
    """The answer. Raises Damaged."""
    try:
        line, _, arrays = body.partition(b"\n")
        mark, planned = _ANSWER.validate_json(line)
        verdicts = Verdicts.of_arrays(unpack(arrays, [_NUMBERS] * len(NOTHING.arrays))) if planned else None
        return Answer(mark, verdicts)
    except ValueError as error:
        raise Damaged(f"an answer cannot be read: {error}") from error


def encode_delta(delta: Delta) -> bytes:
    """The delta's bytes: its line, then its arrays."""
    gangs = delta.gangs
    head = (delta.pool, delta.accounts, delta.balances, delta.gone, delta.shares, gangs.specs, gangs.ids)
    columns = [array for change in delta.changes for array in change]
    kinds = [*_OF_COLUMNS, *[_NUMBERS] * len(gangs.arrays)]
    return _HEAD.dump_json(head) + b"\n" + pack([*columns, *gangs.arrays], kinds)


def decode_delta(body: bytes) -> Delta:
    """The delta. Raises Damaged on bytes that `encode_delta` did not write."""
    try:
        line, _, rest = body.partition(b"\n")
        pool, accounts, balances, gone, shares, specs, ids = _HEAD.validate_json(line)
        arrays = unpack(rest, [*_OF_COLUMNS, *[_NUMBERS] * N_ARRAYS])
        columns, of_gangs = arrays[: len(_OF_COLUMNS)], arrays[len(_OF_COLUMNS) :]
        changes = tuple(zip(columns[::2], columns[1::2], strict=True))
        table = GangTable.of_arrays(specs, ids, of_gangs)
    except ValueError as error:
        raise Damaged(f"a delta cannot be read: {error}") from error
    if any(len(where) != len(values) for where, values in changes):
        raise Damaged("a delta cannot be read: it changes other entries than it has values for")
    return Delta(pool, accounts, balances, table, gone, shares, changes)
