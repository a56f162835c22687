"""The loop on simulated execution: what teams, admins and the exchange say, and what comes of it, by scenario."""

from __future__ import annotations

import pytest

from scheduler.core.causes import Cause
from scheduler.core.errors import Equivocation, Refused, UnknownName
from scheduler.core.positions import PositionEventKind
from scheduler.core.state.dump import dump
from scheduler.core.workloads import GangStatus, StopCause
from scheduler.execution.simulated import GpuFault, NodeDown, NodeUp, Work
from scheduler.service import ServiceSettings
from tests.simulation.site import START_MS, Site, gang, listing, lost, nodes


def owned(*lots: tuple[str, str, int], fleet: int = 3, **given: object) -> Site:
    """A site whose accounts own lots of whole nodes: (position, account, lots)."""
    site = Site(nodes(fleet), **given)  # type: ignore[arg-type]
    site.round()
    site.listed(listing())
    for position, account, count in lots:
        site.trade(position, account, count)
    site.round()
    return site


def test_a_gang_runs_on_what_its_account_owns_and_ends() -> None:
    site = owned(("acme-1", "acme", 1), work=lambda _: Work(7_000, start_ms=200))
    name = site.submit(gang("acme"))
    site.until(100)
    assert site.status(name) == "binding"
    site.until(5_000)
    assert site.status(name) == "running"
    site.until(12_000)
    assert site.status(name) == "succeeded"
    (record,) = site.records("acme-1")
    assert (record.used_gpu_ms, record.available_unused_gpu_ms) == (8 * 7_000, 8 * 3_000)


def test_the_same_request_is_the_same_gang_and_another_content_is_refused() -> None:
    site = owned()
    first = site.submit(gang("acme"), "once")
    assert site.submit(gang("acme"), "once") == first
    head = site.journal.head
    with pytest.raises(Refused, match="already used"):
        site.submit(gang("acme", 4), "once")
    assert site.journal.head == head
    assert site.submit(gang("acme")) != first


@pytest.mark.parametrize("at_ms", [0, 100, 3_000])
def test_a_cancelled_gang_ends_whatever_it_does(at_ms: int) -> None:
    site = owned(work=lambda _: Work(60_000, start_ms=500))
    name = site.submit(gang("acme"))
    if at_ms:
        site.until(at_ms)
    site.scheduler.cancel(name)
    site.scheduler.cancel(name)
    site.until(20_000)
    assert site.status(name) == "cancelled"
    assert site.kinds().count("cancel_asked") == 1
    with pytest.raises(UnknownName):
        site.scheduler.cancel("gang-9")


def test_a_gang_that_is_cancelled_while_it_is_reclaimed_does_not_come_back() -> None:
    site = owned(("acme-1", "acme", 3), work=lambda _: Work(10**8))
    borrower = site.submit(gang("bolt", workers=3, grace_ms=10_000))
    site.until(2_000)
    site.submit(gang("acme", workers=3))
    site.until(4_000)
    assert site.status(borrower) == "stopping"
    site.scheduler.cancel(borrower)
    site.until(30_000)
    assert site.status(borrower) == "cancelled"


def test_what_is_lent_comes_back_within_the_grace_and_nobody_runs_twice() -> None:
    site = owned(("acme-1", "acme", 3), work=lambda _: Work(10**8))
    borrower = site.submit(gang("bolt", workers=3, grace_ms=4_000))
    site.until(2_000)
    assert site.status(borrower) == "running"
    owner = site.submit(gang("acme", workers=3))
    site.until(5_000)
    assert (site.status(borrower), site.status(owner)) == ("stopping", "binding")
    site.until(6_500)
    assert (site.status(borrower), site.status(owner)) == ("waiting", "running")
    started = site.scheduler.state.gangs.get(owner).started_ms
    assert started is not None
    assert started - START_MS <= 2_001 + 4_000
    assert len(site.executor.starts) == len(set(site.executor.starts)) == 2


def test_a_declared_run_time_ends_a_gang_with_its_grace() -> None:
    site = owned(work=lambda _: Work(10**8))
    name = site.submit(gang("acme", max_runtime_ms=3_000, grace_ms=2_000))
    site.until(4_000)
    assert site.status(name) == "stopping"
    site.until(5_000)
    assert site.status(name) == "failed"


