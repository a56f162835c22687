"""Gangs as a replica needs them, in columns: all that planning may look at, and nothing that only execution does.

Commands, environments and folders never leave the scheduler: they may hold secrets, and are most of a gang's bytes.
What never changes of a gang is told once; what many gangs ask for alike, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.errors import Damaged
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import Gang, GangSpec, GangStatus, Shape, StopCause, asked_shape, shape_of

SPEC_LEFT_OUT = frozenset({"name", "command", "env", "working_dir", "max_failures"})
GANG_LEFT_OUT = frozenset({"shape", "pieces", "waits_for"})
"""What follows from others, or only execution needs."""
_UNSAID = "unsaid"


class SpecRow(NamedTuple):
    """The fields of a `GangSpec` by their names."""

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

    @property
    def spec(self) -> GangSpec:
        """What is asked for, as far as planning may see it."""
        return GangSpec(name=_UNSAID, command=(_UNSAID,), **self._asdict())


ONCE = ("id", "spec", "number", "submitted_ms")
"""Fields of a `Gang` that never change."""
NUMBERS = (
    "status",
    "attempt",
    "placed_ms",
    "inside",
    "bind_by_ms",
    "overdue",
    "started_ms",
    "stop_cause",
    "stop_deadline_ms",
    "failures",
    "ended_ms",
    "exit_code",
    "evictions",
    "queued_ms",
)
"""Fields of a `Gang` that are numbers, or are told as such: a row of the table each."""
LISTS = ("gpu_numbers", "evicted_ms")
"""Fields of a `Gang` that hold any number of numbers."""

_PLACE = NUMBERS.index("placed_ms")
"""Before it, a `Gang` says where it stands."""
N_ARRAYS = 4 + len(LISTS)
"""How many arrays a table has."""

_NONE = -(2**63)
"""None, among numbers."""
_STATUS = tuple(GangStatus)
_CAUSES = tuple(StopCause)
_STATUS_NUMBER = {status: at for at, status in enumerate(_STATUS)}
_CAUSE_NUMBER: dict[StopCause | None, int] = {None: _NONE, **{cause: at for at, cause in enumerate(_CAUSES)}}
_numbers = attrgetter(*NUMBERS)
_spec_row = attrgetter(*SpecRow._fields)


@dataclass(frozen=True, slots=True, eq=False)
class GangTable:
    """Gangs that are new or changed, in order of number. GPUs are those of the part."""

    specs: tuple[SpecRow, ...]
    """What new gangs ask for, each kind once."""
    ids: tuple[str, ...]
    """Of new gangs."""
    new: IntArray
    """(3, n_new) int64: which gang of the table is new, which of `specs` it asks for, when it was submitted."""
    number: IntArray
    """(n) int64: the fleet's number of each gang."""
    told: IntArray
    """(len(NUMBERS), n) int64: the numbers of each gang."""
    counts: IntArray
    """(len(LISTS), n) int64: how long each list of each gang is."""
    lists: tuple[IntArray, ...]
    """The lists of all gangs, one after the other, for each of `LISTS`."""

    @property
    def arrays(self) -> tuple[IntArray, ...]:
        """All arrays, in the order of `of_arrays`."""
        return (self.new, self.number, self.told, self.counts, *self.lists)

    @classmethod
    def of_arrays(cls, specs: tuple[SpecRow, ...], ids: tuple[str, ...], arrays: Sequence[IntArray]) -> Self:
        """The table of these arrays, each given flat. Raises ValueError where they do not fit each other."""
        new, number, told, counts, *lists = arrays
        n = len(number)
        if len(lists) != len(LISTS) or counts.min(initial=0) < 0:
            raise ValueError("its lists of gangs are not told whole")
        counts = counts.reshape(len(LISTS), n)
        if [len(each) for each in lists] != counts.sum(axis=1).tolist():
            raise ValueError("its lists of gangs are longer or shorter than they should be")
        return cls(specs, ids, new.reshape(3, len(ids)), number, told.reshape(len(NUMBERS), n), counts, tuple(lists))

    def gangs(self, known: Mapping[int, Gang]) -> list[Gang]:
        """The gangs as far as planning may see them. `known`: those that the table does not tell whole, by number.

        Raises Damaged where the table names what is not there.
        """
        try:
            specs = [row.spec for row in self.specs]
            shapes = [shape_of(spec) for spec in specs]
            rows, asked, submitted_ms = self.new.tolist()
            new = dict(zip(rows, zip(self.ids, asked, submitted_ms, strict=True), strict=True))
            numbers = self.number.tolist()
            constant: list[tuple[str, GangSpec, Shape, int]] = []
            for row, number in enumerate(numbers):
                if row in new:
                    name, at, at_ms = new[row]
                    constant.append((name, specs[at], shapes[at], at_ms))
                else:
                    before = known[number]
                    constant.append((before.id, before.spec, asked_shape(before), before.submitted_ms))
            lists = [_lists(count.tolist(), flat.tolist()) for count, flat in zip(self.counts, self.lists, strict=True)]
            return list(map(_gang, numbers, constant, self._rows(), *lists))
        except (IndexError, KeyError) as error:
            raise Damaged(f"a delta tells of gangs that its pool does not have: {error!r}") from error

    def _rows(self) -> Iterable[tuple[Any, ...]]:
        """Each gang's values of `NUMBERS`."""
        columns = [_values(name, column) for name, column in zip(NUMBERS, self.told.tolist(), strict=True)]
        return zip(*columns, strict=True)


