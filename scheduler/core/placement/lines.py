"""The waiting lines of one round: by account and shape, in the published order, with what the round took from each.

Gangs of one line share their fate, so only heads are ever looked at. The queue itself is never copied.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from scheduler.core.placement.snapshot import Queue
from scheduler.core.placement.wants import Want, least_demand, wants
from scheduler.core.workloads import Gang, Shape

Key = tuple[str, Shape]
"""What names a line: its account and its shape."""


class Line:
    """The waiting gangs of one account and shape. One that was placed and withdrawn in the same round goes to the
    front again.
    """

    __slots__ = ("_gangs", "_passed", "_returned", "_taken", "account", "asked", "gpus", "least", "refused", "shape")

    def __init__(self, account: str, shape: Shape, gangs: Sequence[Gang], taken: int = 0) -> None:
        """`taken`: so many of the gangs were placed already."""
        self.account = account
        self.shape = shape
        self.gpus = shape.min_workers * shape.gpus_per_worker
        """GPUs of its gangs, of elastic ones with their least workers."""
        self.least: Want | None = least_demand(shape)
        """What its gangs cannot do without."""
        self.asked = False
        """Whether it stands in the order of service already."""
        self.refused = False
        """Whether it found no room when it last came up, of what cannot be preempted, nor does while nothing happens to
        its account, to nodes where that owns GPUs, or to unsold ones.
        """
        self._gangs = gangs
        self._taken = taken
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

    def head_at(self) -> int:
        """Which of the line's gangs, as the round found them, its head is; their number where it has none."""
        if self._returned:
            return bisect_left(self._gangs, self._returned[0][0], key=lambda gang: gang.order)
        return self._taken

    @property
    def has_returned(self) -> bool:
        """Whether gangs of this round's placements came back to its front."""
        return bool(self._returned)

    def first(self) -> Gang:
        """The first gang when the round began."""
        return self._gangs[0]

    @property
    def moved(self) -> bool:
        """Whether this round took gangs from the line."""
        return self._taken > 0

    def pass_over(self) -> None:
        """The head waits on, and this round looks at the one behind it, until `recall`."""
        gang = self.head()
        if gang is not None:
            self._passed.append((gang.order, gang))
            self.take()

    def recall(self) -> None:
        """Those passed over are at the front again; where none was placed, the line is as it was."""
        if len(self._passed) == self._taken and not self._returned:
            self._taken = 0
        else:
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

    def renew(self, gangs: Sequence[Gang]) -> None:
        """Another round: these wait."""
        self._gangs = gangs
        self._taken = 0
        self._returned.clear()
        self._passed.clear()


Waiting = dict[str, dict[Shape, None]]
"""Shapes that wait, by account. Inner ones are never changed once somebody has them."""


Turn = tuple[int, tuple[int, int, int], Line]
"""Since when the first gang of a line waits among borrowers (a near deadline adds to it), and its order of service."""


def turn_of(gang: Gang, line: Line) -> Turn:
    """The line's turn when this gang is its first."""
    head_start_ms = gang.head_start_ms
    return (gang.queued_ms - head_start_ms, (-gang.spec.priority, gang.submitted_ms - head_start_ms, gang.number), line)


class Served(Protocol):
    """Who else takes gangs from lines in this round."""

    shapes: list[Shape]
    """The shapes of all lines."""

    def taken(self, account: str) -> Mapping[Shape, int]:
        """How many gangs of each of the account's lines it took, of lines that nobody else knows yet."""

    def ended(self) -> Mapping[str, Collection[Shape]]:
        """Lines that have no gang left, by account."""


