"""Statements: golden amounts in prose, the laws as properties, and every tiling that is refused."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.instruments import (
    CustomProfile,
    Damages,
    Firm,
    InstrumentTerms,
    Metric,
    NonFirm,
    PauseCredit,
    PayUnused,
    Recallable,
    ReleaseUnused,
    ThroughputTerms,
    Window,
    standard_terms,
)
from scheduler.core.intervals import Interval
from scheduler.core.metering.derate import derated_gpu_ms
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.models import canonical_bytes
from scheduler.core.quantities import MS_PER_HOUR
from scheduler.core.settlement import (
    PARTS_PER_MICRO,
    LineKind,
    Statement,
    difference,
    expected_starts,
    latest,
    settle,
)

ROOT = "ab" * 32
HOUR = MS_PER_HOUR
DOLLAR = 1_000_000


def terms(hours: int = 4, **changes: Any) -> InstrumentTerms:
    """Four hours of eight GPUs at 2 dollars, metered by the hour."""
    return standard_terms(symbol="H100", start_ms=0, end_ms=hours * HOUR, gpus=8, metering_interval_s=3600, **changes)


def record(hour: int, of: InstrumentTerms | None = None, **changes: Any) -> MeterRecord:
    """Eight GPUs, used for the hour, unless told otherwise; `used_gpu_ms` is what other states leave."""
    gone = sum(gpu_ms for name, gpu_ms in changes.items() if name in OTHER_STATES)
    contracted = changes.pop("contracted_gpu_ms", 8 * HOUR)
    delivered = contracted - gone + changes.get("available_unused_gpu_ms", 0) + changes.get("released_gpu_ms", 0)
    return MeterRecord(
        position=changes.pop("position", "acme-1"),
        instrument=(of or terms()).id,
        start_ms=hour * HOUR,
        end_ms=(hour + 1) * HOUR,
        contracted_gpu_ms=contracted,
        used_gpu_ms=contracted - gone,
        par_gpu_ms=changes.pop("par_gpu_ms", delivered),
        **changes,
    )


OTHER_STATES = {f"{state}_gpu_ms" for state in State} - {"used_gpu_ms"}


def lost(hour: int, cause: Cause, gpu_ms: int, **changes: Any) -> MeterRecord:
    state: dict[str, Any] = {f"{STATE_OF_CAUSE[cause]}_gpu_ms": gpu_ms}
    return record(hour, **state, losses=((cause, gpu_ms),), **changes)


def settled(records: list[MeterRecord], of: InstrumentTerms | None = None, **changes: Any) -> Statement:
    return settle(of or terms(), records, records_root=ROOT, **changes)


def amounts(statement: Statement) -> dict[LineKind, int]:
    return {line.kind: line.amount_micro for line in statement.lines if line.parts}


# -- golden ------------------------------------------------------------------------------------------------------------


def test_four_full_hours_of_eight_gpus_at_two_dollars_cost_sixty_four() -> None:
    statement = settled([record(hour) for hour in range(4)])
    assert amounts(statement) == {LineKind.CAPACITY: 64 * DOLLAR}
    assert (statement.amount_micro, statement.remainder, statement.complete) == (64 * DOLLAR, 0, True)
    assert (statement.availability_ppm, statement.availability_met) == (1_000_000, True)
    assert (statement.records, statement.records_unsettled, statement.through_ms) == (4, 4, 4 * HOUR)


def test_a_lost_hour_is_not_paid_and_its_replacement_at_three_dollars_is_made_good() -> None:
    of = terms(damages=Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR))
    statement = settled([lost(0, Cause.NODE_LOST, 8 * HOUR), *(record(hour) for hour in range(1, 4))], of)
    assert amounts(statement) == {LineKind.CAPACITY: 48 * DOLLAR, LineKind.DAMAGES: -8 * DOLLAR}
    assert (statement.amount_micro, statement.availability_ppm) == (40 * DOLLAR, 750_000)
    assert not statement.availability_met


def test_damages_stop_at_their_cap() -> None:
    for cap in (
        Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR, cap_micro=5 * DOLLAR),
        Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR, cap_ppm=78_125),
    ):
        of = terms(damages=cap)
        statement = settled([lost(0, Cause.ECC, 8 * HOUR), *(record(hour) for hour in range(1, 4))], of)
        assert amounts(statement)[LineKind.DAMAGES] == -5 * DOLLAR
        assert [line.kind for line in statement.lines if line.capped] == [LineKind.DAMAGES]


def test_the_cap_of_a_lot_and_its_window_counts_in_proportion_and_covers_recalls_too() -> None:
    cap = Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR, cap_micro=8 * DOLLAR)
    half = settled([lost(0, Cause.ECC, 8 * HOUR), record(1)], terms(damages=cap), window=Interval(0, 2 * HOUR))
    assert amounts(half)[LineKind.DAMAGES] == -4 * DOLLAR
    firmness = Recallable(notice_ms=0, max_events=9, max_quantity_gpu_ms=0)
    losses = ((Cause.ECC, 3 * HOUR), (Cause.RECALL, 5 * HOUR))
    both = record(0, out_forced_gpu_ms=3 * HOUR, recalled_gpu_ms=5 * HOUR, losses=losses)
    statement = settled([both, record(1)], terms(damages=cap, firmness=firmness), window=Interval(0, 2 * HOUR))
    assert amounts(statement) == {
        LineKind.CAPACITY: 16 * DOLLAR,
        LineKind.DAMAGES: -3 * DOLLAR,
        LineKind.RECALL_EXCESS: -1 * DOLLAR,
    }


@pytest.mark.parametrize(
    ("cause", "changes", "owed"),
    [
        (Cause.OVERSOLD, {}, True),
        (Cause.OVERSOLD, {"firmness": NonFirm()}, False),
        (Cause.SHORTAGE_RULE, {}, True),
        (Cause.SHORTAGE_RULE, {"firmness": Recallable(notice_ms=0, max_events=1, max_quantity_gpu_ms=0)}, False),
        (Cause.FORCE_MAJEURE, {}, False),
        (Cause.FORCE_MAJEURE, {"force_majeure_excuses": False}, True),
        (Cause.PLANNED_MAINTENANCE, {}, False),
        (Cause.MAINTENANCE_OVER_BUDGET, {}, True),
        (Cause.BUYER_FAULT, {}, False),
        (Cause.RECALL, {}, False),
        (Cause.REPLACEMENT, {}, False),
        (Cause.NOT_OBSERVED, {}, False),
    ],
)
def test_damages_are_owed_for_what_the_seller_bears(cause: Cause, changes: dict[str, Any], *, owed: bool) -> None:
    of = terms(1, damages=Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR), **changes)
    statement = settled([lost(0, cause, 8 * HOUR)], of)
    assert amounts(statement) == ({LineKind.DAMAGES: -8 * DOLLAR} if owed else {})


def test_what_is_still_unknown_when_final_counts_against_the_owner_of_the_meter() -> None:
    of = terms(1, damages=Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR))
    assert settled([lost(0, Cause.NOT_OBSERVED, 8 * HOUR)], of).amount_micro == 0
    final = lost(0, Cause.NOT_OBSERVED, 8 * HOUR, status=RecordStatus.FINAL)
    assert settled([final], of).amount_micro == -8 * DOLLAR


def test_a_derated_hour_is_discounted_by_its_derated_part_and_earns_no_damages() -> None:
    of = terms(1, damages=Damages(reference_price_micro_per_gpu_hour=9 * DOLLAR))
    slow = record(0, derated_gpu_ms=HOUR, losses=((Cause.UNDER_PERFORMANCE, HOUR),))
    statement = settled([slow], of)
    assert amounts(statement) == {LineKind.CAPACITY: 16 * DOLLAR, LineKind.DERATING: -2 * DOLLAR}
    assert statement.availability_ppm == 1_000_000


def test_unused_capacity_is_paid_credited_or_released_as_the_rule_says() -> None:
    idle = record(0, available_unused_gpu_ms=4 * HOUR)
    given_back = record(0, released_gpu_ms=4 * HOUR)
    half_back = PauseCredit(credit_ppm=500_000)
    assert settled([idle], terms(1, unused_rule=PayUnused())).amount_micro == 16 * DOLLAR
    assert settled([idle], terms(1, unused_rule=half_back)).amount_micro == 12 * DOLLAR
    assert settled([idle], terms(1, unused_rule=ReleaseUnused())).amount_micro == 16 * DOLLAR
    assert settled([given_back], terms(1, unused_rule=PayUnused())).amount_micro == 16 * DOLLAR
    assert settled([given_back], terms(1, unused_rule=half_back)).amount_micro == 12 * DOLLAR
    assert settled([given_back], terms(1, unused_rule=ReleaseUnused())).amount_micro == 8 * DOLLAR


def test_substitutes_are_paid_by_their_par_quantity() -> None:
    better = record(0, par_gpu_ms=10 * HOUR, available_unused_gpu_ms=4 * HOUR)
    assert settled([better], terms(1)).amount_micro == 20 * DOLLAR
    assert settled([better], terms(1, unused_rule=PauseCredit(credit_ppm=1_000_000))).amount_micro == 10 * DOLLAR


def test_recalls_within_their_limit_cost_nothing_but_the_hours_and_beyond_it_damages() -> None:
    firmness = Recallable(notice_ms=0, max_events=9, max_quantity_gpu_ms=6 * HOUR)
    of = terms(1, firmness=firmness, damages=Damages(reference_price_micro_per_gpu_hour=3 * DOLLAR))
    assert settled([lost(0, Cause.RECALL, 6 * HOUR)], of).amount_micro == 4 * DOLLAR
    beyond = settled([lost(0, Cause.RECALL, 8 * HOUR)], of)
    assert amounts(beyond) == {LineKind.RECALL_EXCESS: -2 * DOLLAR}


def test_amounts_round_towards_zero_and_keep_what_was_cut_off() -> None:
    odd = terms(1, price_micro_per_gpu_hour=7)
    one = record(0, contracted_gpu_ms=1_000_000)
    line = settled([one], odd).lines[0]
    assert (line.amount_micro, line.remainder) == (1, 3_400_000 * 1_000_000)
    assert line.parts == 7 * 1_000_000 * 1_000_000


# -- laws --------------------------------------------------------------------------------------------------------------

quantities = st.integers(0, HOUR // 3)
statuses = st.sampled_from(list(RecordStatus)[:3])


@st.composite
def metered_hours(draw: st.DrawFn, hours: int = 4) -> list[MeterRecord]:
    found = []
    for hour in range(hours):
        forced, planned, excused, recalled, unknown, slow = (draw(quantities) for _ in range(6))
        losses = {
            Cause.ECC: forced,
            Cause.UNDER_PERFORMANCE: slow,
            Cause.FORCE_MAJEURE: excused,
            Cause.RECALL: recalled,
            Cause.DRAIN: planned,
            Cause.NOT_OBSERVED: unknown,
        }
        found.append(
            record(
                hour,
                available_unused_gpu_ms=draw(quantities),
                released_gpu_ms=draw(quantities),
                derated_gpu_ms=slow,
                out_forced_gpu_ms=forced,
                out_planned_gpu_ms=planned,
                out_excused_gpu_ms=excused,
                recalled_gpu_ms=recalled,
                unknown_gpu_ms=unknown,
                losses=tuple((cause, gpu_ms) for cause, gpu_ms in sorted(losses.items()) if gpu_ms),
                status=draw(statuses),
            )
        )
    return found


contracts = st.builds(
    terms,
    price_micro_per_gpu_hour=st.integers(0, 5_000_000),
    firmness=st.sampled_from([Firm(), NonFirm()]),
    force_majeure_excuses=st.booleans(),
    unused_rule=st.sampled_from([PayUnused(), PauseCredit(credit_ppm=333_333), ReleaseUnused()]),
    damages=st.builds(Damages, reference_price_micro_per_gpu_hour=st.integers(0, 9_000_000)),
)


@given(contracts, metered_hours(), st.integers(1, 3))
def test_two_halves_of_the_window_settle_to_the_whole_exactly(
    of: InstrumentTerms, records: list[MeterRecord], cut: int
) -> None:
    whole = settled(records, of)
    halves = [
        settled(records[:cut], of, window=Interval(0, cut * HOUR)),
        settled(records[cut:], of, window=Interval(cut * HOUR, 4 * HOUR)),
    ]
    for i, line in enumerate(whole.lines):
        assert sum(half.lines[i].parts for half in halves) == line.parts, line.kind
    total = sum(half.amount_micro * PARTS_PER_MICRO + half.remainder for half in halves)
    assert total == whole.amount_micro * PARTS_PER_MICRO + whole.remainder
    assert abs(whole.remainder) < len(whole.lines) * PARTS_PER_MICRO


@given(contracts, metered_hours())
def test_two_parts_of_a_position_settle_to_the_whole_exactly(of: InstrumentTerms, records: list[MeterRecord]) -> None:
    def share(record: MeterRecord, part: int) -> MeterRecord:
        mine = {
            name: gpu_ms // 2 if part == 0 else gpu_ms - gpu_ms // 2
            for name, gpu_ms in record
            if name.endswith("_gpu_ms")
        }
        losses = tuple((cause, gpu_ms // 2 if part == 0 else gpu_ms - gpu_ms // 2) for cause, gpu_ms in record.losses)
        return MeterRecord.model_validate(
            dict(record)
            | mine
            | {
                "contracted_gpu_ms": sum(mine[f"{state}_gpu_ms"] for state in State),
                "par_gpu_ms": mine["used_gpu_ms"] + mine["available_unused_gpu_ms"] + mine["released_gpu_ms"],
                "losses": tuple((cause, gpu_ms) for cause, gpu_ms in losses if gpu_ms),
            }
        )

    whole = settled(records, of)
    parts = [settled([share(record, part) for record in records], of) for part in range(2)]
    for i, line in enumerate(whole.lines):
        assert sum(part.lines[i].parts for part in parts) == line.parts, line.kind
    assert sum(part.contracted_gpu_ms for part in parts) == whole.contracted_gpu_ms


@given(contracts, metered_hours(), st.randoms(use_true_random=False))
def test_order_and_repetition_of_records_change_no_byte(
    of: InstrumentTerms, records: list[MeterRecord], random: Random
) -> None:
    again = records + random.sample(records, 2)
    random.shuffle(again)
    assert canonical_bytes(settled(again, of)) == canonical_bytes(settled(records, of))


@given(contracts, metered_hours(), metered_hours())
def test_a_correction_owes_the_difference(
    of: InstrumentTerms, records: list[MeterRecord], corrected: list[MeterRecord]
) -> None:
    versions = {"version": 2, "supersedes": 1, "status": RecordStatus.CORRECTED}
    later = [MeterRecord.model_validate(dict(each) | versions) for each in corrected[:2]]
    before, after = settled(records, of), settled(records + later, of)
    assert after == settled([*later, *records], of)
    moved = sum(line.parts for line in difference(before, after))
    whole_before = before.amount_micro * PARTS_PER_MICRO + before.remainder
    assert whole_before + moved == after.amount_micro * PARTS_PER_MICRO + after.remainder


capped = st.builds(
    Damages,
    reference_price_micro_per_gpu_hour=st.integers(1, 9_000_000),
    cap_micro=st.none() | st.integers(1, 20 * DOLLAR),
) | st.builds(Damages, reference_price_micro_per_gpu_hour=st.integers(1, 9_000_000), cap_ppm=st.integers(1, 2_000_000))


@given(capped, metered_hours(), st.integers(0, HOUR))
def test_damages_and_recalls_together_never_exceed_the_cap(
    damages: Damages, records: list[MeterRecord], allowed_gpu_ms: int
) -> None:
    firmness = Recallable(notice_ms=0, max_events=9, max_quantity_gpu_ms=allowed_gpu_ms)
    of = terms(damages=damages, firmness=firmness, price_micro_per_gpu_hour=DOLLAR)
    without = terms(damages=_without_cap(damages), firmness=firmness, price_micro_per_gpu_hour=DOLLAR)
    statement = settled(records, of)
    owed = [line for line in statement.lines if line.kind in (LineKind.DAMAGES, LineKind.RECALL_EXCESS)]
    paid, free = (-sum(each.parts for each in settled(records, by).lines[-2:]) for by in (of, without))
    cap = free
    if damages.cap_micro is not None:
        cap = damages.cap_micro * PARTS_PER_MICRO
    elif damages.cap_ppm is not None:
        cap = DOLLAR * statement.contracted_gpu_ms * damages.cap_ppm
    assert paid == min(free, cap)
    assert any(line.capped for line in owed) == (free > cap)


def _without_cap(damages: Damages) -> Damages:
    return Damages(reference_price_micro_per_gpu_hour=damages.reference_price_micro_per_gpu_hour)


@given(contracts, metered_hours(), st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_becoming_final_never_costs_the_buyer_more_and_a_dispute_puts_it_off(
    of: InstrumentTerms, records: list[MeterRecord], final: set[int], disputed: set[int]
) -> None:
    def amount(hours: set[int], under_dispute: set[int]) -> int:
        found = settled(
            records, of, final=[hour * HOUR for hour in hours], disputed=[hour * HOUR for hour in under_dispute]
        )
        assert found.records_unsettled == 4 - len(hours - under_dispute)
        return sum(line.parts for line in found.lines)

    rate = max(0, of.damages.reference_price_micro_per_gpu_hour - of.price_micro_per_gpu_hour)
    unknown = sum(records[hour].unknown_gpu_ms for hour in final)
    owed = 0 if isinstance(of.firmness, NonFirm) else rate * unknown * 1_000_000
    assert amount(set(), set()) - amount(final, set()) == owed >= 0
    assert amount(final, disputed) == amount(final - disputed, set())


@given(metered_hours())
def test_a_statement_conserves_what_was_contracted(records: list[MeterRecord]) -> None:
    statement = settled(records)
    states = dict(statement.states)
    assert sum(states.values()) == statement.contracted_gpu_ms == sum(each.contracted_gpu_ms for each in records)
    delivered = states[State.USED] + states[State.AVAILABLE_UNUSED] + states[State.RELEASED]
    assert delivered + sum(gpu_ms for _, gpu_ms in statement.losses) == statement.contracted_gpu_ms


@given(st.integers(0, 1_200_000), st.integers(0, 200_000), st.integers(0, 3_000_000), st.integers(0, 500_000))
def test_a_slower_gpu_or_a_steeper_slope_never_costs_more(ppm: int, faster: int, slope: int, steeper: int) -> None:
    def amount(ppm: int, slope_ppm: int) -> int:
        floor = ThroughputTerms(
            suite="s", metrics=(Metric(name="m", unit="u", reference=1),), discount_slope_ppm=slope_ppm
        )
        of = terms(1, throughput=floor)
        slow = derated_gpu_ms(8 * HOUR, ppm=ppm, floor_ppm=floor.floor_ppm, slope_ppm=slope_ppm)
        losses = ((Cause.UNDER_PERFORMANCE, slow),) if slow else ()
        return settled([record(0, of, derated_gpu_ms=slow, losses=losses)], of).amount_micro

    assert amount(ppm, slope) <= amount(ppm + faster, slope)
    assert amount(ppm, slope + steeper) <= amount(ppm, slope)


# -- tiling ------------------------------------------------------------------------------------------------------------


def test_a_gap_is_refused_by_name_unless_only_the_end_is_missing_and_partial_was_asked() -> None:
    with pytest.raises(Conflict, match=r"acme-1 has no record of \[3600000, 7200000\)"):
        settled([record(0), record(2), record(3)])
    with pytest.raises(Conflict, match=r"no record of \[10800000, 14400000\)$"):
        settled([record(0), record(1), record(2)])
    with pytest.raises(Conflict, match="no record of"):
        settled([record(0), record(2)], partial=True)
    so_far = settled([record(0), record(1)], partial=True)
    assert (so_far.complete, so_far.through_ms, so_far.amount_micro) == (False, 2 * HOUR, 32 * DOLLAR)
    assert settled([record(hour) for hour in range(4)], partial=True).complete


def test_a_position_that_began_within_an_interval_settles_from_there() -> None:
    late = [record(2, contracted_gpu_ms=4 * HOUR), record(3)]
    statement = settled(late, window=Interval(2 * HOUR + HOUR // 2, 4 * HOUR))
    assert (statement.amount_micro, statement.complete) == (24 * DOLLAR, True)
    with pytest.raises(Conflict, match="outside"):
        settled([record(1), *late], window=Interval(2 * HOUR + 1, 4 * HOUR))


def test_a_profile_needs_records_only_where_it_delivers() -> None:
    steps = CustomProfile(steps=(Window(start_ms=HOUR, end_ms=2 * HOUR), Window(start_ms=3 * HOUR, end_ms=4 * HOUR)))
    of = terms(profile=steps)
    assert settled([record(1), record(3)], of).amount_micro == 32 * DOLLAR
    empty = record(2, contracted_gpu_ms=0)
    assert settled([record(1), empty, record(3)], of).complete
    with pytest.raises(Conflict, match="outside the profile"):
        settled([record(1), record(2), record(3)], of)
    assert list(expected_starts(of, Interval(0, 4 * HOUR))) == [HOUR, 3 * HOUR]


def test_a_partial_statement_is_complete_once_nothing_more_is_delivered() -> None:
    of = terms(profile=CustomProfile(steps=(Window(start_ms=HOUR, end_ms=3 * HOUR),)))
    assert not settled([record(1)], of, partial=True).complete
    done = settled([record(1), record(2)], of, partial=True)
    assert (done.complete, done.through_ms) == (True, 4 * HOUR)
    assert done == settled([record(1), record(2)], of)


def test_steps_that_share_a_metering_interval_expect_it_once() -> None:
    half = HOUR // 2
    steps = CustomProfile(steps=(Window(start_ms=0, end_ms=half - 1), Window(start_ms=half, end_ms=HOUR + 1)))
    assert list(expected_starts(terms(profile=steps), Interval(10, 4 * HOUR))) == [0, HOUR]


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([record(0), record(0, position="other")], "expected one position"),
        ([record(0), record(1, standard_terms(symbol="A100", start_ms=0, end_ms=HOUR))], "of instrument A100@1"),
        ([record(0, contracted_gpu_ms=5), record(0, contracted_gpu_ms=6)], "given twice, with different content"),
        ([record(0), record(4)], "is outside"),
        ([record(0), MeterRecord.model_validate(dict(record(1)) | {"start_ms": HOUR + 1})], "overlaps others"),
        ([record(0), MeterRecord.model_validate(dict(record(1)) | {"end_ms": 3 * HOUR})], "overlaps others"),
        ([MeterRecord.model_validate(dict(record(0)) | {"used_gpu_ms": 1})], "does not add up"),
    ],
)
def test_records_that_cannot_be_settled_together_are_refused(records: list[MeterRecord], named: str) -> None:
    with pytest.raises(Conflict, match=named):
        settled(records)


def test_a_statement_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match="at least one record"):
        settled([])


def test_the_statement_names_the_versions_it_used() -> None:
    first = settled([record(hour) for hour in range(4)])
    second = MeterRecord.model_validate(
        dict(record(3)) | {"version": 2, "supersedes": 1, "status": RecordStatus.CORRECTED}
    )
    after = settled([*(record(hour) for hour in range(4)), second])
    assert first.versions_root != after.versions_root
    assert (first.records, first.records_root) == (after.records, ROOT)
    assert [each.version for each in latest([second, record(3), record(0)])] == [1, 2]


def test_differences_are_only_between_statements_of_one_period() -> None:
    whole = settled([record(hour) for hour in range(4)])
    part = settled([record(0)], window=Interval(0, HOUR))
    assert difference(whole, whole) == ()
    with pytest.raises(Conflict, match="cannot be adjusted"):
        difference(part, whole)
