"""What the exchange tells late corrects what was metered: new versions of closed intervals, exactly conserved."""

from __future__ import annotations

from pathlib import Path

from scheduler.core.causes import Cause
from scheduler.core.events import HealthChanged
from scheduler.core.metering.records import RecordStatus
from scheduler.core.positions import Cursor, Position, PositionEventKind
from scheduler.core.state.dump import dump
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.leaves import PoolLeaf, decode
from tests.simulation.site import SIGNER, START_MS, STREAM, Site, gang, listing, nodes

Version = tuple[int, int, str, int, int]


def versions(site: Site, position: str) -> list[Version]:
    """(start in s, version, status, contracted GPU-s, used GPU-s) of a position's records, in order of writing."""
    return [
        (
            (record.start_ms - START_MS) // 1_000,
            record.version,
            str(record.status),
            record.contracted_gpu_ms // 1_000,
            record.used_gpu_ms // 1_000,
        )
        for record in site.records(position)
    ]


def sold(lots: int = 2, until_ms: int = 45_000, **given: object) -> Site:
    """An account owns lots of whole nodes and runs on all of them; some intervals have closed."""
    site = Site(nodes(3), **given)  # type: ignore[arg-type]
    site.round()
    site.listed(listing(bind_limit_s=30))
    site.trade("source", "acme", lots)
    site.submit(gang("acme", workers=lots))
    site.until(until_ms)
    return site


def test_a_transfer_that_took_effect_25_s_ago_corrects_what_was_closed_since() -> None:
    site = sold()
    site.transfer("source", "bought", "bolt", 1, at_ms=20_000)
    assert versions(site, "source") == [
        (0, 1, "initial", 160, 160),
        (10, 1, "initial", 160, 160),
        (20, 1, "initial", 160, 160),
        (30, 1, "initial", 160, 160),
        (20, 2, "corrected", 80, 80),
        (30, 2, "corrected", 80, 80),
    ]
    assert versions(site, "bought") == [(20, 1, "initial", 80, 0), (30, 1, "initial", 80, 0)]
    assert site.records("bought")[0].available_unused_gpu_ms == 80_000
    assert site.scheduler.alerts == []
    site.until(61_000)
    assert versions(site, "bought")[2:] == [(40, 1, "initial", 80, 0), (50, 1, "initial", 80, 0)]


def test_a_transfer_inside_an_interval_conserves_it_to_the_millisecond() -> None:
    site = sold()
    site.transfer("source", "bought", "bolt", 1, at_ms=23_457)
    parts = [r.contracted_gpu_ms for r in site.records() if r.start_ms == START_MS + 20_000]
    before, bought, source = parts
    assert before == source + bought == 160_000
    assert bought == 8 * (30_000 - 23_457)


def test_a_transfer_ahead_moves_the_entitlement_at_its_instant() -> None:
    site = sold(until_ms=12_000)
    site.transfer("source", "bought", "bolt", 1, at_ms=23_457)
    site.until(41_000)
    contracted = [(v[0], v[3]) for v in versions(site, "source")]
    assert contracted == [(0, 160), (10, 160), (20, 80 + 27), (30, 80)]
    assert sum(r.contracted_gpu_ms for r in site.records() if r.start_ms == START_MS + 20_000) == 160_000
    assert all(record.version == 1 and not record.losses for record in site.records())


def test_a_second_late_transfer_corrects_the_correction() -> None:
    site = sold(3)
    site.transfer("source", "one", "bolt", 1, at_ms=20_000)
    site.transfer("source", "two", "core", 1, at_ms=20_000)
    assert versions(site, "source")[4:] == [
        (20, 2, "corrected", 160, 160),
        (30, 2, "corrected", 160, 160),
        (20, 3, "corrected", 80, 80),
        (30, 3, "corrected", 80, 80),
    ]
    latest = {(r.position, r.start_ms): r for r in site.records()}
    for start_ms in (START_MS + 20_000, START_MS + 30_000):
        records = [record for (_, start), record in latest.items() if start == start_ms]
        assert sum(record.contracted_gpu_ms for record in records) == 240_000
        assert sum(record.delivered_gpu_ms for record in records) == 240_000


def test_what_was_transferred_is_found_where_it_was_then_though_it_moved_since() -> None:
    site = sold(1)
    site.scheduler.drain("node-0", site.now_ms + 100_000)  # the lot moves to another node at 45 s
    assert [held.cell for held in site.scheduler.state.calendar.past] == [0]
    site.transfer("source", "bought", "bolt", 1, at_ms=20_000)
    site.until(61_000)
    assert not any(record.losses for record in site.records())
    assert [v[:4] for v in versions(site, "source")][-2:] == [(20, 2, "corrected", 0), (30, 2, "corrected", 0)]


