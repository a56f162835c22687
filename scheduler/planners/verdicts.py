"""What a pool's plan decided, in columns: placements and stops by numbers, in the order in which they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.lines import Key
from scheduler.core.placement.pools import Division
from scheduler.core.placement.snapshot import Action, Place, Plan, Queue, Stop
from scheduler.core.workloads import Gang, StopCause

_CAUSES = tuple(StopCause)
_NUMBER = {cause: at for at, cause in enumerate(_CAUSES)}
_PLACED = -1
"""In the place of the cause of a stop."""
_NOBODY = -1


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """See the module. Gangs by the fleet's numbers, GPUs by those of the part."""

    told: IntArray
    """(4, n) int64: the gang, the cause of its stop, whether it is inside, the gang that it makes room for."""
    counts: IntArray
    """(2, n) int64: how many GPUs it gets, and for how many gangs it waits."""
    gpus: IntArray
    """All GPUs, one action after the other."""
    waits_for: IntArray
    """All gangs that are waited for."""
    protected: IntArray
    """(n_protected, 2) int64: the first gang of each line that must not be delayed, and when it should start."""
    held: IntArray
    """(n_held, 3) int64: the first gang of each line that stands back, the GPUs of the gang for which it does, and when
    that one should start.
    """

    @classmethod
    def of(cls, plan: Plan, numbers: Mapping[str, int], queue: Queue) -> Self:
        """The verdicts of a part's plan. `numbers` of gangs by their ids; `queue`: who waited for it."""
        told: list[tuple[int, int, bool, int]] = []
        counts: list[tuple[int, int]] = []
        gpus: list[int] = []
        waits_for: list[int] = []
        for action in plan.actions:
            match action:
                case Place():
                    told.append((action.gang.number, _PLACED, action.inside, _NOBODY))
                    counts.append((len(action.gpu_numbers), len(action.waits_for)))
                    gpus.extend(action.gpu_numbers)
                    waits_for.extend([numbers[name] for name in action.waits_for])
                case Stop():
                    for_gang = _NOBODY if action.for_gang is None else numbers[action.for_gang]
                    told.append((action.gang.number, _NUMBER[action.cause], False, for_gang))
                    counts.append((0, 0))
        return cls(
            _rows(4, told).T,
            _rows(2, counts).T,
            np.array(gpus, dtype=np.int64),
            np.array(waits_for, dtype=np.int64),
            _rows(2, [(_first(queue, line), start_ms) for line, start_ms in plan.backfill.starts_ms.items()]),
            _rows(3, [(_first(queue, line), *held) for line, held in plan.backfill.held.items()]),
        )

    @property
    def arrays(self) -> tuple[IntArray, ...]:
        """All arrays, in the order of `of_arrays`."""
        return (self.told, self.counts, self.gpus, self.waits_for, self.protected, self.held)

    @classmethod
    def of_arrays(cls, arrays: Sequence[IntArray]) -> Self:
        """The verdicts of these arrays, each given flat. Raises ValueError where they do not fit each other."""
        told, counts, gpus, waits_for, protected, held = arrays
        backfill = (protected.reshape(-1, 2), held.reshape(-1, 3))
        made = cls(told.reshape(4, -1), counts.reshape(2, -1), gpus, waits_for, *backfill)
        whole = counts.min(initial=0) >= 0 and made.counts.sum(axis=1).tolist() == [len(gpus), len(waits_for)]
        if not whole or made.told.shape[1] != made.counts.shape[1] or made.told[1].max(initial=0) >= len(_CAUSES):
            raise ValueError("its actions are not told whole")
        return made

    def actions(self, pool: int, gangs: Mapping[int, Gang], division: Division) -> list[Action]:
        """The actions as the whole plan says them. `gangs` of the pool by number."""
        gpus = tuple(division.parts[pool].gpus[self.gpus].tolist())
        waits_for = self.waits_for.tolist()
        until, waited = accumulate(self.counts[0].tolist()), accumulate(self.counts[1].tolist())
        actions: list[Action] = []
        place = division.place
        first = first_waited = 0
        for number, cause, inside, for_gang, end, end_waited in zip(*self.told.tolist(), until, waited, strict=True):
            gang = gangs[number]
            if cause == _PLACED:
                names: tuple[str, ...] = ()
                if end_waited > first_waited:
                    names = tuple([gangs[waited_for].id for waited_for in waits_for[first_waited:end_waited]])
                    first_waited = end_waited
                actions.append(place(gang, gpus[first:end], bool(inside), names))
                first = end
            else:
                actions.append(Stop(gang, _CAUSES[cause], None if for_gang == _NOBODY else gangs[for_gang].id))
        return actions


def _rows(width: int, rows: Sequence[tuple[int, ...]]) -> IntArray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _first(queue: Queue, line: Key) -> int:
    account, shape = line
    return queue[account][shape][0].number


NOTHING = Verdicts.of(Plan((), {}), {}, {})
"""Of a plan that decides nothing."""
