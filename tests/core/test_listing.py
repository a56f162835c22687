"""Listings that cannot be honoured as written: each fault by name, and all of them at once."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.errors import InvalidInstrument
from scheduler.core.instruments import (
    CustomProfile,
    Damages,
    Deliverable,
    Grade,
    InstrumentTerms,
    InterNode,
    IntraNode,
    Maintenance,
    Metric,
    PauseCredit,
    PeakProfile,
    Recallable,
    SwingProfile,
    SwingTerms,
    Tenancy,
    ThroughputTerms,
    Weekday,
    Window,
    standard_terms,
)
from scheduler.core.listing import MAX_WINDOW_MS, check_listing, grade_shapes, parse_terms
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR

END_MS = 2 * MS_PER_DAY
KNOWN = {"H100SXM", "H200SXM"}


def standard(**terms: Any) -> InstrumentTerms:
    return standard_terms(**{"symbol": "S", "start_ms": 0, "end_ms": END_MS, **terms})


def faults_of(terms: InstrumentTerms, *known: Any) -> tuple[str, ...]:
    try:
        check_listing(terms, *known)
    except InvalidInstrument as error:
        return error.faults
    return ()


def grade(**fields: Any) -> Grade:
    return Grade(**{"klass": "H100SXM", **fields})


def throughput(**fields: Any) -> ThroughputTerms:
    metrics = (Metric(name="matmul", unit="MFLOP_PER_S", reference=1),)
    return ThroughputTerms(**{"suite": "matmul.v1", "metrics": metrics, **fields})


def recallable(**fields: Any) -> Recallable:
    return Recallable(**{"notice_ms": 120_000, "max_events": 2, "max_quantity_gpu_ms": MS_PER_HOUR, **fields})


def swing(**fields: Any) -> dict[str, Any]:
    terms = SwingTerms(**{"total_gpu_ms": MS_PER_HOUR, "max_rate_gpus": 1, **fields})
    return {"profile": SwingProfile(), "swing": terms}


def steps(*of: tuple[int, int]) -> CustomProfile:
    return CustomProfile(steps=tuple(Window(start_ms=a * MS_PER_HOUR, end_ms=b * MS_PER_HOUR) for a, b in of))


def peak(**fields: Any) -> PeakProfile:
    return PeakProfile(**{"time_zone": "Europe/Berlin", "days": tuple(Weekday), **fields})


H200 = Deliverable(grade="H200SXM", conversion_ppm=1_400_000, needs_consent=True)
PAR = Deliverable(grade="H100SXM")

HONOURABLE = [
    {},
    {"deliverables": (PAR, H200)},
    {"cell": Level.NVLINK_DOMAIN, "gpus": 72, "grade": "H200SXM"},
    {"profile": peak()},
    {"profile": peak(start_local="22:00", end_local="06:00"), "metering_interval_s": 3600},
    {"profile": peak(time_zone="Asia/Kathmandu"), "metering_interval_s": 900},
    {"profile": steps((0, 3), (3, 4), (47, 48))},
    swing(total_gpu_ms=48 * MS_PER_HOUR, min_take_gpu_ms=48 * MS_PER_HOUR),
    {"firmness": recallable(notice_ms=END_MS, max_quantity_gpu_ms=END_MS)},
    {"throughput": throughput(floor_ppm=1_000_000, reject_below_ppm=1_000_000)},
    {"damages": Damages(reference_price_micro_per_gpu_hour=5, cap_ppm=2_000_000)},
    {"unused_rule": PauseCredit(credit_ppm=1_000_000)},
]


@pytest.mark.parametrize("terms", HONOURABLE, ids=str)
def test_what_can_be_honoured_is_listed(terms: dict[str, Any]) -> None:
    check_listing(standard(**terms), KNOWN, {"local"})


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"grade": "V100"}, "grade.klass was 'V100', expected one of H100SXM, H200SXM"),
    (
        {"deliverables": (PAR, Deliverable(grade="V100"))},
        "deliverables[1].grade was 'V100', expected one of H100SXM, H200SXM",
    ),
    ({"deliverables": ()}, "deliverables[0].grade was empty, expected the par grade 'H100SXM' first"),
    ({"deliverables": (H200, PAR)}, "deliverables[0].grade was 'H200SXM', expected the par grade 'H100SXM' first"),
    (
        {"deliverables": (Deliverable(grade="H100SXM", conversion_ppm=1),)},
        "deliverables[0].conversion_ppm was 1, expected 1000000, as it is par",
    ),
    (
        {"deliverables": (Deliverable(grade="H100SXM", needs_consent=True),)},
        "deliverables[0].needs_consent was True, expected False, as it is par",
    ),
    ({"deliverables": (PAR, H200, H200)}, "deliverables[2].grade was 'H200SXM', expected each grade once"),
    (
        {"deliverables": (PAR, Deliverable(grade="H200SXM", conversion_ppm=0))},
        "deliverables[1].conversion_ppm was 0, expected 1..100000000",
    ),
    ({"site": "mars"}, "site was 'mars', expected one of local"),
    ({"start_ms": 10_000}, "window.start_ms was 10000, expected a multiple of the metering interval, 300000 ms"),
    ({"end_ms": END_MS + 1}, "window.end_ms was 172800001, expected a multiple of the metering interval, 300000 ms"),
    (
        {"end_ms": MAX_WINDOW_MS + MS_PER_DAY},
        "window was 315705600000 ms long, expected 315619200000 ms (ten years) at most",
    ),
    (
        {"profile": peak(time_zone="Europe/Berlyn")},
        "profile.time_zone was 'Europe/Berlyn', expected a name of the IANA time zone database",
    ),
    ({"profile": peak(days=())}, "profile.days was [], expected one day or more, each once"),
    (
        {"profile": peak(days=(Weekday.SUN, Weekday.SUN))},
        "profile.days was ['SUN', 'SUN'], expected one day or more, each once",
    ),
    ({"profile": peak(start_local="24:00")}, "profile.start_local was 24:00, expected 00:00 to 23:59"),
    ({"profile": peak(days=(Weekday.MON,))}, "profile is empty: nothing of it falls into the window"),
    ({"profile": steps()}, "profile is empty: nothing of it falls into the window"),
    (
        {"profile": peak(holidays=tuple(date(1970, 1, day) for day in (1, 2, 3)))},
        "profile is empty: nothing of it falls into the window",
    ),
    (
        {"profile": peak(time_zone="Asia/Kathmandu"), "metering_interval_s": 3600},
        "profile was on in [9000000, 52200000), expected multiples of the metering interval, 3600000 ms",
    ),
    (
        {"profile": steps((0, 3), (47, 49))},
        "profile.steps[1] was [169200000, 176400000), expected inside the window [0, 172800000)",
    ),
    (
        {"profile": steps((2, 3), (0, 1))},
        "profile.steps[1] was [0, 3600000), expected a start at 10800000, the end of the step before, or later",
    ),
    ({"profile": SwingProfile()}, "swing was missing, expected swing terms where profile is SWING"),
    (
        {"swing": SwingTerms(total_gpu_ms=1, max_rate_gpus=1)},
        "swing was given, expected none where profile is BASE",
    ),
    (swing(max_rate_gpus=2), "swing.max_rate_gpus was 2, expected 1..1, the lot's GPUs"),
    (
        swing(total_gpu_ms=END_MS + 1),
        "swing.total_gpu_ms was 172800001, expected 1..172800000, the rate cap over the window",
    ),
    (swing(total_gpu_ms=0), "swing.total_gpu_ms was 0, expected 1..172800000, the rate cap over the window"),
    (
        swing(min_take_gpu_ms=MS_PER_HOUR + 1),
        "swing.min_take_gpu_ms was 3600001, expected 0..3600000, the total",
    ),
    (
        {"firmness": recallable(notice_ms=END_MS + 1)},
        "firmness.notice_ms was 172800001, expected 0..172800000, the window's length",
    ),
    (
        {"firmness": recallable(min_run_ms=END_MS + 1)},
        "firmness.min_run_ms was 172800001, expected 0..172800000, the window's length",
    ),
    (
        {"firmness": recallable(max_quantity_gpu_ms=0)},
        "firmness.max_quantity_gpu_ms was 0, expected 1..172800000, the lot over the window",
    ),
    ({"throughput": throughput(metrics=())}, "throughput.metrics was [], expected one metric or more, each name once"),
    (
        {"throughput": throughput(floor_ppm=1_200_000)},
        "throughput.floor_ppm was 1200000, expected 0..1000000",
    ),
    (
        {"throughput": throughput(floor_ppm=700_000, reject_below_ppm=700_001)},
        "throughput.reject_below_ppm was 700001, expected 0..700000, the floor",
    ),
    ({"availability_target_ppm": 1_000_001}, "availability_target_ppm was 1000001, expected 0..1000000"),
    ({"bind_limit_s": 0}, "bind_limit_s was 0, expected 1 or more"),
    ({"drain_s": END_MS // 1_000}, "drain_s was 172800, expected less than the window, 172800000 ms"),
    (
        {"maintenance": Maintenance(budget_ms=END_MS + 1)},
        "maintenance.budget_ms was 172800001, expected 0..172800000, the window's length",
    ),
    ({"unused_rule": PauseCredit(credit_ppm=1_000_001)}, "unused_rule.credit_ppm was 1000001, expected 0..1000000"),
    ({"damages": Damages(cap_micro=1, cap_ppm=1)}, "damages was capped twice, expected cap_micro or cap_ppm, not both"),
    (
        {"damages": Damages(reference_price_micro_per_gpu_hour=1, cap_micro=0)},
        "damages was capped at 0, expected a positive cap, or no reference price",
    ),
]


@pytest.mark.parametrize(("terms", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_a_fault_is_named_with_what_was_expected(terms: dict[str, Any], fault: str) -> None:
    assert faults_of(standard(**terms), KNOWN, {"local"}) == (fault,)


@pytest.mark.parametrize(
    ("of", "cell", "fault"),
    [
        (
            grade(intra_node=IntraNode.PCIE),
            Level.NVLINK_DOMAIN,
            "grade.intra_node was PCIE, expected NVLINK or XGMI where lot.cell is NVLINK_DOMAIN",
        ),
        (
            grade(inter_node=InterNode.NONE),
            Level.FABRIC_BLOCK,
            "grade.inter_node was NONE, expected a fabric where lot.cell is FABRIC_BLOCK",
        ),
        (
            grade(tenancy=Tenancy.WHOLE_NODE),
            Level.GPU,
            "lot.cell was GPU, expected NODE or above where grade.tenancy is WHOLE_NODE",
        ),
        (
            grade(tenancy=Tenancy.WHOLE_SITE),
            Level.NODE,
            "lot.cell was NODE, expected SITE where grade.tenancy is WHOLE_SITE",
        ),
    ],
)
def test_a_grade_must_suit_the_lots_cell(of: Grade, cell: Level, fault: str) -> None:
    terms = InstrumentTerms(**{**dict(standard(cell=cell)), "grade": of})
    assert faults_of(terms) == (fault,)


def test_every_fault_is_named_and_the_instrument_too() -> None:
    terms = standard(
        start_ms=1,
        grade="V100",
        profile=peak(time_zone="Nowhere", days=()),
        throughput=throughput(floor_ppm=2_000_000, reject_below_ppm=3_000_000),
        bind_limit_s=0,
    )
    with pytest.raises(InvalidInstrument, match="instrument S@1 cannot be listed: ") as refused:
        check_listing(terms, KNOWN)
    fields = [fault.split(" was ")[0] for fault in refused.value.faults]
    assert fields == [
        "grade.klass",
        "window.start_ms",
        "profile.time_zone",
        "profile.days",
        "throughput.floor_ppm",
        "throughput.reject_below_ppm",
        "bind_limit_s",
    ]


def test_deliverables_must_reach_the_lots_shape() -> None:
    def node(name: str, grade: str, gpus: int, domain: str, site: str = "local") -> NodeSpec:
        return NodeSpec(name=name, grade=grade, gpus=gpus, site=site, domain=domain)

    fleet = Fleet.of(
        (
            node("a", "H100SXM", 8, "one"),
            node("b", "H100SXM", 8, "one"),
            node("c", "H200SXM", 4, "two"),
            node("d", "H100SXM", 4, "two"),
            node("e", "H200SXM", 8, "one", site="north"),
        )
    )
    shapes = grade_shapes(fleet, "local")
    assert shapes == {
        "H100SXM": {Level.GPU: {1}, Level.NODE: {4, 8}, Level.NVLINK_DOMAIN: {16}},
        "H200SXM": {Level.GPU: {1}, Level.NODE: {4}},
    }
    both = (PAR, H200)
    assert faults_of(standard(cell=Level.NODE, gpus=4, deliverables=both), shapes) == ()
    assert faults_of(standard(gpus=3, deliverables=both), shapes) == ()
    assert faults_of(standard(cell=Level.NODE, gpus=8, deliverables=both), shapes) == (
        "deliverables[1].grade 'H200SXM' does not reach the lot's shape: a lot is one NODE of 8 GPUs, the grade has 4",
    )
    unlike = "does not reach the lot's shape: a lot is one NVLINK_DOMAIN of 8 GPUs, the grade has"
    assert faults_of(standard(cell=Level.NVLINK_DOMAIN, gpus=8, deliverables=both), shapes) == (
        f"grade.klass 'H100SXM' {unlike} 16",
        f"deliverables[1].grade 'H200SXM' {unlike} no such cell",
    )


def test_where_grades_and_sites_are_unknown_they_are_not_checked() -> None:
    check_listing(standard(grade="V100", site="mars"))
    assert faults_of(standard(), set()) == ("grade.klass was 'H100SXM', expected a known one, and none is known",)


# -- what has the wrong type -------------------------------------------------------------------------------------------

WRITTEN: dict[str, Any] = standard(profile=peak(), cell=Level.NODE, gpus=8).model_dump(mode="json")


def test_terms_are_read_from_json_and_from_mappings() -> None:
    terms = standard(profile=peak(), cell=Level.NODE, gpus=8)
    assert parse_terms(terms.model_dump_json()) == terms
    assert parse_terms(terms.model_dump_json().encode()) == terms
    assert parse_terms(WRITTEN) == terms
    assert parse_terms(dict(terms)) == terms, "models and enums inside plain data"


def test_every_field_of_the_wrong_type_is_named() -> None:
    wrong = {**WRITTEN, "lot": {"cell": "RACK"}, "currency": "usd", "version": "1", "price": 5, "drain_s": 1.5}
    del wrong["window"], wrong["grade"]
    with pytest.raises(InvalidInstrument, match="instrument S cannot be listed") as refused:
        parse_terms(wrong)
    assert sorted(refused.value.faults) == [
        "currency was 'usd': string should match pattern '^[A-Z]{3}$'",
        "drain_s was 1.5: input should be a valid integer",
        "grade is missing",
        "lot.cell was 'RACK': was 'RACK', expected one of GPU, NODE, NVLINK_DOMAIN, FABRIC_BLOCK, SITE",
        "price was 5: extra inputs are not permitted",
        "version was '1': input should be a valid integer",
        "window is missing",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"S"',
        b"\xff\xfe",
        b'{"symbol": NaN}',
        b"[" * 100_000,
        "{",
        {},
        {"symbol": object()},
        {"symbol": float("nan")},
        {1: 2, (3, 4): 5},
    ],
    ids=lambda wrong: repr(wrong)[:30],
)
def test_what_is_no_listing_at_all_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInstrument, match=r"instrument \(unnamed\) cannot be listed: ."):
        parse_terms(wrong)