def test_an_expiry_that_is_learnt_late_takes_back_what_was_metered_since() -> None:
    site = sold()
    site.told(site.event(PositionEventKind.EXPIRY, "source", "acme", lots=0, at_ms=25_000))
    corrected = [v[:4] for v in versions(site, "source") if v[2] == "corrected"]
    assert corrected == [(20, 2, "corrected", 80), (30, 2, "corrected", 0)]
    site.until(80_000)
    assert len(versions(site, "source")) == 6


def test_a_correction_to_more_lots_is_covered_from_now_and_short_before() -> None:
    site = sold()
    learnt_ms = site.now_ms
    site.told(site.event(PositionEventKind.CORRECTION, "source", "acme", lots=3, at_ms=30_000))
    site.until(61_000)
    short = {(r.start_ms - START_MS) // 1_000: sum(lost for _, lost in r.losses) for r in site.records("source")}
    assert short == {0: 0, 10: 0, 20: 0, 30: 80_000, 40: 8 * (learnt_ms - START_MS - 40_000), 50: 0}


def test_a_correction_that_cannot_be_covered_keeps_what_there_is() -> None:
    site = sold()
    site.told(site.event(PositionEventKind.CORRECTION, "source", "acme", lots=4, at_ms=45_000))
    assert len(site.scheduler.state.calendar.of("source")) == 2
    assert list(site.scheduler.state.refused) == ["source"]
    site.until(61_000)
    assert [sum(lost for _, lost in r.losses) for r in site.records("source")][-1] == 16 * 10_000


def test_a_trade_that_is_learnt_late_has_its_first_records_for_closed_intervals() -> None:
    site = sold(1)
    site.trade("bought", "bolt", 1, at_ms=25_000)
    assert versions(site, "bought") == [(20, 1, "initial", 40, 0), (30, 1, "initial", 80, 0)]
    assert not any(record.losses for record in site.records("bought"))  # learnt within the bind limit of 30 s
    site.trade("stale", "bolt", 1, at_ms=5_000)
    assert [r.delivered_gpu_ms for r in site.records("stale")] == [0, 0, 0, 0]


def test_nothing_new_is_said_where_nothing_changed() -> None:
    site = sold()
    head = len(site.leaves())
    site.told(site.event(PositionEventKind.CORRECTION, "source", "acme", lots=2, at_ms=15_000))
    assert len(site.leaves()) == head


def test_corrections_survive_a_restart_between_them() -> None:
    calm, cut = sold(3), sold(3)
    for site in (calm, cut):
        site.transfer("source", "one", "bolt", 1, at_ms=20_000)
    cut.die_and_return()
    for site in (calm, cut):
        site.transfer("source", "two", "core", 1, at_ms=10_000)
        site.until(80_000)
        assert site.refolded() == dump(site.scheduler.state)
    assert calm.leaves() == cut.leaves()


def test_what_is_later_than_the_horizon_is_folded_and_alerted() -> None:
    site = Site(nodes(2), check=False)
    site.round()
    site.listed(listing(length_ms=3 * 3_600_000, metering_interval_s=300))
    site.trade("source", "acme", 2)
    while site.now_ms < START_MS + 2 * 3_600_000:
        site.now_ms = max(site.scheduler.round() or 0, site.now_ms + 1)
    site.transfer("source", "bought", "bolt", 1, at_ms=600_000)
    (alert,) = site.scheduler.alerts
    assert "cannot be corrected" in alert
    starts = [record.start_ms - START_MS for record in site.records("bought")]
    closed_ms = site.scheduler.state.closed_ms[300_000] - START_MS
    assert starts == list(range(closed_ms - 3_600_000, closed_ms, 300_000))
    assert all(r.status is RecordStatus.CORRECTED for r in site.records("source") if r.version == 2)
    assert site.scheduler.state.book.positions["bought"].lots_at(START_MS + 600_000) == 1


def test_a_snapshot_of_positions_is_fitted_and_corrects_what_was_closed() -> None:
    site = sold()
    position = {"account": "acme", "instrument": "H100.NODE@1", "acquired_ms": START_MS}
    smaller = Position(id="source", lots=((START_MS, 2), (START_MS + 30_000, 1)), **position)  # type: ignore[arg-type]
    other = Position(id="other", lots=((START_MS + 40_000, 2),), **position)  # type: ignore[arg-type]
    cursor = Cursor(stream="exchange", epoch=1, seq=9)
    site.doing(lambda scheduler: scheduler.learn_positions(cursor, (smaller, other)))
    assert [v[:4] for v in versions(site, "source") if v[1] == 2] == [(30, 2, "corrected", 80)]
    assert sorted(held.position for held in site.scheduler.state.calendar.holdings) == ["other", "other", "source"]
    later = Cursor(stream="exchange", epoch=1, seq=10)
    site.doing(lambda scheduler: scheduler.learn_positions(later, (other,)))
    assert {held.position for held in site.scheduler.state.calendar.holdings} == {"other"}
    site.until(61_000)
    assert site.refolded() == dump(site.scheduler.state)


def test_certificates_of_several_lengths_say_the_same_of_one_pool() -> None:
    site = Site(nodes(4))
    site.round()
    site.listed(listing(), listing("H100.MINUTE", metering_interval_s=60))
    site.trade("short", "acme", 2)
    site.trade("long", "bolt", 1, instrument="H100.MINUTE@1")
    site.until(25_000)
    site.transfer("short", "sold", "cedar", 1)
    site.until(62_000)
    decoded = map(decode, site.leaves())
    pools = {(leaf.pool.start_ms, leaf.pool.end_ms): leaf.pool for leaf in decoded if isinstance(leaf, PoolLeaf)}
    tens = [pools[START_MS + at_ms, START_MS + at_ms + 10_000] for at_ms in range(0, 60_000, 10_000)]
    minute = pools[START_MS, START_MS + 60_000]
    for name in [name for name in type(minute).model_fields if name.endswith("_gpu_ms")]:
        assert sum(getattr(each, name) for each in tens) == getattr(minute, name), name
    assert minute.sold_gpu_ms == minute.covered_gpu_ms == 3 * 8 * 60_000


def certificates(site: Site) -> list[tuple[int, ...]]:
    """(start in s, version, GPU-s that unsold GPUs were used, sold, covered) of certificates, in order of writing."""
    pools = [leaf.pool for leaf in map(decode, site.leaves()) if isinstance(leaf, PoolLeaf)]
    return [
        (
            (pool.start_ms - START_MS) // 1_000,
            pool.version,
            *(gpu_ms // 1_000 for gpu_ms in (pool.unsold_used_gpu_ms, pool.sold_gpu_ms, pool.covered_gpu_ms)),
        )
        for pool in pools
    ]


def test_a_certificate_is_issued_again_where_something_learnt_late_changes_it(tmp_path: Path) -> None:
    site = sold(lots=1)
    told = certificates(site)
    assert told == [(start_s, 1, 0, 80, 80) for start_s in (0, 10, 20, 30)]
    site.told(site.event(PositionEventKind.EXPIRY, "source", "acme", lots=0, at_ms=25_000))
    # From then on its node is unsold, and the gang that runs there borrows it.
    assert certificates(site)[4:] == [(20, 2, 40, 40, 40), (30, 2, 80, 0, 0)]
    site.told(site.event(PositionEventKind.TRADE, "again", "acme", lots=1, at_ms=25_000))
    site.until(61_000)
    again = [each for each in certificates(site) if each[1] > 2]
    assert [each[:2] for each in again] == [(20, 3), (30, 3)]
    assert site.refolded() == dump(site.scheduler.state)
    bundles.write(site.journal, STREAM, tmp_path / "bundle", [listing(bind_limit_s=30)], {}, [SIGNER.verifier.encode()])
    assert audit(tmp_path / "bundle").ok, audit(tmp_path / "bundle").first_wrong


def test_what_is_seen_late_of_unsold_gpus_corrects_their_certificate_alone() -> None:
    site = Site(nodes(3))
    site.round()
    site.listed(listing(bind_limit_s=30))
    site.trade("source", "acme", 1)
    site.until(32_000)
    lost = HealthChanged(at_ms=START_MS + 24_000, node="node-2", cause=Cause.NODE_LOST)
    site.scheduler.meter_records.note_late(lost, site.now_ms)
    site.scheduler.adopt([lost], [])
    site.scheduler.meter_records.correct_late(site.now_ms)
    site.round()
    told = [leaf.pool for leaf in map(decode, site.leaves()) if isinstance(leaf, PoolLeaf) and leaf.pool.version > 1]
    assert [(pool.start_ms - START_MS, pool.unsold_unhealthy_gpu_ms) for pool in told] == [(20_000, 8 * 6_000)]
    assert all(record.version == 1 for record in site.records())
