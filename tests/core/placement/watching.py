"""What changed between two snapshots of a world, found by comparing them whole; every change of ownership is told as a
trade, also where it is none.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.snapshot import Snapshot, Touched
from scheduler.core.workloads import Gang, Shape


class Watcher:
    """Remembers the last snapshot that it was shown."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._seen = _Seen(snapshot)

    def touched(self, snapshot: Snapshot) -> Touched:
        """What changed since the last one."""
        before, now = self._seen, _Seen(snapshot)
        self._seen = now
        other = (before.owner != now.owner) | (before.until_ms != now.until_ms)
        numbers = before.placed.keys() | now.placed.keys()
        keys = before.queue.keys() | now.queue.keys()
        return Touched(
            gangs={number for number in numbers if before.placed.get(number) != now.placed.get(number)},
            lines={key for key in keys if before.queue.get(key) != now.queue.get(key)},
            gpus=set(np.flatnonzero(before.usable != now.usable).tolist()),
            traded=set(snapshot.fleet.node_of_gpu[other].tolist()),
        )


class _Seen:
    def __init__(self, snapshot: Snapshot) -> None:
        self.placed = dict(snapshot.placed)
        self.queue: dict[tuple[str, Shape], tuple[Gang, ...]] = {
            (account, shape): tuple(gangs)
            for account, shapes in snapshot.queue.items()
            for shape, gangs in shapes.items()
        }
        self.usable, self.owner, self.until_ms = (
            snapshot.usable.copy(),
            snapshot.owner.copy(),
            snapshot.until_ms.copy(),
        )
