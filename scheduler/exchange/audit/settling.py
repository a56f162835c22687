"""How a log settles its records: versions, the calendar of their terms, corrections of what was final, disputes.

Nothing is final before its time, nor long after it where the log goes on. What was final changes only for a dispute
that was accepted, or for a fact that was learnt late and is told of before, and then as long as the terms let it.
Every dispute that the log tells of is answered in time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import RecordStatus
from scheduler.core.metering.versions import LateFact, Promotion, Stage, wrong_version
from scheduler.core.settlement_times import final_ms, initial_ms, last_change_ms
from scheduler.exchange.audit.course import Course, Known, Run
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.leaves import RecordLeaf, SettlingLeaf

GRACE_MS = 3_600_000
"""How far behind its calendar a log may be when it ends: its cluster may have been down, or have just come back."""

_Version = tuple[str, int, int]
"""Position, start of the interval, version."""


class SettlingChecks:
    """See the module. `courses`: of every position, by its name; promotions and disputes are told to them here."""

    def __init__(
        self, courses: defaultdict[str, Course], terms: Mapping[str, InstrumentTerms], findings: Findings
    ) -> None:
        self.after_final: set[_Version] = set()
        """Corrections of what was final."""
        self.disputes: dict[str, tuple[Dispute, Answer | None]] = {}
        """Every dispute, and its answer."""
        self._courses = courses
        self._terms = terms
        self._findings = findings
        self._late: defaultdict[str, list[tuple[int, LateFact]]] = defaultdict(list)
        self._corrections: dict[_Version, tuple[str, int]] = {}
        """Of every correction: the leaf in words, and when it was written."""
        self._unexplained: set[_Version] = set()
        self._disputed: dict[str, str] = {}
        """The position of each dispute, by its id."""
        self._last_ms = 0

    def add_record(self, which: Callable[[], str], leaf: RecordLeaf, before: Known | None) -> None:
        """A record in full; `before`: what stands of its interval."""
        record = leaf.record
        self._last_ms = max(self._last_ms, leaf.written_ms)
        known = (0, None) if before is None else (before.version, before.stage)
        self._findings.note("versions", which, wrong_version(record.version, record.status, *known))
        terms = self._terms.get(record.instrument)
        if terms is not None and record.status is RecordStatus.FINAL:
            self._check_final(which, record.end_ms, terms, leaf.written_ms)
        if record.status is RecordStatus.CORRECTED:
            version = (record.position, record.start_ms, record.version)
            self._corrections[version] = (which(), leaf.written_ms)
            if before is not None and before.stage is Stage.FINAL:
                self.after_final.add(version)
                self._check_explained(version, before, terms)

    def add(self, where: str, index: int, leaf: SettlingLeaf) -> None:
        """A leaf that settles records."""
        self._last_ms = max(self._last_ms, leaf.written_ms)
        match leaf.told:
            case Promotion():
                self._add_promotion(where, index, leaf.told, leaf.written_ms)
            case Dispute():
                dispute = leaf.told
                wrong = self._wrong_dispute(dispute)
                self._findings.note("disputes", lambda: f"{where}, dispute {dispute.id}", wrong)
                self.disputes.setdefault(dispute.id, (dispute, None))
                self._courses[dispute.position].open[dispute.id] = dispute.start_ms
                self._disputed[dispute.id] = dispute.position
            case Answer():
                answer = leaf.told
                wrong = self._wrong_answer(answer, leaf.written_ms)
                self._findings.note("disputes", lambda: f"{where}, dispute {answer.dispute}", wrong)
                if answer.dispute in self._disputed:
                    self._courses[self._disputed[answer.dispute]].open.pop(answer.dispute, None)
            case LateFact():
                self._late[leaf.told.position].append((index, leaf.told))

    def close(self) -> None:
        """The log is over."""
        for version in sorted(self._unexplained):
            which, _ = self._corrections[version]
            self._findings.fail("finals", f"{which}: a final record is corrected, expected a dispute or a late fact")
        for position, course in sorted(self._courses.items()):
            terms = self._terms.get(course.instrument)
            if terms is not None:
                self._check_overdue(position, course, terms)
        for name, (dispute, answer) in sorted(self.disputes.items()):
            if answer is None and dispute.answer_by_ms + GRACE_MS < self._last_ms:
                self._findings.fail(
                    "disputes",
                    f"dispute {name} of {dispute.position} is open, expected an answer by {dispute.answer_by_ms}",
                )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _add_promotion(self, where: str, index: int, promotion: Promotion, written_ms: int) -> None:
        course = self._courses[promotion.position]
        promoted = course.promote(index, promotion)
        if promotion.stage is not Stage.FINAL:
            return
        disputed, terms = course.disputed, self._terms.get(course.instrument)
        for run in promoted:
            which = partial(_which, where, promotion.position, run)
            found = [start_ms for start_ms in run.starts if start_ms in disputed] if disputed else ()
            for start_ms in found[:1]:
                wrong = f"it is {promotion.status}, expected an answer to its dispute"
                self._findings.fail("disputes", f"{which(start_ms)}: {wrong}")
            if terms is not None:
                self._check_all_final(which, run, terms, written_ms)

    def _check_all_final(self, which: Callable[[int], str], run: Run, terms: InstrumentTerms, written_ms: int) -> None:
        """The later an interval, the later it is final: where the last may be, all may."""
        if written_ms >= final_ms(terms, run.next_ms):
            self._findings.examined["calendar"] += run.count
            return
        for start_ms in run.starts:
            self._check_final(partial(which, start_ms), start_ms + run.length_ms, terms, written_ms)

    def _check_final(self, which: Callable[[], str], end_ms: int, terms: InstrumentTerms, written_ms: int) -> None:
        due_ms = final_ms(terms, end_ms)
        wrong = f"it was final at {written_ms}, expected {due_ms} or later" if written_ms < due_ms else ""
        self._findings.note("calendar", which, wrong)

    def _check_overdue(self, position: str, course: Course, terms: InstrumentTerms) -> None:
        """The earlier an interval, the earlier it is due: where the first of a run is not overdue, none is."""
        disputed = course.disputed
        for run in course.runs:
            if not run.facts.contracted_gpu_ms:
                continue
            looked = [start_ms for start_ms in run.starts if start_ms not in disputed] if disputed else run.starts
            self._findings.examined["calendar"] += len(looked)
            for start_ms in looked[:1]:
                wrong = self._overdue(run.facts.stage, start_ms + run.length_ms, terms)
                if wrong:
                    self._findings.fail("calendar", f"{_named(position, run, start_ms)}: {wrong}")

    def _overdue(self, stage: Stage, end_ms: int, terms: InstrumentTerms) -> str:
        if stage is Stage.PROVISIONAL and initial_ms(terms, end_ms) + GRACE_MS < self._last_ms:
            return f"it is provisional at {self._last_ms}, expected initial from {initial_ms(terms, end_ms)} on"
        if stage is not Stage.FINAL and final_ms(terms, end_ms) + GRACE_MS < self._last_ms:
            return f"it is not final at {self._last_ms}, expected that from {final_ms(terms, end_ms)} on"
        return ""

    def _check_explained(self, version: _Version, before: Known, terms: InstrumentTerms | None) -> None:
        """A correction of what was final: by a late fact that is told since, within its time, or else by a dispute."""
        self._findings.examined["finals"] += 1
        position, _, _ = version
        end_ms = before.end_ms
        told = any(index > before.since and fact.from_ms < end_ms for index, fact in self._late[position])
        which, written_ms = self._corrections[version]
        if not told:
            self._unexplained.add(version)
        elif terms is not None and written_ms > last_change_ms(terms, end_ms):
            last_ms = last_change_ms(terms, end_ms)
            self._findings.fail("finals", f"{which}: it is corrected at {written_ms}, expected {last_ms} or earlier")

    def _wrong_dispute(self, dispute: Dispute) -> str:
        if dispute.id in self.disputes:
            return "it was told of before"
        course = self._courses[dispute.position]
        held = course.get(dispute.start_ms)
        if held is None or held.version < dispute.version or held.leaf < dispute.leaf:
            return f"version {dispute.version} of {dispute.position} at {dispute.start_ms} is not in the log"
        terms = self._terms.get(course.instrument)
        if terms is not None and dispute.opened_ms > last_change_ms(terms, dispute.end_ms):
            return f"opened_ms was {dispute.opened_ms}, expected {last_change_ms(terms, dispute.end_ms)} or earlier"
        return ""

    def _wrong_answer(self, answer: Answer, written_ms: int) -> str:
        dispute, before = self.disputes.get(answer.dispute, (None, None))
        if dispute is None or before is not None:
            return "it is answered, expected one that is open"
        self.disputes[answer.dispute] = (dispute, answer)
        due_ms = dispute.answer_by_ms
        if answer.state is DisputeState.EXPIRED and written_ms < due_ms:
            return f"it expired at {written_ms}, expected {due_ms} or later"
        if answer.state is not DisputeState.EXPIRED and written_ms > due_ms + GRACE_MS:
            return f"it was answered at {written_ms}, expected {due_ms} or earlier"
        if answer.version is not None:
            version = (dispute.position, dispute.start_ms, answer.version)
            if version not in self._corrections or answer.version <= dispute.version:
                return f"it is accepted by version {answer.version}, expected a correction of version {dispute.version}"
            self._unexplained.discard(version)
        return ""


def _which(where: str, position: str, run: Run, start_ms: int) -> str:
    return f"{where}, {_named(position, run, start_ms)}"


def _named(position: str, run: Run, start_ms: int) -> str:
    return f"{position} [{start_ms}, {start_ms + run.length_ms}) version {run.facts.version}"
