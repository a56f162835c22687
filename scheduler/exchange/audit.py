"""The audit: everything that a bundle claims, checked offline, trusting nobody but arithmetic and the keys given.

Checks, in this order, each with the first thing that is wrong: the folder is whole; the checkpoint is signed; terms are
canonical; every leaf and tile is under its root; leaves say something; records add up, are of their instrument and its
intervals, contract whole lots inside the profile, and come in versions without gaps; pools deliver no more than stood
behind them; shortages follow the rule and say of positions what their terms say; records tile their delivery;
statements are those that the records give, byte for byte.

What a log alone cannot show: that a position was left out from its beginning. The exchange knows its positions; a
statement in the bundle says from when it counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from scheduler.core.coverage.shortage import Certificate, verify
from scheduler.core.errors import Damaged, InvalidValue, Refused, TenorError
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, intersect, total_ms
from scheduler.core.listing import check_listing
from scheduler.core.merkle import leaf_hash
from scheduler.core.metering.records import MeterRecord, PoolRecord, broken_identities
from scheduler.core.models import canonical_bytes
from scheduler.core.profiles import delivery_intervals
from scheduler.core.quantities import ONE_PPM, floor_div
from scheduler.core.settlement import Statement, expected_intervals
from scheduler.exchange.bundles import read_statements
from scheduler.exchange.checks import broken_pool, wrong_claim, wrong_interval
from scheduler.exchange.convert import terms_from_bytes
from scheduler.exchange.leaves import PoolLeaf, RecordLeaf, ShortageLeaf, decode
from scheduler.exchange.statements import RecordedLeaf, statement_over
from scheduler.ledger.bundle import Bundle, read_bundle
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import open_checkpoint


class Verdict(StrEnum):
    """How a check ended. NOT_REACHED: something before it was so wrong that it could not be made, or not wholly."""

    OK = "ok"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


CHECKS = (
    "folder",
    "checkpoint",
    "terms",
    "tree",
    "leaves",
    "identities",
    "intervals",
    "contracted",
    "versions",
    "pools",
    "shortages",
    "tiling",
    "statements",
)
"""Every check, in order."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its verdict, how many things it looked at, and the first that was wrong."""

    name: str
    verdict: Verdict
    examined: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit of one bundle found. `size` and `root`: what the checkpoint states."""

    folder: Path
    origin: str
    size: int
    root: str
    positions: int
    records: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was made and passed."""
        return all(check.verdict is Verdict.OK for check in self.checks)

    @property
    def first_wrong(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.verdict is Verdict.FAILED), None)


def audit(folder: Path, trusted: Sequence[VerifierKey] = ()) -> AuditReport:
    """The audit of the bundle at `folder`. `trusted`: the only keys believed; none given: those in the bundle.

    Whatever is wrong with the bundle is in the report. Raises InvalidValue where there is no bundle.
    """
    findings = _Findings()
    try:
        bundle = read_bundle(folder)
        statements = read_statements(folder)
    except InvalidValue:
        raise
    except TenorError as error:
        findings.fail("folder", str(error))
        return findings.report(folder, None)
    findings.examined["folder"] += 1
    _check_checkpoint(bundle, trusted, findings)
    terms = _checked_terms(bundle, findings)
    log = _Log(terms, findings)
    try:
        for index, leaf in enumerate(bundle.leaves()):
            findings.examined["tree"] += 1
            log.add(index, leaf)
    except TenorError as error:
        findings.fail("tree", str(error))
        findings.reached_all = False
    log.check_delivered()
    log.check_shortages()
    log.check_tiling()
    _check_statements(log, statements, findings)
    return findings.report(folder, bundle, log)


@dataclass(slots=True)
class _Findings:
    """The first thing wrong in each check."""

    first: dict[str, str] = field(default_factory=dict)
    examined: Counter[str] = field(default_factory=Counter)
    reached_all: bool = True

    def fail(self, check: str, detail: str) -> None:
        self.first.setdefault(check, detail)

    def report(self, folder: Path, bundle: Bundle | None, log: _Log | None = None) -> AuditReport:
        return AuditReport(
            folder=folder,
            origin=bundle.stated.origin if bundle else "",
            size=bundle.stated.size if bundle else 0,
            root=bundle.stated.root.hex() if bundle else "",
            positions=len(log.by_position) if log else 0,
            records=self.examined["identities"],
            checks=tuple(self._check(name, whole=bundle is not None) for name in CHECKS),
        )

    def _check(self, name: str, *, whole: bool) -> Check:
        of_leaves = CHECKS.index(name) > CHECKS.index("tree")
        verdict = Verdict.OK
        if name in self.first:
            verdict = Verdict.FAILED
        elif not whole or (of_leaves and not self.reached_all):
            verdict = Verdict.NOT_REACHED
        return Check(name, verdict, self.examined[name], self.first.get(name, ""))


