"""A bundle: one log as a plain folder that any tlog client can read, mirror and check, with no server and no trust.

    checkpoint               the signed note: origin, size, root
    vkey                     the verifier keys of the log, one a line
    witness                  the verifier keys of its witnesses, one a line
    cosigned                 the latest checkpoint that a witness cosigned, where `checkpoint` is a later one
    tile/<level>/<number>    hashes, and tile/entries/<number> the leaves, in the C2SP tlog-tiles layout
    terms/<symbol>@<version>.json   the terms of every instrument that the leaves speak of, as they were hashed

It exists to be evidence: an auditor recomputes everything from it. Laws: `write_bundle` leaves either the whole new
bundle or what was there before; reading names the first thing that is wrong (`Damaged`). Signatures are not believed
here: an auditor says which keys to trust (`notes.open_checkpoint`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from scheduler.core.errors import Conflict, Damaged, InvalidValue, Unauthorised, Unavailable
from scheduler.core.merkle import HASH_BYTES, leaf_hash
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import Checkpoint, parse_note
from scheduler.ledger.tiles import (
    Tile,
    Tower,
    entries_path,
    packed_entries,
    paths_of,
    tile_path,
    unpacked_entries,
    widths_of,
)
from scheduler.ledger.treestore import MAX_LEAF_BYTES, TILE_HEIGHT, TILE_WIDTH

_CHECKPOINT, _VKEY, _TILES, _TERMS = "checkpoint", "vkey", "tile", "terms"
_WITNESS, _COSIGNED = "witness", "cosigned"
_TERMS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[0-9]+")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it was read. `checkpoint` is the note's bytes; `stated` what it says, believed by nobody yet.
    `cosigned`: the note of an earlier checkpoint that a witness cosigned; empty where there is none.
    """

    folder: Path
    checkpoint: bytes
    stated: Checkpoint
    vkeys: tuple[str, ...]
    terms: Mapping[str, bytes] = field(repr=False)
    cosigned: bytes = b""
    witnesses: tuple[str, ...] = ()

    def keys(self) -> tuple[VerifierKey, ...]:
        """The keys of the `vkey` file. Raises InvalidValue for a malformed one."""
        return tuple(VerifierKey.parse(vkey) for vkey in self.vkeys)

    def witness_keys(self) -> tuple[VerifierKey, ...]:
        """The keys of the `witness` file. Raises InvalidValue for a malformed one."""
        return tuple(VerifierKey.parse(vkey) for vkey in self.witnesses)

    def leaves(self) -> Iterator[bytes]:
        """The leaves in order, each checked against its tile before it is given; at the end all tiles and the root.

        Raises Damaged naming the first file that is wrong: only a caller that reaches the end has seen a whole log.
        """
        return (leaf for leaf, _ in self.hashed_leaves())

    def hashed_leaves(self) -> Iterator[tuple[bytes, bytes]]:
        """As `leaves`, each with its hash."""
        tower = Tower()
        for number, _ in widths_of(self.stated.size):
            leaves = self.entries(number)
            hashes = [leaf_hash(leaf) for leaf in leaves]
            for tile in tower.add(hashes):
                self._check(tile)
            yield from zip(leaves, hashes, strict=True)
        for tile in tower.finish():
            self._check(tile)
        if tower.root() != self.stated.root:
            at = self.folder / _CHECKPOINT
            raise Damaged(f"{at} states the root {self.stated.root.hex()}, the leaves have {tower.root().hex()}")

    def entries(self, number: int) -> list[bytes]:
        """The leaves under a tile of level 0, as they are there. Raises Damaged for a file that is torn."""
        width = min(TILE_WIDTH, self.stated.size - number * TILE_WIDTH)
        path = self.folder / entries_path(number, width)
        return unpacked_entries(_read(path), width, str(path))

    def leaf_hashes(self, number: int) -> bytes:
        """A tile of level 0, as it is there. Raises Damaged for one that is too short."""
        return b"".join(self.hashes(0, number, min(TILE_WIDTH, self.stated.size - number * TILE_WIDTH)))

    @property
    def whole(self) -> int:
        """How many leaves lie in full tiles, which never change."""
        return self.stated.size - self.stated.size % TILE_WIDTH

    def hashes(self, level: int, number: int, width: int) -> list[bytes]:
        """The first `width` hashes of a tile. Raises Damaged where the file is too short."""
        held = (self.stated.size >> (TILE_HEIGHT * level)) - number * TILE_WIDTH
        path = self.folder / tile_path(level, number, min(held, TILE_WIDTH))
        packed = _read(path)[: width * HASH_BYTES]
        if len(packed) != width * HASH_BYTES:
            raise Damaged(f"{path} is too short")
        return [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)]

    def verify(self) -> None:
        """Reads and checks every tile, every leaf and the root. Raises Damaged naming the first file that is wrong."""
        for _ in self.leaves():
            pass

    def _check(self, tile: Tile) -> None:
        level, number, hashes = tile
        path = self.folder / tile_path(level, number, len(hashes))
        if _read(path) != b"".join(hashes):
            raise Damaged(f"{path} does not hold the hashes of what is under it")


