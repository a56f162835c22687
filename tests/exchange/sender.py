"""Writes a log and publishes it until everything is acknowledged; killed and started again by the test.

`python -m tests.exchange.sender JOURNAL ADDRESS LEAVES`: the leaves follow from their indices, so that it goes on where
it was. Prints `done` at the end.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher
from scheduler.ledger.journal import Journal
from tests.exchange.world import LOTS, SIGNER, STREAM, metered

BATCH = 400


def leaf_of(index: int) -> bytes:
    """The leaf at an index: records of the three positions, of ever higher versions beyond the window's end."""
    position = tuple(LOTS)[index % 3]
    interval, version = (index // 3) % 12, 1 + index // 36
    supersedes = version - 1 if version > 1 else None
    record = metered(position, LOTS[position], interval, version=version, supersedes=supersedes)
    return encode_record(record, index)


def batches(first: int, total: int) -> Iterator[list[bytes]]:
    """The leaves from `first` on, as they are committed."""
    for start in range(first, total, BATCH):
        yield [leaf_of(index) for index in range(start, min(start + BATCH, total))]


def main(journal_path: str, address: str, total: int) -> int:
    """0 where everything was acknowledged."""
    with Journal.open(Path(journal_path)) as journal:
        with Publisher(address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as publisher:
            for leaves in batches(journal.log_size(STREAM), total):
                journal.commit((), leaves=leaves, stream=STREAM)
                publisher.wake()
            done = publisher.wait_acknowledged(total, 60)
            status = publisher.status()
        sys.stdout.write(f"{'done' if done else status} {status.rejected}\n")
        return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
