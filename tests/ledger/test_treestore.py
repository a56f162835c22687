"""The stored trees against the pure ones, through commits of every size, rollbacks and reopened connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency

from scheduler.core import merkle
from scheduler.core.errors import Damaged, InvalidValue
from scheduler.core.merkle import CompactRange
from scheduler.ledger.treestore import MAX_LEAF_BYTES, SCHEMA, TILE_WIDTH, TreeStore


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(_connected()) as made:
        yield made


def _connected() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        made.execute(statement)
    return made


def _leaves(count: int, start: int = 0) -> list[bytes]:
    return [b"leaf %d" % i for i in range(start, start + count)]


def _hashes(count: int) -> list[bytes]:
    return [merkle.leaf_hash(leaf) for leaf in _leaves(count)]


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3 * TILE_WIDTH) | st.integers(1, 8).map(TILE_WIDTH.__mul__), st.data())
def test_stored_trees_of_any_size_agree_with_pymerkle(size: int, data: st.DataObject) -> None:
    leaves, others = _leaves(size), InmemoryTree.init_from_entries(_leaves(size), algorithm="sha256")
    with closing(_connected()) as connection:
        store = TreeStore(connection, "test")
        store.append("s", leaves)
        for _ in range(4):
            first = data.draw(st.integers(1, size))
            index = data.draw(st.integers(0, first - 1))
            assert store.root("s", first) == others.get_root(first)
            theirs = others.prove_inclusion(index + 1, first).serialize()["path"]  # counts from 1
            ours = (merkle.leaf_hash(leaves[index]), *store.inclusion_proof("s", index, first))
            assert sorted(theirs) == sorted(
                item.hex() for item in ours
            )  # theirs is in order of position, with the leaf
            older, newer = store.root("s", first), store.root("s")
            assert merkle.verify_consistency(first, size, older, newer, store.consistency_proof("s", first, size))
            verify_consistency(older, newer, others.prove_consistency(first, size))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6), st.data())
def test_roots_and_proofs_are_those_of_the_pure_tree(batches: list[int], data: st.DataObject) -> None:
    with closing(_connected()) as connection:
        store, size = TreeStore(connection, "test"), 0
        for batch in batches:
            size = store.append("s", _leaves(batch, size))
            if data.draw(st.booleans()):
                store = TreeStore(connection, "test")  # nothing may depend on what an instance remembers
        hashes = _hashes(size)
        assert size == sum(batches) == store.size("s")
        assert store.range("s") == CompactRange().extend(hashes)
        assert [leaf for page in store.leaves("s", 0, size) for leaf in page] == _leaves(size)
        older = data.draw(st.integers(0, size))
        assert store.root("s", older) == merkle.root(hashes[:older])
        assert store.consistency_proof("s", older, size) == merkle.consistency_proof(hashes, older, size)
        if older:
            index = data.draw(st.integers(0, older - 1))
            assert store.inclusion_proof("s", index, older) == merkle.inclusion_proof(hashes, index, older)


def test_a_tree_of_three_levels(connection: sqlite3.Connection) -> None:
    size = TILE_WIDTH * TILE_WIDTH + 2 * TILE_WIDTH + 3
    store = TreeStore(connection, "test")
    for start in range(0, size, 5_000):
        store.append("s", _leaves(min(5_000, size - start), start))
    hashes = _hashes(size)
    root = merkle.root(hashes)
    assert store.root("s") == TreeStore(connection, "test").root("s") == root
    for index in (0, 255, 256, 65_535, 65_536, size - 1):
        proof = store.inclusion_proof("s", index, size)
        assert merkle.verify_inclusion(hashes[index], index, size, proof, root)
    for first in (1, 256, 65_536, 65_537, size - 1):
        proof = store.consistency_proof("s", first, size)
        assert merkle.verify_consistency(first, size, store.root("s", first), root, proof)


def test_streams_do_not_mix(connection: sqlite3.Connection) -> None:
    store = TreeStore(connection, "test")
    store.append("a", _leaves(300))
    store.append("b", [b"other"])
    store.append("a", _leaves(5, 300))
    assert store.streams() == ("a", "b")
    assert store.root("a") == merkle.root(_hashes(305))
    assert store.root("b") == merkle.leaf_hash(b"other")


@pytest.mark.parametrize("before", [0, 3, 255, 256, 600])
def test_a_rolled_back_append_is_forgotten(connection: sqlite3.Connection, before: int) -> None:
    store = TreeStore(connection, "test")
    store.append("s", _leaves(before))
    connection.execute("BEGIN")
    store.append("s", [b"never"] * 300)
    store.root("s")
    store.inclusion_proof("s", before, before + 300)
    connection.execute("ROLLBACK")
    assert store.size("s") == before
    store.append("s", _leaves(300, before))
    hashes = _hashes(before + 300)
    assert store.root("s") == merkle.root(hashes)
    assert store.inclusion_proof("s", before, before + 300) == merkle.inclusion_proof(hashes, before, before + 300)


def test_a_stream_that_nobody_appended_to_is_empty(connection: sqlite3.Connection) -> None:
    store = TreeStore(connection, "test")
    store.append("s", [])
    assert store.streams() == ()
    assert store.size("s") == 0
    assert store.root("s") == merkle.EMPTY_ROOT
    assert list(store.leaves("s", 0, 10)) == []
    assert store.consistency_proof("s", 0, 0) == ()
    with pytest.raises(InvalidValue):
        store.inclusion_proof("s", 0, 1)


@pytest.mark.parametrize(("first", "second"), [(0, 6), (4, 3), (-1, 3)])
def test_proofs_outside_the_stream_are_refused(connection: sqlite3.Connection, first: int, second: int) -> None:
    store = TreeStore(connection, "test")
    store.append("s", _leaves(5))
    with pytest.raises(InvalidValue):
        store.consistency_proof("s", first, second)
    with pytest.raises(InvalidValue):
        store.inclusion_proof("s", first, second)
    with pytest.raises(InvalidValue):
        store.root("s", 6)


def test_a_leaf_that_no_bundle_could_hold_is_refused_and_nothing_written(connection: sqlite3.Connection) -> None:
    store = TreeStore(connection, "test")
    store.append("s", [b"x" * MAX_LEAF_BYTES])
    with pytest.raises(InvalidValue, match="leaf"):
        store.append("s", [b"fine", b"x" * (MAX_LEAF_BYTES + 1)])
    with pytest.raises(InvalidValue, match="stream"):
        store.append("", [b"fine"])
    assert store.size("s") == 1


def test_a_tile_is_as_the_layout_has_it(connection: sqlite3.Connection) -> None:
    store = TreeStore(connection, "test")
    store.append("s", _leaves(300))
    hashes = _hashes(300)
    assert store.tile("s", 0, 0) == b"".join(hashes[:256])
    assert store.tile("s", 0, 1) == b"".join(hashes[256:])
    assert store.tile("s", 1, 0) == merkle.root(hashes[:256])
    assert store.tile("s", 0, 2) == store.tile("s", 2, 0) == store.tile("s", -1, 0) == store.tile("t", 0, 0) == b""


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE tree_leaf SET body = x'00' WHERE slot & 0xffff = 7", "leaf 7"),
        ("UPDATE tree_leaf SET body = 'text' WHERE slot & 0xffff = 7", "leaf 7"),
        ("DELETE FROM tree_leaf WHERE slot & 0xffff = 7", "leaf 7"),
        ("DELETE FROM tree_leaf WHERE slot & 0xffff = 299", "leaf 299"),
        ("UPDATE tree_leaf SET body = x'00' WHERE slot & 0xffff = 299", "last leaves"),
        ("UPDATE tree_tile SET hashes = zeroblob(8192) WHERE level = 0", "leaf 0"),
        ("DELETE FROM tree_tile WHERE level = 1", "tile 0 of level 1"),
        ("UPDATE tree_tile SET hashes = zeroblob(32) WHERE level = 1", "last leaves"),
        ("UPDATE tree_log SET edge = zeroblob(32)", "last leaves"),
        ("UPDATE tree_log SET size = 299", "last leaves"),
        ("UPDATE tree_log SET size = 'many'", "size"),
    ],
)
def test_damage_is_found_and_named(connection: sqlite3.Connection, change: str, found: str) -> None:
    TreeStore(connection, "test.db").append("s", _leaves(300))
    connection.execute(change)
    with pytest.raises(Damaged, match=found) as raised:
        list(TreeStore(connection, "test.db").leaves("s", 0, 300))
    assert "test.db" in str(raised.value)