class _Log:
    """The leaves as they come, in order, and what is checked of them on the way."""

    def __init__(self, terms: Mapping[str, InstrumentTerms], findings: _Findings) -> None:
        self.by_position: dict[str, list[RecordedLeaf]] = defaultdict(list)
        self.terms = terms
        self._findings = findings
        self._versions: dict[tuple[str, int], int] = {}
        self._contracted: Counter[tuple[str, str, int, int]] = Counter()
        self._delivered: Counter[tuple[str, int, int]] = Counter()
        self._covered: Counter[tuple[str, int, int]] = Counter()
        self._shortages: list[tuple[str, Certificate]] = []
        self._pools_seen: set[tuple[str, int, int]] = set()

    def add(self, index: int, leaf: bytes) -> None:
        """Checks one leaf."""
        findings = self._findings
        findings.examined["leaves"] += 1
        try:
            decoded = decode(leaf)
        except Refused as error:
            findings.fail("leaves", f"leaf {index}: {error}")
            return
        match decoded:
            case RecordLeaf():
                self._add_record(f"leaf {index}", decoded.record, leaf)
            case PoolLeaf():
                self._add_pool(f"leaf {index}", decoded.pool)
            case ShortageLeaf():
                findings.examined["shortages"] += 1
                self._shortages.append((f"leaf {index}", decoded.certificate))
                try:
                    verify(decoded.certificate)
                except (Refused, Damaged) as error:
                    findings.fail("shortages", f"leaf {index}: {error}")

    def check_shortages(self) -> None:
        """What shortages say of positions is what the terms of their instruments say."""
        for where, certificate in self._shortages:
            for claim in certificate.claims:
                recorded = self.by_position.get(claim.position)
                terms = self.terms.get(recorded[0].record.instrument) if recorded else None
                wrong = "" if terms is None else wrong_claim(certificate, claim, terms)
                if wrong:
                    self._findings.fail("shortages", f"{where}: {wrong}")

    def check_tiling(self) -> None:
        """Each position has a record for every interval of delivery from its first to its last."""
        for position, recorded in sorted(self.by_position.items()):
            terms = self.terms.get(recorded[0].record.instrument)
            if terms is None:
                continue
            self._findings.examined["tiling"] += 1
            given = {each.record.start_ms for each in recorded}
            span = Interval(min(given), max(given) + terms.interval_ms)
            missing = next((each for each in expected_intervals(terms, span) if each.start_ms not in given), None)
            if missing is not None:
                self._findings.fail(
                    "tiling",
                    f"{position} has no record of [{missing.start_ms}, {missing.end_ms}), expected one for each "
                    f"interval of {terms.id} in [{span.start_ms}, {span.end_ms})",
                )

    def _add_record(self, where: str, record: MeterRecord, leaf: bytes) -> None:
        findings = self._findings
        which = f"{where}, {record.position} [{record.start_ms}, {record.end_ms}) version {record.version}"
        findings.examined["identities"] += 1
        for broken in broken_identities(record):
            findings.fail("identities", f"{which}: {broken}")
        findings.examined["intervals"] += 1
        terms = self.terms.get(record.instrument)
        if terms is None:
            findings.fail("intervals", f"{which}: the bundle holds no terms of {record.instrument}")
        else:
            wrong = wrong_interval(record, terms)
            if wrong:
                findings.fail("intervals", f"{which}: {wrong}")
            findings.examined["contracted"] += 1
            wrong = _wrong_contracted(record, terms)
            if wrong:
                findings.fail("contracted", f"{which}: {wrong}")
            if record.version == 1:
                self._count(record, terms)
        known = self.by_position[record.position]
        if known and known[0].record.instrument != record.instrument:
            findings.fail("intervals", f"{which}: was of {record.instrument}, expected {known[0].record.instrument}")
        findings.examined["versions"] += 1
        key = (record.position, record.start_ms)
        expected = self._versions.get(key, 0) + 1
        if record.version != expected:
            findings.fail("versions", f"{which}: version was {record.version}, expected {expected}")
        self._versions[key] = max(record.version, expected)
        known.append(RecordedLeaf(record, leaf_hash(leaf)))

    def _count(self, record: MeterRecord, terms: InstrumentTerms) -> None:
        edges = (record.start_ms, record.end_ms)
        self._contracted[terms.grade.klass, terms.site, *edges] += record.contracted_gpu_ms
        self._delivered[terms.site, *edges] += record.delivered_gpu_ms + record.derated_gpu_ms

    def _add_pool(self, where: str, pool: PoolRecord) -> None:
        """The certificates of an interval follow its records: what came before them is what they speak of."""
        findings = self._findings
        findings.examined["pools"] += 1
        which = f"{where}, pool {pool.pool} [{pool.start_ms}, {pool.end_ms})"
        broken = broken_pool(pool)
        if broken:
            findings.fail("pools", f"{which}: {broken}")
        edges = (pool.start_ms, pool.end_ms)
        if (pool.pool, *edges) in self._pools_seen:
            findings.fail("pools", f"{which}: a second certificate, expected one")
        self._pools_seen.add((pool.pool, *edges))
        contracted = self._contracted[pool.grade, pool.site, *edges]
        if contracted > pool.sold_gpu_ms:
            findings.fail("pools", f"{which}: sold_gpu_ms was {pool.sold_gpu_ms}, its records contract {contracted}")
        self._covered[pool.site, *edges] += pool.covered_gpu_ms

    def check_delivered(self) -> None:
        """At each site no more was delivered than stood behind all positions: a GPU-ms goes to one of them."""
        for site, start_ms, end_ms in sorted(self._delivered):
            delivered, covered = self._delivered[site, start_ms, end_ms], self._covered[site, start_ms, end_ms]
            if delivered > covered:
                self._findings.fail(
                    "pools",
                    f"site {site} [{start_ms}, {end_ms}): {delivered} GPU-ms were delivered, "
                    f"the pools' certificates have {covered} covered",
                )


