"""`kill -9` at random moments: what was reported done is there, nothing is there by half, and everything agrees."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.core import merkle
from scheduler.ledger.journal import Journal

KILLS = 20


@pytest.mark.slow
def test_twenty_kills_lose_nothing_that_was_reported(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal.db", random.Random(20270115)
    for kill in range(KILLS):
        reported = _run_and_kill(path, seed=kill, commits=chance.randint(1, 120))
        with Journal.open(path) as journal:
            last = _check(journal)
            assert last >= reported


def _run_and_kill(path: Path, seed: int, commits: int) -> int:
    """Kills the appender as soon as it has reported so many commits, wherever it then is; the last seq reported."""
    command = [sys.executable, "-m", "tests.ledger.appender", str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            for _ in range(commits):
                line = child.stdout.readline()
                assert line, "the appender ended by itself"
        finally:
            child.kill()
        remaining = [text for text in child.stdout.read().split("\n")[:-1] if text]  # a torn last line does not count
    return int(remaining[-1] if remaining else line)


def _check(journal: Journal) -> int:
    entries = list(journal.read())
    last = len(entries)
    assert [(it.seq, it.at_ms, it.body) for it in entries] == [
        (seq, seq, b'{"seq":%d}' % seq) for seq in range(1, last + 1)
    ]
    leaves = [leaf for _, leaf in journal.leaves("s")]
    assert leaves == [b"leaf of %d" % seq for seq in range(1, last + 1)]
    assert journal.root("s") == merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    assert journal.cursor("last") == b"%d" % last
    assert journal.acknowledged("s") <= last
    snapshot = journal.snapshot()
    if snapshot is not None:
        seq, chain, body = snapshot
        assert (chain, body) == (entries[seq - 1].chain, b"state at %d" % seq)
    return last