class Lines:
    """All lines of the queue, made when they are asked for; `follow` carries them into the next round."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._served: Served | None = None
        self._lines: dict[str, dict[Shape, Line]] = {}
        self._by_shape: dict[Shape, dict[str, Line]] | None = None
        self._firm: dict[str, dict[Shape, Line]] = {}
        self._waiting: Waiting | None = None
        self._in_turn: dict[Shape, list[Turn]] = {}
        self._turn_of: dict[Line, Turn] = {}

    @property
    def queue(self) -> Queue:
        """What they are the lines of."""
        return self._queue

    def accounts(self) -> list[str]:
        """Every account of the queue."""
        return sorted(self._queue)

    def of(self, account: str) -> dict[Shape, Line]:
        """The account's lines by shape."""
        lines = self._lines.get(account)
        if lines is None:
            shapes = self._queue.get(account, {})
            taken = {} if self._served is None else self._served.taken(account)
            lines = self._lines[account] = {
                shape: Line(account, shape, gangs, taken.get(shape, 0)) for shape, gangs in shapes.items()
            }
        return lines

    def serve_by(self, served: Served) -> None:
        """In this round gangs are also taken elsewhere, which says how many of which line, and tells `take`."""
        self._served = served

    def take(self, keys: Iterable[Key]) -> None:
        """The heads of these lines, in turn, were placed elsewhere."""
        for account, shape in keys:
            lines = self._lines.get(account)
            if lines is not None:
                lines[shape].take()

    def shapes(self) -> Collection[Shape]:
        """The shapes of all lines."""
        if self._by_shape is not None:
            return self._by_shape
        if self._served is not None:
            return self._served.shapes
        return dict.fromkeys(shape for shapes in self._queue.values() for shape in shapes)

    def by_shape(self) -> dict[Shape, dict[str, Line]]:
        """Every line of the queue, by shape and account; also those that are empty by now."""
        if self._by_shape is None:
            self._by_shape = {}
            for account in self._queue:
                for shape, line in self.of(account).items():
                    self._by_shape.setdefault(shape, {})[account] = line
                    if not shape.preemptible:
                        self._firm.setdefault(account, {})[shape] = line
        return self._by_shape

    def reconsider(self, account: str) -> None:
        """Something happened to the account."""
        for line in self._lines.get(account, {}).values():
            line.refused = False

    def firm(self) -> dict[str, dict[Shape, Line]]:
        """Every line of gangs that cannot be preempted, by account and shape."""
        self.by_shape()
        return self._firm

    def in_turn(self, shape: Shape) -> list[Turn]:
        """The shape's lines as they stood when the round began, those whose first gang waits longest first."""
        turns = self._in_turn.get(shape)
        if turns is None:
            turns = self._in_turn[shape] = []
            for line in self.by_shape()[shape].values():
                turns.append(turn_of(line.first(), line))
                self._turn_of[line] = turns[-1]
            turns.sort()
        return turns

    def waiting(self, placed: Iterable[Gang]) -> Waiting:
        """The shapes of every line that still has a gang, by account, now that these were placed."""
        if self._waiting is None:
            self._waiting = {account: dict.fromkeys(shapes) for account, shapes in sorted(self._queue.items())}
        left = dict(self._waiting)
        ended = {} if self._served is None else self._served.ended()
        for account in {gang.spec.account for gang in placed} & left.keys():
            if self._served is None or account in self._lines:
                lines = self.of(account)
                left[account] = {shape: None for shape in left[account] if lines[shape].head() is not None}
            elif account in ended:
                left[account] = {shape: None for shape in left[account] if shape not in ended[account]}
            if not left[account]:
                del left[account]
        return left

    def follow(self, queue: Queue, keys: Iterable[Key]) -> None:
        """The next round's queue, in which these lines are others than they were when the last one began."""
        self._queue, self._served = queue, None
        for account, shape in keys:
            gangs = queue.get(account, {}).get(shape, ())
            lines = self._lines.get(account) if self._by_shape is None else self._lines.setdefault(account, {})
            if lines is not None:
                self._renew(lines, account, shape, gangs)
            if self._waiting is not None:
                shapes = {each: None for each in self._waiting.get(account, ()) if each != shape}
                if gangs:
                    shapes[shape] = None
                self._waiting[account] = shapes
                if not shapes:
                    del self._waiting[account]

    def _renew(self, lines: dict[Shape, Line], account: str, shape: Shape, gangs: Sequence[Gang]) -> None:
        line = lines.get(shape)
        turns = self._in_turn.get(shape)
        if line is not None and turns is not None:
            del turns[bisect_left(turns, self._turn_of.pop(line))]
        by_account = {} if self._by_shape is None else self._by_shape.setdefault(shape, {})
        firm = {} if shape.preemptible else self._firm.setdefault(account, {})
        if not gangs:
            lines.pop(shape, None)
            by_account.pop(account, None)
            firm.pop(shape, None)
            if not by_account and self._by_shape is not None:
                del self._by_shape[shape]
                self._in_turn.pop(shape, None)
            return
        if line is None:
            line = by_account[account] = firm[shape] = lines[shape] = Line(account, shape, gangs)
        else:
            line.renew(gangs)
        if turns is not None:
            self._turn_of[line] = turn_of(gangs[0], line)
            insort(turns, self._turn_of[line])
