"""The guide for exchanges, run as it is printed: stubs from the protos alone, and none of Tenor's code beside them.

Blocks are taken from the guide by the heading that they stand under; only addresses and names of logs are put in.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.core.instruments import Damages, InstrumentTerms
from scheduler.core.models import canonical_bytes
from scheduler.exchange import bundles
from scheduler.exchange.client import Alive, ExchangeClient
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.statements import RecordedLeaf, statement_over
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint
from tests.exchange.world import LOTS, Embedded, delivered, embedded, terms
from tests.sources import ROOT
from tests.test_docs import FENCE

GUIDE = ROOT / "docs/guides/exchanges.md"
PART = "## Integrate in a day\n"
PRINTED = "127.0.0.1:7001"
"""The address that the guide prints."""
STREAM = "east"
KEY = SignerKey("tenor.test/east", bytes(range(32)))
WAIT_S = 30.0


def blocks(language: str) -> list[str]:
    """The code under the heading, in order."""
    part = GUIDE.read_text(encoding="utf-8").split(PART, 1)[1].split("\n## ", 1)[0]
    return [body for found, body in FENCE.findall(part) if found == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the protos and the examples alone, and the stubs made as the guide says."""
    made = tmp_path_factory.mktemp("integration")
    (made / "docs").mkdir()
    (made / "protos").symlink_to(ROOT / "protos")
    (made / "docs/examples").symlink_to(ROOT / "docs/examples")
    run(blocks("sh")[0], made)
    return made


def environment(folder: Path) -> dict[str, str]:
    """Programs of this environment first; modules of the stubs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TENOR_")}
    return kept | {
        "PATH": path,
        "PYTHONPATH": str(folder / "build/stubs"),
        "HOME": str(folder),
        "TENOR_HOME": str(folder),
    }


def run(command: str, folder: Path) -> str:
    """What the shell lines print, run one after the other; fails where one fails."""
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed() -> InstrumentTerms:
    return terms(damages=Damages(reference_price_micro_per_gpu_hour=3_000_000))


def log(journal: Journal) -> list[bytes]:
    """The delivery of the world, signed as the log of the guide."""
    leaves = delivered()
    journal.commit((), leaves=leaves, stream=STREAM)
    note = sign_checkpoint(Checkpoint(KEY.name, len(leaves), journal.root(STREAM)), KEY)
    journal.save_checkpoint(STREAM, len(leaves), note)
    return leaves


@pytest.fixture(scope="module")
def settled(folder: Path) -> Iterator[Embedded]:
    """A reference exchange that has the whole delivery, and the cluster's bundle of it."""
    with embedded(folder / "exchange.db") as exchange, Journal.open(":memory:") as journal:
        exchange.client.list_instrument(listed())
        for number, lots in enumerate(LOTS.values()):
            exchange.client.trade(f"account-{number}", listed().id, lots)
        log(journal)
        with Publisher(exchange.server.address, journal, STREAM, KEY, 1) as publisher:
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S), publisher.status()
        bundles.write(journal, STREAM, folder / "build/bundle", [listed()], {}, [KEY.verifier.encode()])
        yield exchange


def test_the_stubs_are_not_ours(folder: Path) -> None:
    found = run("python -c 'import scheduler; print(scheduler.__file__)'", folder)
    assert Path(found.strip()) == folder / "build/stubs/scheduler/__init__.py"
    for path in (ROOT / "docs/examples").glob("*.py"):
        imported = [line for line in path.read_text(encoding="utf-8").splitlines() if "import" in line.split()]
        ours = [line for line in imported if "scheduler" in line and "scheduler.exchange.v1" not in line]
        assert ours == [], path


