"""The audit: a sound bundle passes every check, and what could not be checked is not said to have passed.

The frauds that it finds are in `frauds`, each with the check that names it (`test_frauds`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scheduler.core.errors import InvalidValue
from scheduler.exchange.audit import CHECKS, AuditReport, Verdict, audit, audit_all
from scheduler.ledger.keys import SignerKey
from tests.exchange.evidence import FIRST, WITNESS, Evidence, settling, statements, told
from tests.exchange.world import SIGNER


def failed(report: AuditReport) -> list[str]:
    return [check.name for check in report.checks if check.verdict is Verdict.FAILED]


def test_a_sound_bundle_passes_every_check(tmp_path: Path) -> None:
    leaves = told(more=settling())
    report = audit(Evidence(leaves=leaves, settled=statements(leaves)).write(tmp_path / "bundle"))
    assert report.ok, report.first_wrong
    assert [check.name for check in report.checks] == list(CHECKS)
    assert (report.positions, report.records, report.size) == (3, 39, FIRST + 62)
    assert (report.origin, report.first_wrong) == (SIGNER.name, None)
    of_nothing = [check.name for check in report.checks if not check.examined]
    assert of_nothing == [
        "consents",
        "probes",
        "accredited",
        "maintenance",
        "excused",
        "replacement",
        "recalls",
        "releases",
    ]  # none was told of


def test_only_a_key_that_is_trusted_counts(tmp_path: Path) -> None:
    folder = Evidence().write(tmp_path / "bundle")
    assert audit(folder, [SIGNER.verifier]).ok
    assert failed(audit(folder, [SignerKey("other", bytes(32)).verifier])) == ["checkpoint"]


def test_without_statements_the_records_must_still_give_them(tmp_path: Path) -> None:
    folder = Evidence().write(tmp_path / "bundle")
    shutil.rmtree(folder / "statements")
    assert audit(folder).ok


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="checkpoint"):
        audit(tmp_path)


def test_a_check_that_was_not_wholly_made_is_not_said_to_have_passed(tmp_path: Path) -> None:
    folder = Evidence().write(tmp_path / "bundle")
    (folder / "tile/0/000").write_bytes(bytes(256 * 32))
    verdicts = {check.name: check.verdict for check in audit(folder).checks}
    assert verdicts["tree"] is Verdict.FAILED
    assert verdicts["identities"] is Verdict.NOT_REACHED


def test_a_witness_that_is_asked_for_must_have_cosigned(tmp_path: Path) -> None:
    folder = Evidence().write(tmp_path / "bundle")
    assert audit(folder, [WITNESS.witness]).ok
    assert failed(audit(folder, [SignerKey("other", bytes(32)).witness])) == ["witness"]
    alone = Evidence(witness=None).write(tmp_path / "alone")
    assert audit(alone).ok
    assert failed(audit(alone, [WITNESS.witness])) == ["witness"]


def test_a_bundle_carries_the_last_tree_that_was_witnessed(tmp_path: Path) -> None:
    folder = Evidence(leaves=told(), settled={}, witnessed=told()[:-3]).write(tmp_path / "bundle")
    report = audit(folder)
    assert report.ok, report.first_wrong
    assert (folder / "cosigned").read_text(encoding="utf-8").split("\n")[1] == str(FIRST + 47)


def test_bundles_that_could_not_be_read_are_not_said_to_agree(tmp_path: Path) -> None:
    sound, torn = Evidence().write(tmp_path / "a"), Evidence().write(tmp_path / "b")
    (torn / "vkey").unlink()
    found = audit_all([sound, torn])
    assert [check.verdict for check in found.across] == [Verdict.NOT_REACHED] * 2
    assert found.first_wrong is not None
    assert (found.ok, found.first_wrong.name) == (False, "folder")
