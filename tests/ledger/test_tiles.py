"""Paths, entry bundles and the tower of tiles."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core import merkle
from scheduler.core.errors import Damaged
from scheduler.ledger.tiles import Tower, entries_path, packed_entries, paths_of, tile_path, unpacked_entries


def test_paths_are_those_of_the_layout() -> None:
    """The examples of https://c2sp.org/tlog-tiles."""
    assert tile_path(0, 1_234_067, 256) == "tile/0/x001/x234/067"
    assert tile_path(0, 273, 17) == "tile/0/273.p/17"
    assert tile_path(2, 0, 1) == "tile/2/000.p/1"
    assert entries_path(1_000, 256) == "tile/entries/x001/000"


def test_a_log_of_70000_leaves_has_these_tiles() -> None:
    paths = list(paths_of(70_000))
    assert len(paths) == 274 * 2 + 2 + 1
    assert {"tile/0/273.p/112", "tile/entries/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= {*paths}
    assert list(paths_of(0)) == []


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_entry_bundles_read_back(leaves: list[bytes]) -> None:
    assert unpacked_entries(packed_entries(leaves), len(leaves), "x") == leaves


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.data())
def test_a_torn_entry_bundle_is_damaged(leaves: list[bytes], data: st.DataObject) -> None:
    packed = packed_entries(leaves)
    torn = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(Damaged, match="some/file is torn in entry"):
        unpacked_entries(torn, len(leaves), "some/file")
    with pytest.raises(Damaged, match="1 bytes after"):
        unpacked_entries(packed + b"x", len(leaves), "some/file")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_500))
def test_the_tower_has_every_tile_once_and_the_root(size: int) -> None:
    hashes = [merkle.leaf_hash(b"%d" % i) for i in range(size)]
    tower = Tower()
    tiles = [tile for at in range(0, size, 256) for tile in tower.add(hashes[at : at + 256])]
    tiles += tower.finish()
    made = [tile_path(level, number, len(held)) for level, number, held in tiles]
    assert sorted(made) == sorted(path for path in paths_of(size) if "entries" not in path)
    assert [item for level, _, held in tiles if level == 0 for item in held] == hashes
    assert tower.root() == merkle.root(hashes)