def test_a_drained_node_is_empty_in_time_and_its_promise_moves() -> None:
    site = owned(("acme-1", "acme", 1), fleet=2, work=lambda _: Work(10**8))
    name = site.submit(gang("acme", grace_ms=1_000))
    site.until(2_000)
    (piece,) = site.scheduler.state.gangs.get(name).pieces
    site.scheduler.drain(piece.node, START_MS + 6_000)
    site.until(5_000)
    assert site.status(name) == "running"
    assert [held.cell for held in site.scheduler.state.calendar.holdings] == [1 - int(piece.node[-1])]
    site.until(8_000)
    (moved,) = site.scheduler.state.gangs.get(name).pieces
    assert moved.node != piece.node
    head = site.journal.head
    site.scheduler.drain(piece.node, START_MS + 6_000)
    assert site.journal.head == head
    site.scheduler.drain(piece.node, None)
    assert site.scheduler.state.health.usable.all()
    with pytest.raises(UnknownName):
        site.scheduler.drain("node-9", None)


def test_a_drain_names_only_healthy_gpus_and_undraining_heals_only_those() -> None:
    site = owned(fleet=1, faults=[GpuFault("node-0", (0,), START_MS + 500, Cause.ECC)])
    site.until(1_000)
    site.scheduler.drain("node-0", START_MS + 2_000)
    site.until(3_000)
    assert site.scheduler.state.health.cause.tolist() == [Cause.ECC, *[Cause.DRAIN] * 7]
    site.scheduler.drain("node-0", None)
    assert site.scheduler.state.health.cause.tolist() == [Cause.ECC, *[0] * 7]


def test_a_gang_restarts_on_a_spare_when_its_node_is_lost_and_the_promise_moves_too() -> None:
    site = owned(
        ("acme-1", "acme", 2),
        work=lambda _: Work(10**8, start_ms=100),
        faults=[NodeDown("node-0", START_MS + 12_000), NodeUp("node-0", START_MS + 40_000)],
        settings=ServiceSettings(close_lag_ms=0, spares=("node-2",)),
    )
    name = site.submit(gang("acme", workers=2))
    site.until(13_000)
    pieces = site.scheduler.state.gangs.get(name).pieces
    assert sorted(piece.node for piece in pieces) == ["node-1", "node-2"]
    site.until(60_000)
    assert sum(lost(record, Cause.NODE_LOST) for record in site.records()) == 0
    assert sum(record.used_gpu_ms for record in site.records()) == 16 * (12_000 - 100 + 60_000 - 12_100)
    assert site.status(name) == "running"


def test_a_shortage_is_certified_and_metered_by_its_cause_until_the_node_is_back() -> None:
    site = owned(
        ("acme-1", "acme", 1),
        ("bolt-1", "bolt", 1),
        fleet=2,
        faults=[NodeDown("node-1", START_MS + 12_000), NodeUp("node-1", START_MS + 25_000)],
    )
    site.until(40_000)
    assert site.kinds().count("shortage_decided") >= 1
    missing = sum(lost(record, Cause.NODE_LOST) for record in site.records())
    assert missing == 8 * 13_000
    assert all(record.contracted_gpu_ms == 80_000 for record in site.records())


def test_an_oversold_position_is_refused_whole_and_covered_when_a_node_joins() -> None:
    site = owned(("acme-1", "acme", 2), ("bolt-1", "bolt", 2))
    assert site.scheduler.state.refused == {"bolt-1": Cause.OVERSOLD}
    site.until(12_000)
    site.told(site.event(PositionEventKind.EXPIRY, "acme-1", "acme", lots=0))
    assert site.scheduler.state.refused == {}
    site.until(30_000)
    oversold = [lost(record, Cause.OVERSOLD) for record in site.records("bolt-1")]
    assert oversold == [160_000, 16 * 2_000, 0]


def test_a_window_turns_and_the_same_cells_pass_from_one_owner_to_the_next() -> None:
    site = Site(nodes(2), work=lambda _: Work(10**8))
    site.round()
    site.listed(listing("H100.A", length_ms=20_000), listing("H100.B", start_ms=20_000, length_ms=20_000))
    site.trade("acme-1", "acme", 2, instrument="H100.A@1")
    site.trade("bolt-1", "bolt", 2, instrument="H100.B@1")
    first = site.submit(gang("acme", workers=2))
    second = site.submit(gang("bolt", workers=2))
    site.until(19_000)
    assert (site.status(first), site.status(second)) == ("running", "waiting")
    site.until(30_000)
    assert (site.status(first), site.status(second)) == ("waiting", "running")
    site.until(41_000)
    ends = {record.position: record.end_ms - START_MS for record in site.records()}
    assert ends == {"acme-1": 20_000, "bolt-1": 40_000}


