"""How fast the journal takes events in, gives them back, and proves what it holds.

The baselines are SQLite alone, with the same rows, bytes and durability but no chain and no tree, and the proof made by
hashing every leaf again. Durable figures are those of the disk under the scratch folder as much as ours.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Self

from scheduler.core import merkle
from scheduler.ledger.journal import Entry, Journal
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib, timed

BATCH = 500
BODY = b'{"gang":"g-000001","node":"n-00001","gpus":8,"filler":"%b"}' % (b"x" * 150)
LEAF = b"\x0a\x10" + b"r" * 198
ENTRY = Entry(at_ms=1_800_000_000_000, kind="gang_started", version=1, body=BODY)

Row = dict[str, Figure]


def run(settings: Settings) -> Result:
    """Appends a second, single and in batches of 500, durable and not; reads a second; microseconds a proof."""
    singles, batches, leaves = (200, 20, 20_000) if settings.quick else (2_000, 100, 1_000_000)
    repeats = 1 if settings.quick else 5
    paths = (settings.scratch / f"{number}.db" for number in count())
    rows: list[Row] = []
    for durable in (True, False):
        appended = _appends(paths, durable=durable, singles=singles, batches=batches, repeats=repeats)
        rows += appended
    rows += _reads_and_proofs(next(paths), leaves, repeats)
    per_second = {(str(row["what"]), row.get("durable")): row.get("per_second") for row in rows}
    proofs = {str(row["what"]): row.get("median_us") for row in rows}
    line = (
        f"journal, durable: {per_second['single', True]} appends/s single, "
        f"{per_second['batch of 500 with leaves', True]} events with leaves/s in batches of {BATCH} "
        f"(SQLite alone {per_second['batch of 500 with leaves, SQLite alone (baseline)', True]}); "
        f"inclusion proof {proofs['inclusion proof']} us at {leaves} leaves"
    )
    return Result(rows, line)


def _appends(paths: Iterator[Path], *, durable: bool, singles: int, batches: int, repeats: int) -> list[Row]:
    """The four ways to append, on a fresh file each run, and SQLite alone."""

    def one_by_one(journal: Journal) -> None:
        for _ in range(singles):
            journal.commit([ENTRY])

    def batched(journal: Journal) -> None:
        for _ in range(batches):
            journal.commit([ENTRY] * BATCH)

    def batched_with_leaves(journal: Journal) -> None:
        for number in range(batches):
            journal.commit([ENTRY] * BATCH, leaves=[LEAF] * BATCH, stream="s", cursors={"c": b"%d" % number})

    rows: list[Row] = []
    works: list[tuple[str, Callable[[Journal], None], int]] = [
        ("single", one_by_one, singles),
        ("batch of 500", batched, batches * BATCH),
        ("batch of 500 with leaves", batched_with_leaves, batches * BATCH),
    ]
    for name, work, events in works:
        with _Opened() as opened:
            made = opened.journals(paths, durable=durable)
            timing = timed(work, lambda made=made: next(made), repeats=repeats)  # type: ignore[misc]
        rows.append({"what": name, "durable": durable, "per_second": round(events / timing.median_s), **timing.row()})
    for name, size, events in (
        ("single, SQLite alone (baseline)", 1, singles),
        ("batch of 500 with leaves, SQLite alone (baseline)", BATCH, batches * BATCH),
    ):
        timing = timed(
            lambda path, size=size, events=events: _sqlite_alone(path, size, events, durable=durable),  # type: ignore[misc]
            lambda: next(paths),
            repeats=repeats,
        )
        rows.append({"what": name, "durable": durable, "per_second": round(events / timing.median_s), **timing.row()})
    return rows


class _Opened:
    """Journals made one after the other, each closed once the next is asked for."""

    def __init__(self) -> None:
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    def journals(self, paths: Iterator[Path], *, durable: bool) -> Iterator[Journal]:
        """A new journal each time."""
        while True:
            if self._journal is not None:
                self._journal.close()
            self._journal = Journal.open(next(paths), durable=durable)
            yield self._journal


def _sqlite_alone(path: Path, batch: int, events: int, *, durable: bool) -> None:
    """The same rows into two plain tables: events, and leaves where they come in batches."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        connection.execute("CREATE TABLE entry (seq INTEGER PRIMARY KEY, at_ms, kind, version, body, chain)")
        connection.execute("CREATE TABLE leaf (slot INTEGER PRIMARY KEY, body)")
        chain = bytes(32)
        for first in range(0, events, batch):
            rows = [(seq, ENTRY.at_ms, ENTRY.kind, 1, BODY, chain) for seq in range(first, first + batch)]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", rows)
            if batch > 1:
                leaves = [(slot, LEAF) for slot in range(first, first + batch)]
                connection.executemany("INSERT INTO leaf VALUES (?, ?)", leaves)
            connection.execute("COMMIT")


def _reads_and_proofs(path: Path, size: int, repeats: int) -> list[Row]:
    """What a journal of `size` leaves, and a tenth as many entries, gives back and proves."""
    chance, asked = random.Random(1), 300
    with Journal.open(path, durable=False) as journal:
        for first in range(0, size, 1_000):
            leaves = [b"%d" % index + LEAF for index in range(first, first + 1_000)]
            journal.commit([ENTRY] * 100, leaves=leaves, stream="s")
        indices = [chance.randrange(size) for _ in range(asked)]
        hashes = [merkle.leaf_hash(b"%d" % index + LEAF) for index in range(size)]
        rows: list[Row] = []
        reads: list[tuple[str, Callable[[Journal], object], int]] = [
            ("read entries, chain checked", lambda it: sum(1 for _ in it.read()), journal.head[0]),
            ("read leaves, tree checked", lambda it: sum(1 for _ in it.leaves("s")), size),
        ]
        for name, work, events in reads:
            timing = timed(work, lambda: journal, repeats=repeats)
            rows.append({"what": name, "per_second": round(events / timing.median_s), **timing.row()})
        proofs: list[tuple[str, Callable[[Journal], object], int]] = [
            ("inclusion proof", lambda it: [it.inclusion_proof("s", index, size) for index in indices], asked),
            ("consistency proof", lambda it: [it.consistency_proof("s", index, size) for index in indices], asked),
            ("root", lambda it: [it.root("s") for _ in indices], asked),
            ("inclusion proof over all leaves (baseline)", lambda _: merkle.inclusion_proof(hashes, 0, size), 1),
        ]
        for name, work, times in proofs:
            timing = timed(work, lambda: journal, repeats=repeats, warm_ups=0)
            rows.append(
                {"what": name, "leaves": size, "median_us": round(timing.median_s / times * 1e6), **timing.row()}
            )
        rows.append({"what": "memory", "leaves": size, "peak_mib": peak_mib()})
    return rows
