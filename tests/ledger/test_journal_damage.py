"""Files that are torn, flipped, full, forbidden, missing or somebody else's: an error of ours, no loss in silence."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.core.errors import Damaged, InvalidValue, TenorError, Unauthorised, Unavailable
from scheduler.ledger import schema
from scheduler.ledger.journal import Entry, Journal

COMMITS = 12
PER_COMMIT = 30


def _entries(start: int, count: int = PER_COMMIT) -> list[Entry]:
    return [
        Entry(number, "node_ready", 1, b'{"node":"n-%d","filler":"%b"}' % (number, b"x" * 60))
        for number in range(start, start + count)
    ]


def _fill(journal: Journal) -> None:
    for commit in range(COMMITS):
        leaves = [b"record %d of %d" % (number, commit) for number in range(PER_COMMIT)]
        journal.commit(_entries(commit * PER_COMMIT), leaves=leaves, stream="s", cursors={"c": b"%d" % commit})


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A journal's one file, everything in it, closed."""
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        _fill(journal)
    assert not path.with_name("journal.db-wal").exists()
    return path


def _everything(path: Path) -> tuple[object, ...]:
    with Journal.open(path) as journal:
        entries = tuple(journal.read())
        leaves = tuple(journal.leaves("s"))
        return entries, leaves, journal.head, journal.root("s"), journal.log_size("s")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE entry SET body = x'7b7d' WHERE seq = 17", "entry 17 is not what was written"),
        ("UPDATE entry SET at_ms = at_ms + 1 WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET kind = 'node_lost' WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET version = 2 WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET chain = zeroblob(32) WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET body = 'text' WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET at_ms = 1.5 WHERE seq = 17", "entry 17 is not"),
        ("UPDATE entry SET kind = CAST(x'ff' AS TEXT) WHERE seq = 17", "entries after 0"),
        ("DELETE FROM entry WHERE seq = 17", "entry 17 is missing, entry 18 follows"),
        ("DROP TABLE entry", "no such table"),
    ],
)
def test_a_changed_entry_is_found_and_named(filled: Path, change: str, found: str) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(Damaged, match=found) as raised:
        _everything(filled)
    assert str(filled) in str(raised.value)


def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(filled: Path, tmp_path: Path) -> None:
    """A byte of free space may flip unseen; a byte of an entry or a leaf may not."""
    whole, before = filled.read_bytes(), _everything(filled)
    chance = random.Random(20270101)
    copy, found = tmp_path / "copy.db", 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        copy.write_bytes(flipped)
        try:
            assert _everything(copy) == before
        except TenorError:
            found += 1
        copy.with_name("copy.db-wal").unlink(missing_ok=True)
    assert found > 75  # entries and leaves are most of the file


def test_a_byte_of_an_entrys_body_flipped_in_the_file_names_its_seq(filled: Path) -> None:
    content = bytearray(filled.read_bytes())
    at = content.index(b'"n-200"')  # in entry 201
    content[at + 1] ^= 1
    filled.write_bytes(content)
    with pytest.raises(Damaged, match=f"{filled}: entry 201 is not what was written"):
        _everything(filled)


