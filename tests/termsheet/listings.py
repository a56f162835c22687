"""Listings of several kinds, one a golden file."""

from __future__ import annotations

from datetime import date
from typing import Any

from scheduler.core.cluster import Level
from scheduler.core.instruments import (
    Amount,
    CustomProfile,
    Damages,
    Deliverable,
    InstrumentTerms,
    Maintenance,
    Metric,
    NonFirm,
    PauseCredit,
    PeakProfile,
    Recallable,
    ReleaseUnused,
    SettlementCalendar,
    SwingProfile,
    SwingTerms,
    SystemFirm,
    ThroughputScope,
    ThroughputTerms,
    UnitFirm,
    Weekday,
    Window,
    standard_terms,
)

START_MS = 1_798_761_600_000
"""2027-01-01T00:00:00Z."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPRING_MS = 1_806_105_600_000
"""2027-03-26T00:00:00Z, two days before clocks go forward in Berlin."""


def listing(symbol: str, **terms: Any) -> InstrumentTerms:
    """A node of eight H100 for a week, unless told otherwise."""
    given: dict[str, Any] = {"start_ms": START_MS, "end_ms": START_MS + 7 * DAY_MS, "cell": Level.NODE, "gpus": 8}
    return standard_terms(symbol=symbol, **(given | terms))


def _damages(reference: Amount = 3_000_000, **cap: int) -> Damages:
    return Damages(reference_price_micro_per_gpu_hour=reference, **cap)


LISTINGS: dict[str, InstrumentTerms] = {
    "base_firm": listing("H100.BASE.FIRM", damages=_damages(cap_ppm=200_000)),
    "peak": listing(
        "H100.PEAK",
        start_ms=SPRING_MS,
        end_ms=SPRING_MS + 5 * DAY_MS,
        profile=PeakProfile(
            time_zone="Europe/Berlin",
            days=(Weekday.FRI, Weekday.SUN, Weekday.MON),
            start_local="01:00",
            end_local="05:00",
            holidays=(date(2027, 3, 29),),
        ),
        settlement_calendar=SettlementCalendar.DAILY,
    ),
    "swing": listing(
        "H100.SWING",
        profile=SwingProfile(),
        swing=SwingTerms(total_gpu_ms=400 * HOUR_MS, min_take_gpu_ms=100 * HOUR_MS, max_rate_gpus=8),
    ),
    "recallable": listing(
        "H100.RECALLABLE",
        firmness=Recallable(notice_ms=120_000, min_run_ms=HOUR_MS, max_events=3, max_quantity_gpu_ms=10 * HOUR_MS),
        damages=_damages(cap_micro=5_000_000),
        maintenance=Maintenance(budget_ms=HOUR_MS // 2),
    ),
    "non_firm": listing("H100.NONFIRM", firmness=NonFirm(), damages=_damages(), force_majeure_excuses=False),
    "total": listing(
        "H100.TOTAL",
        throughput=ThroughputTerms(
            suite="reference.v2",
            metrics=(
                Metric(name="bf16", unit="TFLOP_PER_S", reference=700),
                Metric(name="nccl", unit="GB_PER_S", reference=400),
            ),
            scope=ThroughputScope.TOTAL,
            floor_ppm=950_000,
            reject_below_ppm=800_000,
            discount_slope_ppm=1_500_000,
        ),
        deliverables=(
            Deliverable(grade="H100SXM"),
            Deliverable(grade="H200SXM", conversion_ppm=1_250_000),
            Deliverable(grade="A100SXM", conversion_ppm=450_000, needs_consent=True),
        ),
        handovers=True,
    ),
    "release": listing("H100.RELEASE", unused_rule=ReleaseUnused(), drain_s=1_800, firmness=UnitFirm(pool="blue")),
    "rejected": listing(
        "H100.STRICT",
        throughput=ThroughputTerms(
            suite="reference.v2",
            metrics=(Metric(name="bf16", unit="TFLOP_PER_S", reference=700),),
            floor_ppm=950_000,
            reject_below_ppm=925_000,
        ),
    ),
    "pause_credit": listing(
        "H100.PAUSE",
        unused_rule=PauseCredit(credit_ppm=333_333),
        cell=Level.GPU,
        gpus=3,
        firmness=SystemFirm(),
        price_micro_per_gpu_hour=1_999_999,
        currency="EUR",
    ),
    "custom": listing(
        "H100.CUSTOM",
        profile=CustomProfile(
            steps=(
                Window(start_ms=START_MS, end_ms=START_MS + 600_000),
                Window(start_ms=START_MS + DAY_MS, end_ms=START_MS + DAY_MS + HOUR_MS),
            )
        ),
    ),
}
