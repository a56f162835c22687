"""Every command line of the guide for exchanges is run as it is printed, in the guide's order, against a market that
is there.

Where one cannot be, ELSEWHERE says which test runs it. Only the printed address of an exchange is put in.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.reference.server import ServerSettings, serve
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import FIRST_FILE
from tests.api.world import MINUTE_MS, World
from tests.cli.conftest import statement
from tests.exchange.evidence import WITNESS, Evidence, pledges, told
from tests.exchange.frauds.signatures import seller
from tests.exchange.world import SIGNER, STREAM, delivered, embedded, trade_all, write_log
from tests.sources import ROOT
from tests.test_docs import FENCE

GUIDE = ROOT / "docs/guides/exchanges.md"
PRINTED = "127.0.0.1:7001"
BEFORE_MS = 1_796_000_000_000
"""2026-11-30: nothing that the guide lists has begun."""

ELSEWHERE = {
    "up": "stays up until Ctrl-C: tests/chaos",
    "exchange serve": "stays up until Ctrl-C: tests/cli/test_exchange.py, tests/exchange/test_access.py",
    "exchange trade book --exchange exchange.example:7001": "another machine's: tests/exchange/test_access.py",
    "exchange trade consent": "of an instrument that asks for one: tests/test_substitution.py",
    "exchange conformance": "tests of its own",
    "exchange fault": "tests of its own",
    "dispute": "of a record that a cluster answers for: tests/cli/test_dispute.py, tests/test_disputes.py",
    "feed": "tests of its own",
    "audit build/mirror": "with the feed",
    "export events --home build/tour --to": "another machine's, without an end: tests/exports/test_webhook.py",
}
"""How a line begins, and why it is not run here."""


def command_lines() -> list[str]:
    """Every line of the guide that runs `tenor`, without prompt and variables."""
    found = []
    for language, body in FENCE.findall(GUIDE.read_text(encoding="utf-8")):
        if language not in {"sh", "console"}:
            continue
        lines = body.replace("\\\n", " ").splitlines()
        for line in [line[2:] for line in lines if line.startswith("$ ")] or lines:
            match = re.match(r"(?:[A-Z_]+=\S+ )*tenor (.*)", line)
            if match:
                found.append(match[1])
    return found


def run_here() -> list[str]:
    return [line for line in command_lines() if not line.startswith(tuple(ELSEWHERE))]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """(folder, an exchange where nothing was listed, one that has settled): a home that runs, and bundles of
    sellers.
    """
    folder = tmp_path_factory.mktemp("guide")
    home = folder / "build/tour"
    home.mkdir(parents=True)
    terms = [body for language, body in FENCE.findall(GUIDE.read_text(encoding="utf-8")) if language == "toml"]
    (folder / "terms.toml").write_text(terms[0], encoding="utf-8")
    for where in ("build/demo", "east", "west"):
        (folder / where).mkdir()
    for where in ("build/demo/bundle", "east/bundle"):
        Evidence().write(folder / where)
    seller([*pledges("borealis"), *told()[len(pledges()) :]]).write(folder / "west/bundle")
    (folder / "their.vkey").write_text(SIGNER.verifier.encode() + "\n", encoding="utf-8")
    (folder / "exchange.vkey").write_text(WITNESS.witness.encode() + "\n", encoding="utf-8")
    world = World(home)
    world.signer.save(home / FIRST_FILE)
    world.instrument(metering_interval_s=60)
    world.trade("pos-1", "acme", 2)
    world.pass_ms(3 * MINUTE_MS)
    world.statements["pos-1"] = statement(world, "pos-1")
    open_exchange = ServerSettings(folder / "open.db", "127.0.0.1:0", clock_ms=lambda: BEFORE_MS, durable=False)
    with (
        world.served(home / "api.address"),
        serve(open_exchange) as trading,
        embedded(folder / "settled.db") as settled,
        Journal.open(":memory:") as journal,
    ):
        trade_all(settled.client)
        write_log(journal, delivered())
        with Publisher(settled.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(journal.log_size(STREAM), 30.0)
        yield folder, trading.address, settled.server.address
    world.close()


def words_of(line: str, folder: Path, address: str) -> tuple[list[str], str | None]:
    """The arguments as a shell would make them of what the guide uses, and the file that stdout goes to."""
    line = re.sub(r"\$\(cat ([\w.]+)\)", lambda found: (folder / found[1]).read_text(encoding="utf-8").strip(), line)
    words = shlex.split(line.replace(PRINTED, address))
    return (words[: words.index(">")], words[words.index(">") + 1]) if ">" in words else (words, None)


def test_every_line_that_can_be_run_is(
    market: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trading, settled = market
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TENOR_HOME", str(folder / "build/tour"))
    monkeypatch.setenv("TENOR_EXCHANGE", trading)
    for name in ("TENOR_ADDRESS", "TENOR_STREAM", "TENOR_IDENTITY", "TENOR_AUTHORITY"):
        monkeypatch.delenv(name, raising=False)
    printed = {}
    for line in run_here():
        if "parquet" in line:
            pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `parquet`)")
        words, into = words_of(line, folder, settled)
        code = main(words)
        ended = capsys.readouterr()
        assert code == 0, f"tenor {line}: {ended.err}"
        printed[line] = ended.out
        if into is not None:
            Path(into).write_text(ended.out, encoding="utf-8")
    assert printed["exchange trade sell pos-1 --to borealis --lots 2 --from 2027-01-10T12:00"] == "pos-2\n"
    owed = json.loads(printed[f"statement pos-1 --exchange {PRINTED} --output json"])
    assert (owed["position"], owed["complete"]) == ("pos-1", True)
    assert (
        "the most that is ever paid"
        in printed["instrument explain LOGICAL.1G.JAN@1 --output markdown --zone Europe/Berlin"]
    )
    assert (folder / "focus.csv").read_text(encoding="utf-8").count("East Compute") == 2
    assert len(printed) > 25


def test_what_is_run_elsewhere_is_in_the_guide() -> None:
    """No reason outlives its command; those of parts that are not there yet stand by."""
    awaited = {"exchange conformance", "exchange fault", "feed", "audit build/mirror"}
    unused = [start for start in ELSEWHERE if not any(line.startswith(start) for line in command_lines())]
    assert set(unused) <= awaited
