"""What is delivered, where and when, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from scheduler.core.cluster import Level
from scheduler.core.instruments import (
    BaseProfile,
    CustomProfile,
    InstrumentTerms,
    InterNode,
    IntraNode,
    PeakProfile,
    SelectedBy,
    SwingProfile,
    SwingTerms,
    Tenancy,
)
from scheduler.core.profiles import delivery_intervals, delivery_ms, profile_hash
from scheduler.termsheet.sentence import Sentence, said
from scheduler.termsheet.wording import Clock, counted, joined, length, percent, quantity, wall

_CELLS = {
    Level.NODE: "node",
    Level.NVLINK_DOMAIN: "NVLink domain",
    Level.FABRIC_BLOCK: "fabric block",
    Level.SITE: "site",
}
_INTRA = {
    IntraNode.NONE: "by nothing that is promised",
    IntraNode.PCIE: "by PCIe",
    IntraNode.NVLINK: "by NVLink",
    IntraNode.XGMI: "by xGMI",
}
_INTER = {
    InterNode.NONE: "by nothing that is promised",
    InterNode.ETHERNET: "by Ethernet",
    InterNode.ROCE: "by RoCE",
    InterNode.INFINIBAND: "by InfiniBand",
    InterNode.NVLINK: "by NVLink",
}
_TENANCY = {
    Tenancy.SHARED: "Others may run on the same nodes.",
    Tenancy.WHOLE_NODE: "Nobody else runs on the same nodes.",
    Tenancy.WHOLE_SITE: "Nobody else runs at the site.",
}


def delivered(terms: InstrumentTerms) -> Iterator[Sentence]:
    """The lot, the grade, what may stand in, where."""
    yield said(
        f"This is version {terms.version} of {terms.symbol}; its terms never change, and a change is a new version.",
        *("symbol", "version"),
    )
    lot, grade = terms.lot, terms.grade
    if lot.cell == Level.GPU:
        size = f"One lot is {counted(lot.gpus, 'GPU')}, each by itself: wherever there is one."
    else:
        size = (
            f"One lot is one whole {_CELLS[lot.cell]} of exactly {counted(lot.gpus, 'GPU')}: if one of them is ill, "
            "the "
            "whole lot is out."
        )
    yield said(size, "lot.gpus", "lot.cell")
    yield said(
        f"A GPU is of the class {grade.klass}, form {grade.form}, with {grade.memory_mib:,} MiB of memory. The GPUs "
        "of a "
        f"node reach each other {_INTRA[grade.intra_node]}, nodes reach each other {_INTER[grade.inter_node]}. "
        f"{_TENANCY[grade.tenancy]}",
        *(f"grade.{name}" for name in type(grade).model_fields),
    )
    yield from _deliverables(terms)
    chosen = {
        SelectedBy.SELLER: "The seller picks the GPUs that stand behind a lot, and may change them.",
        SelectedBy.BUYER: "The buyer picks the GPUs that stand behind a lot.",
    }
    yield said(f"It is delivered at the site {terms.site}. {chosen[terms.selected_by]}", "site", "selected_by")


def _deliverables(terms: InstrumentTerms) -> Iterator[Sentence]:
    for number, each in enumerate(terms.deliverables):
        fields = [f"deliverables.{number}.{name}" for name in type(each).model_fields]
        if number == 0:
            alone = " Nothing else may stand in for it." if len(terms.deliverables) == 1 else ""
            yield said(f"{each.grade} is par: a GPU-hour of it counts as one.{alone}", *fields)
            continue
        agrees = ", once the buyer agreed to it at the exchange, for good"
        asked = agrees if each.needs_consent else ", without asking the buyer"
        yield said(
            f"{each.grade} may stand in{asked}: a GPU-hour of it counts as {percent(each.conversion_ppm)} of one of "
            "par.",
            *fields,
        )


def when(terms: InstrumentTerms, clock: Clock) -> Iterator[Sentence]:
    """The window and the profile, in UTC and by the clock on the wall."""
    window = terms.window
    yield said(
        f"The window runs from {clock.instant(window.start_ms)} to {clock.instant(window.end_ms)}: "
        f"{length(window.interval.length_ms)}. It begins with the first instant and ends before the last.",
        *("window.start_ms", "window.end_ms"),
    )
    match terms.profile:
        case BaseProfile():
            yield said("Base load: it is delivered through the whole window.", "profile.kind")
        case SwingProfile():
            yield said("Swing: at any time of the window, as the owner nominates.", "profile.kind")
        case PeakProfile():
            yield from _peak(terms.profile)
        case CustomProfile():
            steps = [f"{clock.instant(each.start_ms)} to {clock.instant(each.end_ms)}" for each in terms.profile.steps]
            fields = [
                f"profile.steps.{number}.{edge}" for number in range(len(steps)) for edge in ("start_ms", "end_ms")
            ]
            yield said(f"It is delivered from {joined(steps)}.", "profile.kind", *fields)
        case _:
            assert_never(terms.profile)
    if terms.swing is None:
        yield said("There is no budget to nominate from.", "swing")
    else:
        yield from _swing(terms.swing)
    yield said(_pieces(terms, clock))


def _pieces(terms: InstrumentTerms, clock: Clock) -> str:
    pieces = delivery_intervals(terms)
    shown = [f"{clock.instant(each.start_ms)} to {clock.instant(each.end_ms)}" for each in (pieces[0], pieces[-1])]
    of = f" in {len(pieces):,} pieces, the first from {shown[0]}, the last from {shown[1]}" if len(pieces) > 1 else ""
    all_ms = delivery_ms(terms)
    return (
        f"That is {length(all_ms)}{of}: {quantity(terms.lot.gpus * all_ms)} a lot. The SHA-256 of the delivery in UTC "
        "is "
        f"{profile_hash(terms)}."
    )


def _peak(profile: PeakProfile) -> Iterator[Sentence]:
    holidays = joined([day.isoformat() for day in profile.holidays]) if profile.holidays else "none"
    holiday_fields = [f"profile.holidays.{number}" for number in range(len(profile.holidays))] or ["profile.holidays"]
    yield said(
        f"Peak load: it is delivered when a clock in {profile.time_zone} shows "
        f"{wall(profile.start_local, profile.end_local)}"
        f" on {joined([day.title() for day in profile.days])}. Holidays on which it is not: {holidays}. An hour that "
        "the "
        "clock shows twice counts twice, and one that it skips is not delivered.",
        *("profile.kind", "profile.time_zone", "profile.start_local", "profile.end_local"),
        *(f"profile.days.{number}" for number in range(len(profile.days))),
        *holiday_fields,
    )


def _swing(swing: SwingTerms) -> Iterator[Sentence]:
    yield said(
        f"The owner of one lot may take {quantity(swing.total_gpu_ms)} in all, at most "
        f"{counted(swing.max_rate_gpus, 'GPU')} at a time, and says so {length(swing.nomination_lead_s * 1_000)} "
        "ahead. "
        f"It takes or pays at least {quantity(swing.min_take_gpu_ms)}. Nominations are not metered yet: it is "
        "delivered and "
        "settled as if the whole lot were nominated through the whole window, and so are the examples.",
        *(f"swing.{name}" for name in type(swing).model_fields),
    )
