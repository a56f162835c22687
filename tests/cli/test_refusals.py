"""What the command says to input that cannot be: one clear line on stderr, nothing on stdout, the right exit code."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from tests.cli.conftest import TENOR, Run

REFUSED, UNAVAILABLE = 2, 3

WRONG: tuple[tuple[Sequence[str], str], ...] = (
    (("nonsense",), "No such command 'nonsense'"),
    (("status", "--nonsense"), "No such option"),
    (("status", "-o", "xml"), "'xml' is not one of 'table', 'json'"),
    (("status", "--address", "7070"), "address of the API was '7070', expected host:port"),
    (("why",), "Missing argument 'JOB'"),
    (("why", "gang-99"), "gang was 'gang-99', expected one of"),
    (("cancel", "gang-99"), "gang was 'gang-99'"),
    (("logs", "gang-99"), "gang was 'gang-99'"),
    (("logs", "gang-1", "--worker", "5"), "worker of gang-1 was 5, expected 0..0"),
    (("logs", "gang-1", "--tail", "-1"), "greater than or equal to 0"),
    (("jobs", "--status", "asleep"), "expected one of waiting, binding"),
    (("jobs", "--account", "acmee"), "account was 'acmee', expected one of acme, borealis"),
    (("positions", "--account", "acmee"), "account was 'acmee'"),
    (("fleet", "node-9"), "node was 'node-9'"),
    (("coverage", "p-9"), "position was 'p-9'"),
    (("coverage", "--from", "yesterday"), "was 'yesterday', expected an instant"),
    (("coverage", "--from", "2027-13-01"), "was '2027-13-01', expected an instant"),
    (("coverage", "--from", "2027-01-02", "--to", "2027-01-01"), "to_ms of coverage was"),
    (("deliverable", "NONE@1"), "instrument was 'NONE@1', expected one of LOGICAL.8N.LOCAL.BASE@1"),
    (("deliverable", "LOGICAL.8N.LOCAL.BASE@1", "--level", "rack"), "was 'rack', expected one of node, domain"),
    (("deliverable", "LOGICAL.8N.LOCAL.BASE@1", "--losses", "-1"), "greater than or equal to 0"),
    (("deliverable", "LOGICAL.8N.LOCAL.BASE@1", "--from", "2028-01-01"), "window of what may be sold of"),
    (("backing", "p-9"), "position or instrument was 'p-9', expected one of"),
    (("backing", "p-acme", "--to", "2026-01-01"), "window of the backing of p-acme was"),
    (("drain", "node-9"), "node was 'node-9'"),
    (("drain", "node-1", "--by", "10"), "was '10', expected an instant"),
    (("drain", "node-1", "--by", "10m", "--cancel"), "exclude each other"),
    (("mark", "node-1"), "say either --cause or --well"),
    (("mark", "node-1", "--cause", "rust"), "cause of the mark of node-1 was 'rust'"),
    (("drain", "node-1", "--maintenance", "--at", "2h"), "--maintenance, --at and --for go together"),
    (("drain", "node-1", "--maintenance", "--at", "2h", "--for", "2h", "--by", "1h"), "neither --by nor --cancel"),
    (
        ("force-majeure", "node-1", "--from", "2027-01-01", "--until", "2027-01-02", "--evidence", "no-such-file"),
        "evidence of no-such-file was 'unreadable'",
    ),
    (("statement", "p-9"), "position was 'p-9'"),
    (("audit", "no-such-folder"), "no-such-folder"),
    (("replay", "no-such-folder", "--from", "2017-10-02"), "no-such-folder"),
    (("replay", ".", "--from", "2017-10-32"), "--from of the replay was '2017-10-32', expected a date"),
    (("submit", "-a", "acme"), "Missing argument"),
    (("submit", "--", "a"), "Missing option '--account'"),
    (("submit", "-a", "a b", "--", "a"), "account of job 'a' of 'a b' was 'a b', expected 1 to 253 letters"),
    (("submit", "-a", "acme", "--max-runtime", "90", "--", "a"), "was '90', expected a length of time with its unit"),
    (("submit", "-a", "acme", "--grace", "1h30", "--", "a"), "was '1h30', expected a length of time"),
    (("submit", "-a", "acme", "--grace", "-5s", "--", "a"), "was '-5s', expected a length of time"),
    (("submit", "-a", "acme", "--grace", "9999d", "--", "a"), "expected ten years at most"),
    (("submit", "-a", "acme", "--grace", "2h", "--", "a"), "grace_ms of job"),
    (("submit", "-a", "acme", "--gpus", "0", "--", "a"), "a number of GPUs, or a part of one"),
    (("submit", "-a", "acme", "--gpus", "1.5", "--", "a"), "a number of GPUs, or a part of one"),
    (("submit", "-a", "acme", "--gpus", "0.0001", "--", "a"), "a number of GPUs, or a part of one"),
    (("submit", "-a", "acme", "--gpus", "inf", "--", "a"), "a number of GPUs, or a part of one"),
    (("submit", "-a", "acme", "--gpus", "0.5", "--workers", "2", "--", "a"), "1 GPUs are not 2 workers"),
    (("submit", "-a", "acme", "--workers", "4..2", "--", "a"), "the least and the most as 2..4"),
    (("submit", "-a", "acme", "--workers", "0", "--", "a"), "the least and the most as 2..4"),
    (("submit", "-a", "acme", "--spread", "rack", "--", "a"), "'--spread': was 'rack', expected one of node"),
    (("submit", "-a", "acme", "--spread", "node", "--topology", "node", "--workers", "2", "--", "a"), "spread of job"),
    (("submit", "-a", "acme", "--deadline", "soon", "--", "a"), "was 'soon', expected an instant"),
    (("submit", "-a", "acme", "--gpus", "7", "--workers", "2", "--", "a"), "7 GPUs are not 2 workers of 3"),
    (("submit", "-a", "acme", "--gpus", "128", "--", "a"), "gpus_per_worker of job"),
    (("submit", "-a", "acme", "--topology", "rack", "--", "a"), "expected one of node, domain, block, site"),
    (("submit", "-a", "acme", "--topology", "node:maybe", "--", "a"), "domain:required"),
    (("submit", "-a", "acme", "--env", "KV", "--", "a"), "was 'KV', expected NAME=VALUE"),
    (("submit", "-a", "acme", "--not-preemptible", "--", "a"), "max_runtime_ms must be given"),
    (("exchange", "nonsense"), "No such command"),
    (("exchange", "serve", "--db", "x.db", "--listen", "7000"), "HOST:PORT"),
    (("exchange", "serve", "--db", "x.db", "--listen", "0.0.0.0:7000"), "loopback"),
    (("exchange", "trade", "list"), "a file of terms, or --symbol"),
    (("exchange", "trade", "list", "missing.toml"), "missing.toml"),
    (("exchange", "trade", "list", "--symbol", "A", "--end", "1h", "--cell", "rack"), "expected one of gpu, node"),
    (("exchange", "trade", "list", "--symbol", "A"), "say when the delivery ends"),
    (("exchange", "trade", "list", "--symbol", "A", "--end", "1h", "--metering-s", "7"), "metering_interval_s"),
    (("exchange", "trade", "buy", "acme", "A@1", "--lots", "0"), "greater than or equal to 1"),
    (("exchange", "trade", "buy", "acme", "A@1", "--exchange", "here"), "address of the exchange was 'here'"),
    (("up", "--listen", "0.0.0.0:7070", "--nodes", "0"), "greater than or equal to 1"),
)


@pytest.fixture
def found(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command finds the served market, and nothing else."""
    for name in ("TENOR_ADDRESS", "TENOR_EXCHANGE", "TENOR_ACCOUNT", "TENOR_TRACES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TENOR_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"), WRONG, ids=lambda each: " ".join(each) if isinstance(each, tuple) else ""
)
def test_what_is_wrong_is_refused_in_one_line(
    found: None, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], told: str
) -> None:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (REFUSED, ""), err
    assert told in err
    assert err.startswith("tenor: ")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


