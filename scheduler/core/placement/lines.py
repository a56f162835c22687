"""The waiting lines of one round: by account and shape, in the published order, with what the round took from each.

Gangs of one line share their fate, so only heads are ever looked at. The queue itself is never copied.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence

from scheduler.core.placement.snapshot import Queue
from scheduler.core.placement.wants import Want, demand, wants
from scheduler.core.workloads import Gang, Shape


class Line:
    """The waiting gangs of one account and shape. One that was placed and withdrawn in the same round goes to the
    front again.
    """

    __slots__ = ("_gangs", "_passed", "_returned", "_taken", "account", "asked", "gpus", "least", "shape")

    def __init__(self, account: str, shape: Shape, gangs: Sequence[Gang]) -> None:
        self.account = account
        self.shape = shape
        self.gpus = shape.min_workers * shape.gpus_per_worker
        """GPUs of its gangs, of elastic ones with their least workers."""
        self.least: Want | None = demand(shape.sized(shape.min_workers) if shape.is_elastic else shape)
        """What its gangs cannot do without."""
        self.asked = False
        """Whether it stands in the order of service already."""
        self._gangs = gangs
        self._taken = 0
        self._returned: list[tuple[tuple[int, int, int], Gang]] = []
        self._passed: list[tuple[tuple[int, int, int], Gang]] = []

    @property
    def wants(self) -> tuple[Want, ...]:
        """What to try for its gangs, best first."""
        return wants(self.shape)

    def head(self) -> Gang | None:
        """The next gang of the line, or None."""
        if self._returned:
            return self._returned[0][1]
        return self._gangs[self._taken] if self._taken < len(self._gangs) else None

    def pass_over(self) -> None:
        """The head waits on, and this round looks at the one behind it, until `recall`."""
        gang = self.head()
        if gang is not None:
            self._passed.append((gang.order, gang))
            self.take()

    def recall(self) -> None:
        """Those passed over are at the front again."""
        self._returned = sorted([*self._passed, *self._returned])
        self._passed = []

    def take(self) -> None:
        """The head of the line was placed."""
        if self._returned:
            self._returned.pop(0)
        else:
            self._taken += 1

    def give_back(self, gang: Gang) -> None:
        """A gang of this round's placements waits after all."""
        insort(self._returned, (gang.order, gang))


Key = tuple[str, Shape]
"""(account, shape) of a line."""


class Lines:
    """All lines of the queue, made when they are asked for."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lines: dict[str, dict[Shape, Line]] = {}

    def accounts(self) -> list[str]:
        """Every account of the queue."""
        return sorted(self._queue)

    def of(self, account: str) -> dict[Shape, Line]:
        """The account's lines by shape."""
        lines = self._lines.get(account)
        if lines is None:
            shapes = self._queue.get(account, {})
            lines = self._lines[account] = {shape: Line(account, shape, gangs) for shape, gangs in shapes.items()}
        return lines

    def all(self) -> Iterator[Line]:
        """Every line of the queue, by account; also those that are empty by now."""
        for account in self.accounts():
            yield from self.of(account).values()

    def waiting(self) -> dict[str, dict[Shape, None]]:
        """The shapes of every line that still has a gang, by account."""
        waiting: dict[str, dict[Shape, None]] = {}
        for account in self.accounts():
            shapes = dict.fromkeys(self._queue[account])
            for shape, line in self._lines.get(account, {}).items():
                if line.head() is None:
                    del shapes[shape]
            if shapes:
                waiting[account] = shapes
        return waiting
