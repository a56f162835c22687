"""The waiting lines of one round: by (account, shape), in the published order, with what the round took from each.

Gangs of one line share their fate, so only heads are ever looked at. The queue itself is never copied.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from scheduler.core.placement.snapshot import Queue
from scheduler.core.workloads import Gang, Shape

Line = tuple[str, Shape]
"""(account, shape)."""


class Lines:
    """Cursors over the queue. A gang that was placed and withdrawn in the same round goes back to the front."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._taken: dict[Line, int] = {}
        self._returned: dict[Line, list[tuple[tuple[int, int, int], Gang]]] = {}

    def all(self) -> Iterator[Line]:
        """Every line of the queue, by account; also those that are empty by now."""
        for account in sorted(self._queue):
            for shape in self._queue[account]:
                yield account, shape

    def accounts(self) -> list[str]:
        """Every account of the queue."""
        return sorted(self._queue)

    def waiting(self) -> dict[Line, None]:
        """Every line that still has a gang, by account."""
        lines = {(account, shape): None for account in sorted(self._queue) for shape in self._queue[account]}
        for line in self._taken:
            if self.head(line) is None:
                del lines[line]
        return lines

    def of(self, account: str) -> Iterator[Line]:
        """The account's lines."""
        for shape in self._queue.get(account, ()):
            yield account, shape

    def head(self, line: Line) -> Gang | None:
        """The next gang of the line, or None."""
        returned = self._returned.get(line)
        if returned:
            return returned[0][1]
        gangs = self._queue[line[0]][line[1]]
        at = self._taken.get(line, 0)
        return gangs[at] if at < len(gangs) else None

    def take(self, line: Line) -> None:
        """The head of the line was placed."""
        returned = self._returned.get(line)
        if returned:
            returned.pop(0)
        else:
            self._taken[line] = self._taken.get(line, 0) + 1

    def give_back(self, gang: Gang) -> None:
        """A gang of this round's placements waits after all."""
        insort(self._returned.setdefault((gang.spec.account, gang.shape), []), (gang.order, gang))