UNREACHED: tuple[Sequence[str], ...] = (
    ("status",),
    ("positions",),
    ("jobs",),
    ("why", "gang-1"),
    ("logs", "gang-1"),
    ("cancel", "gang-1"),
    ("fleet",),
    ("coverage",),
    ("drain", "node-1"),
    ("statement", "p-acme"),
    ("submit", "-a", "acme", "--", "a"),
    ("exchange", "trade", "book"),
)


@pytest.mark.parametrize("arguments", UNREACHED, ids=" ".join)
def test_nothing_runs_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: Sequence[str]
) -> None:
    for name in ("TENOR_ADDRESS", "TENOR_EXCHANGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TENOR_HOME", str(tmp_path))
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (UNAVAILABLE, "")
    assert "running here" in err
    assert "is missing" in err


def test_nobody_listens_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        code = main(["status", "--address", address])
    assert code == UNAVAILABLE
    assert capsys.readouterr().err == f"tenor: no Tenor answers at {address}: is `tenor up` running there?\n"


def test_a_busy_port_of_the_exchange_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = main(["exchange", "serve", "--db", str(tmp_path / "x.db"), "--listen", address])
    assert code == UNAVAILABLE
    assert address in capsys.readouterr().err


def test_debug_shows_where(run: Run) -> None:
    ended = run("why", "gang-99", "--debug")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "UnknownName" in ended.err


def test_a_reader_that_leaves_is_no_error(run: Run, home: Path) -> None:
    """As with `tenor jobs | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "TENOR_HOME": str(home)}
    environment.pop("TENOR_ADDRESS", None)
    done = subprocess.run(
        [TENOR, "fleet", "-o", "json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141