def table_of(gangs: Sequence[Gang], known: Mapping[int, GangSpec], number_in_part: IntArray) -> GangTable:
    """The gangs, by number, standing on GPUs of the part. `known`: what is asked for by gangs that were told before."""
    specs: dict[SpecRow, int] = {}
    ids: list[str] = []
    new: list[tuple[int, int, int]] = []
    for row, gang in enumerate(gangs):
        if known.get(gang.number) is not gang.spec:
            asked = specs.setdefault(SpecRow._make(_spec_row(gang.spec)), len(specs))
            ids.append(gang.id)
            new.append((row, asked, gang.submitted_ms))
    told = [_told(name, column) for name, column in zip(NUMBERS, zip(*map(_numbers, gangs), strict=True), strict=False)]
    gpus = np.fromiter(chain.from_iterable(gang.gpu_numbers for gang in gangs), dtype=np.int64)
    evicted_ms = np.fromiter(chain.from_iterable(gang.evicted_ms for gang in gangs), dtype=np.int64)
    counts = [[len(gang.gpu_numbers) for gang in gangs], [len(gang.evicted_ms) for gang in gangs]]
    return GangTable(
        specs=tuple(specs),
        ids=tuple(ids),
        new=np.array(new, dtype=np.int64).reshape(-1, 3).T,
        number=np.array([gang.number for gang in gangs], dtype=np.int64),
        told=np.array(told, dtype=np.int64).reshape(len(NUMBERS), len(gangs)),
        counts=np.array(counts, dtype=np.int64),
        lists=(number_in_part[gpus], evicted_ms),
    )


def _told(name: str, values: Sequence[Any]) -> Sequence[int]:
    """A column of `NUMBERS` as numbers."""
    match name:
        case "status":
            return [_STATUS_NUMBER[value] for value in values]
        case "stop_cause":
            return [_CAUSE_NUMBER[value] for value in values]
        case _:
            return [_NONE if value is None else value for value in values]


def _values(name: str, numbers: Sequence[int]) -> Sequence[Any]:
    """A column of `NUMBERS` back from its numbers. Raises IndexError where one has no meaning."""
    match name:
        case "status":
            return [_STATUS[number] for number in numbers]
        case "stop_cause":
            return [None if number == _NONE else _CAUSES[number] for number in numbers]
        case "inside" | "overdue":
            return list(map(bool, numbers))
        case _:
            return [None if number == _NONE else number for number in numbers]


def _lists(counts: Sequence[int], flat: Sequence[int]) -> Iterable[tuple[int, ...]]:
    """`flat`, cut into as many numbers each."""
    ends = list(accumulate(counts))
    return [tuple(flat[end - count : end]) if count else () for count, end in zip(counts, ends, strict=True)]


def _gang(
    number: int,
    once: tuple[str, GangSpec, Shape, int],
    row: Sequence[Any],
    gpus: tuple[int, ...],
    evicted_ms: tuple[int, ...],
) -> Gang:
    """A gang of its parts, by position, since a round may make tens of thousands."""
    name, spec, shape, submitted_ms = once
    if gpus and shape.is_elastic:
        shape = shape.sized(floor_div(len(gpus), shape.gpus_per_worker))
    by_position: list[Any] = [name, number, spec, shape, submitted_ms]
    by_position += [*row[:_PLACE], (), gpus, (), *row[_PLACE:-1], evicted_ms, row[-1]]
    return Gang(*by_position)