def test_a_generic_client_reads_an_exchange_by_the_protos_alone(folder: Path, settled: Embedded) -> None:
    if shutil.which("buf", path=environment(folder)["PATH"]) is None:
        pytest.skip("buf is not installed (buf-bin, of the development environment)")
    lines = blocks("sh")[1].replace(PRINTED, settled.server.address).splitlines()
    instruments, snapshot, checkpoint, statement = (json.loads(run(line, folder)) for line in lines)
    (one,) = instruments["instruments"]
    assert base64.b64decode(one["terms"]) == canonical_bytes(listed())
    assert {each["id"]: each["lots"][0]["lots"] for each in snapshot["positions"]} == LOTS
    assert base64.b64decode(checkpoint["checkpoint"]).decode().startswith("tenor.test/east\n50\n")
    assert base64.b64decode(statement["statement"]) == settled.client.statement("pos-1")[0]


def test_a_delivery_is_checked_as_the_guide_shows(folder: Path, settled: Embedded) -> None:
    command, *printed = blocks("console")[0].splitlines()
    assert run(command.removeprefix("$ ").replace(PRINTED, settled.server.address), folder).splitlines() == printed


def test_what_is_wrong_is_found(folder: Path, settled: Embedded) -> None:
    """A leaf that was changed after the exchange had it."""
    altered = folder / "build/altered"
    shutil.copytree(folder / "build/bundle", altered)
    (entries,) = [path for path in (altered / "tile/entries").rglob("*") if path.is_file()]
    packed = bytearray(entries.read_bytes())
    at = packed.index(b"pos-1") + len(b"pos-1H100.BASE@1") + 8
    packed[at] ^= 1
    entries.write_bytes(packed)
    command = f"python docs/examples/check_delivery.py {settled.server.address} build/altered pos-1"
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "leaf 0 is not under the exchange's checkpoint" in done.stderr


@contextmanager
def small_exchange(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The example as the guide starts it, on a port that was free: its address, and its process."""
    (folder / "terms.json").write_bytes(canonical_bytes(listed()))
    show, serve = blocks("sh")[2].replace("terms.toml", "terms.json").replace(PRINTED, "127.0.0.1:0").splitlines()
    given = environment(folder)
    del given["PYTHONPATH"]  # `tenor` is a program of its own, elsewhere
    shown = subprocess.run(["bash", "-euc", show], cwd=folder, env=given, check=True, timeout=60)
    assert shown.returncode == 0
    process = subprocess.Popen(
        serve.split(), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_small_exchange_is_one_to_a_cluster(folder: Path) -> None:
    """Our own client and publisher believe it, and it computes what our settlement computes."""
    with small_exchange(folder) as (address, process), Journal.open(":memory:") as journal:
        with ExchangeClient(address, timeout_s=WAIT_S) as client:
            client.wait_ready(WAIT_S)
            known = client.snapshot()
            assert known.instruments == (listed(),)
            assert [(each.id, each.account) for each in known.positions] == [("pos-1", "acme")]
            watch = client.watch(known.cursor)
            first = next(iter(watch))
            assert isinstance(first, Alive)
            assert first.next.seq == known.cursor.seq + 1
            watch.cancel()
        leaves = log(journal)
        with Publisher(address, journal, STREAM, KEY, 1) as publisher:
            assert publisher.wait_acknowledged(len(leaves), WAIT_S), publisher.status()
        recorded = [each for leaf in leaves if (each := RecordedLeaf.of(leaf)) is not None]
        mine = [each for each in recorded if each.record.position == "pos-1"]
        owed = statement_over(listed(), listed().window.interval, mine).amount_micro
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        assert said == f"tenor.test/east: 50 leaves verified, owed for pos-1: {owed} millionths of a USD"


def test_the_small_exchange_refuses_a_log_that_is_not_what_was_signed(folder: Path) -> None:
    with small_exchange(folder) as (address, _), Journal.open(":memory:") as journal:
        log(journal)
        with Publisher(address, journal, STREAM, KEY, 1) as publisher:
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        other = SignerKey(KEY.name, bytes(range(1, 33)))
        with Publisher(address, journal, STREAM, other, 2) as publisher:
            assert not publisher.wait_acknowledged(journal.log_size(STREAM) + 1, WAIT_S)
            assert publisher.status().state is PublishState.REFUSED
            assert "is signed by" in publisher.status().detail
