"""How surely, how fast and how well it is delivered, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from scheduler.core.instruments import (
    Firm,
    InstrumentTerms,
    NonFirm,
    Recallable,
    SystemFirm,
    ThroughputScope,
    UnitFirm,
)
from scheduler.termsheet.sentence import Sentence, said
from scheduler.termsheet.wording import counted, decimal, length, percent, quantity

_RANKS = ("first", "second", "third", "last")
"""By the class of the shortage rule."""
_CLASSES = "FIRM; UNIT_FIRM and SYSTEM_FIRM; RECALLABLE; NON_FIRM"


def surely(terms: InstrumentTerms) -> Iterator[Sentence]:
    """Firmness, what excuses, and the place in a shortage."""
    match terms.firmness:
        case Firm():
            yield said("Firm: the seller delivers from whatever it takes.", "firmness.kind")
        case UnitFirm():
            yield said(
                f"Unit firm: firm as long as the units of the pool {terms.firmness.pool} run.",
                *("firmness.kind", "firmness.pool"),
            )
        case SystemFirm():
            yield said("System firm: firm as long as the seller's system as a whole can.", "firmness.kind")
        case Recallable():
            yield from _recallable(terms.firmness)
        case NonFirm():
            yield said(
                "Not firm: it is delivered where there is something left, and what is not delivered costs the seller "
                "no "
                "damages.",
                "firmness.kind",
            )
        case _:
            assert_never(terms.firmness)
    yield said(
        f"When supply is short the classes are served in this order: {_CLASSES}. This one is "
        f"served {_RANKS[terms.firmness_rank]}."
    )
    excused = (
        "Force majeure excuses the seller: what it takes is neither paid nor owed."
        if terms.force_majeure_excuses
        else "Force majeure does not excuse the seller: what it takes is owed like any other loss."
    )
    yield said(excused, "force_majeure_excuses")


def _recallable(recall: Recallable) -> Iterator[Sentence]:
    run = f"after it ran for {length(recall.min_run_ms)}" if recall.min_run_ms else "however short it ran"
    yield said(
        f"Recallable: the seller may take it back at a notice of {length(recall.notice_ms)}, {run}; of one lot at most "
        f"{counted(recall.max_events, 'time')} and {quantity(recall.max_quantity_gpu_ms)} in all. What is recalled is "
        "not "
        "paid; what is recalled beyond that quantity is owed like a loss.",
        *(f"firmness.{name}" for name in type(recall).model_fields),
    )


def fast(terms: InstrumentTerms) -> Iterator[Sentence]:
    """The floor, and what is lost below it."""
    throughput = terms.throughput
    for number, metric in enumerate(throughput.metrics):
        yield said(
            f"{metric.name} is measured in {metric.unit}; {metric.reference:,} of it for one GPU are 100 %.",
            *(f"throughput.metrics.{number}.{name}" for name in type(metric).model_fields),
        )
    whose = {
        ThroughputScope.EACH: "every GPU, by itself",
        ThroughputScope.TOTAL: "the GPUs of a position together, by their mean in each metering interval",
    }
    yield said(
        f"Throughput is measured by the suite {throughput.suite}, never by the tenant's own code. The floor is "
        f"{percent(throughput.floor_ppm)} of the reference, and it holds for {whose[throughput.scope]}.",
        *("throughput.suite", "throughput.floor_ppm", "throughput.scope"),
    )
    yield said(
        f"Below the floor, each percentage point that is missing derates {decimal(throughput.discount_slope_ppm, 6)} "
        "% of the "
        f"time. Below {percent(throughput.reject_below_ppm)} all of the time counts as not delivered.",
        *("throughput.discount_slope_ppm", "throughput.reject_below_ppm"),
    )


def _replaced(terms: InstrumentTerms) -> str:
    if not terms.replace_within_s:
        return "A device that fails is the seller's from the first moment on."
    return (
        f"A device that fails is replaced within {length(terms.replace_within_s * 1_000)} of having been well: what "
        "it takes until then is neither paid nor owed, what it takes after that the seller bears."
    )


def served(terms: InstrumentTerms) -> Iterator[Sentence]:
    """Availability, replacement, bind limit, ends, handovers, maintenance."""
    yield said(
        f"The target of availability is {percent(terms.availability_target_ppm)} of what is due; statements say "
        "whether it "
        "was met, and money follows what was delivered, not the target.",
        "availability_target_ppm",
    )
    yield said(
        f"{_replaced(terms)} Its owner's work gets a GPU within "
        f"{length(terms.bind_limit_s * 1_000)} of asking, besides the grace that a borrower declared; later than that "
        "it "
        "counts as not delivered.",
        *("replace_within_s", "bind_limit_s"),
    )
    yield said(
        f"In the last {length(terms.drain_s * 1_000)} of the window the seller may drain the lot: what that takes is "
        "neither "
        "paid nor owed."
        if terms.drain_s
        else "The owner's work may run to the very end of the window.",
        "drain_s",
    )
    yield said(
        "A lot may pass from one cell to another inside the window, at instants that are known in advance."
        if terms.handovers
        else "A lot stays on its cell through the window; only failures move it.",
        "handovers",
    )
    budget = terms.maintenance.budget_ms
    allowed = (
        f"{length(budget)} of it in the window for each GPU of a lot" if budget else "none of it is within the budget"
    )
    yield said(
        f"Maintenance is announced {length(terms.maintenance.notice_s * 1_000)} ahead; {allowed}. Beyond the budget "
        "it is "
        "owed like a fault.",
        *("maintenance.notice_s", "maintenance.budget_ms"),
    )