def write_bundle(
    folder: Path,
    leaves: Iterable[bytes],
    checkpoint_note: bytes,
    vkeys: Sequence[str],
    terms: Mapping[str, bytes],
    *,
    witnesses: Sequence[str] = (),
    cosigned_note: bytes = b"",
    more: Mapping[str, bytes] = MappingProxyType({}),
    onto: Bundle | None = None,
) -> None:
    """Writes a bundle at `folder`, in place of one that is there. `terms` is keyed by `<symbol>@<version>`;
    `cosigned_note` is an earlier checkpoint with a witness's cosignature, where the latest has none; `more` are files
    of the caller's, by their path in the folder.

    `onto`: a bundle of the beginning of the same log, whose full tiles are taken over as they are, as links where the
    file system has them; `leaves` are then those from `onto.whole` on.

    It is built beside the folder and renamed, so a crash leaves the old one, or for an instant none, never a half.
    Raises InvalidValue for what has no place in a bundle, Conflict where the leaves do not have the checkpoint's size
    and root or where `folder` holds something else, Unavailable or Unauthorised as the file system says.
    """
    folder = folder.absolute()  # so that "." has a name
    stated = Checkpoint.parse(parse_note(checkpoint_note).text)
    _check_names((*vkeys, *witnesses), terms)
    _check_place(folder)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    with _reported(folder):
        shutil.rmtree(building, ignore_errors=True)
        try:
            _write(building / _CHECKPOINT, checkpoint_note)
            _write(building / _VKEY, _lines(vkeys))
            if witnesses:
                _write(building / _WITNESS, _lines(witnesses))
            if cosigned_note:
                _write(building / _COSIGNED, cosigned_note)
            for name, content in sorted(terms.items()):
                _write(building / _TERMS / f"{name}.json", content)
            for path, content in sorted(more.items()):
                _write(building / path, content)
            tower = _write_tiles(building, leaves, onto)
            if (tower.size, tower.root()) != (stated.size, stated.root):
                was = f"{tower.size} leaves with the root {tower.root().hex()}"
                raise Conflict(f"{was} were to be bundled, the checkpoint has {stated.size} with {stated.root.hex()}")
            _replace(folder, building)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def read_bundle(folder: Path) -> Bundle:
    """The bundle at `folder`, with every file that its size asks for there, and no other tile or terms.

    What the tiles hold is checked by `Bundle.leaves` and `Bundle.verify`. Raises InvalidValue where there is no bundle,
    Damaged naming the first file that is missing, not expected or malformed.
    """
    if not (folder / _CHECKPOINT).is_file():
        raise InvalidValue("folder", "a bundle", str(folder), f"a folder with the file {_CHECKPOINT}")
    with _reported(folder):
        checkpoint = _read(folder / _CHECKPOINT)
        try:
            stated = Checkpoint.parse(parse_note(checkpoint).text)
            vkeys = tuple(_read(folder / _VKEY).decode().splitlines())
            witnesses = tuple(_read_if_there(folder / _WITNESS).decode().splitlines())
        except (InvalidValue, UnicodeDecodeError) as error:
            raise Damaged(f"{folder} is not a bundle: {error}") from error
        _check_tiles(folder, stated.size)
        cosigned = _read_if_there(folder / _COSIGNED)
        return Bundle(folder, checkpoint, stated, vkeys, _read_terms(folder / _TERMS), cosigned, witnesses)


