"""Coming back: what nobody saw is estimated or unknown, a snapshot is checked, a full disk pauses and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.causes import Cause
from scheduler.core.errors import Damaged, Unavailable
from scheduler.core.events import GangEnded, HealthChanged, decode
from scheduler.core.metering.records import Quality
from scheduler.core.state.dump import dump
from scheduler.core.workloads import Piece
from scheduler.execution.protocol import Launch
from scheduler.execution.simulated import SimulatedExecutor, Work
from scheduler.ledger.journal import Journal
from scheduler.recovery import fold, healthy_nodes, save_snapshot
from tests.simulation.site import START_MS, STREAM, Fate, Site, gang, listing, nodes


def running(outage_ms: int = 0, path: Path | str = ":memory:", work_ms: int = 10**9) -> Site:
    """One account, one gang on all it owns, two intervals closed."""
    site = Site(nodes(2), outage_ms=outage_ms, path=path, work=lambda _: Work(work_ms))
    site.round()
    site.listed(listing())
    site.trade("acme-1", "acme", 2)
    site.submit(gang("acme", workers=2))
    site.until(22_000)
    return site


@pytest.mark.parametrize(
    ("outage_ms", "estimated_ms", "unknown_ms"),
    [
        (0, 0, 0),
        (2_000, 0, 0),
        (8_000, 8_000, 0),
        (12_000, 12_000, 0),
        (15_000, 15_000, 0),
        (16_000, 0, 16_000),
        (60_000, 0, 60_000),
    ],
)
def test_gaps_of_up_to_two_readings_are_estimated_and_longer_ones_unknown(
    outage_ms: int, estimated_ms: int, unknown_ms: int
) -> None:
    site = running(outage_ms)
    site.round()  # the fleet is seen at this instant
    site.die_and_return()
    site.until(100_000)
    records = site.records("acme-1")
    assert sum(record.estimated_gpu_ms for record in records) == 16 * estimated_ms
    assert sum(record.unknown_gpu_ms for record in records) == 16 * unknown_ms
    assert sum(record.used_gpu_ms for record in records) == 16 * (100_000 - unknown_ms)
    assert (Quality.ESTIMATED in {record.quality for record in records}) is bool(estimated_ms)
    assert site.status("gang-1") == "running"
    assert len(site.executor.starts) == 1


def test_a_gap_in_which_something_ended_is_not_estimated() -> None:
    site = running(8_000, work_ms=25_000)
    site.round()
    site.die_and_return()
    site.until(50_000)
    records = site.records("acme-1")
    assert sum(record.estimated_gpu_ms for record in records) == 0
    assert sum(record.unknown_gpu_ms for record in records) == 16 * 8_000
    assert site.status("gang-1") == "succeeded"


def test_blindness_that_a_restart_ends_stays_unknown_from_its_beginning() -> None:
    site = running()
    site.round()
    site.executor.healthy = False
    site.until(29_000)
    site.submit(gang("acme"))
    site.executor.healthy = True
    site.die_and_return()
    site.until(50_000)
    unknown = sum(record.unknown_gpu_ms + record.estimated_gpu_ms for record in site.records("acme-1"))
    assert unknown >= 16 * 6_900


def test_a_snapshot_speeds_the_start_and_is_the_fold(tmp_path: Path) -> None:
    site = running(path=tmp_path / "journal.db")
    save_snapshot(site.journal, site.scheduler)
    site.until(45_000)
    assert fold(site.journal).from_snapshot
    assert dump(fold(site.journal, check_up_to=0).state) == dump(site.scheduler.state)
    site.die_and_return()
    site.until(61_000)
    assert site.status("gang-1") == "running"
    site.journal.close()


def test_a_snapshot_that_is_not_the_fold_is_damage() -> None:
    site = running()
    seq, chain = site.journal.head
    site.journal.save_snapshot(seq, chain, dump(site.scheduler.state) + b"\0" * 8)
    with pytest.raises(Damaged, match="is not what the events before it fold to"):
        fold(site.journal)


def test_a_journal_that_was_changed_is_damage(tmp_path: Path) -> None:
    site = running(path=tmp_path / "journal.db")
    site.journal._connection.execute("UPDATE entry SET body = replace(body, 'acme', 'bolt') WHERE seq = 4")
    with pytest.raises(Damaged):
        fold(site.journal)
    site.journal.close()


def made_anew(site: Site) -> SimulatedExecutor:
    """A cluster on the same nodes that knows of nothing that ran there."""
    return SimulatedExecutor(nodes(2), lambda: site.now_ms, lambda _: Work(10**9))


def test_an_attempt_that_execution_does_not_know_was_lost_and_runs_again() -> None:
    site = running()
    site.round()
    site.executor.inner = made_anew(site)
    site.die_and_return()
    assert site.status("gang-1") == "running"
    site.until(24_000)
    assert (site.status("gang-1"), site.executor.starts) == ("running", [("gang-1", 1), ("gang-1", 2)])
    (first,) = (decode(1, entry.body) for entry in site.journal.read() if entry.kind == "gang_ended")
    assert isinstance(first, GangEnded)
    assert (first.attempt, first.exit_code, first.detail) == (1, None, "was not running")
    assert site.refolded() == dump(site.scheduler.state)


def test_an_attempt_that_nobody_decided_is_stopped() -> None:
    site = running()
    stray = Launch("gang-9", 1, "acme", "stray", ("run",), (Piece(node="node-0", gpus=(0,)),))
    site.executor.inner = made_anew(site)
    site.executor.inner.start(stray)
    site.die_and_return()
    site.until(24_000)
    assert [(each.gang, each.attempt) for each in site.executor.running()] == [("gang-1", 2)]
    assert "gang-9" not in site.scheduler.state.gangs.by_id


def test_nodes_that_were_there_are_those_that_are_not_lost_whatever_else_ails_them() -> None:
    state = running().scheduler.state
    assert [node.name for node in healthy_nodes(state)] == ["node-0", "node-1"]
    state.apply(HealthChanged(at_ms=START_MS + 22_000, node="node-0", gpus=(1,), cause=Cause.ECC))
    state.apply(HealthChanged(at_ms=START_MS + 22_000, node="node-1", cause=Cause.NODE_LOST))
    assert [node.name for node in healthy_nodes(state)] == ["node-0"]


# -- a full disk: SQLite itself refuses to grow the file beyond so many pages, as it does where no block is left


def room(journal: Journal, pages: int | None) -> None:
    """Let the file grow by so many pages from now; None: freely."""
    (size,) = journal._connection.execute("PRAGMA page_count").fetchone()
    limit = 2**30 if pages is None else size + pages
    journal._connection.execute(f"PRAGMA max_page_count = {limit}")


@pytest.mark.parametrize("pages", range(6))
def test_a_full_disk_pauses_everything_and_nothing_is_lost_or_done_twice(pages: int, tmp_path: Path) -> None:
    site, calm = running(path=tmp_path / "journal.db"), running()
    room(site.journal, pages)
    refused = 0
    for k in range(40):
        try:
            site.submit(gang("bolt", name=f"n{k}", env={"FILL": "x" * 500}), f"request-{k}")
        except Unavailable:
            refused += 1
    assert refused > 0
    assert site.scheduler.paused
    durable = [name for name in site.scheduler.state.gangs.ids if name in fold(site.journal).state.gangs.by_id]
    assert (
        len(site.scheduler.state.gangs.ids) - len(durable) <= 1
    )  # the first that was refused is kept, and tried again
    before = list(site.executor.starts)
    site.until(42_000)
    assert site.executor.starts == before
    assert site.journal.log_size(STREAM) == calm.journal.log_size(STREAM)
    room(site.journal, None)
    for k in range(40):
        site.submit(gang("bolt", name=f"n{k}", env={"FILL": "x" * 500}), f"request-{k}")
    site.until(61_000)
    assert site.scheduler.paused == ""
    assert len(site.scheduler.state.gangs.ids) == 41
    assert site.refolded() == dump(site.scheduler.state)
    keys = [(record.position, record.start_ms, record.version) for record in site.records()]
    assert len(keys) == len(set(keys)) == 6
    checkpoint = site.journal.checkpoint(STREAM)
    assert checkpoint is not None
    assert checkpoint[0] == site.journal.log_size(STREAM)
    site.journal.close()


def test_a_disk_that_fills_between_the_leaves_and_their_checkpoint_writes_nothing_twice(tmp_path: Path) -> None:
    site = running(path=tmp_path / "journal.db")
    fate = Fate()
    site.journal.fate = fate

    def boundary(what: str) -> None:
        if what == "before checkpoint":
            raise Unavailable("no space is left for a checkpoint")

    fate.boundary = boundary  # type: ignore[method-assign]
    site.until(35_000)
    assert site.journal.log_size(STREAM) > site.journal.checkpoint(STREAM)[0]  # type: ignore[index]
    site.journal.fate = Fate()
    site.until(45_000)
    keys = [(record.position, record.start_ms) for record in site.records()]
    assert keys == [("acme-1", START_MS + 10_000 * k) for k in range(4)]
    assert site.journal.checkpoint(STREAM)[0] == site.journal.log_size(STREAM)  # type: ignore[index]
    assert site.refolded() == dump(site.scheduler.state)
    site.journal.close()
