"""A bundle that grows is at any time the bundle that would be written at once, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.errors import Conflict, Damaged, InvalidValue
from scheduler.core.merkle import leaf_hash, root
from scheduler.ledger.bundle import read_bundle, write_bundle
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.mirror import Mirror
from scheduler.ledger.notes import Checkpoint, sign_checkpoint

SIGNER = SignerKey("tenor.test/mirror", bytes(32))
TERMS = {"H100@1": b"{}"}


def leaves(size: int) -> list[bytes]:
    return [f"leaf {index}".encode() for index in range(size)]


def front(size: int) -> tuple[bytes, list[str], dict[str, bytes]]:
    """Checkpoint, keys and terms."""
    checkpoint = Checkpoint(SIGNER.name, size, root([leaf_hash(leaf) for leaf in leaves(size)]))
    return sign_checkpoint(checkpoint, SIGNER), [SIGNER.verifier.encode()], TERMS


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 700), st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_it_is_the_bundle_that_would_be_written_at_once(
    steps: list[tuple[int, bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mirror")
    mirror = Mirror(folder / "grown")
    for length, closed, restarted in steps:
        size = mirror.range.size + length
        mirror.add(leaves(size)[mirror.range.size :])
        if closed:
            mirror.close(*front(size))
        if restarted:
            mirror.end()
            mirror = Mirror(folder / "grown")
    size = mirror.range.size + 1
    mirror.add(leaves(size)[mirror.range.size :])
    mirror.close(*front(size))
    mirror.end()
    write_bundle(folder / "once", leaves(size), *front(size))
    assert content(folder / "grown") == content(folder / "once")
    assert sorted(path.name for path in folder.iterdir()) == [".grown.pull.lock", "grown", "once"]


def test_a_checkpoint_over_other_leaves_takes_the_mirror_back(tmp_path: Path) -> None:
    with Mirror(tmp_path / "log") as mirror:
        mirror.add(leaves(300))
        mirror.close(*front(300))
        before = content(tmp_path / "log")
        mirror.add([b"another"])
        with pytest.raises(Conflict, match="301 leaves with the root"):
            mirror.close(*front(301))
        assert mirror.range.size == 300
        assert content(tmp_path / "log") == before
        mirror.add(leaves(301)[300:])
        mirror.close(*front(301))
    assert list(read_bundle(tmp_path / "log").leaves()) == leaves(301)


def test_two_mirrors_do_not_share_a_folder(tmp_path: Path) -> None:
    with Mirror(tmp_path / "log"), pytest.raises(Conflict, match="is owned by the running process"):
        Mirror(tmp_path / "log")


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "diary.txt").write_text("mine")
    with pytest.raises(Conflict, match="holds something that is not a bundle"):
        Mirror(tmp_path / "log")
    with pytest.raises(InvalidValue, match="a folder that exists"):
        Mirror(tmp_path / "missing" / "log")


def test_a_bundle_that_was_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    with Mirror(tmp_path / "log") as mirror:
        mirror.add(leaves(20))
        mirror.close(*front(20))
    entries = tmp_path / "log" / "tile" / "entries" / "000.p" / "20"
    entries.write_bytes(entries.read_bytes().replace(b"leaf 3", b"leaf X"))
    with pytest.raises(Damaged):
        Mirror(tmp_path / "log")


def test_a_crash_between_two_bundles_loses_neither(tmp_path: Path) -> None:
    with Mirror(tmp_path / "log") as mirror:
        mirror.add(leaves(20))
        mirror.close(*front(20))
    (tmp_path / "log").rename(tmp_path / ".log.7.old")  # as a crash may leave it: one stepped aside, none came
    with Mirror(tmp_path / "log") as mirror:
        assert mirror.range.size == 20
    assert list(read_bundle(tmp_path / "log").leaves()) == leaves(20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".log.pull.lock", "log"]
