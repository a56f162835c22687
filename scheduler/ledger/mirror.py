"""A bundle that grows: the copy of a log that somebody else keeps, brought forward from checkpoint to checkpoint.

Leaves that come wait in a file beside the bundle, so that a long log needs no memory, until a checkpoint is over
exactly all of them: then the bundle is written anew, its full tiles taken over as they are (`write_bundle`). Laws: what
lies at the bundle's path is a whole bundle, or nothing: before the first checkpoint, and for an instant as one takes
another's place; after a crash a mirror goes on from the last one. One process keeps a mirror.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from scheduler.core.errors import Conflict, Damaged, InvalidValue, Unavailable
from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.ledger.bundle import Bundle, read_bundle, write_bundle
from scheduler.ledger.lock import Lock
from scheduler.ledger.treestore import MAX_LEAF_BYTES, TILE_WIDTH

_LENGTH_BYTES = 2


class Mirror:
    """The bundle at `folder`, which is read and checked whole where there is one; an empty folder counts as none.

    A context manager that ends itself. Raises InvalidValue where the parent folder is missing, Conflict where something
    else lies there or another process keeps a mirror, Damaged for a bundle that is not what was written, Unavailable or
    Unauthorised as the file system says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # so that "." has a name
        self._waiting = self.folder.with_name(f".{self.folder.name}.pull")
        self.range = CompactRange()
        """Over every leaf that came so far."""
        self.kept: Bundle | None = None
        """The bundle as it lies there; None before the first checkpoint."""
        self._lock = Lock(self._waiting)
        self._tail: list[bytes] = []
        """The leaves of the bundle that lie in no full tile."""
        self._file: BinaryIO | None = None
        try:
            self._tidy()
            self._restart()
        except BaseException:
            self.end()
            raise

    def add(self, leaves: Iterable[bytes]) -> None:
        """Takes the leaves that follow. Raises InvalidValue for one that is too long, Unavailable as the disk says."""
        arriving = list(leaves)
        for index, leaf in enumerate(arriving, self.range.size):
            if len(leaf) > MAX_LEAF_BYTES:
                raise InvalidValue("length", f"leaf {index}", len(leaf), f"at most {MAX_LEAF_BYTES} bytes")
        try:
            if self._file is None:
                self._file = self._waiting.open("wb+")
            self._file.write(b"".join([len(leaf).to_bytes(_LENGTH_BYTES, "big") + leaf for leaf in arriving]))
        except OSError as error:
            self._restart()
            raise Unavailable(f"{self._waiting} could not be written: {error.strerror}") from error
        self.range = self.range.extend([leaf_hash(leaf) for leaf in arriving])

    def close(
        self,
        checkpoint_note: bytes,
        vkeys: Sequence[str],
        terms: Mapping[str, bytes],
        *,
        witnesses: Sequence[str] = (),
        cosigned_note: bytes = b"",
    ) -> None:
        """Makes the bundle of all leaves, under the checkpoint that is over them. Raises as `write_bundle`; then
        everything since the last checkpoint is gone, and the mirror where it was.
        """
        try:
            last: deque[bytes] = deque(self._tail, maxlen=TILE_WIDTH)
            write_bundle(
                self.folder,
                chain(self._tail, self._arrived(last)),
                checkpoint_note,
                vkeys,
                terms,
                witnesses=witnesses,
                cosigned_note=cosigned_note,
                onto=self.kept,
            )
            self._forget()
            self.kept = read_bundle(self.folder)
            self._tail = [*last][len(last) - self.range.size % TILE_WIDTH :]
        except BaseException:
            self._restart()
            raise

    def end(self) -> None:
        """Removes what came since the last checkpoint, and lets another process go on."""
        self._forget()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def _arrived(self, last: deque[bytes]) -> Iterator[bytes]:
        """The leaves since the last checkpoint; `last` has the latest of them in the end."""
        if self._file is None:
            return
        self._file.seek(0)
        while prefix := self._file.read(_LENGTH_BYTES):
            leaf = self._file.read(int.from_bytes(prefix, "big"))
            last.append(leaf)
            yield leaf

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._waiting.unlink(missing_ok=True)

    def _restart(self) -> None:
        """Goes back to the bundle as it lies there, every leaf of it checked."""
        self._forget()
        self.range, self.kept, self._tail = CompactRange(), None, []
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        try:
            self.kept = read_bundle(self.folder)
        except InvalidValue:
            raise Conflict(f"{self.folder} holds something that is not a bundle; it is not replaced") from None
        leaves = self.kept.leaves()
        while page := list(islice(leaves, TILE_WIDTH)):
            self.range = self.range.extend([leaf_hash(leaf) for leaf in page])
            self._tail = page if len(page) < TILE_WIDTH else []
        if self.range.size != self.kept.stated.size:
            raise Damaged(f"{self.folder} holds {self.range.size} leaves, its checkpoint {self.kept.stated.size}")

    def _tidy(self) -> None:
        """What a crash left: half a bundle goes; the old one comes back where the new one had not taken its place."""
        for left in sorted(self.folder.parent.glob(f".{self.folder.name}.*.old")):
            if left.is_dir() and not self.folder.exists():
                left.rename(self.folder)
            else:
                shutil.rmtree(left, ignore_errors=True)
        for left in sorted(self.folder.parent.glob(f".{self.folder.name}.*.new")):
            shutil.rmtree(left, ignore_errors=True)
