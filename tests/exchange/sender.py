"""Writes a log and publishes it until everything is acknowledged; killed and started again by the test.

`python -m tests.exchange.sender JOURNAL ADDRESS LEAVES [SECONDS]`: the leaves follow from their indices, so that
it goes on where it was. Prints `done` at the end; gives up so many seconds after the last leaf was written.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.core.metering.records import RecordStatus
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.reference.database import Database
from scheduler.ledger.journal import Journal
from scheduler.ledger.notes import open_checkpoint
from tests.exchange.processes import ExchangeProcess
from tests.exchange.world import LOTS, SIGNER, STREAM, metered

BATCH = 400


def leaf_of(index: int) -> bytes:
    """The leaf at an index: records of the three positions, of ever higher versions beyond the window's end."""
    position = tuple(LOTS)[index % 3]
    interval, version = (index // 3) % 12, 1 + index // 36
    supersedes = version - 1 if version > 1 else None
    status = RecordStatus.CORRECTED if version > 1 else RecordStatus.INITIAL
    record = metered(position, LOTS[position], interval, version=version, supersedes=supersedes, status=status)
    return encode_record(record, index)


def batches(first: int, total: int) -> Iterator[list[bytes]]:
    """The leaves from `first` on, as they are committed."""
    for start in range(first, total, BATCH):
        yield [leaf_of(index) for index in range(start, min(start + BATCH, total))]


def assert_whole(exchange: ExchangeProcess, journal: Path, total: int) -> None:
    """Both sides have these leaves, each once, under equal roots, and every record was settled. Ends the exchange."""
    with ExchangeClient(exchange.address) as client:
        size, note = client.checkpoint(STREAM)
        checkpoint = open_checkpoint(note, (SIGNER.verifier,))
    assert (size, checkpoint.size) == (total, total)
    exchange.kill()
    database = Database(exchange.db)
    try:
        tree = CompactRange()
        for page in database.trees.leaves(STREAM, 0, total):
            assert page == [leaf_of(index) for index in range(tree.size, tree.size + len(page))]
            tree = tree.extend(map(leaf_hash, page))
        assert database.trees.root(STREAM) == tree.root() == checkpoint.root
        assert database.all("SELECT * FROM rejection") == []
        versions = dict(database.all("SELECT version, count(*) FROM record GROUP BY version"))
        assert sum(versions.values()) == 36
        assert min(versions) >= total // 36
    finally:
        database.close()
    with Journal.open(journal) as opened:
        assert (opened.log_size(STREAM), opened.acknowledged(STREAM)) == (total, total)
        assert opened.root(STREAM) == tree.root()
        cosigned = opened.cosigned(STREAM)  # whoever was killed when, the last cosignature is there too
        assert cosigned is not None
        assert cosigned[:2] == (total, note)


def main(journal_path: str, address: str, total: int, most_s: float = 60) -> int:
    """0 where everything was acknowledged."""
    with Journal.open(Path(journal_path)) as journal:
        with Publisher(address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as publisher:
            for leaves in batches(journal.log_size(STREAM), total):
                journal.commit((), leaves=leaves, stream=STREAM)
                publisher.wake()
            done = publisher.wait_acknowledged(total, most_s)
            status = publisher.status()
        sys.stdout.write(f"{'done' if done else status} {status.rejected}\n")
        return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
