"""Why lines wait, for a plan that was put together from others': worked out when somebody asks.

The plan's actions are played into the books of its snapshot; what the books say then is what `plan` itself would have
said at its end. Who was held back for whom (`protect`) is not in the actions, and is told besides. Law: for the actions
and the backfill of `plan(snapshot)` the reasons are those of `plan(snapshot)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from scheduler.core.placement.books import Books
from scheduler.core.placement.elastic import sized
from scheduler.core.placement.lines import Key, Lines
from scheduler.core.placement.plan import plan
from scheduler.core.placement.reasons import Reasons
from scheduler.core.placement.snapshot import Action, Backfill, Place, Policy, Queue, Snapshot, Stop
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import Gang, Shape, Waiting, asked_shape


class ReasonsAfter(Mapping[Key, Waiting]):
    """A reason for every line that still waits once the actions are done. `before`: a snapshot that is `kept`."""

    def __init__(self, before: Snapshot, policy: Policy, actions: Sequence[Action], backfill: Backfill) -> None:
        self._before = before
        self._policy = policy
        self._backfill = backfill
        self._actions = tuple(actions)

    @cached_property
    def _queue(self) -> dict[str, dict[Shape, tuple[Gang, ...]]]:
        """Who still waits."""
        placed = [action.gang for action in self._actions if isinstance(action, Place)]
        lines = {(gang.account, asked_shape(gang)) for gang in placed}
        return _without(self._before.queue, {gang.number for gang in placed}, lines)

    @cached_property
    def _rest(self) -> dict[str, list[Shape]]:
        """The lines in which anybody does."""
        return {
            account: waiting
            for account, shapes in self._queue.items()
            if (waiting := [shape for shape, gangs in shapes.items() if gangs])
        }

    def __len__(self) -> int:
        return sum(len(shapes) for shapes in self._rest.values())

    def __iter__(self) -> Iterator[Key]:
        return ((account, shape) for account in sorted(self._rest) for shape in self._rest[account])

    def __contains__(self, line: object) -> bool:
        return isinstance(line, tuple) and len(line) == 2 and line[1] in self._rest.get(line[0], ())

    def __getitem__(self, line: Key) -> Waiting:
        if line not in self:
            raise KeyError(line)
        return self._reasons[line]

    @cached_property
    def _reasons(self) -> Mapping[Key, Waiting]:
        whole = plan(self._before, self._policy)
        if whole.actions == self._actions:
            return whole.waiting
        books = Books(self._before, self._policy)
        rows = {gang.number: row for row, gang in enumerate(books.rows)}
        lines = Lines(self._queue)
        gangs = {action.gang.id: action.gang for action in self._actions if isinstance(action, Place)}
        for action in self._actions:
            match action:
                case Stop() if action.gang.number in rows:  # else it ends with the carrier of its device
                    books.stop(rows[action.gang.number], gangs.get(action.for_gang or "", action.gang), action.cause)
                case Place():
                    _play(books, action)
                case _:
                    pass
        return Reasons(books, lines, self._backfill)


def _play(books: Books, action: Place) -> None:
    """Give the gang its GPUs; a share perhaps beside others."""
    gang, gpus = action.gang, np.array(action.gpu_numbers, dtype=np.int64)
    row = int(books.floor.holder[gpus[0]])
    if gang.shape.is_share and row >= 0:
        books.devices.join(books, row, gang)
        return
    if gang.shape.is_elastic:
        gang = sized(gang, floor_div(len(gpus), gang.shape.gpus_per_worker))
    books.place(gang, gpus, inside=action.inside)


def kept(snapshot: Snapshot) -> Snapshot:
    """The snapshot with copies of what the state goes on to change."""
    return replace(
        snapshot,
        usable=snapshot.usable.copy(),
        owner=snapshot.owner.copy(),
        until_ms=snapshot.until_ms.copy(),
        occupant=snapshot.occupant.copy(),
        claimant=snapshot.claimant.copy(),
        placed=dict(snapshot.placed),
        queue={a: {shape: tuple(gangs) for shape, gangs in shapes.items()} for a, shapes in snapshot.queue.items()},
        shares={gpu: dict(there) for gpu, there in snapshot.shares.items()},
        opens=dict(snapshot.opens),
    )


def _without(queue: Queue, placed: set[int], lines: set[Key]) -> dict[str, dict[Shape, tuple[Gang, ...]]]:
    rest: dict[str, dict[Shape, tuple[Gang, ...]]] = {}
    for account, shapes in queue.items():
        for shape, gangs in shapes.items():
            waiting = (
                tuple(gang for gang in gangs if gang.number not in placed)
                if (account, shape) in lines
                else tuple(gangs[:1])  # only that there is one matters
            )
            rest.setdefault(account, {})[shape] = waiting
    return rest
