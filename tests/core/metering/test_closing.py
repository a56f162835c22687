"""Golden intervals in prose: one minute of eight GPUs, and what it says after this or that happened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.instruments import Deliverable, standard_terms
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.meter import Meter
from scheduler.core.metering.records import MeterRecord, Quality, broken_identities
from scheduler.core.metering.states import State
from scheduler.core.metering.terms import Contract, MeteringTerms

MINUTE = Interval(0, 60_000)
FLEET = Fleet.of((NodeSpec(name="a", grade="H100SXM", gpus=4), NodeSpec(name="b", grade="H100SXM", gpus=4)))
ACME, OTHERS = 0, 1
NODE_A, NODE_B = np.arange(4), np.arange(4, 8)


def contract(cell: Level = Level.NODE, gpus: int = 4, **changes: object) -> Contract:
    terms = standard_terms(
        symbol="H100",
        start_ms=0,
        end_ms=3_600_000,
        cell=cell,
        gpus=4,
        deliverables=(Deliverable(grade="H100SXM"),),
        replace_within_s=0,
    )
    return Contract(
        index=0,
        position="acme-1",
        instrument=terms.id,
        terms=MeteringTerms.of(terms),
        contracted_gpus=StepFunction.of([(0, gpus)]),
        account=ACME,
        **changes,  # type: ignore[arg-type]
    )


def meter_of_acme_on_node_a() -> Meter:
    meter = Meter()
    meter.grow(8)
    meter.set_owner(0, NODE_A, 0)
    return meter


def closed(meter: Meter, of: Contract | None = None) -> MeterRecord:
    record = meter.close(MINUTE, [of or contract()], FLEET).records[0]
    assert broken_identities(record) == ()
    return record


def held(record: MeterRecord) -> dict[State, int]:
    return {state: gpu_ms for state, gpu_ms in record.states.items() if gpu_ms}


@pytest.mark.parametrize("won_first", [True, False])
def test_a_handover_in_the_middle_loses_and_doubles_not_one_millisecond(won_first: bool) -> None:  # noqa: FBT001
    meter = meter_of_acme_on_node_a()
    changes = [(NODE_B, 0), (NODE_A, -1)] if won_first else [(NODE_A, -1), (NODE_B, 0)]
    for gpus, owner in changes:
        meter.set_owner(25_001, gpus, owner)
    meter.set_occupant(0, NODE_A, ACME)
    meter.set_occupant(25_001, NODE_B, ACME)
    record = closed(meter)
    assert held(record) == {State.USED: 240_000}


def test_half_a_minute_used_and_half_lent_is_all_delivered() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_occupant(0, NODE_A, ACME)
    meter.set_occupant(30_000, NODE_A, OTHERS)
    record = closed(meter)
    assert held(record) == {State.USED: 120_000, State.AVAILABLE_UNUSED: 120_000}
    assert (record.par_gpu_ms, record.losses, record.quality) == (240_000, (), Quality.MEASURED)


def test_one_sick_gpu_takes_its_whole_node_out_of_a_lot_of_nodes_and_itself_alone_out_of_a_lot_of_gpus() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_cause(45_000, NODE_A[:1], Cause.ECC)
    assert held(closed(meter)) == {State.AVAILABLE_UNUSED: 180_000, State.OUT_FORCED: 60_000}
    alone = closed(meter, contract(cell=Level.GPU))
    assert held(alone) == {State.AVAILABLE_UNUSED: 225_000, State.OUT_FORCED: 15_000}
    assert alone.losses == ((Cause.ECC, 15_000),)


def test_a_cell_is_well_again_when_the_last_of_its_gpus_is_and_the_lowest_cause_speaks_for_it() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_cause(10_000, NODE_A[:1], Cause.NODE_LOST)
    meter.set_cause(20_000, NODE_A[1:2], Cause.ECC)
    meter.set_cause(30_000, NODE_A[:1], 0)
    meter.set_cause(40_000, NODE_A[1:2], 0)
    record = closed(meter)
    assert held(record) == {State.AVAILABLE_UNUSED: 120_000, State.OUT_FORCED: 120_000}
    # 10 s of all four by the lost node; then 10 s of it alone, the others by ECC; then 10 s of all four by ECC.
    assert record.losses == ((Cause.ECC, 70_000), (Cause.NODE_LOST, 50_000))


def test_a_spare_stands_in_after_five_seconds_and_only_those_are_lost() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_cause(10_000, NODE_A, Cause.NODE_LOST)
    meter.set_owner(15_000, NODE_A, -1)
    meter.set_owner(15_000, NODE_B, 0)
    assert closed(meter).losses == ((Cause.NODE_LOST, 20_000),)


def test_a_gpu_at_four_fifths_of_the_reference_loses_a_tenth_of_its_time_below_a_floor_of_nine_tenths() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_ppm(0, NODE_A, 1_000_000, "matmul.v1")
    meter.set_ppm(30_000, NODE_A[:1], 800_000, "matmul.v1")
    record = closed(meter)
    assert held(record) == {State.AVAILABLE_UNUSED: 237_000, State.DERATED: 3_000}
    assert record.losses == ((Cause.UNDER_PERFORMANCE, 3_000),)
    assert (record.measured_mean_ppm, record.measured_min_ppm, record.suite) == (975_000, 800_000, "matmul.v1")


def test_below_the_limit_of_rejection_all_of_the_gpus_time_is_out() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_ppm(0, NODE_A[:1], 499_999, "matmul.v1")
    meter.set_ppm(0, NODE_A[1:2], 500_000, "matmul.v1")
    record = closed(meter)
    assert held(record) == {State.AVAILABLE_UNUSED: 156_000, State.OUT_FORCED: 60_000, State.DERATED: 24_000}
    assert (record.measured_min_ppm, record.measured_mean_ppm) == (499_999, 749_999)


def test_a_gang_that_waits_beyond_the_bind_limit_makes_its_own_gpus_late() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_occupant(0, NODE_A, OTHERS)
    meter.set_late(40_000, NODE_A, late=True)
    meter.set_occupant(50_000, NODE_A, ACME)
    meter.set_late(50_000, NODE_A, late=False)
    record = closed(meter)
    assert held(record) == {State.AVAILABLE_UNUSED: 160_000, State.OUT_FORCED: 40_000, State.USED: 40_000}
    assert record.losses == ((Cause.LATE_BIND, 40_000),)


def test_a_bridged_gap_is_estimated_and_a_long_one_unknown() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_seen(20_000, Sight.ESTIMATED)
    meter.set_seen(30_000, Sight.OBSERVED)
    estimated = closed(meter)
    assert held(estimated) == {State.AVAILABLE_UNUSED: 240_000}
    assert (estimated.estimated_gpu_ms, estimated.quality) == (40_000, Quality.ESTIMATED)
    meter.set_seen(20_000, Sight.NOT_OBSERVED)
    unknown = closed(meter)
    assert held(unknown) == {State.AVAILABLE_UNUSED: 200_000, State.UNKNOWN: 40_000}
    assert unknown.losses == ((Cause.NOT_OBSERVED, 40_000),)


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        (Cause.OVERSOLD, State.OUT_FORCED),
        (Cause.SHORTAGE_RULE, State.OUT_FORCED),
        (Cause.RECALL, State.RECALLED),
        (Cause.DRAIN, State.OUT_PLANNED),
        (Cause.FORCE_MAJEURE, State.OUT_EXCUSED),
        (Cause.BUYER_FAULT, State.OUT_BUYER),
        (Cause.BUYER_RELEASE, State.RELEASED),
    ],
)
def test_what_nothing_covers_is_lost_for_the_reason_given(cause: Cause, state: State) -> None:
    record = closed(meter_of_acme_on_node_a(), contract(gpus=8, uncovered_cause=cause))
    assert held(record) == {State.AVAILABLE_UNUSED: 240_000, state: 240_000}
    assert record.par_gpu_ms == (480_000 if state is State.RELEASED else 240_000)


def test_half_a_position_sold_in_the_middle_is_told_late_and_corrected() -> None:
    meter = meter_of_acme_on_node_a()
    mine = contract(cell=Level.GPU)
    first = meter.close(MINUTE, [mine], FLEET).records
    meter.set_owner(60_000, NODE_A, -1)  # the window ended; then we hear of a transfer at 30 s
    meter.set_owner(30_000, NODE_A[2:], 1)
    half = StepFunction.of([(0, 4), (30_000, 2)])
    theirs = Contract(1, "other-1", mine.instrument, mine.terms, StepFunction.of([(30_000, 2)]), OTHERS)
    corrected = meter.close(MINUTE, [Contract(0, "acme-1", mine.instrument, mine.terms, half, ACME), theirs], FLEET)
    assert sum(record.contracted_gpu_ms for record in corrected.records) == first[0].contracted_gpu_ms
    assert [record.available_unused_gpu_ms for record in corrected.records] == [180_000, 60_000]


def test_a_substitute_counts_by_its_conversion_and_an_undeliverable_grade_not_at_all() -> None:
    fleet = Fleet.of((NodeSpec(name="a", grade="H100SXM", gpus=4), NodeSpec(name="b", grade="H200SXM", gpus=4)))
    meter = meter_of_acme_on_node_a()
    meter.set_owner(30_000, NODE_A, -1)
    meter.set_owner(30_000, NODE_B, 0)
    terms = standard_terms(symbol="H100", start_ms=0, end_ms=3_600_000, gpus=4, cell=Level.NODE)
    wrong = Contract(0, "p", terms.id, MeteringTerms.of(terms), StepFunction.of([(0, 4)]), ACME)
    assert meter.close(MINUTE, [wrong], fleet).records[0].losses == ((Cause.WRONG_GRADE, 120_000),)
    deliverables = (Deliverable(grade="H100SXM"), Deliverable(grade="H200SXM", conversion_ppm=1_250_000))
    terms = standard_terms(
        symbol="H100", start_ms=0, end_ms=3_600_000, gpus=4, cell=Level.NODE, deliverables=deliverables
    )
    right = Contract(0, "p", terms.id, MeteringTerms.of(terms), StepFunction.of([(0, 4)]), ACME)
    record = meter.close(MINUTE, [right], fleet).records[0]
    assert (record.delivered_gpu_ms, record.par_gpu_ms, record.quality) == (240_000, 270_000, Quality.SUBSTITUTED)
    meter.set_ppm(30_000, NODE_B, 800_000, "matmul.v1")
    assert meter.close(MINUTE, [right], fleet).records[0].par_gpu_ms == 270_000 - 15_000


def test_a_pool_says_what_was_sold_and_what_stood_behind_it() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_occupant(0, NODE_B[:2], OTHERS)
    meter.set_cause(30_000, NODE_B[3:], Cause.GPU_FAULT)
    pool = meter.close(MINUTE, [contract(gpus=5)], FLEET).pools[0]
    assert (pool.pool, pool.total_gpu_ms, pool.sold_gpu_ms, pool.covered_gpu_ms) == (
        "local/H100SXM",
        480_000,
        300_000,
        240_000,
    )
    assert (pool.unsold_used_gpu_ms, pool.unsold_idle_gpu_ms, pool.unsold_unhealthy_gpu_ms, pool.unknown_gpu_ms) == (
        120_000,
        90_000,
        30_000,
        0,
    )


def test_a_floor_on_the_total_lets_fast_gpus_stand_for_slow_ones() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_ppm(0, NODE_A[:2], 400_000, "matmul.v1")
    meter.set_ppm(0, NODE_A[2:], 1_400_000, "matmul.v1")
    total = MeteringTerms(interval_ms=60_000, cell=Level.NODE, floor_ppm=900_000, reject_below_ppm=500_000, total=True)
    mine = Contract(0, "p", "I@1", total, StepFunction.of([(0, 4)]), ACME)
    assert held(closed(meter, mine)) == {State.AVAILABLE_UNUSED: 240_000}
    meter.set_ppm(0, NODE_A[2:], 1_200_000, "matmul.v1")  # the mean is 0.8 now
    assert held(closed(meter, mine)) == {State.AVAILABLE_UNUSED: 216_000, State.DERATED: 24_000}
    meter.set_ppm(0, NODE_A[2:], 500_000, "matmul.v1")
    assert held(closed(meter, mine)) == {State.OUT_FORCED: 240_000}


GRACE = MeteringTerms(interval_ms=60_000, cell=Level.NODE, gpus_per_lot=4, replace_within_ms=90_000)


def lost_by_minute(meter: Meter, terms: MeteringTerms, minutes: int = 5) -> list[tuple[tuple[Cause, int], ...]]:
    of = Contract(0, "acme-1", "H100@1", terms, StepFunction.of([(0, 4)]), ACME)
    spans = [Interval(minute * 60_000, (minute + 1) * 60_000) for minute in range(minutes)]
    records = [meter.close(span, [of], FLEET).records[0] for span in spans]
    assert all(broken_identities(record) == () for record in records)
    assert {record.gpu_ms(State.OUT_FORCED) for record in records} >= {240_000}
    return [record.losses for record in records]


def test_a_failed_device_is_the_sellers_once_the_time_to_replace_it_is_over() -> None:
    meter = meter_of_acme_on_node_a()
    meter.set_cause(60_000, NODE_A[:1], Cause.ECC)
    meter.set_cause(100_000, NODE_A[:1], Cause.NODE_LOST)  # another cause of the same outage
    meter.set_cause(140_000, NODE_A[1:2], Cause.GPU_FAULT)  # another device of the cell
    grace, fault = Cause.REPLACEMENT, Cause.GPU_FAULT
    told = lost_by_minute(meter, GRACE)
    # From 150 s on both are out: the first device by its own cause, the others of its cell by the lowest.
    after = ((fault, 3 * 60_000), (Cause.NODE_LOST, 60_000))
    assert told == [
        (),
        ((grace, 240_000),),
        ((fault, 90_000), (Cause.NODE_LOST, 30_000), (grace, 120_000)),
        after,
        after,
    ]
    meter.forget(130_000)
    of = Contract(0, "acme-1", "H100@1", GRACE, StepFunction.of([(0, 4)]), ACME)
    assert meter.close(Interval(180_000, 240_000), [of], FLEET).records[0].losses == after
    assert Meter.load(meter.dump()).dump() == meter.dump()


def test_no_grace_for_a_drain_nor_for_who_comes_to_stand_on_a_device_that_failed_long_ago() -> None:
    meter = Meter()
    meter.grow(8)
    meter.set_cause(0, NODE_A, Cause.NODE_LOST)
    meter.set_owner(60_000, NODE_A, 0)
    told = lost_by_minute(meter, GRACE, 3)
    assert told[1] == ((Cause.NODE_LOST, 4 * 30_000), (Cause.REPLACEMENT, 4 * 30_000))
    assert told[2] == ((Cause.NODE_LOST, 240_000),)
    drained = meter_of_acme_on_node_a()
    drained.set_cause(60_000, NODE_A, Cause.DRAIN)
    assert lost_by_minute(drained, GRACE, 2)[1] == ((Cause.MAINTENANCE_OVER_BUDGET, 240_000),)


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 3), st.sampled_from([0, 0, 1001, 1005])), max_size=8),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_a_longer_grace_never_makes_the_seller_bear_more_and_loses_nothing(
    ill: list[tuple[int, int, int]], graces: tuple[int, int]
) -> None:
    meter = meter_of_acme_on_node_a()
    for at_s, gpu, cause in sorted(ill, key=lambda each: each[0]):
        meter.set_cause(at_s * 1_000, NODE_A[gpu : gpu + 1], cause)
    records = []
    for grace_s in sorted(graces):
        terms = MeteringTerms(interval_ms=60_000, cell=Level.NODE, gpus_per_lot=4, replace_within_ms=grace_s * 1_000)
        of = Contract(0, "acme-1", "H100@1", terms, StepFunction.of([(0, 4)]), ACME)
        records.append(meter.close(MINUTE, [of], FLEET).records[0])
    shorter, longer = (dict(each.losses) for each in records)
    assert records[0].states == records[1].states
    assert shorter.get(Cause.REPLACEMENT, 0) <= longer.get(Cause.REPLACEMENT, 0)
    assert sum(shorter.values()) == sum(longer.values())
