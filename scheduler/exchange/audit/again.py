"""What an audit reads a second time, once it has been held against the tree: single leaves, the hashes of a position's
records, and the records of positions in which something is wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from scheduler.core.errors import Damaged, Refused
from scheduler.core.merkle import HASH_BYTES, CompactRange
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.metering.versions import PositionVersions
from scheduler.exchange.leaves import PoolLeaf, RecordLeaf, decode
from scheduler.exchange.statements import Versions
from scheduler.ledger.bundle import Bundle
from scheduler.ledger.treestore import TILE_WIDTH

_HASHES_AT_ONCE = 1 << 19
"""16 MiB of them."""
_RECORDS_AT_ONCE = 50_000
_TILES_KEPT = 8

_Piece = tuple["array[int]", bool]
"""The leaves of some of a position's records in order of time, and whether they are the last."""


class Again:
    """See the module."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._entries = lru_cache(_TILES_KEPT)(bundle.entries)

    def record(self, index: int) -> MeterRecord:
        """The record in a leaf. Raises Damaged where it is none any more."""
        leaf = decode(self._entries(index // TILE_WIDTH)[index % TILE_WIDTH])
        if not isinstance(leaf, RecordLeaf):
            raise Damaged(f"leaf {index} of {self._bundle.folder} was a record, and has become another leaf")
        return leaf.record

    def pool(self, index: int) -> PoolRecord:
        """The certificate in a leaf. Raises Damaged where it is none any more."""
        leaf = decode(self._entries(index // TILE_WIDTH)[index % TILE_WIDTH])
        if not isinstance(leaf, PoolLeaf):
            raise Damaged(f"leaf {index} of {self._bundle.folder} was a certificate, and has become another leaf")
        return leaf.pool

    def records_roots(self, wanted: Iterable[array[int]]) -> Iterator[str]:
        """For each the root over the leaves with these indexes, one or more, in lower-case hexadecimal, in order."""
        tree = CompactRange()
        for pieces in _batches(wanted):
            hashes, at = self._hashes([piece for piece, _ in pieces]), 0
            for piece, last in pieces:
                end = at + len(piece) * HASH_BYTES
                tree = tree.extend([hashes[each : each + HASH_BYTES] for each in range(at, end, HASH_BYTES)])
                at = end
                if last:
                    yield tree.root().hex()
                    tree = CompactRange()

    def versions_of(self, wanted: Sequence[tuple[str, int]]) -> Iterator[PositionVersions]:
        """The records of positions in full, in order; each is given with how many records it has: as many at once as
        memory should hold, and a reading of the whole log for each so many.
        """
        at = 0
        while at < len(wanted):
            first, held = at, 0
            while at < len(wanted) and (at == first or held + wanted[at][1] <= _RECORDS_AT_ONCE):
                held += wanted[at][1]
                at += 1
            versions = self._versions({position for position, _ in wanted[first:at]})
            yield from (versions.of[position] for position, _ in wanted[first:at])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _hashes(self, pieces: Sequence[array[int]]) -> bytes:
        """The hashes of these leaves, in the order given: each tile is read once."""
        indexes = np.concatenate([np.frombuffer(piece, dtype=f"u{piece.itemsize}") for piece in pieces])
        order = np.argsort(indexes, kind="stable")
        rising = indexes[order]
        found = np.empty((len(indexes), HASH_BYTES), dtype=np.uint8)
        tiles = rising // TILE_WIDTH
        edges = np.flatnonzero(np.diff(tiles)) + 1
        for first, end in zip([0, *edges.tolist()], [*edges.tolist(), len(rising)], strict=True):
            tile = np.frombuffer(self._bundle.leaf_hashes(int(tiles[first])), dtype=np.uint8).reshape(-1, HASH_BYTES)
            found[order[first:end]] = tile[rising[first:end] % TILE_WIDTH]
        return found.tobytes()

    def _versions(self, positions: set[str]) -> Versions:
        """Raises Damaged where the bundle is not as it was."""
        found = Versions(positions)
        for index, leaf in enumerate(self._bundle.leaves()):
            try:
                found.add(index, leaf)
            except Refused:
                continue  # the check of leaves has named it
        return found


def _batches(wanted: Iterable[array[int]]) -> Iterator[list[_Piece]]:
    pieces: list[_Piece] = []
    room = _HASHES_AT_ONCE
    for indexes in wanted:
        at = 0
        while at < len(indexes):
            piece = indexes[at : at + room]
            at += len(piece)
            room -= len(piece)
            pieces.append((piece, at == len(indexes)))
            if not room:
                yield pieces
                pieces, room = [], _HASHES_AT_ONCE
    if pieces:
        yield pieces
