"""Statements against the log: those in the bundle are what the records give, byte for byte, and leave nothing out.

A statement is made from its position's course. Where anything is wrong with a record of it, it is made as both sides
make it, from the records themselves, which are read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from scheduler.core.errors import Refused
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval
from scheduler.core.metering.versions import PositionVersions, Stage
from scheduler.core.models import canonical_bytes
from scheduler.core.settlement import Statement, Totalled, stated, tiled_through
from scheduler.exchange.audit.course import Course, Run, versions_root
from scheduler.exchange.audit.log import Log
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.statements import statement_over


@dataclass(frozen=True, slots=True)
class _Asked:
    """One statement to be made. `given`: the one in the bundle, and its bytes; None: it only has to be possible."""

    position: str
    course: Course
    terms: InstrumentTerms
    period: Interval
    given: tuple[Statement, bytes] | None

    @property
    def of_course(self) -> bool:
        """Whether its course is enough to make it."""
        return not self.course.faulty and self.course.instrument == self.terms.id

    def held_against(self, again: Statement) -> str:
        """What is wrong with the one in the bundle, in words; empty for nothing."""
        if self.given is None or canonical_bytes(again) == self.given[1]:
            return ""
        for name in Statement.model_fields:
            was, expected = getattr(self.given[0], name), getattr(again, name)
            if was != expected:
                return f"{name} was {was}, the records give {expected}"
        return "its bytes are not canonical"

    def refused(self, error: Refused) -> str:
        """That none can be made, in words."""
        return str(error) if self.given is None else f"the records give no statement: {error}"

    def told(self, wrong: str) -> str:
        """What is wrong, with what it is of."""
        if self.given is None:
            return f"no statement can be made of {self.position}: {wrong}"
        return f"statements/{self.position}.json: {wrong}"


def periods_of(statements: Mapping[str, bytes]) -> dict[str, Interval]:
    """The periods of those statements that can be read, by position."""
    found = {}
    for position, given in statements.items():
        read = _read(given)
        if isinstance(read, Statement) and read.start_ms < read.end_ms:
            found[position] = Interval(read.start_ms, read.end_ms)
    return found


def check_statements(log: Log, statements: Mapping[str, bytes], findings: Findings) -> None:
    """Those in the bundle are what the records give; of the other positions, the records give one at all. Raises
    Damaged where the bundle is not as it was when the log was read.
    """
    wrong: dict[int, str] = {}
    asked: dict[int, _Asked] = {}
    for number, (position, given) in enumerate(sorted(statements.items())):
        found = _asked(log, position, given)
        if isinstance(found, _Asked):
            asked[number] = found
        else:
            wrong[number] = f"statements/{position}.json: {found}"
    for number, (position, course) in enumerate(log.recorded.items(), len(statements)):
        terms = log.terms.get(course.instrument)
        if position not in statements and terms is not None:
            asked[number] = _Asked(position, course, terms, course.span(terms), None)
    findings.examined["statements"] += len(wrong) + len(asked)
    wrong |= _wrong_by_course(log, {number: one for number, one in asked.items() if one.of_course})
    before = min(wrong, default=len(statements) + len(log.courses))
    wrong |= _first_wrong_by_records(
        log, {number: one for number, one in asked.items() if not one.of_course and number < before}
    )
    if wrong:
        findings.fail("statements", wrong[min(wrong)])


def _read(given: bytes) -> Statement | str:
    try:
        return Statement.model_validate_json(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _asked(log: Log, position: str, given: bytes) -> _Asked | str:
    """The statement to be made for one in the bundle, or what is wrong with that already."""
    read = _read(given)
    if isinstance(read, str):
        return read
    if read.position != position:
        return f"it is of {read.position}"
    terms = log.terms.get(read.instrument)
    if terms is None:
        return f"the bundle holds no terms of {read.instrument}"
    if read.spec_hash != terms.spec_hash:
        return f"spec_hash was {read.spec_hash}, the terms have {terms.spec_hash}"
    course = log.courses[position]
    left_out = _left_out(course, read)
    if left_out:
        return left_out
    try:
        return _Asked(position, course, terms, Interval(read.start_ms, read.end_ms), (read, given))
    except Refused as error:
        return f"the records give no statement: {error}"


def _left_out(course: Course, read: Statement) -> str:
    """What was contracted before the statement begins, in words; empty: nothing. Its end is said by the statement."""
    for run in course.runs:
        if run.first_ms < read.start_ms and run.facts.contracted_gpu_ms:
            first = run.part(0, 1)
            contracted = f"{run.facts.contracted_gpu_ms} GPU-ms are contracted in [{first.first_ms}, {first.next_ms})"
            return f"start_ms was {read.start_ms}, expected {first.first_ms} or earlier: {contracted}"
    return ""


# -- from courses ------------------------------------------------------------------------------------------------------


def _wrong_by_course(log: Log, asked: Mapping[int, _Asked]) -> dict[int, str]:
    """What is wrong with each of these, by its number. The roots of all are found together."""
    wrong: dict[int, str] = {}
    through: dict[int, int] = {}
    for number, one in asked.items():
        try:
            runs, _ = one.course.clipped(one.period)
            if not runs:
                statement_over(one.terms, one.period, PositionVersions())  # which says what is missing
            starts = (start_ms for run in runs for start_ms in run.starts)
            end_ms = runs[-1].next_ms
            through[number] = tiled_through(one.terms, one.position, starts, end_ms, one.period, partial=True)
        except Refused as error:
            wrong[number] = one.told(one.refused(error))
    given = [(number, asked[number]) for number in through if asked[number].given is not None]
    roots = log.again.records_roots(one.course.clipped(one.period)[1] for _, one in given)
    for (number, one), root in zip(given, roots, strict=True):
        runs, _ = one.course.clipped(one.period)
        again = stated(one.terms, _totalled(one, runs, root), one.period, through[number])
        found = one.held_against(again)
        if found:
            wrong[number] = one.told(found)
    return wrong


def _totalled(one: _Asked, runs: Sequence[Run], records_root: str) -> Totalled:
    disputed = one.course.disputed
    records = unsettled = in_dispute = unknown_gpu_ms = 0
    for run in runs:
        here = sum(start_ms in disputed for start_ms in run.starts) if disputed else 0
        settled = run.count - here if run.facts.stage is Stage.FINAL else 0
        records += run.count
        in_dispute += here
        unsettled += run.count - settled
        unknown_gpu_ms += settled * run.facts.unknown_gpu_ms
    return Totalled(
        position=one.position,
        records=records,
        unsettled=unsettled,
        disputed=in_dispute,
        records_root=records_root,
        versions_root=versions_root(runs).hex(),
        totals=one.course.totals,
        settled_unknown_gpu_ms=unknown_gpu_ms,
    )


# -- from records ------------------------------------------------------------------------------------------------------


def _first_wrong_by_records(log: Log, asked: Mapping[int, _Asked]) -> dict[int, str]:
    """The first of these that is wrong, by its number."""
    found = log.again.versions_of([(one.position, len(one.course.indexes)) for one in asked.values()])
    for (number, one), versions in zip(asked.items(), found, strict=False):
        try:
            wrong = one.held_against(statement_over(one.terms, one.period, versions))
        except Refused as error:
            wrong = one.refused(error)
        if wrong:
            return {number: one.told(wrong)}
    return {}
