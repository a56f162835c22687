"""`tenor feed`: what it prints, what it mirrors, and what it says where nobody answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from scheduler.ledger.keys import SignerKey
from tests.api.feed.world import FedLog
from tests.api.world import World, market
from tests.cli.conftest import Ended
from tests.exchange.sender import leaf_of
from tests.exchange.world import SIGNER, STREAM


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = market(tmp_path_factory.mktemp("feed-market"))
    yield made
    made.close()


@pytest.fixture
def feed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ended]:
    """The verb in this process, which is quicker, over the home of the test."""
    monkeypatch.setenv("TENOR_HOME", str(tmp_path))

    def run(*arguments: str) -> Ended:
        code = main(["feed", *arguments])
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run


@pytest.fixture
def log(tmp_path: Path, sold: World) -> Iterator[FedLog]:
    made = FedLog(tmp_path, sold.scheduler)
    made.grow(40)
    yield made
    made.journal.close()


def test_the_head_and_the_leaves_are_shown(log: FedLog, feed: Callable[..., Ended], tmp_path: Path) -> None:
    with log.served() as server:
        (tmp_path / "feed.address").write_text(server.address + "\n")
        head = json.loads(feed("head", "--output", "json").out)
        assert (head["stream"], head["seq"], head["root"]) == (STREAM, 40, log.journal.root(STREAM).hex())
        assert head["keys"] == [SIGNER.verifier.encode()]
        shown = feed("follow", "--after", "37", "--until-now", "--output", "json")
        lines = [json.loads(line) for line in shown.out.splitlines()]
        assert [(line["seq"], line["kind"], line["version"]) for line in lines] == [
            (38, "record", 2),
            (39, "record", 2),
            (40, "record", 2),
        ]
        table = feed("follow", "--after", "39", "--until-now").out
        assert table.startswith("      40  ")
        assert "  record  position=pos-1 instrument=H100.BASE@1 " in table
        assert feed("follow", "--until-now").out == ""


def test_a_pull_makes_a_bundle_and_the_next_one_brings_it_forward(
    log: FedLog, feed: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    with log.served() as server:
        first = feed("pull", "--into", str(folder), "--feed", server.address)
        assert (first.code, first.err) == (0, f"{folder}: 40 leaves of {SIGNER.name}\n")
        log.grow(1)
        again = feed("pull", "--into", str(folder), "--feed", server.address)
        assert again.err == f"{folder}: 41 leaves of {SIGNER.name}\n"
        entries = (folder / "tile" / "entries" / "000.p" / "41").read_bytes()
        assert entries.endswith(leaf_of(40))
        stranger = SignerKey(SIGNER.name, bytes(32)).verifier.encode()
        wrong = feed("pull", "--into", str(folder), "--feed", server.address, "--vkey", stranger)
        assert "expected a signature of" in wrong.err
        assert wrong.code == 2


def test_nobody_there_is_said_at_once(feed: Callable[..., Ended]) -> None:
    ended = feed("head")
    assert ended.code == 3
    assert "feed.address is missing" in ended.err
    assert "--feed or TENOR_FEED_ADDRESS" in ended.err
