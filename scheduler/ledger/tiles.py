"""The paths and the entry bundles of the C2SP tlog-tiles layout (https://c2sp.org/tlog-tiles).

A tile of level L holds up to 256 hashes of perfect subtrees of height 8 L; the entry bundle of the same number holds
the leaves under a tile of level 0, each behind its length in two bytes, big-endian. The last tile of a level may be
partial: its width is then part of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from scheduler.core.errors import Damaged
from scheduler.core.merkle import CompactRange, subtree_rows
from scheduler.ledger.treestore import TILE_HEIGHT, TILE_WIDTH

_LENGTH_BYTES = 2


Tile = tuple[int, int, Sequence[bytes]]
"""Level, number, and the 1 to 256 hashes."""


class Tower:
    """Builds the tiles of a log from its leaf hashes, lowest level first, keeping one partial tile a level."""

    def __init__(self) -> None:
        self.size = 0
        self._partial: list[list[bytes]] = []

    @classmethod
    def resumed(cls, size: int, hashes: Callable[[int, int, int], Sequence[bytes]]) -> Tower:
        """The tower after its first `size` leaves, a multiple of 256. `hashes(level, number, width)`: the first `width`
        hashes of that tile.
        """
        tower, level = cls(), 0
        tower.size = size
        while held := size >> (TILE_HEIGHT * level):
            number, width = divmod(held, TILE_WIDTH)
            tower._partial.append(list(hashes(level, number, width)) if width else [])
            level += 1
        return tower

    def add(self, hashes: Sequence[bytes]) -> Iterator[Tile]:
        """The tiles that these leaf hashes complete: one of level 0, and those above it that fill up.

        Leaf hashes come by whole tiles, 256 at a time; only the last call of a log may bring fewer.
        """
        self.size += len(hashes)
        level = 0
        while True:
            if level == len(self._partial):
                self._partial.append([])
            pending = self._partial[level]
            pending += hashes
            held = self.size >> (TILE_HEIGHT * level)
            if level == 0 or len(pending) == TILE_WIDTH:
                yield level, (held - len(pending)) // TILE_WIDTH, tuple(pending)
            if len(pending) < TILE_WIDTH:
                return
            hashes = subtree_rows(pending)[TILE_HEIGHT]
            pending.clear()
            level += 1

    def finish(self) -> Iterator[Tile]:
        """The partial tiles above level 0, once all leaf hashes were added."""
        for level, pending in enumerate(self._partial[1:], 1):
            if pending:
                yield level, (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH, tuple(pending)

    def root(self) -> bytes:
        """The root over all leaf hashes that were added."""
        tops = (CompactRange().extend(pending).hashes for pending in reversed(self._partial))
        return CompactRange(self.size, tuple(subtree for hashes in tops for subtree in hashes)).root()


def tile_path(level: int, number: int, width: int) -> str:
    """Where the tile of `width` hashes lies, relative to the log's folder: `tile/0/x001/234.p/5`."""
    return f"tile/{level}/{_number_path(number, width)}"


def entries_path(number: int, width: int) -> str:
    """Where the entry bundle of `width` leaves lies: `tile/entries/x001/234`."""
    return f"tile/entries/{_number_path(number, width)}"


def paths_of(size: int) -> Iterator[str]:
    """The path of every tile and entry bundle of a log of `size` leaves."""
    level, held = 0, size
    while held:
        for number, width in widths_of(held):
            yield tile_path(level, number, width)
            if level == 0:
                yield entries_path(number, width)
        level, held = level + 1, held >> TILE_HEIGHT


def widths_of(held: int) -> Iterator[tuple[int, int]]:
    """`(number, width)` of the tiles of a level of `held` hashes; of the entry bundles, for level 0."""
    for number in range(held // TILE_WIDTH):
        yield number, TILE_WIDTH
    if held % TILE_WIDTH:
        yield held // TILE_WIDTH, held % TILE_WIDTH


def packed_entries(leaves: Sequence[bytes]) -> bytes:
    """An entry bundle. Each leaf has at most 65,535 bytes."""
    return b"".join([len(leaf).to_bytes(_LENGTH_BYTES, "big") + leaf for leaf in leaves])


def unpacked_entries(bundle: bytes, width: int, where: str) -> list[bytes]:
    """The `width` leaves of an entry bundle. Raises Damaged, naming `where`, for one that is torn or too long."""
    leaves, at = [], 0
    for index in range(width):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(bundle[at:start], "big")
        if start > len(bundle) or at > len(bundle):
            raise Damaged(f"{where} is torn in entry {index} of {width}")
        leaves.append(bundle[start:at])
    if at != len(bundle):
        raise Damaged(f"{where} has {len(bundle) - at} bytes after its {width} entries")
    return leaves


def _number_path(number: int, width: int) -> str:
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03d}")
    return "/".join(groups) + ("" if width == TILE_WIDTH else f".p/{width}")
