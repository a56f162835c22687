"""One owner at a time, across processes, and nobody's after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, InvalidValue
from scheduler.ledger.journal import Journal
from scheduler.ledger.lock import Lock


def test_another_process_is_refused_until_the_owner_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-m", "tests.ledger.appender", str(path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline(), "the owner ended by itself"
            with pytest.raises(Conflict, match=rf"{path} is owned by the running process {owner.pid}$"):
                Journal.open(path)
        finally:
            owner.kill()
        owner.wait(30)
        with Journal.open(path) as journal:
            assert journal.head[0] > 0


def test_the_lock_file_names_its_latest_owner_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.with_name("journal.db.lock").write_text("123456789\n")  # left by an owner that is gone
    lock = Lock(path)
    assert lock.path.read_text() == f"{os.getpid()}\n"
    lock.close()
    lock.close()
    with Lock(path), pytest.raises(Conflict):
        Lock(path)
    assert lock.path.exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="a folder that exists"):
        Lock(tmp_path / "nowhere" / "journal.db")
