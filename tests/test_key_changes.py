"""The next key in the home: taken up by a real scheduler, safe at every step, and refused where it is of no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, Damaged, Unavailable
from scheduler.exchange.leaves import KeyChangeLeaf, decode
from scheduler.key_changes import KeyChanges, prepare
from scheduler.ledger.keyring import NEXT_FILE, Keyring, file_of
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import open_checkpoint
from tests.api.world import START_MS, World, market

ORIGIN, STREAM = "tenor.local/local", "local"
OVERLAP_MS = 60_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = market(tmp_path)
    made.pass_ms(600_000)
    yield made
    made.close()


@pytest.fixture
def home(world: World, tmp_path: Path) -> Path:
    world.signer.save(tmp_path / "log.key")
    return tmp_path


def loaded(world: World, home: Path) -> Keyring:
    return Keyring.load(home, world.journal, STREAM, ORIGIN, world.clock_ms)


def changes(world: World, home: Path) -> KeyChanges:
    return KeyChanges(home, world.journal, STREAM, loaded(world, home), OVERLAP_MS)


def announced(world: World) -> list[KeyChangeLeaf]:
    leaves = (decode(leaf) for _, leaf in world.journal.leaves(STREAM))
    return [leaf for leaf in leaves if isinstance(leaf, KeyChangeLeaf)]


def test_a_key_that_waits_is_announced_and_signs_from_then_on(world: World, home: Path) -> None:
    taken = changes(world, home)
    assert taken.maybe(world.scheduler, world.now_ms) == ""
    key = prepare(home, ORIGIN)
    assert (home / NEXT_FILE).stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="never overwritten"):
        prepare(home, ORIGIN)
    said = taken.maybe(world.scheduler, world.now_ms)
    assert f"the log's key is {key.verifier.encode()} now" in said
    assert not (home / NEXT_FILE).exists()
    (leaf,) = announced(world)
    leaf.change.verify()
    assert (leaf.change.old, leaf.change.new) == (world.signer.verifier, key.verifier)
    assert leaf.change.until_ms == world.now_ms + OVERLAP_MS
    kept = world.journal.checkpoint(STREAM)
    assert kept is not None
    for each in (world.signer, key):
        assert open_checkpoint(kept[1], [each.verifier]).size == world.journal.log_size(STREAM)
    again = loaded(world, home)
    assert (again.current, again.verifiers) == (key, (world.signer.verifier, key.verifier))
    assert again.tenures == taken.keys.tenures
    assert taken.maybe(world.scheduler, world.now_ms) == ""


def test_the_log_goes_on_after_it_and_counts_right(world: World, home: Path) -> None:
    taken = changes(world, home)
    for _ in range(3):
        prepare(home, ORIGIN)
        assert "now" in taken.maybe(world.scheduler, world.now_ms)
        world.pass_ms(600_000)
    assert len(announced(world)) == 3
    for closed in world.scheduler.state.closings:
        found = [decode(leaf) for _, leaf in world.journal.leaves(STREAM, closed.first_leaf, closed.leaves)]
        assert not any(isinstance(leaf, KeyChangeLeaf) for leaf in found)
    assert len(taken.keys.signers(world.journal.log_size(STREAM))) == 1
    assert len(taken.keys.signers(0)) == 4  # the exchange has none of them yet


@pytest.mark.parametrize("step", ["saved", "committed"])
def test_a_crash_at_any_step_is_gone_on_from(world: World, home: Path, step: str) -> None:
    key = prepare(home, ORIGIN)
    if step == "saved":
        key.save(file_of(home, key.verifier))
    else:
        changes(world, home).maybe(world.scheduler, world.now_ms)
        key.save(home / NEXT_FILE)
    assert "now" in changes(world, home).maybe(world.scheduler, world.now_ms)
    assert len(announced(world)) == 1
    assert loaded(world, home).current == key
    assert not (home / NEXT_FILE).exists()


def test_a_full_disk_changes_nothing_and_it_is_tried_again(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise Unavailable("the disk is full")

    taken = changes(world, home)
    key = prepare(home, ORIGIN)
    with monkeypatch.context() as broken:
        broken.setattr(world.journal, "commit", full)
        assert taken.maybe(world.scheduler, world.now_ms) == ""
    assert (taken.keys.current, announced(world)) == (world.signer, [])
    assert key.verifier.encode() in taken.maybe(world.scheduler, world.now_ms)


def wrong_name(home: Path) -> None:
    SignerKey.generate("tenor.local/other").save(home / NEXT_FILE)


def noise(home: Path) -> None:
    (home / NEXT_FILE).write_text("noise")
    (home / NEXT_FILE).chmod(0o600)


def open_to_all(home: Path) -> None:
    prepare(home, ORIGIN)
    (home / NEXT_FILE).chmod(0o644)


@pytest.mark.parametrize(
    ("make", "says"), [(wrong_name, "'tenor.local/other', expected"), (noise, "signer key"), (open_to_all, "by others")]
)
def test_a_file_that_is_no_key_of_the_log_is_put_aside(
    world: World, home: Path, make: Callable[[Path], None], says: str
) -> None:
    taken = changes(world, home)
    make(home)
    said = taken.maybe(world.scheduler, world.now_ms)
    assert "was not taken up, and is log.key.next.refused now" in said
    assert says in said
    assert taken.maybe(world.scheduler, world.now_ms) == ""
    assert (taken.keys.current, announced(world)) == (world.signer, [])


def test_keys_that_are_over_may_be_destroyed_and_the_current_one_may_not(world: World, home: Path) -> None:
    taken = changes(world, home)
    key = prepare(home, ORIGIN)
    taken.maybe(world.scheduler, world.now_ms)
    (home / "log.key").unlink()
    keys = loaded(world, home)
    assert keys.current == key
    assert keys.signers(world.journal.log_size(STREAM)) == (key,)
    file_of(home, key.verifier).unlink()
    with pytest.raises(Damaged, match=r"log-[0-9a-f]{8}\.key, the key of the log tenor.local/local, is missing"):
        loaded(world, home)
    SignerKey.generate(ORIGIN).save(file_of(home, key.verifier))
    with pytest.raises(Conflict, match=r"expected tenor.local/local\+"):
        loaded(world, home)
    assert world.now_ms > START_MS