def test_an_executor_that_does_not_answer_pauses_planning_and_the_meter_knows_nothing_meanwhile() -> None:
    site = owned(("acme-1", "acme", 2), work=lambda _: Work(10**8))
    running = site.submit(gang("acme"))
    site.until(11_000)
    site.executor.healthy = False
    site.until(12_000)
    waiting = site.submit(gang("acme"))
    site.until(27_000)
    assert site.scheduler.paused == "execution does not answer"
    assert (site.status(running), site.status(waiting)) == ("running", "waiting")
    site.executor.healthy = True
    site.until(50_000)
    assert site.scheduler.paused == ""
    assert site.status(waiting) == "running"
    unknown = {record.start_ms - START_MS: record.unknown_gpu_ms for record in site.records("acme-1")}
    assert unknown[0] == unknown[30_000] == unknown[40_000] == 0
    assert unknown[10_000] + unknown[20_000] == pytest.approx(16 * 16_000, abs=16 * 5_001)
    assert all(record.contracted_gpu_ms == 160_000 for record in site.records("acme-1"))


def test_ended_gangs_leave_nothing_behind_in_the_loop() -> None:
    site = owned(work=lambda _: Work(1_000))
    for _ in range(5):
        site.submit(gang("acme"))
    site.until(30_000)
    assert not site.scheduler._launched
    assert not site.scheduler._stop_sent
    statuses = {each.status for each in site.scheduler.state.gangs.by_id.values()}
    assert statuses == {GangStatus.SUCCEEDED}
    assert site.refolded() == dump(site.scheduler.state)


# -- the end, and rights that end


def test_shutting_down_stops_everything_with_its_grace_and_what_waits_is_placed_after_the_next_start() -> None:
    site = owned(("acme-1", "acme", 2), work=lambda _: Work(10**8, start_ms=100))
    runs = [site.submit(gang("acme", grace_ms=2_000)), site.submit(gang("acme", grace_ms=3_000))]
    site.until(1_000)
    late = site.submit(gang("acme"))
    assert site.scheduler.shut_down() == 3_000
    assert site.scheduler.shut_down() == 3_000  # asked twice, told once
    assert [site.status(name) for name in runs] == ["stopping", "stopping"]
    for _ in range(8):  # rounds as the stop makes them; no law of placement holds meanwhile
        site.now_ms += 500
        site.scheduler.round()
    assert [site.status(name) for name in (*runs, late)] == ["waiting"] * 3
    assert site.executor.running() == ()
    assert len(site.executor.starts) == 2
    assert site.scheduler.shut_down() == 0
    site.die_and_return()
    site.until(8_000)
    assert [site.status(name) for name in (*runs, late)] == ["running"] * 3
    assert site.refolded() == dump(site.scheduler.state)


def test_an_attempt_that_was_never_launched_is_over_as_soon_as_it_is_stopped() -> None:
    site = owned(("acme-1", "acme", 3), work=lambda _: Work(10**8))
    site.submit(gang("bolt", workers=3, grace_ms=10_000))
    site.until(1_000)
    claimant = site.submit(gang("acme"))
    site.until(2_000)
    assert site.scheduler.state.gangs.get(claimant).waits_for
    site.scheduler.cancel(claimant)
    assert site.status(claimant) == "cancelled"
    assert [name for name, _ in site.executor.starts] == ["gang-1"]


def test_what_cannot_be_preempted_leaves_with_its_grace_where_its_rights_were_sold() -> None:
    site = owned(("acme-1", "acme", 1), fleet=1, work=lambda _: Work(10**8))
    firm = site.submit(gang("acme", preemptible=False, max_runtime_ms=300_000, grace_ms=4_000))
    site.until(2_000)
    site.transfer("acme-1", "bolt-1", "bolt", 1)
    site.round()
    assert site.status(firm) == "stopping"
    assert site.scheduler.state.gangs.get(firm).stop_cause is StopCause.WINDOW_ENDED
    site.until(3_000)
    mine = site.submit(gang("bolt"))
    site.until(20_000)
    assert (site.status(firm), site.status(mine)) == ("waiting", "running")


def test_what_is_heard_before_is_told_once_and_instruments_that_are_known_change_nothing() -> None:
    site = owned(("acme-1", "acme", 1))
    head = site.journal.head
    site.listed(listing())
    repeat = site.event(PositionEventKind.TRADE, "acme-1", "acme", at_ms=0)
    assert site.seq == 2
    first = repeat.model_copy(update={"cursor": repeat.cursor.model_copy(update={"seq": 1}), "committed_ms": START_MS})
    site.told(first)
    assert site.journal.head == head
    with pytest.raises(Equivocation):
        site.told(first.model_copy(update={"lots": 2}))
    assert site.journal.head == head
    assert site.refolded() == dump(site.scheduler.state)


def test_listeners_hear_every_event_and_every_closing_once() -> None:
    site = owned(("acme-1", "acme", 1))
    before = len(site.kinds())
    heard: list[str] = []
    ends: list[int] = []
    site.scheduler.listeners.append(lambda event: heard.append(event.kind))
    site.scheduler.closing_listeners.append(lambda closed: ends.append(closed.interval.end_ms - START_MS))
    site.until(21_000)
    assert heard == site.kinds()[before:]
    assert ends == [10_000, 20_000]