def _check_checkpoint(bundle: Bundle, trusted: Sequence[VerifierKey], findings: _Findings) -> None:
    findings.examined["checkpoint"] += 1
    try:
        keys = tuple(trusted) or bundle.keys()
        checkpoint = open_checkpoint(bundle.checkpoint, keys)
        origins = sorted({key.name for key in keys})
        if checkpoint.origin not in origins:
            findings.fail("checkpoint", f"origin was {checkpoint.origin}, expected one of {', '.join(origins)}")
    except TenorError as error:
        findings.fail("checkpoint", str(error))


def _checked_terms(bundle: Bundle, findings: _Findings) -> dict[str, InstrumentTerms]:
    found: dict[str, InstrumentTerms] = {}
    for name, encoded in sorted(bundle.terms.items()):
        findings.examined["terms"] += 1
        try:
            terms = terms_from_bytes(encoded, name)
            check_listing(terms)
        except TenorError as error:
            findings.fail("terms", f"terms/{name}.json: {error}")
            continue
        if terms.id != name:
            findings.fail("terms", f"terms/{name}.json: they are of {terms.id}, expected {name}")
            continue
        found[name] = terms
    return found


def _wrong_contracted(record: MeterRecord, terms: InstrumentTerms) -> str:
    """Why the record cannot be of whole lots inside the profile, or is worth more than any deliverable; else empty."""
    if record.start_ms >= record.end_ms:
        return ""
    if record.contracted_gpu_ms % terms.lot.gpus:
        return (
            f"contracted_gpu_ms was {record.contracted_gpu_ms}, expected a multiple of the lot's {terms.lot.gpus} GPUs"
        )
    inside_ms = total_ms(intersect(delivery_intervals(terms), (record.interval,)))
    if record.contracted_gpu_ms and not inside_ms:
        return f"contracted_gpu_ms was {record.contracted_gpu_ms}, expected 0 outside the profile"
    best_ppm = max((each.conversion_ppm for each in terms.deliverables), default=ONE_PPM)
    most = floor_div(record.delivered_gpu_ms * best_ppm, ONE_PPM)
    if record.par_gpu_ms > most:
        return f"par_gpu_ms was {record.par_gpu_ms}, expected at most {most} for what was delivered"
    return ""


def _check_statements(log: _Log, statements: Mapping[str, bytes], findings: _Findings) -> None:
    """Those in the bundle are what the records give; of the other positions, the records give one at all."""
    for position, given in sorted(statements.items()):
        findings.examined["statements"] += 1
        wrong = _wrong_statement(log, position, given)
        if wrong:
            findings.fail("statements", f"statements/{position}.json: {wrong}")
    for position in sorted(log.by_position.keys() - statements.keys()):
        recorded = log.by_position[position]
        terms = log.terms.get(recorded[0].record.instrument)
        if terms is None:
            continue
        findings.examined["statements"] += 1
        edges = [each.record.start_ms for each in recorded]
        try:
            statement_over(terms, Interval(min(edges), max(edges) + terms.interval_ms), recorded)
        except Refused as error:
            findings.fail("statements", f"no statement can be made of {position}: {error}")


def _wrong_statement(log: _Log, position: str, given: bytes) -> str:
    try:
        stated = Statement.model_validate_json(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if stated.position != position:
        return f"it is of {stated.position}"
    terms = log.terms.get(stated.instrument)
    if terms is None:
        return f"the bundle holds no terms of {stated.instrument}"
    if stated.spec_hash != terms.spec_hash:
        return f"spec_hash was {stated.spec_hash}, the terms have {terms.spec_hash}"
    try:
        again = statement_over(terms, Interval(stated.start_ms, stated.end_ms), log.by_position.get(position, ()))
    except Refused as error:
        return f"the records give no statement: {error}"
    if canonical_bytes(again) == given:
        return ""
    for name in Statement.model_fields:
        was, expected = getattr(stated, name), getattr(again, name)
        if was != expected:
            return f"{name} was {was}, the records give {expected}"
    return "its bytes are not canonical"
