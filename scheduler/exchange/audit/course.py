"""The records of one position as an audit keeps them while it reads a log: what is asked of them later, and no more.

Interval after interval a position's records say much the same. So those in a row that are of one length, version and
stage, and have the same quantities that are held against something later, are one run; what a statement takes from them
is added up; and of each record there is only the leaf that it came in, four bytes, by which its hash, or all of it, is
found again in the bundle. Law (tested): after any leaves a course says of every interval what `PositionVersions` says.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from scheduler.core.causes import Cause
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval
from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.core.metering.records import MeterRecord
from scheduler.core.metering.versions import Promotion, Stage, stage_after
from scheduler.core.settlement import version_leaf
from scheduler.core.totals import Totals, unknown_gpu_ms

_FIRST_MS = attrgetter("first_ms")
_CHUNK = 4_096


class Facts(NamedTuple):
    """What records of a run have in common."""

    version: int
    stage: Stage
    final_since: int
    """The leaf that made it final by promotion; -1: none did."""
    contracted_gpu_ms: int
    planned_gpu_ms: int
    """Lost to planned maintenance, and to force majeure, and to the meter itself."""
    excused_gpu_ms: int
    unknown_gpu_ms: int


@dataclass(slots=True)
class Run:
    """`count` intervals of `length_ms` in a row, from `first_ms` on."""

    first_ms: int
    length_ms: int
    count: int
    facts: Facts

    @property
    def last_ms(self) -> int:
        """The start of the last."""
        return self.first_ms + (self.count - 1) * self.length_ms

    @property
    def next_ms(self) -> int:
        """The end of the last."""
        return self.first_ms + self.count * self.length_ms

    @property
    def starts(self) -> range:
        """The starts of all."""
        return range(self.first_ms, self.last_ms + 1, max(1, self.length_ms))  # shorter where a log is unsound

    def place(self, start_ms: int) -> int | None:
        """Which of them starts there."""
        if self.count == 1:  # of any length, where a log is unsound
            return 0 if start_ms == self.first_ms else None
        place, beside = divmod(start_ms - self.first_ms, self.length_ms)
        return place if not beside and 0 <= place < self.count else None

    def part(self, first: int, end: int) -> Run:
        """Those of them from `first` to before `end`."""
        return Run(self.first_ms + first * self.length_ms, self.length_ms, end - first, self.facts)

    def follows(self, before: Run) -> bool:
        """Whether the two are one."""
        return self.first_ms == before.next_ms and self.length_ms == before.length_ms > 0 and self.facts == before.facts


class Known(NamedTuple):
    """One interval's record as it stands, as `scheduler.core.metering.versions.Held` has it."""

    start_ms: int
    end_ms: int
    leaf: int
    version: int
    stage: Stage
    since: int