def _write_tiles(building: Path, leaves: Iterable[bytes], onto: Bundle | None) -> Tower:
    tower = Tower()
    if onto is not None:
        _take_over(building, onto)
        tower = Tower.resumed(onto.whole, onto.hashes)
    remaining, number = iter(leaves), tower.size // TILE_WIDTH
    while chunk := list(islice(remaining, TILE_WIDTH)):
        for index, leaf in enumerate(chunk, number * TILE_WIDTH):
            if len(leaf) > MAX_LEAF_BYTES:
                raise InvalidValue("length", f"leaf {index}", len(leaf), f"at most {MAX_LEAF_BYTES} bytes")
        _write(building / entries_path(number, len(chunk)), packed_entries(chunk))
        for tile in tower.add([leaf_hash(leaf) for leaf in chunk]):
            _write_tile(building, tile)
        number += 1
    for tile in tower.finish():
        _write_tile(building, tile)
    return tower


def _take_over(building: Path, onto: Bundle) -> None:
    """The full tiles of a bundle, as links: what is full is never written again. Copies where links cannot be made."""
    folders: set[Path] = set()
    for path in paths_of(onto.whole):
        if ".p/" in path:
            continue
        here, there = building / path, onto.folder / path
        if here.parent not in folders:
            here.parent.mkdir(parents=True, exist_ok=True)
            folders.add(here.parent)
        try:
            here.hardlink_to(there)
        except FileNotFoundError:
            raise Damaged(f"{there} is missing") from None
        except OSError:
            shutil.copyfile(there, here)


def _write_tile(building: Path, tile: Tile) -> None:
    level, number, hashes = tile
    _write(building / tile_path(level, number, len(hashes)), b"".join(hashes))


def _replace(folder: Path, building: Path) -> None:
    """Puts the new bundle in the old one's place, which steps aside: POSIX renames no folder onto a full one."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    building.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _check_names(vkeys: Sequence[str], terms: Mapping[str, bytes]) -> None:
    for vkey in vkeys:
        VerifierKey.parse(vkey)
    for name in terms:
        if not _TERMS_NAME.fullmatch(name):
            raise InvalidValue("name", "instrument terms", name, "<symbol>@<version>")


def _check_place(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise InvalidValue("folder", f"the bundle {folder}", "missing", "a parent folder that exists")
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / _CHECKPOINT).is_file():
            raise Conflict(f"{folder} holds something that is not a bundle; it is not replaced")
    elif folder.exists():
        raise Conflict(f"{folder} is a file; it is not replaced by a bundle")


def _check_tiles(folder: Path, size: int) -> None:
    """Every expected tile and entry bundle is there, and nothing else is."""
    found = {path.relative_to(folder).as_posix() for path in (folder / _TILES).rglob("*") if not path.is_dir()}
    for path in paths_of(size):
        if path not in found:
            raise Damaged(f"{folder / path} is missing; the checkpoint is of {size} leaves")
        found.remove(path)
    if found:
        raise Damaged(f"{folder / min(found)} is no part of a log of {size} leaves")


def _read_terms(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    terms = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".json" or not _TERMS_NAME.fullmatch(path.stem):
            raise Damaged(f"{path} is not named <symbol>@<version>.json")
        terms[path.stem] = _read(path)
    return terms


def _lines(vkeys: Sequence[str]) -> bytes:
    return "".join(f"{vkey.strip()}\n" for vkey in vkeys).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _read_if_there(path: Path) -> bytes:
    return _read(path) if path.exists() else b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        raise Unavailable(f"{path} could not be read: {error.strerror}") from error


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Unauthorised(f"{error.filename or folder} may not be read or written by this user") from error
    except OSError as error:
        raise Unavailable(f"the bundle {folder} could not be read or written: {error.strerror}") from error
