"""Bundles of a home, beside its scheduler: whole, of one instant, brought up to date, never written over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.bundling import bundle_home
from scheduler.core.errors import Conflict, InvalidValue, TenorError, UnknownName
from scheduler.exchange.audit import audit
from scheduler.exchange.bundles import read_statements
from scheduler.ledger.bundle import read_bundle
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import FIRST_FILE
from tests.api.world import MINUTE_MS, World


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    """Two positions metered every minute, by a scheduler that runs on and owns the journal."""
    made = World(home)
    made.signer.save(home / FIRST_FILE)
    made.instrument(metering_interval_s=60)
    made.trade("p-acme", "acme", 2)
    made.trade("p-borealis", "borealis", 1)
    made.submit("acme")
    yield made
    made.close()


def test_a_bundle_is_made_and_brought_up_to_date_beside_a_running_scheduler(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    world.pass_ms(90 * MINUTE_MS)
    first = bundle_home(tmp_path / "home", folder)
    assert (first.before, first.statements, first.left_out) == (0, 2, {})
    assert first.size == world.journal.log_size("local") > 256
    report = audit(folder, [world.signer.verifier])
    assert report.ok, report.first_wrong
    entries = folder / "tile/entries/000"
    inode = entries.stat().st_ino
    world.pass_ms(10 * MINUTE_MS)
    again = bundle_home(tmp_path / "home", folder)
    assert (again.before, again.size) == (first.size, world.journal.log_size("local"))
    assert again.size > first.size
    assert entries.stat().st_ino == inode
    report = audit(folder, [world.signer.verifier])
    assert report.ok, report.first_wrong
    assert read_statements(folder).keys() == {"p-acme", "p-borealis"}


def test_what_was_cut_out_of_a_bundle_is_written_anew(world: World, tmp_path: Path) -> None:
    world.pass_ms(90 * MINUTE_MS)
    bundle_home(tmp_path / "home", tmp_path / "bundle")
    (tmp_path / "bundle/tile/0/000").unlink()
    assert bundle_home(tmp_path / "home", tmp_path / "bundle").before == 0
    assert audit(tmp_path / "bundle").ok


def test_another_log_or_history_is_not_written_over(world: World, tmp_path: Path) -> None:
    world.pass_ms(3 * MINUTE_MS)
    bundle_home(tmp_path / "home", tmp_path / "bundle")
    kept = read_bundle(tmp_path / "bundle")
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    other.signer.save(tmp_path / "other" / FIRST_FILE)
    other.instrument(metering_interval_s=60)
    other.trade("p-cobalt", "cobalt", 1)
    other.pass_ms(5 * MINUTE_MS)
    other.close()
    with pytest.raises(Conflict, match=f"leaves of another history of tenor.local/local than the journal's {10}"):
        bundle_home(tmp_path / "other", tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle") == kept


@pytest.mark.parametrize(
    ("stream", "raised", "told"),
    [(None, InvalidValue, "nothing was delivered yet"), ("west", InvalidValue, "nothing was delivered yet")],
)
def test_a_home_without_deliveries_says_so(
    world: World, tmp_path: Path, stream: str | None, raised: type[TenorError], told: str
) -> None:
    with pytest.raises(raised, match=told):
        bundle_home(tmp_path / "home", tmp_path / "bundle", stream)
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_home_or_no_stream_is_named(world: World, tmp_path: Path) -> None:
    world.pass_ms(2 * MINUTE_MS)
    with pytest.raises(InvalidValue, match=r"expected a folder with the file journal\.db"):
        bundle_home(tmp_path / "none", tmp_path / "bundle")
    with pytest.raises(UnknownName, match="west"):
        bundle_home(tmp_path / "home", tmp_path / "bundle", "west")


def test_who_reads_beside_the_owner_writes_nothing(world: World, home: Path) -> None:
    world.pass_ms(2 * MINUTE_MS)
    before = world.journal.head
    with Journal.beside(home / "journal.db") as beside, pytest.raises(TenorError):
        beside.commit((), leaves=[b"x"], stream="local")
    assert world.journal.head == before
    with Journal.beside(home / "journal.db") as beside:
        with beside.one_instant():
            size = beside.log_size("local")
            world.pass_ms(5 * MINUTE_MS)
            assert beside.log_size("local") == size
        assert beside.log_size("local") == world.journal.log_size("local") > size
