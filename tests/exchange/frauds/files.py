"""What whoever has the folder may change: statements, tiles, entries, terms."""

from __future__ import annotations

import json
import os
from pathlib import Path

from scheduler.core.merkle import leaf_hash
from scheduler.core.models import canonical_bytes
from scheduler.ledger.bundle import read_bundle
from tests.exchange.evidence import FIRST, Evidence, as_delivered, record_at, settled_over, told
from tests.exchange.frauds.kinds import Fraud, forge, lie, settled
from tests.exchange.world import INTERVAL_MS, START_MS, terms

SIZE = len(told())
LAST_TILE, LAST_ENTRIES = f"tile/0/001.p/{SIZE % 256}", f"tile/entries/001.p/{SIZE % 256}"


def stated(folder: Path, **changes: object) -> None:
    """Changes what the statement of pos-1 says."""
    path = folder / "statements/pos-1.json"
    path.write_bytes(canonical_bytes(json.loads(path.read_bytes()) | changes))


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def append(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


def swap(path: Path, at: int, width: int) -> None:
    """Exchanges two neighbours of a file of equal parts."""
    content = path.read_bytes()
    first, second = content[at : at + width], content[at + width : at + 2 * width]
    path.write_bytes(content[:at] + second + first + content[at + 2 * width :])


def both_changed(folder: Path) -> None:
    """Changes an entry and its hash, so that the two agree."""
    entries = folder / LAST_ENTRIES
    flip(entries)
    width = int(entries.name)
    size = read_bundle(folder).stated.size
    content = entries.read_bytes()
    length_at = 0
    for _ in range(width - 1):
        length_at += 2 + int.from_bytes(content[length_at : length_at + 2], "big")
    tile = folder / LAST_TILE
    assert size % 256 == width
    tile.write_bytes(tile.read_bytes()[:-32] + leaf_hash(content[length_at + 2 :]))


def too_many(folder: Path) -> None:
    (folder / "tile/0/002.p").mkdir()
    (folder / "tile/0/002.p/9").write_bytes(b"")


def replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


STATEMENTS: dict[str, Fraud] = {
    "an outage is kept out of the log": lie(
        lambda: told(record_at("pos-3", 6, **as_delivered("pos-3", 6))),
        "statements",
        "statements/pos-3.json: records_root was",
    ),
    "the statement is over other versions of the records": settled(
        lambda: Evidence(settled=settled_over(told()[: FIRST + 48], "pos-1")),
        "statements",
        "statements/pos-1.json: records_root was",
    ),
    "the statement begins after a bad interval": settled(
        lambda: Evidence(settled=settled_over(told(), "pos-1", START_MS + INTERVAL_MS)),
        "statements",
        "start_ms was 1800000010000, expected 1800000000000 or earlier: 240000 GPU-ms are contracted in",
    ),
    "the price is another one than was listed": settled(
        lambda: Evidence(instruments=(terms(price_micro_per_gpu_hour=1),)),
        "statements",
        "spec_hash was",
    ),
    "the amount is another one": forge(
        lambda folder: stated(folder, amount_micro=1), "statements", "amount_micro was 1, the records give"
    ),
    "less was lost than the records say": forge(
        lambda folder: stated(folder, losses=[]), "statements", "losses was (), the records give"
    ),
    "the statement is of another position": forge(
        lambda folder: (folder / "statements/pos-1.json").replace(folder / "statements/pos-2.json"),
        "statements",
        "statements/pos-2.json: it is of pos-1",
    ),
    "the statement is of nobody": forge(
        lambda folder: (folder / "statements/pos-9.json").write_bytes((folder / "statements/pos-1.json").read_bytes()),
        "statements",
        "statements/pos-9.json: it is of pos-1",
    ),
    "the statement has other bytes": forge(
        lambda folder: append(folder / "statements/pos-1.json", b"\n"), "statements", "its bytes are not canonical"
    ),
}


FILES: dict[str, Fraud] = {
    "an entry is changed": forge(lambda it: flip(it / "tile/entries/000"), "tree", "tile/0/000 does not hold"),
    "an entry of the last tile is changed": forge(
        lambda it: flip(it / LAST_ENTRIES), "tree", f"{LAST_TILE} does not hold"
    ),
    "an entry and its hash are changed": forge(both_changed, "tree", "checkpoint states the root"),
    "an entry is added": forge(lambda it: append(it / LAST_ENTRIES, b"\0\0"), "tree", "2 bytes after its"),
    "an entry is cut": forge(lambda it: os.truncate(it / LAST_ENTRIES, 100), "tree", "is torn in entry"),
    "a hash is changed": forge(lambda it: flip(it / LAST_TILE), "tree", f"{LAST_TILE} does not hold"),
    "two hashes are exchanged": forge(lambda it: swap(it / LAST_TILE, 0, 32), "tree", f"{LAST_TILE} does not hold"),
    "a hash of a higher tile is changed": forge(lambda it: flip(it / "tile/1/000.p/1"), "tree", "tile/1/000.p/1"),
    "a tile is missing": forge(lambda it: (it / "tile/0/000").unlink(), "folder", "tile/0/000 is missing"),
    "entries are missing": forge(lambda it: (it / LAST_ENTRIES).unlink(), "folder", f"{LAST_ENTRIES} is missing"),
    "a tile is too many": forge(too_many, "folder", "is no part of a log of"),
    "terms are missing": forge(
        lambda it: (it / "terms/H100.BASE@1.json").unlink(), "intervals", "the bundle holds no terms of H100.BASE@1"
    ),
    "terms are nonsense": forge(lambda it: flip(it / "terms/H100.BASE@1.json", 0), "terms", "terms/H100.BASE@1.json: "),
    "terms stand under another name": forge(
        lambda it: (it / "terms/H100.BASE@1.json").replace(it / "terms/H100.BASE@2.json"),
        "terms",
        "terms/H100.BASE@2.json: they are of H100.BASE@1, expected H100.BASE@2",
    ),
    "the floor is lowered in the terms": forge(
        lambda it: replaced(it / "terms/H100.BASE@1.json", b'"floor_ppm":900000', b'"floor_ppm":600000'),
        "statements",
        "spec_hash was",
    ),
}
