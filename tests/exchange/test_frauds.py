"""The auditor's game: each fraud is found, and the first thing that `tenor audit` names is the one that was done.

A seller who holds the log's key can sign whatever it likes; whoever holds the folder can change any file. Each row of
the tables in `frauds` is one way to cheat, the check that must name it first, and in which words: what, which, was,
expected.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from scheduler.exchange.audit import ACROSS, CHECKS
from scheduler.exchange.leaves import encode_pledge
from tests.exchange.evidence import (
    FIRST,
    WITNESS,
    Evidence,
    pledge,
    pledges,
    record_at,
    settling,
    statements,
    told,
    withdrawn,
)
from tests.exchange.frauds.certificates import ACCREDITED, POOLS, SHORTAGES
from tests.exchange.frauds.files import FILES, STATEMENTS
from tests.exchange.frauds.outages import HONEST, OUTAGES
from tests.exchange.frauds.probes import HONEST as HONEST_PROBES
from tests.exchange.frauds.probes import PROBES
from tests.exchange.frauds.records import AGREED, RECORDS
from tests.exchange.frauds.settling import SETTLING
from tests.exchange.frauds.signatures import PAIRS, SIGNATURES, seller
from tests.exchange.world import END_MS, SIGNER

FRAUDS = (
    RECORDS | SETTLING | POOLS | ACCREDITED | SHORTAGES | STATEMENTS | FILES | SIGNATURES | PAIRS | OUTAGES | PROBES
)


def audited(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
    """The exit code of `tenor audit`, and (check, verdict, detail) in the order in which it tells them."""
    code = main(["audit", *arguments, "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    groups = [each["checks"] for each in found.get("bundles", [found])] + [found.get("across", [])]
    return code, [(each["name"], each["verdict"], each["detail"]) for group in groups for each in group]


@pytest.mark.parametrize("name", FRAUDS)
def test_the_fraud_is_the_first_thing_that_the_audit_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fraud = FRAUDS[name]
    code, checks = audited(capsys, *fraud.make(tmp_path))
    wrong = [(check, detail) for check, verdict, detail in checks if verdict == "failed"]
    assert code == 4
    assert wrong, "nothing was found"
    assert wrong[0][0] == fraud.check, wrong
    assert fraud.says in wrong[0][1]


def test_the_game_has_fifty_frauds_or_more_and_honest_logs_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(FRAUDS) >= 50
    assert {fraud.check for fraud in FRAUDS.values()} == {*CHECKS, *ACROSS}
    honest = str(Evidence().write(tmp_path / "a"))
    earlier = str(Evidence(leaves=told()[:-1], settled={}).write(tmp_path / "b"))
    later_on = Evidence(leaves=told(more=[withdrawn(9, END_MS)]), witnessed=told()).write(tmp_path / "c")
    settled = told(more=settling())
    final = str(Evidence(leaves=settled, settled=statements(settled)).write(tmp_path / "e"))
    elsewhere = seller([*pledges("borealis"), encode_pledge(pledge(9, from_ms=END_MS), END_MS)])
    probes = str(Evidence(leaves=told(more=HONEST_PROBES)).write(tmp_path / "p"))
    for given in (
        [honest],
        [probes],
        [honest, "--vkey", SIGNER.verifier.encode(), "--vkey", WITNESS.witness.encode()],
        [honest, earlier, str(later_on)],
        [honest, final],
        [str(later_on), str(elsewhere.write(tmp_path / "d"))],
    ):
        code, checks = audited(capsys, *given)
        assert (code, [check for check in checks if check[1] != "ok"]) == (0, [])


@pytest.mark.parametrize("name", HONEST | AGREED)
def test_what_was_declared_in_time_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, checks = audited(capsys, str((HONEST | AGREED)[name]().write(tmp_path / "bundle")))
    assert (code, [check for check in checks if check[1] != "ok"]) == (0, [])


def test_what_is_wrong_is_said_in_one_line_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Evidence(leaves=told(record_at("pos-1", 2, losses=()))).write(tmp_path / "bundle")
    assert main(["audit", str(bundle)]) == 4
    said = capsys.readouterr().err
    assert "THE AUDIT FAILS: tenor.test/cluster-1, 314 leaves" in said
    assert f"the first thing that is wrong: identities: leaf {FIRST + 8}, pos-1 [" in said