class Course:
    """See the module. `leaves`: how many the log has; `period`: of the statement that is to be made; None: none is."""

    __slots__ = ("faulty", "indexes", "instrument", "open", "period", "runs", "totals")

    def __init__(self, leaves: int, period: Interval | None) -> None:
        self.instrument = ""
        """Of its first record; empty before there is one."""
        self.faulty = False
        """Something is wrong with a record: a statement is made from the records themselves."""
        self.runs: list[Run] = []
        self.indexes = array("I" if leaves < 2**32 else "Q")
        """The leaf of each record as last told in full, in order of time."""
        self.totals = Totals()
        """Of the records inside the period; empty where there is none."""
        self.open: dict[str, int] = {}
        """Disputes that are not answered: the start of the interval, by id."""
        self.period = period

    # -- what stands ---------------------------------------------------------------------------------------------------

    def get(self, start_ms: int) -> Known | None:
        """The record of the interval that starts there."""
        if not self.runs or start_ms > self.runs[-1].last_ms:
            return None
        at = bisect_right(self.runs, start_ms, key=_FIRST_MS) - 1
        place = self.runs[at].place(start_ms) if at >= 0 else None
        if place is None:
            return None
        run, index = self.runs[at], self.indexes[self._before(at) + place]
        facts = run.facts
        since = facts.final_since if facts.final_since >= 0 else index
        return Known(start_ms, start_ms + run.length_ms, index, facts.version, facts.stage, since)

    @property
    def disputed(self) -> frozenset[int]:
        """The starts of intervals whose record is disputed."""
        return frozenset(self.open.values())

    def span(self, terms: InstrumentTerms) -> Interval:
        """From its first record to the end of its last, by the length of an interval of its terms."""
        return Interval(self.runs[0].first_ms, self.runs[-1].last_ms + terms.interval_ms)

    @property
    def starts(self) -> Iterator[int]:
        """The starts of all intervals that have a record, rising."""
        return (start_ms for run in self.runs for start_ms in run.starts)

    def clipped(self, period: Interval) -> tuple[list[Run], array[int]]:
        """The runs of the records inside a period, and their leaves. Only of a position without faults."""
        runs: list[Run] = []
        skipped = held = passed = 0
        for run in self.runs:
            first = max(0, -((run.first_ms - period.start_ms) // run.length_ms))
            end = min(run.count, (period.end_ms - run.first_ms) // run.length_ms)
            if first < end:
                skipped = skipped if runs else passed + first
                runs.append(run.part(first, end))
                held += end - first
            passed += run.count
        return runs, self.indexes[skipped : skipped + held]

    # -- what is told --------------------------------------------------------------------------------------------------

    def tell(self, index: int, record: MeterRecord, before: tuple[Known, MeterRecord] | None) -> None:
        """A record in full, at a leaf. `before`: what stands, and the record as it was told, where it is of an earlier
        version.
        """
        stage = stage_after(record.status, None if before is None else before[0].stage)
        run = Run(record.start_ms, record.end_ms - record.start_ms, 1, _facts(record, stage))
        if before is None and self.runs and run.follows(self.runs[-1]):  # as nearly all do
            self.runs[-1].count += 1
            self.indexes.append(index)
            self._count(record, 1)
            return
        if before is not None:
            at = self._alone(record.start_ms)
            self.indexes[self._before(at)] = index
            self.runs[at] = run
            self._count(before[1], -1)
        else:
            at = self._room(record.start_ms)
            if at == len(self.runs):
                self.indexes.append(index)
            else:
                self.indexes.insert(self._before(at), index)
            self.runs.insert(at, run)
        self._count(record, 1)
        self._join(at + 1)
        self._join(at)

    def promote(self, index: int, promotion: Promotion) -> list[Run]:
        """A promotion at a leaf, of what stands before it. Those that it promotes, as they are then, in order."""
        changed: list[Run] = []
        after: list[Run] = []
        for run in self.runs:
            if run.length_ms <= 0:
                inside = promotion.start_ms <= run.first_ms and run.next_ms <= promotion.end_ms
                first, end = (0, 1) if inside else (0, 0)
            else:
                first = max(0, -((run.first_ms - promotion.start_ms) // run.length_ms))
                end = min(run.count, (promotion.end_ms - run.first_ms) // run.length_ms)
            if first >= end or run.facts.stage >= promotion.stage:
                after.append(run)
                continue
            settled = run.part(first, end)
            settled.facts = run.facts._replace(
                version=run.facts.version + 1,
                stage=promotion.stage,
                final_since=index if promotion.stage is Stage.FINAL else -1,
            )
            changed.append(settled)
            after += [run.part(0, first)] * (first > 0)
            after.append(run.part(first, end))
            after[-1].facts = settled.facts
            after += [run.part(end, run.count)] * (end < run.count)
        if changed:
            self.runs = after
            for at in range(len(after) - 1, 0, -1):
                self._join(at)
        return changed

    # -- inside --------------------------------------------------------------------------------------------------------

    def _before(self, at: int) -> int:
        """How many records there are before a run."""
        if at == len(self.runs) - 1:
            return len(self.indexes) - self.runs[at].count
        return sum(run.count for run in self.runs[:at])

    def _room(self, start_ms: int) -> int:
        """Where a run that starts there comes in: nothing starts there yet."""
        if not self.runs or start_ms > self.runs[-1].last_ms:
            return len(self.runs)
        at = bisect_right(self.runs, start_ms, key=_FIRST_MS)
        if at:
            run = self.runs[at - 1]
            first = -((run.first_ms - start_ms) // run.length_ms) if run.length_ms > 0 else 1
            self._split(at - 1, first)
        return at

    def _alone(self, start_ms: int) -> int:
        """The run of the one interval that starts there, cut out of its own."""
        at = bisect_right(self.runs, start_ms, key=_FIRST_MS) - 1
        place = self.runs[at].place(start_ms) or 0
        at += self._split(at, place)
        self._split(at, 1)
        return at

    def _split(self, at: int, first: int) -> bool:
        """Cuts a run in two; whether there is something on both sides."""
        run = self.runs[at]
        if not 0 < first < run.count:
            return False
        self.runs[at : at + 1] = [run.part(0, first), run.part(first, run.count)]
        return True

    def _join(self, at: int) -> None:
        if 0 < at < len(self.runs) and self.runs[at].follows(self.runs[at - 1]):
            self.runs[at - 1].count += self.runs[at].count
            del self.runs[at]

    def _count(self, record: MeterRecord, sign: int) -> None:
        period = self.period
        if period is not None and period.start_ms <= record.start_ms and record.end_ms <= period.end_ms:
            self.totals.add(record, sign)


def versions_root(runs: Iterable[Run]) -> bytes:
    """The root that `Statement.versions_root` has, over runs."""
    tree = CompactRange()
    for run in runs:
        version = run.facts.version
        starts = run.starts
        for first in range(0, run.count, _CHUNK):
            chunk = starts[first : first + _CHUNK]
            tree = tree.extend([leaf_hash(version_leaf(each, each + run.length_ms, version)) for each in chunk])
    return tree.root()


def _facts(record: MeterRecord, stage: Stage) -> Facts:
    if not record.losses:
        return Facts(record.version, stage, -1, record.contracted_gpu_ms, 0, 0, 0)
    losses = dict(record.losses)
    return Facts(
        record.version,
        stage,
        -1,
        record.contracted_gpu_ms,
        losses.get(Cause.PLANNED_MAINTENANCE, 0),
        losses.get(Cause.FORCE_MAJEURE, 0),
        unknown_gpu_ms(record),
    )
