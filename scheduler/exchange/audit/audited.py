"""One bundle, audited, with what other bundles are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import InvalidValue, TenorError
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.listing import check_listing
from scheduler.exchange.audit.again import Again
from scheduler.exchange.audit.log import Log, Watcher
from scheduler.exchange.audit.report import AuditReport, Findings
from scheduler.exchange.audit.settled import check_statements, periods_of
from scheduler.exchange.audit.signatures import Witnessed, check_checkpoint
from scheduler.exchange.bundles import read_statements
from scheduler.exchange.convert import terms_from_bytes
from scheduler.ledger.bundle import Bundle, read_bundle
from scheduler.ledger.keys import Kind, VerifierKey


@dataclass(frozen=True, slots=True)
class Audited:
    """The report, and the bundle and its log as far as they could be read."""

    report: AuditReport
    bundle: Bundle | None
    log: Log | None


def audited(folder: Path, trusted: Sequence[VerifierKey], watcher: Watcher | None = None) -> Audited:
    """The audit of the bundle at `folder`. Raises InvalidValue where there is no bundle."""
    findings = Findings()
    try:
        bundle = read_bundle(folder)
        statements = read_statements(folder)
    except InvalidValue:
        raise
    except TenorError as error:
        findings.fail("folder", str(error))
        return Audited(findings.report(folder, None), None, None)
    findings.examined["folder"] += 1
    witnessed = Witnessed(bundle, trusted, findings)
    terms, periods = _checked_terms(bundle, findings), periods_of(statements)
    exchanges = _exchanges(bundle, trusted)
    log = Log(Again(bundle), bundle.stated.size, terms, periods, findings, exchanges, watcher)
    try:
        for index, (leaf, hashed) in enumerate(bundle.hashed_leaves()):
            findings.examined["tree"] += 1
            witnessed.add(hashed)
            log.add(index, leaf)
    except TenorError as error:
        findings.fail("tree", str(error))
        findings.reached_all = False
    check_checkpoint(bundle, trusted, log.key_changes, findings)
    witnessed.close()
    log.close()
    try:
        check_statements(log, statements, findings)
    except TenorError as error:
        findings.fail("tree", str(error))
        findings.reached_all = False
    return Audited(findings.report(folder, bundle, len(log.recorded)), bundle, log)


def _exchanges(bundle: Bundle, trusted: Sequence[VerifierKey]) -> Sequence[VerifierKey]:
    """Whose device probes are believed: the witnesses that are trusted, or else those that the bundle names."""
    named = [key for key in trusted if key.kind is Kind.COSIGNATURE]
    try:
        return named or bundle.witness_keys()
    except TenorError:  # told of with the witnesses
        return ()


def _checked_terms(bundle: Bundle, findings: Findings) -> dict[str, InstrumentTerms]:
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
