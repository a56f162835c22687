"""Bundles: written whole, read back, and every fault named."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from scheduler.core import merkle
from scheduler.core.errors import Conflict, Damaged, InvalidValue, TenorError
from scheduler.ledger.bundle import read_bundle, write_bundle
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, cosign, open_checkpoint, sign_checkpoint

WITNESS = SignerKey("exchange.example", bytes(range(1, 33)))
KEY = SignerKey("log.example/acme", bytes(range(32)))
TERMS = {"H100SXM.8N.USE.BASE.FIRM.2027-01@1": b'{"symbol":"H100"}', "X@12": b"{}"}


def _leaves(size: int) -> list[bytes]:
    return [b"leaf %d " % index * (index % 3) for index in range(size)]


def _note(leaves: list[bytes]) -> bytes:
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    return sign_checkpoint(Checkpoint(KEY.name, len(leaves), root), KEY)


def _write(folder: Path, size: int) -> list[bytes]:
    leaves = _leaves(size)
    write_bundle(folder, iter(leaves), _note(leaves), [KEY.verifier.encode()], TERMS)
    return leaves


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 600, 65_536 + 300])
def test_a_bundle_reads_back(tmp_path: Path, size: int) -> None:
    leaves = _write(tmp_path / "bundle", size)
    bundle = read_bundle(tmp_path / "bundle")
    assert list(bundle.leaves()) == leaves
    assert (bundle.terms, bundle.keys()) == (TERMS, (KEY.verifier,))
    assert open_checkpoint(bundle.checkpoint, bundle.keys()) == bundle.stated
    assert bundle.stated.size == size
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_witnesses_and_what_they_saw_of_a_shorter_log_read_back(tmp_path: Path) -> None:
    leaves = _leaves(300)
    seen = cosign(_note(leaves[:200]), WITNESS, 1_800_000_000)
    vkey = WITNESS.witness.encode()
    write_bundle(
        tmp_path / "bundle", leaves, _note(leaves), [KEY.verifier.encode()], {}, witnesses=[vkey], cosigned_note=seen
    )
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.cosigned, bundle.witness_keys()) == (seen, (WITNESS.witness,))
    assert list(bundle.leaves()) == leaves
    with pytest.raises(InvalidValue, match="vkey"):
        write_bundle(tmp_path / "bundle", leaves, _note(leaves), [], {}, witnesses=["not a key"])
    (tmp_path / "bundle/witness").write_bytes(b"\xff")
    with pytest.raises(Damaged, match="is not a bundle"):
        read_bundle(tmp_path / "bundle")


def test_the_files_are_where_the_layout_has_them(tmp_path: Path) -> None:
    leaves = _write(tmp_path / "bundle", 300)
    files = {
        path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*") if path.is_file()
    }
    assert files == {
        "checkpoint",
        "vkey",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
        "terms/X@12.json",
        "terms/H100SXM.8N.USE.BASE.FIRM.2027-01@1.json",
    }
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert (tmp_path / "bundle/tile/0/000").read_bytes() == b"".join(hashes[:256])
    assert (tmp_path / "bundle/tile/1/000.p/1").read_bytes() == merkle.root(hashes[:256])
    assert (tmp_path / "bundle/tile/entries/001.p/44").read_bytes()[:2] == len(leaves[256]).to_bytes(2, "big")


def test_a_newer_bundle_takes_the_place_of_an_older(tmp_path: Path) -> None:
    _write(tmp_path / "bundle", 700)
    leaves = _write(tmp_path / "bundle", 300)
    assert list(read_bundle(tmp_path / "bundle").leaves()) == leaves
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_may_be_written_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    leaves = _write(Path(), 3)
    assert list(read_bundle(tmp_path / "bundle").leaves()) == leaves


def test_what_fails_while_it_is_written_leaves_the_old_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    before = _write(folder, 300)
    note = _note(_leaves(400))
    for leaves in (_leaves(399), _leaves(401), [b"other", *_leaves(399)]):
        with pytest.raises(Conflict, match="the checkpoint has 400"):
            write_bundle(folder, leaves, note, [], {})
    with pytest.raises(InvalidValue, match="leaf 1"):
        write_bundle(folder, [b"", b"x" * 65_536], note, [], {})
    with pytest.raises(InvalidValue, match="instrument terms"):
        write_bundle(folder, _leaves(400), note, [], {"../../evil@1": b""})
    with pytest.raises(InvalidValue, match="vkey"):
        write_bundle(folder, _leaves(400), note, ["not a key"], {})
    with pytest.raises(InvalidValue):
        write_bundle(folder, _leaves(400), b"not a note", [], {})
    assert list(read_bundle(folder).leaves()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_something_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/letter").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for name in ("precious", "file"):
        with pytest.raises(Conflict, match="not replaced"):
            _write(tmp_path / name, 3)
    with pytest.raises(InvalidValue, match="parent folder"):
        _write(tmp_path / "nowhere/bundle", 3)
    assert (tmp_path / "precious/letter").read_text() == "keep me"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "tile/0/000").unlink(), "tile/0/000 is missing"),
    (lambda folder: (folder / "tile/entries/001.p/44").unlink(), "tile/entries/001.p/44 is missing"),
    (lambda folder: (folder / "tile/0/001.p/44").rename(folder / "tile/0/001.p/45"), "tile/0/001.p/44 is missing"),
    (lambda folder: (folder / "tile/0/002").write_bytes(b""), "tile/0/002 is no part of a log of 300"),
    (lambda folder: _flip(folder / "tile/0/000"), "tile/0/000 does not hold the hashes"),
    (lambda folder: _flip(folder / "tile/1/000.p/1"), "tile/1/000.p/1 does not hold the hashes"),
    (lambda folder: os.truncate(folder / "tile/0/000", 100), "tile/0/000 does not hold"),
    (lambda folder: os.truncate(folder / "tile/entries/000", 500), "tile/entries/000 is torn in entry"),
    (lambda folder: (folder / "tile/entries/000").write_bytes(b"\0\0" * 257), "tile/entries/000 has 2 bytes after"),
    (lambda folder: (folder / "tile/entries/000").write_bytes(b"\0\0" * 256), "tile/0/000 does not hold"),
    (lambda folder: (folder / "vkey").unlink(), "vkey is missing"),
    (lambda folder: (folder / "vkey").write_bytes(b"\xff"), "is not a bundle"),
    (lambda folder: (folder / "checkpoint").write_bytes(b"nothing"), "is not a bundle"),
    (lambda folder: (folder / "terms/letter.txt").write_bytes(b""), "letter.txt is not named"),
    (lambda folder: (folder / "checkpoint").write_bytes(_note([b"other"] * 300)), "checkpoint states the root"),
]


@pytest.mark.parametrize(("fault", "found"), FAULTS)
def test_the_first_thing_that_is_wrong_is_named(tmp_path: Path, fault: Callable[[Path], object], found: str) -> None:
    _write(tmp_path / "bundle", 300)
    fault(tmp_path / "bundle")
    with pytest.raises(Damaged, match=found):
        read_bundle(tmp_path / "bundle").verify()


def test_any_flipped_byte_of_a_log_is_found(tmp_path: Path) -> None:
    """Of a signature or a key it is found by whoever believes the checkpoint, of terms by their hash."""
    folder = tmp_path / "bundle"
    _write(folder, 300)
    for path in sorted((folder / "tile").rglob("*")):
        if path.is_file():
            whole = path.read_bytes()
            _flip(path)
            with pytest.raises(TenorError):
                read_bundle(folder).verify()
            path.write_bytes(whole)
    read_bundle(folder).verify()


def test_a_leaf_is_checked_before_it_is_given(tmp_path: Path) -> None:
    leaves = _write(tmp_path / "bundle", 300)
    _flip(tmp_path / "bundle/tile/entries/001.p/44")
    given = read_bundle(tmp_path / "bundle").leaves()
    assert list(islice(given, 256)) == leaves[:256]
    with pytest.raises(Damaged):
        next(given)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidValue, match="a folder with the file checkpoint"):
            read_bundle(folder)


@pytest.mark.parametrize(
    ("before", "after"), [(0, 5), (200, 300), (256, 256), (300, 300), (511, 2_000), (65_600, 66_000)]
)
def test_what_came_since_makes_the_same_files_as_all_of_it(tmp_path: Path, before: int, after: int) -> None:
    leaves = _write(tmp_path / "whole", after)
    _write(tmp_path / "grown", before)
    old = read_bundle(tmp_path / "grown")
    full = tmp_path / "grown/tile/entries/000"
    inode = full.stat().st_ino if old.whole else None
    new = iter(leaves[old.whole :])
    write_bundle(tmp_path / "grown", new, _note(leaves), [KEY.verifier.encode()], TERMS, onto=old)
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert {each.relative_to(tmp_path / "grown") for each in (tmp_path / "grown").rglob("*") if each.is_file()} == files
    assert all((tmp_path / "grown" / each).read_bytes() == (tmp_path / "whole" / each).read_bytes() for each in files)
    assert inode is None or full.stat().st_ino == inode, "a full tile is taken over, not written again"


def test_what_is_not_a_beginning_of_the_log_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    _write(tmp_path / "bundle", 300)
    before, other = read_bundle(tmp_path / "bundle"), [b"other %d" % index for index in range(400)]
    with pytest.raises(Conflict, match="were to be bundled"):
        write_bundle(tmp_path / "bundle", other[256:], _note(other), [KEY.verifier.encode()], TERMS, onto=before)
    assert read_bundle(tmp_path / "bundle") == before
    (tmp_path / "bundle/tile/entries/000").unlink()
    with pytest.raises(Damaged, match="tile/entries/000 is missing"):
        write_bundle(tmp_path / "bundle", other[256:], _note(other), [KEY.verifier.encode()], TERMS, onto=before)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
