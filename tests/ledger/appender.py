"""Appends to a journal for ever, telling each commit on stdout once it is done. Killed by the test that starts it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from scheduler.ledger.journal import Entry, Journal


def main(path: str, seed: int) -> None:
    """Commits batches of 1 to 40 entries, as many leaves, and the number of the commit as the cursor."""
    chance = random.Random(seed)
    with Journal.open(Path(path)) as journal:
        while True:
            first, count = journal.head[0] + 1, chance.randint(1, 40)
            entries = [Entry(seq, "counted", 1, b'{"seq":%d}' % seq) for seq in range(first, first + count)]
            leaves = [b"leaf of %d" % seq for seq in range(first, first + count)]
            last = journal.commit(entries, leaves=leaves, stream="s", cursors={"last": b"%d" % (first + count - 1)})
            if chance.random() < 0.3:
                journal.acknowledge("s", last - 1)
            if chance.random() < 0.1:
                journal.save_snapshot(*journal.head, b"state at %d" % last)
            sys.stdout.write(f"{last}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
