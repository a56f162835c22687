"""`tenor dispute`, and statements of earlier version sets, through the command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from scheduler.core.metering.disputes import DisputeState
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.settling_leaves import encode_settling
from scheduler.ledger.journal import Journal
from tests.exchange.evidence import answered, disputed, restated
from tests.exchange.world import (
    END_MS,
    LOTS,
    SIGNER,
    START_MS,
    STREAM,
    Embedded,
    embedded,
    metered,
    trade_all,
    write_log,
)


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Embedded]:
    """An exchange with a log of three records, a correction among them."""
    leaves = [encode_record(metered("pos-1", LOTS["pos-1"], index), END_MS) for index in range(3)]
    leaves.append(restated("pos-1", 1, 2, END_MS + 1, used_gpu_ms=0, available_unused_gpu_ms=237_000))
    with embedded(tmp_path / "exchange.db") as exchange, Journal.open(":memory:") as journal:
        trade_all(exchange.client)
        write_log(journal, leaves)
        with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(len(leaves), 20)
        yield exchange


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_dispute_is_opened_and_listed(venue: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = tmp_path / "job.log"
    evidence.write_text("gone\n", encoding="utf-8")
    at = ("--exchange", venue.server.address)
    asked = ("dispute", "open", "pos-1", "--interval", "2027-01-15T08:00:10", "--lost", "node_lost=24000", "--lost")
    more = ("ecc=8000", "--evidence", str(evidence), "--reason", "see its log", "--request-id", "one")
    assert told(capsys, *asked, *more, *at)[:2] == (0, "dispute-1\n")
    again = json.loads(told(capsys, *asked, *more, *at, "--output", "json")[1])
    assert (again["state"], again["dispute"]["version"], again["dispute"]["leaf"]) == ("open", 2, 3)
    assert again["dispute"]["evidence"] == hashlib.sha256(b"gone\n").hexdigest()
    (listed,) = json.loads(told(capsys, "dispute", "list", *at, "--output", "json")[1])
    assert (listed["losses"], listed["reason"]) == ([[1002, 8000], [1005, 24000]], "see its log")
    assert "dispute-1" in told(capsys, "dispute", "list", *at)[1]
    assert told(capsys, "dispute", "list", "--position", "pos-2", *at)[1:] == ("", "no disputes\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--lost", "bad=1"), "cause was 'bad', expected one of gpu_fault, ecc"),
        (("--lost", "ecc=-1"), "quantity was '-1', expected GPU-milliseconds"),
        (("--lost", "ecc=999999"), "losses of a claim was 999999, expected at most 240000, as contracted"),
        (("--evidence", "missing.log"), "evidence of a dispute was 'missing.log'"),
        (("--version", "1"), "was 1, expected 2, the last one"),
    ],
)
def test_what_cannot_be_disputed_is_refused_in_words(
    venue: Embedded, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    asked = ("dispute", "open", "pos-1", "--interval", "2027-01-15T08:00:10")
    code, _, said = told(capsys, *asked, *arguments, "--exchange", venue.server.address)
    assert code == 2
    assert says in said


def test_statements_of_earlier_version_sets_and_what_changed_since(
    venue: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--exchange", venue.server.address, "--output", "json")
    before = json.loads(told(capsys, "statement", "pos-1", "--as-of", "3", *at)[1])
    now = json.loads(told(capsys, "statement", "pos-1", *at)[1])
    assert before["versions_root"] != now["versions_root"]
    assert (before["records"], now["records"], before["amount_micro"]) == (3, 3, now["amount_micro"])
    first = json.loads(told(capsys, "statement", "pos-1", "--as-of", "1", *at)[1])
    assert (first["records"], first["through_ms"]) == (1, START_MS + 10_000)
    changed = json.loads(told(capsys, "statement", "pos-1", "--difference", "1", *at)[1])
    assert changed["before_root"] == first["versions_root"]
    assert changed["after_root"] == now["versions_root"]
    assert [line["kind"] for line in changed["lines"]] == ["capacity"]
    assert changed["amount_micro"] > 0
    shown = told(capsys, "statement", "pos-1", "--difference", "3", *at[:2])[1]
    assert shown.split()[-2:] == ["0.000000", "USD"]
    code, _, said = told(capsys, "statement", "pos-1", "--as-of", "9", *at[:2])
    assert (code, "as_of of the statement of pos-1 was 9, expected 0..4" in said) == (2, True)


def test_the_log_answers(venue: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    opened = venue.client.open_dispute("pos-1", START_MS + 20_000, ())
    leaves = [encode_record(metered("pos-1", LOTS["pos-1"], index), END_MS) for index in range(3)]
    leaves.append(restated("pos-1", 1, 2, END_MS + 1, used_gpu_ms=0, available_unused_gpu_ms=237_000))
    leaves += [encode_settling(opened.dispute, END_MS + 2), disputed(2, "pos-1", 2)]
    leaves.append(answered(1, DisputeState.REJECTED))
    with Journal.open(":memory:") as journal:
        write_log(journal, leaves)
        with Publisher(venue.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(len(leaves), 20)
            (rejected,) = publisher.status().rejections
    assert (rejected.index, rejected.reason) == (5, "UNKNOWN_DISPUTE")
    (listed,) = json.loads(told(capsys, "dispute", "list", "--exchange", venue.server.address, "--output", "json")[1])
    assert (listed["state"], listed["answer"], listed["corrected"]) == ("rejected", "as measured", None)