def test_a_torn_write_ahead_log_loses_whole_commits_from_the_end_only(tmp_path: Path) -> None:
    live, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    with Journal.open(live) as journal:
        _fill(journal)
        database = live.read_bytes()
        log = live.with_name("journal.db-wal").read_bytes()
    chance, heads = random.Random(7), set()
    for cut in [*(chance.randrange(len(log)) for _ in range(25)), len(log)]:
        copy.write_bytes(database)
        copy.with_name("copy.db-wal").write_bytes(log[:cut])
        with Journal.open(copy) as torn:
            entries = list(torn.read())
            assert len(entries) == torn.head[0] == torn.log_size("s") == len(list(torn.leaves("s")))
            assert torn.head[0] % PER_COMMIT == 0
            assert torn.cursor("c") == (b"%d" % (torn.head[0] // PER_COMMIT - 1) if entries else None)
            heads.add(torn.head[0])
            torn.commit(_entries(0), leaves=[b"goes on"], stream="s")
    assert max(heads) == COMMITS * PER_COMMIT
    assert len(heads) > 3


def test_a_full_disk_refuses_the_commit_and_the_next_one_works(filled: Path) -> None:
    with Journal.open(filled) as journal:
        head, root = journal.head, journal.root("s")
        (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
        journal._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(Unavailable, match=f"{filled} has no room left"):
            journal.commit(_entries(0, 5_000), leaves=[b"x" * 300] * 600, stream="s", cursors={"c": b"new"})
        assert (journal.head, journal.root("s"), journal.cursor("c")) == (head, root, b"%d" % (COMMITS - 1))
        journal._connection.execute("PRAGMA max_page_count = 1000000")
        assert journal.commit(_entries(0), leaves=[b"x"] * 600, stream="s") == head[0] + PER_COMMIT
    _everything(filled)


LIMITED = """
import resource, signal, sys
from scheduler.core.errors import Unavailable
from scheduler.ledger.journal import Entry, Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal.open(sys.argv[1]) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    done = journal.head[0]
    try:
        while True:
            done = journal.commit([Entry(0, "k", 1, b"x" * 500)] * 20, leaves=[b"y" * 100] * 20, stream="s")
    except Unavailable as error:
        print(error)
    assert journal.head[0] == done == len(list(journal.read())) == journal.log_size("s"), "half a commit"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert journal.commit([Entry(0, "k", 1, b"after")]) == done + 1
"""


def test_a_write_that_the_system_refuses_leaves_the_journal_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    ended = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert str(path) in ended.stdout
    with Journal.open(path) as journal:
        assert sum(1 for _ in journal.read()) == journal.head[0]


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"these are the notes of a meeting, and long enough to be a database " * 100)
    with pytest.raises(Damaged, match=f"{path} is not what was written"):
        Journal.open(path)


def test_a_truncated_database_is_damaged(filled: Path) -> None:
    os.truncate(filled, filled.stat().st_size // 2)
    with pytest.raises(Damaged):
        _everything(filled)


def test_a_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (key, value)")
    before = path.read_bytes()
    with pytest.raises(InvalidValue, match="another program"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_a_newer_version_is_refused_untouched(filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
        connection.commit()
    before = filled.read_bytes()
    with pytest.raises(InvalidValue, match=rf"was 99, expected at most {schema.VERSION}; a newer Tenor"):
        Journal.open(filled)
    assert filled.read_bytes() == before


def test_an_older_version_is_brought_forward_and_keeps_its_entries(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _everything(filled)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (x)",)))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    assert _everything(filled) == before
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("SELECT value FROM meta").fetchone() == (schema.VERSION,)
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (0,)


def test_a_failed_migration_changes_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (x)", "NO SQL AT ALL")))
        patched.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(TenorError, match="syntax error"):
            Journal.open(filled)
    with Journal.open(filled) as journal:
        assert journal._connection.execute("SELECT value FROM meta").fetchone() == (schema.VERSION,)
        assert journal._connection.execute("SELECT * FROM sqlite_master WHERE name = 'later'").fetchone() is None


def test_a_missing_folder_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="a folder that exists"):
        Journal.open(tmp_path / "nowhere" / "journal.db")
    with pytest.raises(InvalidValue, match="a file that exists"):
        Journal.open(tmp_path / "journal.db", create=False)
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InvalidValue, match="'a folder', expected a file"):
        Journal.open(folder)


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write everything; no setpriv"
)
def test_a_file_that_may_not_be_written_is_refused(filled: Path) -> None:
    filled.chmod(0o400)
    for folder in filled.parents[: filled.parents.index(Path(tempfile.gettempdir()).resolve())]:
        folder.chmod(0o755)
    filled.with_name("journal.db.lock").chmod(0o666)
    script = (
        "import sys\nfrom scheduler.core.errors import Unauthorised\nfrom scheduler.ledger.journal import Journal\n"
        "try: Journal.open(sys.argv[1])\nexcept Unauthorised as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(filled)]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--clear-groups", *command]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{filled} may not be read and written by this user" in ended.stdout, ended.stderr
    assert issubclass(Unauthorised, TenorError)
