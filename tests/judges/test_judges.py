"""Three judges that are not ours: Go's signed notes, the witness's cosignature of transparency-dev, Tessera's checker.

What they read is what our own code wrote: keys, notes, a log published to the reference exchange, and its bundle.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.exchange import bundles
from scheduler.exchange.publisher import Publisher
from scheduler.ledger.bundle import read_bundle, write_bundle
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey, VerifierKey
from scheduler.ledger.notes import (
    Checkpoint,
    cosign,
    cosigned_at_s,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    sign_note,
)
from scheduler.ledger.treestore import TILE_WIDTH
from tests.exchange.world import SIGNER, START_MS, STREAM, delivered, embedded, terms, trade_all, write_log
from tests.judges.conftest import Judge

TEXT = "größer than ASCII\n\nwith an empty line\n"
VKEY = SIGNER.verifier.encode()


def refused(judge: Judge, *arguments: str, given: bytes = b"") -> str:
    """What the judge says of something that it must not believe."""
    with pytest.raises(subprocess.CalledProcessError) as wrong:
        judge(*arguments, given=given)
    return str(wrong.value.stderr.decode())


# -- golang.org/x/mod/sumdb/note ---------------------------------------------------------------------------------------


def test_go_opens_our_notes_and_signs_the_same_bytes(judge: Judge) -> None:
    key = SignerKey.generate("tenor.example/log/1")
    ours = sign_note(TEXT, key)
    assert judge("open", key.verifier.encode(), given=ours).decode() == TEXT
    assert judge("sign", key.encode(), given=TEXT.encode()) == ours


def test_we_read_the_keys_and_the_notes_of_go(judge: Judge) -> None:
    skey, vkey = judge("generate", "go.example/log").decode().split()
    assert SignerKey.parse(skey).verifier == VerifierKey.parse(vkey)
    assert (SignerKey.parse(skey).encode(), VerifierKey.parse(vkey).encode()) == (skey, vkey)
    text = Checkpoint("go.example/log", 12, bytes(range(32)), ("an extension",)).text()
    note = judge("sign", skey, given=text.encode())
    assert open_note(note, [VerifierKey.parse(vkey)]).text == text
    assert open_checkpoint(note, [VerifierKey.parse(vkey)]).extensions == ("an extension",)


def test_go_opens_a_cosigned_checkpoint_and_refuses_a_changed_one(judge: Judge) -> None:
    key, witness = SignerKey.generate("tenor.example/log"), SignerKey.generate("exchange.example")
    note = cosign(sign_checkpoint(Checkpoint(key.name, 7, bytes(32)), key), witness, 1_800_000_000)
    assert judge("open", key.verifier.encode(), given=note).decode().startswith("tenor.example/log\n7\n")
    assert "invalid signature" in refused(judge, "open", key.verifier.encode(), given=note.replace(b"\n7\n", b"\n8\n"))


# -- github.com/transparency-dev/formats -------------------------------------------------------------------------------


def test_the_cosignature_of_the_exchange_is_believed_by_others(judge: Judge, published: Path) -> None:
    bundle = read_bundle(published)
    (witness,) = bundle.witnesses
    at_s = int(judge("cosigned", VKEY, witness, given=bundle.checkpoint))
    assert at_s == (START_MS - 60_000) // 1_000
    stranger = SignerKey(VerifierKey.parse(witness).name, bytes(32)).witness.encode()
    assert "1 of the 2 keys" in refused(judge, "cosigned", VKEY, stranger, given=bundle.checkpoint)
    line = bundle.checkpoint.rsplit(b" ", 1)[1]
    later = bundle.checkpoint.replace(line, line[:9] + (b"B" if line[9:10] != b"B" else b"C") + line[10:])
    assert "invalid signature" in refused(judge, "cosigned", VKEY, witness, given=later)


def test_we_believe_a_cosignature_that_others_made(judge: Judge) -> None:
    key, witness = SignerKey.generate("tenor.example/log"), SignerKey.generate("witness.example")
    note = sign_checkpoint(Checkpoint(key.name, 7, bytes(32)), key)
    theirs = judge("cosign", witness.encode(), key.verifier.encode(), given=note)
    opened = open_note(theirs, [key.verifier, witness.witness])
    assert len(opened.verified) == 2
    at_s = cosigned_at_s(opened, witness.witness)
    assert at_s is not None
    assert cosign(note, witness, at_s) == theirs


# -- github.com/transparency-dev/tessera -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a log that the reference exchange took in and cosigned."""
    folder = tmp_path_factory.mktemp("published")
    with embedded(folder / "exchange.db") as exchange, Journal.open(":memory:") as journal:
        trade_all(exchange.client)
        write_log(journal, delivered())
        with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as sender:
            assert sender.wait_acknowledged(journal.log_size(STREAM), 20.0)
        bundles.write(journal, STREAM, folder / "bundle", [terms()], {}, [VKEY])
    return folder / "bundle"


def test_tessera_finds_the_published_log_whole(judge: Judge, published: Path) -> None:
    judge("fsck", VKEY, str(published))


@pytest.mark.parametrize("size", [1, TILE_WIDTH - 1, TILE_WIDTH, TILE_WIDTH + 1, TILE_WIDTH**2 + 300])
def test_tessera_finds_logs_of_every_shape_whole(judge: Judge, tmp_path: Path, size: int) -> None:
    with Journal.open(":memory:") as journal:
        write_log(journal, [b"leaf %d" % index for index in range(size)])
        bundles.write(journal, STREAM, tmp_path / "bundle", [], {}, [VKEY])
    judge("fsck", VKEY, str(tmp_path / "bundle"))


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an entry changed": lambda folder: _flipped(folder / "tile/entries/000"),
    "a hash changed": lambda folder: _flipped(folder / "tile/0/001.p/44"),
    "a hash of a higher tile changed": lambda folder: _flipped(folder / "tile/1/000.p/1"),
    "a tile gone": lambda folder: (folder / "tile/0/000").unlink(),
    "entries gone": lambda folder: (folder / "tile/entries/001.p/44").unlink(),
    "a signature by another key": lambda folder: (folder / "checkpoint").write_bytes(
        sign_checkpoint(read_bundle(folder).stated, SignerKey(SIGNER.name, bytes(32)))
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_tessera_and_we_refuse_the_same_logs(judge: Judge, tmp_path: Path, damage: str) -> None:
    with Journal.open(":memory:") as journal:
        write_log(journal, [b"leaf %d" % index for index in range(300)])
        bundles.write(journal, STREAM, tmp_path / "bundle", [], {}, [VKEY])
    DAMAGES[damage](tmp_path / "bundle")
    assert refused(judge, "fsck", VKEY, str(tmp_path / "bundle"))


def test_tessera_refuses_a_root_that_is_not_of_the_leaves(judge: Judge, tmp_path: Path) -> None:
    leaves = [b"leaf %d" % index for index in range(300)]
    with Journal.open(":memory:") as journal:
        write_log(journal, leaves)
        kept = journal.checkpoint(STREAM)
        assert kept is not None
        write_bundle(tmp_path / "bundle", leaves, kept[1], [VKEY], {})
    forged = sign_checkpoint(Checkpoint(SIGNER.name, 300, bytes(32)), SIGNER)
    (tmp_path / "bundle/checkpoint").write_bytes(forged)
    assert refused(judge, "fsck", VKEY, str(tmp_path / "bundle"))
