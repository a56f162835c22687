"""Records settle by their calendar: provisional while facts are missing, initial, final; corrected only for a cause."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.instruments import Damages, SettlementTimes
from scheduler.core.metering.records import Quality, RecordStatus
from scheduler.core.settlement import LineKind
from scheduler.core.state.dump import dump, load
from scheduler.delivery import statement
from scheduler.exchange.leaves import SettlingLeaf, decode
from scheduler.exchange.statements import Versions
from scheduler.execution.protocol import Launch
from scheduler.execution.simulated import Work
from tests.simulation.site import START_MS, Site, gang, listing, nodes

TIMES = SettlementTimes(initial_after_s=30, final_after_s=60, dispute_s=120, answer_s=60)


def sold(lots: int = 1, work: Callable[[Launch], Work] | None = None, **terms: object) -> Site:
    """An account owns whole nodes for a minute, and runs on all of them."""
    site = Site(nodes(2), work=work)
    site.round()
    site.listed(listing(length_ms=60_000, settlement=TIMES, **terms))  # type: ignore[arg-type]
    site.trade("p", "acme", lots)
    site.submit(gang("acme", workers=lots))
    return site


def standing(site: Site, position: str = "p") -> list[tuple[int, int, str]]:
    """(start in s, version, status) of what holds of a position's records, by the leaves alone."""
    found = Versions()
    for index, leaf in enumerate(site.leaves()):
        found.add(index, leaf)
    held = [each.current for _, each in sorted(found.of[position].held.items())]
    return [((each.start_ms - START_MS) // 1_000, each.version, str(each.status)) for each in held]


def told(site: Site) -> list[object]:
    """What the log tells beside records and pools."""
    return [leaf.told for leaf in map(decode, site.leaves()) if isinstance(leaf, SettlingLeaf)]


def test_records_are_final_at_their_time_by_one_leaf_and_not_before() -> None:
    site = sold()
    site.until(119_000)
    assert standing(site) == [(start, 1, "initial") for start in range(0, 60, 10)]
    site.until(121_000)
    assert standing(site) == [(start, 2, "final") for start in range(0, 60, 10)]
    assert len(told(site)) == 1
    site.until(400_000)
    assert len(told(site)) == 1
    assert site.refolded() == dump(site.scheduler.state) == dump(load(dump(site.scheduler.state)))


def test_an_interval_that_is_closed_unseen_is_provisional_and_initial_by_the_calendar() -> None:
    site = sold()
    site.until(15_000)
    site.executor.healthy = False
    site.until(35_000)
    assert standing(site) == [(0, 1, "initial"), (10, 1, "provisional"), (20, 1, "provisional")]
    site.executor.healthy = True
    site.until(49_000)
    assert [status for _, _, status in standing(site)] == ["initial", "provisional", "provisional", "initial"]
    site.until(61_000)
    assert standing(site)[1:3] == [(10, 2, "initial"), (20, 2, "initial")]
    assert site.scheduler.state.settled.provisional == {}
    assert [record.unknown_gpu_ms for record in site.records("p")][:3] == [0, 8 * 4_999, 80_000]
    site.until(121_000)
    assert [version for _, version, _ in standing(site)] == [2, 3, 3, 2, 2, 2]
    assert site.refolded() == dump(site.scheduler.state)


def test_a_short_blindness_over_an_edge_is_estimated_once_the_fleet_is_seen_as_it_was() -> None:
    site = sold()
    site.until(15_000)
    site.executor.healthy = False
    site.until(21_000)
    assert standing(site)[1] == (10, 1, "provisional")
    site.executor.healthy = True
    site.until(30_000)
    first, second = [record for record in site.records("p") if record.start_ms == START_MS + 10_000]
    assert (first.status, first.unknown_gpu_ms > 0) == (RecordStatus.PROVISIONAL, True)
    assert (second.version, second.status, second.unknown_gpu_ms) == (2, RecordStatus.INITIAL, 0)
    assert (second.quality, second.estimated_gpu_ms) == (Quality.ESTIMATED, first.unknown_gpu_ms)
    assert site.scheduler.state.settled.provisional == {}
    assert site.refolded() == dump(site.scheduler.state)


def test_what_is_unknown_when_final_counts_against_the_owner_of_the_meter() -> None:
    site = sold(damages=Damages(reference_price_micro_per_gpu_hour=9_000_000))
    site.until(15_000)
    site.executor.healthy = False
    site.until(45_000)
    site.executor.healthy = True
    site.until(119_000)
    before = statement(site.journal, "test", site.scheduler.state, "p")
    size = site.journal.log_size("test")
    site.until(121_000)
    after = statement(site.journal, "test", site.scheduler.state, "p")
    assert dict(before.losses) == dict(after.losses) == {Cause.NOT_OBSERVED: 240_000}
    assert (before.records_unsettled, after.records_unsettled) == (6, 0)
    owed = {line.kind: line.amount_micro for line in after.lines}[LineKind.DAMAGES]
    assert owed == -(7_000_000 * 240_000 // 3_600_000)
    assert before == statement(site.journal, "test", site.scheduler.state, "p", size)


def test_what_execution_tells_late_corrects_closed_intervals() -> None:
    site = sold(work=lambda _: Work(17_000))
    site.until(9_000)
    (name,) = site.scheduler.state.gangs.by_id
    started_ms = site.scheduler.state.gangs.get(name).started_ms or 0
    site.executor.delay_ms = 8_000
    site.until(31_000)
    used = [(r.start_ms - START_MS, r.version, str(r.status), r.used_gpu_ms) for r in site.records("p")]
    rest = 8 * (started_ms + 17_000 - START_MS - 10_000)
    assert used[1:3] == [(10_000, 1, "initial", 80_000), (10_000, 2, "corrected", rest)]
    assert used[3] == (20_000, 1, "initial", 0)
    assert site.scheduler.alerts == []
    assert site.refolded() == dump(site.scheduler.state)


def test_a_late_fact_after_final_is_told_of_before_its_correction_and_not_at_all_when_that_is_over() -> None:
    site = sold()
    site.until(130_000)
    site.transfer("p", "q", "bolt", 1, at_ms=50_000)
    assert standing(site)[-1] == (50, 3, "corrected")
    assert standing(site, "q") == [(50, 1, "initial")]
    (fact,) = told(site)[1:]
    assert (fact.position, fact.from_ms) == ("p", START_MS + 50_000)  # type: ignore[attr-defined]
    site.until(131_000)
    assert standing(site, "q") == [(50, 2, "final")]
    site.until(250_000)
    size = len(site.leaves())
    site.transfer("p", "r", "core", 0 + 1, at_ms=30_000)
    assert any("settled and cannot be corrected" in alert for alert in site.scheduler.alerts)
    assert standing(site)[3] == (30, 2, "final")
    assert site.refolded() == dump(site.scheduler.state)
    assert len(site.leaves()) >= size


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1_000, 40_000), st.integers(0, 1)), min_size=1, max_size=3), st.integers(1, 12_000)
)
def test_seen_late_or_in_time_the_last_versions_say_the_same(works: list[tuple[int, int]], delay_ms: int) -> None:
    """Gangs that have room each: what differs is only when their ends are told."""

    def played(late_ms: int) -> dict[tuple[str, int], dict[str, object]]:
        lengths = iter([work_ms for work_ms, _ in works])
        taken: dict[str, int] = {}
        site = Site(nodes(4), work=lambda launch: Work(taken.setdefault(launch.gang, next(lengths, 0))))
        site.round()
        site.listed(listing(length_ms=60_000, settlement=TIMES))
        for account in ("acme", "bolt"):
            site.trade(account, account, 1 + sum(owner == ("acme", "bolt").index(account) for _, owner in works))
        for _, owner in works:
            site.submit(gang(("acme", "bolt")[owner]))
        site.until(1_000)
        site.executor.delay_ms = late_ms
        site.until(80_000)
        assert site.refolded() == dump(site.scheduler.state)
        last = {(record.position, record.start_ms): record for record in site.records()}
        of_version = {"version", "supersedes", "status"}
        return {key: {n: v for n, v in record if n not in of_version} for key, record in last.items()}

    assert played(delay_ms) == played(0)
