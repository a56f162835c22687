"""A bundle that grows: the copy of a log that somebody else keeps, brought forward from checkpoint to checkpoint.

Leaves are laid down in a folder beside the bundle as they come, whole tiles at once, so that a long log needs no
memory; with a checkpoint over all of them the folder takes the bundle's place. Tiles that are full never change: the
next folder links them instead of copying. Laws: what lies at the bundle's path is a whole bundle, or nothing: before
the first checkpoint, and for an instant as one takes another's place; after a crash `Mirror` goes on from the last one.
One process keeps a mirror.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from scheduler.core.errors import Damaged
from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.ledger.bundle import (
    Bundle,
    Front,
    check_place,
    read_bundle,
    replace_bundle,
    reported_folder,
    write_entries,
    write_tile,
)
from scheduler.ledger.lock import Lock
from scheduler.ledger.tiles import Tower, paths_of
from scheduler.ledger.treestore import TILE_WIDTH


class Mirror:
    """The bundle at `folder`, which is read and checked whole where there is one.

    A context manager that ends itself. Raises InvalidValue where no bundle can be, Conflict where something else is, or
    another process keeps a mirror, Damaged for one that is not what was written, Unavailable or
    Unauthorised as the file system says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # so that "." has a name
        self._building = self.folder.with_name(f".{self.folder.name}.pull")
        self._aside = self.folder.with_name(f".{self.folder.name}.old")
        self.range = CompactRange()
        """Over every leaf that came so far."""
        self.kept: Bundle | None = None
        """The bundle as it lies there; None before the first checkpoint."""
        check_place(self.folder)
        self._lock = Lock(self._building)
        try:
            self._restart()
        except BaseException:
            self._lock.close()
            raise

    def add(self, leaves: Iterable[bytes]) -> None:
        """Lays down the leaves that follow. Raises InvalidValue for one that is too long."""
        arriving = list(leaves)
        with reported_folder(self.folder):
            self.range = self.range.extend([leaf_hash(leaf) for leaf in arriving])
            self._tail += arriving
            while len(self._tail) >= TILE_WIDTH:
                write_entries(self._building, self._tower, self._tower.size // TILE_WIDTH, self._tail[:TILE_WIDTH])
                del self._tail[:TILE_WIDTH]

    def close(self, front: Front) -> None:
        """Makes the bundle of all leaves under the checkpoint that is over them. Raises Conflict where it is over
        others, and what has no place in a bundle as InvalidValue; then everything since the last checkpoint is gone.
        """
        try:
            self._close(front)
        except BaseException:
            self._restart()
            raise

    def end(self) -> None:
        """Removes what came since the last checkpoint, and lets another process go on."""
        shutil.rmtree(self._building, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def _close(self, front: Front) -> None:
        front.check()
        with reported_folder(self.folder):
            whole = copy.deepcopy(self._tower)
            if self._tail:
                write_entries(self._building, whole, whole.size // TILE_WIDTH, self._tail)
            for tile in whole.finish():
                write_tile(self._building, tile)
            front.check_over(whole)
            front.write(self._building)
            check_place(self.folder)
            replace_bundle(self.folder, self._building, self._aside)
            self.kept = read_bundle(self.folder)
            self._link()

    def _restart(self) -> None:
        """Reads the bundle, if there is one, and checks every leaf of it."""
        self.range, self._tail, self._tower = CompactRange(), [], Tower()
        self.kept = None
        with reported_folder(self.folder):
            if self._aside.is_dir() and not self.folder.exists():  # a crash came between the two
                self._aside.rename(self.folder)
            for left in (self._building, self._aside):
                shutil.rmtree(left, ignore_errors=True)
            if not self.folder.is_dir() or not any(self.folder.iterdir()):
                return
            self.kept = read_bundle(self.folder)
            leaves = self.kept.leaves()
            while chunk := list(islice(leaves, TILE_WIDTH)):
                hashes = [leaf_hash(leaf) for leaf in chunk]
                self.range = self.range.extend(hashes)
                if len(chunk) < TILE_WIDTH:
                    self._tail = chunk
                else:
                    for _ in self._tower.add(hashes):
                        pass
            if self.range.size != self.kept.stated.size:
                raise Damaged(f"{self.folder} holds {self.range.size} leaves, its checkpoint {self.kept.stated.size}")
            self._link()

    def _link(self) -> None:
        """The full tiles of the bundle in the folder where the next one is made."""
        if self.kept is None:
            return
        for path in paths_of(self.kept.stated.size):
            if ".p/" in path:
                continue
            made = self._building / path
            made.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.folder / path, made)
            except OSError:  # not every file system has links
                shutil.copyfile(self.folder / path, made)
