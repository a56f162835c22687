"""Causes that somebody had to declare: each is in the log before it counts, within what the terms allow.

What is planned was announced as long before as the instrument says, for nodes that could be meant, and stays within
the maintenance budget, which is found again from the records. What is excused was declared with the hash of its
evidence. What is recalled or released was said in the log before, as often and as late as the terms let it.

Where lots are single GPUs or nodes, no more is planned or excused than the nodes declared have; a larger cell may be
out by one node of it. A notice says when it was written; one that says an instant before an interval that the log had
closed by then was dated back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.instruments import InstrumentTerms, Recallable
from scheduler.core.intervals import Interval, intersect, normalise, total_ms
from scheduler.core.metering.maintenance import allowance_gpu_ms
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.audit.course import Course, Run
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.outages import DeclaredNode, ForceMajeureLeaf, MaintenanceLeaf, OutageLeaf, WithheldLeaf

_Pool = tuple[Cause, str, int, int]
"""Cause, site, start_ms, end_ms."""


class Outages:
    """See the module. `terms`: of every instrument in the bundle, by id."""

    def __init__(self, terms: Mapping[str, InstrumentTerms], findings: Findings) -> None:
        self._terms = terms
        self._findings = findings
        self._closed_ms = 0
        self._notices: list[MaintenanceLeaf] = []
        self._declared: list[ForceMajeureLeaf] = []
        self._withheld: dict[tuple[str, bool], list[tuple[str, WithheldLeaf]]] = defaultdict(list)
        """By position and whether they are recalls: where each is said, and what."""

    def closed(self, end_ms: int) -> None:
        """The log has closed an interval: what comes after it was written after its end."""
        self._closed_ms = max(self._closed_ms, end_ms)

    def declare(self, where: str, leaf: OutageLeaf) -> None:
        """Takes in what is declared."""
        self._check_written(where, leaf.written_ms)
        if isinstance(leaf, MaintenanceLeaf):
            self._notices.append(leaf)
        elif isinstance(leaf, ForceMajeureLeaf):
            self._declared.append(leaf)
        else:
            self._withheld[leaf.said.position, leaf.recalled].append((where, leaf))

    def hold_against(self, which: Callable[[], str], record: MeterRecord, terms: InstrumentTerms) -> None:
        """One record, against what was declared before it."""
        if not record.losses and not record.released_gpu_ms:
            return
        note, losses = self._findings.note, dict(record.losses)
        if Cause.PLANNED_MAINTENANCE in losses:
            note("maintenance", which, self._wrong_planned(record, terms))
        if Cause.DRAIN in losses:
            note("maintenance", which, _wrong_drain(record, terms))
        if Cause.FORCE_MAJEURE in losses:
            note("excused", which, self._wrong_excused(record, terms))
        if Cause.REPLACEMENT in losses:
            none = "" if terms.replace_within_s else f"replace_within_s of {terms.id} is 0, so nothing is lost to it"
            note("replacement", which, f"{Cause.REPLACEMENT.name}: {none}" if none else "")
        if Cause.RECALL in losses:
            note("recalls", which, self._wrong_withheld(record, terms, losses[Cause.RECALL], recalled=True))
        if record.released_gpu_ms:
            wrong = self._wrong_withheld(record, terms, record.released_gpu_ms, recalled=False)
            note("releases", which, wrong)

    def close(self, recorded: Mapping[str, Course]) -> None:
        """What only all records together tell. `recorded`: of every position that has some."""
        for (position, recalled), said in sorted(self._withheld.items()):
            runs = recorded[position].runs if position in recorded else ()
            first_ms = next((each.first_ms for each in runs if each.facts.contracted_gpu_ms), None)
            self._check_withheld(said, first_ms, recalled=recalled)
        lost: dict[_Pool, int] = defaultdict(int)
        for position, course in recorded.items():
            terms = self._terms.get(course.instrument)
            if terms is None:
                continue
            self._check_budget(position, course.runs, terms)
            if terms.lot.cell > Level.NODE:
                continue
            for run in (each for each in course.runs if each.length_ms > 0):
                for cause, gpu_ms in (
                    (Cause.PLANNED_MAINTENANCE, run.facts.planned_gpu_ms),
                    (Cause.FORCE_MAJEURE, run.facts.excused_gpu_ms),
                ):
                    for start_ms in run.starts if gpu_ms else ():
                        lost[cause, terms.site, start_ms, start_ms + run.length_ms] += gpu_ms
        for (cause, site, start_ms, end_ms), gpu_ms in sorted(lost.items()):
            planned = cause is Cause.PLANNED_MAINTENANCE
            most = _most_gpu_ms(self._notices if planned else self._declared, site, Interval(start_ms, end_ms))
            if gpu_ms > most:
                self._findings.fail(
                    "maintenance" if planned else "excused",
                    f"site {site} [{start_ms}, {end_ms}): {gpu_ms} GPU-ms are lost to {cause.name}, expected at most "
                    f"{most}, what the nodes have that it was declared of",
                )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _note(self, check: str, which: str, wrong: str) -> None:
        self._findings.examined[check] += 1
        if wrong:
            self._findings.fail(check, f"{which}: {wrong}")

    def _check_written(self, where: str, written_ms: int) -> None:
        self._findings.examined["written"] += 1
        if written_ms < self._closed_ms:
            self._findings.fail(
                "written",
                f"{where}: written_ms was {written_ms}, expected {self._closed_ms} or later, the end of an interval "
                f"that the log had closed",
            )

    def _wrong_planned(self, record: MeterRecord, terms: InstrumentTerms) -> str:
        notice_ms = terms.maintenance.notice_s * 1_000
        in_time = [
            leaf
            for leaf in self._notices
            if leaf.notice.from_ms - leaf.written_ms >= notice_ms and _may_mean(leaf.notice.nodes, terms)
        ]
        if total_ms(intersect((record.interval,), normalise(leaf.notice.interval for leaf in in_time))):
            return ""
        lost = dict(record.losses)[Cause.PLANNED_MAINTENANCE]
        return (
            f"{lost} GPU-ms are lost to {Cause.PLANNED_MAINTENANCE.name}, expected a notice of it in the log "
            f"{notice_ms} ms before it begins"
        )

    def _wrong_excused(self, record: MeterRecord, terms: InstrumentTerms) -> str:
        lost = dict(record.losses)[Cause.FORCE_MAJEURE]
        if not terms.force_majeure_excuses:
            return f"{lost} GPU-ms are lost to {Cause.FORCE_MAJEURE.name}, which does not excuse in {terms.id}"
        meant = [leaf.declared.interval for leaf in self._declared if _may_mean(leaf.declared.nodes, terms)]
        if total_ms(intersect((record.interval,), normalise(meant))):
            return ""
        return f"{lost} GPU-ms are lost to {Cause.FORCE_MAJEURE.name}, expected one declared in the log before"

    def _wrong_withheld(self, record: MeterRecord, terms: InstrumentTerms, gpu_ms: int, *, recalled: bool) -> str:
        most = 0
        for _, leaf in self._withheld.get((record.position, recalled), ()):
            most += leaf.said.lots * terms.lot.gpus * total_ms(intersect((record.interval,), (leaf.said.interval,)))
        if gpu_ms <= most:
            return ""
        how = "recalled" if recalled else "released"
        return f"{gpu_ms} GPU-ms are {how}, expected at most {most}, as the log has it before"

    def _check_withheld(
        self, said: Sequence[tuple[str, WithheldLeaf]], first_ms: int | None, *, recalled: bool
    ) -> None:
        """The recalls, or the releases, of one position against its terms, in order of time."""
        run_ms = first_ms
        for number, (where, leaf) in enumerate(sorted(said, key=lambda each: each[1].said.from_ms)):
            terms = self._terms.get(leaf.said.instrument)
            if terms is None:
                continue
            if recalled:
                wrong = _wrong_recall(leaf, terms, run_ms, number)
            else:
                kind = terms.unused_rule.kind
                wrong = "" if kind == "RELEASE" else f"the unused rule of {terms.id} is {kind}, expected RELEASE"
            self._note("recalls" if recalled else "releases", f"{where}, {leaf.said.position}", wrong)
            run_ms = leaf.said.until_ms

    def _check_budget(self, position: str, runs: Iterable[Run], terms: InstrumentTerms) -> None:
        used = contracted = 0
        for run in runs:
            planned, contracting = run.facts.planned_gpu_ms, run.facts.contracted_gpu_ms
            if not planned or run.length_ms <= 0:
                contracted += contracting * run.count
                continue
            for start_ms in run.starts:
                interval = Interval(start_ms, start_ms + run.length_ms)
                allowed = allowance_gpu_ms(terms, interval, contracted, contracting)
                used += planned
                contracted += contracting
                wrong = ""
                if used > allowed:
                    wrong = f"{used} GPU-ms were planned by then, expected at most {allowed}, the budget"
                self._note("maintenance", f"{position} [{interval.start_ms}, {interval.end_ms})", wrong)


def _wrong_drain(record: MeterRecord, terms: InstrumentTerms) -> str:
    from_ms = terms.window.end_ms - terms.drain_s * 1_000
    if terms.drain_s and record.end_ms > from_ms:
        return ""
    lost = dict(record.losses)[Cause.DRAIN]
    expected = f"none before {from_ms}" if terms.drain_s else "none: the terms have no drain"
    return f"{lost} GPU-ms are lost to {Cause.DRAIN.name}, expected {expected}"


def _wrong_recall(leaf: WithheldLeaf, terms: InstrumentTerms, run_ms: int | None, number: int) -> str:
    """`run_ms`: since when it has run; `number`: how many recalls there were before."""
    said, firmness = leaf.said, terms.firmness
    if not isinstance(firmness, Recallable):
        return f"it is recalled, and the firmness of {terms.id} is {firmness.kind}, expected RECALLABLE"
    if said.from_ms - leaf.written_ms < firmness.notice_ms:
        notice_ms = said.from_ms - leaf.written_ms
        return f"the notice of its recall from {said.from_ms} was {notice_ms} ms, expected {firmness.notice_ms} or more"
    if run_ms is not None and said.from_ms < run_ms + firmness.min_run_ms:
        return (
            f"it is recalled at {said.from_ms}, expected {run_ms + firmness.min_run_ms} or later, after its least run"
        )
    if number >= firmness.max_events:
        return f"it is recalled {number + 1} times, expected at most {firmness.max_events}"
    return ""


def _may_mean(nodes: Iterable[DeclaredNode], terms: InstrumentTerms) -> bool:
    """Whether any of the nodes could stand behind the instrument."""
    grades = {each.grade for each in terms.deliverables}
    return any(node.site == terms.site and node.grade in grades for node in nodes)


def _most_gpu_ms(leaves: Iterable[MaintenanceLeaf | ForceMajeureLeaf], site: str, interval: Interval) -> int:
    """What the nodes that were declared at a site have in an interval, each moment of each once."""
    by_node: dict[DeclaredNode, list[Interval]] = defaultdict(list)
    for leaf in leaves:
        said = leaf.notice if isinstance(leaf, MaintenanceLeaf) else leaf.declared
        for node in said.nodes:
            if node.site == site:
                by_node[node].append(said.interval)
    return sum(node.gpus * total_ms(intersect((interval,), normalise(spans))) for node, spans in by_node.items())
