"""Statements against the log: those in the bundle are what the records give, byte for byte, and leave nothing out."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from scheduler.core.errors import Refused
from scheduler.core.intervals import Interval
from scheduler.core.models import canonical_bytes
from scheduler.core.settlement import Statement
from scheduler.exchange.audit.log import Log
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.statements import statement_over


def check_statements(log: Log, statements: Mapping[str, bytes], findings: Findings) -> None:
    """Those in the bundle are what the records give; of the other positions, the records give one at all."""
    for position, given in sorted(statements.items()):
        findings.examined["statements"] += 1
        wrong = _wrong_statement(log, position, given)
        if wrong:
            findings.fail("statements", f"statements/{position}.json: {wrong}")
    for position in sorted(log.by_position.keys() - statements.keys()):
        recorded = log.by_position[position]
        terms = log.terms.get(recorded[0].instrument)
        if terms is None:
            continue
        findings.examined["statements"] += 1
        edges = [each.start_ms for each in recorded]
        try:
            statement_over(terms, Interval(min(edges), max(edges) + terms.interval_ms), log.versions.of[position])
        except Refused as error:
            findings.fail("statements", f"no statement can be made of {position}: {error}")


def _wrong_statement(log: Log, position: str, given: bytes) -> str:
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
    left_out = _left_out(log, stated)
    if left_out:
        return left_out
    try:
        again = statement_over(terms, Interval(stated.start_ms, stated.end_ms), log.versions.of[position])
    except Refused as error:
        return f"the records give no statement: {error}"
    if canonical_bytes(again) == given:
        return ""
    for name in Statement.model_fields:
        was, expected = getattr(stated, name), getattr(again, name)
        if was != expected:
            return f"{name} was {was}, the records give {expected}"
    return "its bytes are not canonical"


def _left_out(log: Log, stated: Statement) -> str:
    """What was contracted before the statement begins, in words; empty: nothing. Its end is said by the statement."""
    for record in log.latest(stated.position):
        if record.start_ms < stated.start_ms and record.contracted_gpu_ms:
            return (
                f"start_ms was {stated.start_ms}, expected {record.start_ms} or earlier: "
                f"{record.contracted_gpu_ms} GPU-ms are contracted in [{record.start_ms}, {record.end_ms})"
            )
    return ""
