"""How a log settles its records: versions, the calendar of their terms, corrections of what was final, disputes.

Nothing is final before its time, nor long after it where the log goes on. What was final changes only for a dispute
that was accepted, or for a fact that was learnt late and is told of before, and then as long as the terms let it.
Every dispute that the log tells of is answered in time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.versions import Held, LateFact, Promotion, Stage, wrong_version
from scheduler.core.settlement_times import final_ms, initial_ms, last_change_ms
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.leaves import RecordLeaf, SettlingLeaf
from scheduler.exchange.statements import Versions

GRACE_MS = 3_600_000
"""How far behind its calendar a log may be when it ends: its cluster may have been down, or have just come back."""

_Version = tuple[str, int, int]
"""Position, start of the interval, version."""


class SettlingChecks:
    """See the module. `versions` are filled as leaves come."""

    def __init__(self, versions: Versions, terms: Mapping[str, InstrumentTerms], findings: Findings) -> None:
        self.after_final: set[_Version] = set()
        """Corrections of what was final."""
        self.disputes: dict[str, tuple[Dispute, Answer | None]] = {}
        """Every dispute, and its answer."""
        self._versions = versions
        self._terms = terms
        self._findings = findings
        self._late: defaultdict[str, list[tuple[int, LateFact]]] = defaultdict(list)
        self._corrections: dict[_Version, tuple[str, int]] = {}
        """Of every correction: the leaf in words, and when it was written."""
        self._unexplained: set[_Version] = set()
        self._last_ms = 0

    def add_record(self, which: str, index: int, leaf: RecordLeaf, leaf_hash: bytes) -> None:
        """A record in full, at a leaf."""
        record = leaf.record
        self._last_ms = max(self._last_ms, leaf.written_ms)
        versions = self._versions.of[record.position]
        before = versions.held.get(record.start_ms)
        known = (0, None) if before is None else (before.version, before.stage)
        self._note("versions", which, wrong_version(record.version, record.status, *known))
        terms = self._terms.get(record.instrument)
        if terms is not None and record.status is RecordStatus.FINAL:
            self._check_final(which, record, terms, leaf.written_ms)
        if record.status is RecordStatus.CORRECTED:
            version = (record.position, record.start_ms, record.version)
            self._corrections[version] = (which, leaf.written_ms)
            if before is not None and before.stage is Stage.FINAL:
                self.after_final.add(version)
                self._check_explained(version, before, terms)
        versions.tell(index, record, leaf_hash)

    def add(self, where: str, index: int, leaf: SettlingLeaf) -> None:
        """A leaf that settles records."""
        self._last_ms = max(self._last_ms, leaf.written_ms)
        match leaf.told:
            case Promotion():
                self._add_promotion(where, index, leaf.told, leaf.written_ms)
            case Dispute():
                self._note("disputes", f"{where}, dispute {leaf.told.id}", self._wrong_dispute(leaf.told))
                self.disputes.setdefault(leaf.told.id, (leaf.told, None))
                self._versions.settle(index, leaf.told)
            case Answer():
                answer = leaf.told
                self._note(
                    "disputes", f"{where}, dispute {answer.dispute}", self._wrong_answer(answer, leaf.written_ms)
                )
                self._versions.settle(index, answer)
            case LateFact():
                self._late[leaf.told.position].append((index, leaf.told))

    def close(self) -> None:
        """The log is over."""
        for version in sorted(self._unexplained):
            which, _ = self._corrections[version]
            self._findings.fail("finals", f"{which}: a final record is corrected, expected a dispute or a late fact")
        for position, versions in sorted(self._versions.of.items()):
            for start_ms, held in sorted(versions.held.items()):
                terms = self._terms.get(held.record.instrument)
                if terms is not None and held.record.contracted_gpu_ms and start_ms not in versions.disputed:
                    which = f"{position} [{start_ms}, {held.record.end_ms}) version {held.version}"
                    self._note("calendar", which, self._overdue(held, terms))
        for name, (dispute, answer) in sorted(self.disputes.items()):
            if answer is None and dispute.answer_by_ms + GRACE_MS < self._last_ms:
                self._findings.fail(
                    "disputes",
                    f"dispute {name} of {dispute.position} is open, expected an answer by {dispute.answer_by_ms}",
                )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _note(self, check: str, which: str, wrong: str) -> None:
        self._findings.examined[check] += 1
        if wrong:
            self._findings.fail(check, f"{which}: {wrong}")

    def _add_promotion(self, where: str, index: int, promotion: Promotion, written_ms: int) -> None:
        versions = self._versions.of[promotion.position]
        for held in versions.promote(index, promotion):
            record, terms = held.record, self._terms.get(held.record.instrument)
            which = f"{where}, {record.position} [{record.start_ms}, {record.end_ms}) version {held.version}"
            if record.start_ms in versions.disputed and promotion.stage is Stage.FINAL:
                self._findings.fail("disputes", f"{which}: it is {promotion.status}, expected an answer to its dispute")
            if terms is not None and promotion.stage is Stage.FINAL:
                self._check_final(which, record, terms, written_ms)

    def _check_final(self, which: str, record: MeterRecord, terms: InstrumentTerms, written_ms: int) -> None:
        due_ms = final_ms(terms, record.end_ms)
        wrong = f"it was final at {written_ms}, expected {due_ms} or later" if written_ms < due_ms else ""
        self._note("calendar", which, wrong)

    def _overdue(self, held: Held, terms: InstrumentTerms) -> str:
        end_ms = held.record.end_ms
        if held.stage is Stage.PROVISIONAL and initial_ms(terms, end_ms) + GRACE_MS < self._last_ms:
            return f"it is provisional at {self._last_ms}, expected initial from {initial_ms(terms, end_ms)} on"
        if held.stage is not Stage.FINAL and final_ms(terms, end_ms) + GRACE_MS < self._last_ms:
            return f"it is not final at {self._last_ms}, expected that from {final_ms(terms, end_ms)} on"
        return ""

    def _check_explained(self, version: _Version, before: Held, terms: InstrumentTerms | None) -> None:
        """A correction of what was final: by a late fact that is told since, within its time, or else by a dispute."""
        self._findings.examined["finals"] += 1
        position, _, _ = version
        end_ms = before.record.end_ms
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
        held = self._versions.of[dispute.position].held.get(dispute.start_ms)
        if held is None or held.version < dispute.version or held.index < dispute.leaf:
            return f"version {dispute.version} of {dispute.position} at {dispute.start_ms} is not in the log"
        terms = self._terms.get(held.record.instrument)
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
