"""Worked examples: what is paid for one lot over the whole window if this or that happens to it.

Each is one meter record of the whole window, settled by `scheduler.core.settlement`; what a slow GPU loses is told by
`scheduler.core.metering.derate`. Nothing about money is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.instruments import InstrumentTerms, NonFirm, PayUnused, Recallable, ReleaseUnused
from scheduler.core.metering.derate import derated_gpu_ms
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.profiles import delivery_ms
from scheduler.core.quantities import MS_PER_HOUR, ONE_PPM, floor_div
from scheduler.core.settlement import Line, lines_of
from scheduler.termsheet.wording import counted, length, percent, quantity

BELOW_PPM = 50_000
"""How far below the floor the example of a slow lot is: five percentage points."""


@dataclass(frozen=True, slots=True)
class Example:
    """What happens, the record of it, and the lines that it comes to. `name` is for programs."""

    name: str
    story: str
    record: MeterRecord
    lines: tuple[Line, ...]

    @property
    def paid_micro(self) -> int:
        """What the buyer pays for the lot; below 0 the seller does."""
        return sum(line.amount_micro for line in self.lines)


def examples(terms: InstrumentTerms) -> Iterator[Example]:
    """The examples that make sense for these terms; the first is that of everything delivered."""
    yield _delivered(terms)
    yield from _best(terms)
    yield _out(terms, "gpu_out", "is out for {} through a fault of the seller's", Cause.GPU_FAULT)
    if terms.replace_within_s:
        within = length(terms.replace_within_s * 1_000)
        story = f"is out for {{}} through a device that failed and was replaced within {within}"
        yield _out(terms, "replaced", story, Cause.REPLACEMENT)
    yield from _slow(terms)
    yield from _recalled(terms)
    beyond_control = Cause.FORCE_MAJEURE if terms.force_majeure_excuses else Cause.NODE_LOST
    yield _out(terms, "force_majeure", "is out for {} through force majeure, with evidence", beyond_control)
    yield _out(
        terms, "shortage", "gets nothing for {} because supply is short and others come first", Cause.SHORTAGE_RULE
    )
    yield from _maintained(terms)
    yield _out(
        terms, "unknown", "was not seen by the seller's meter for {}, and the record is final", Cause.NOT_OBSERVED
    )
    yield _unused(terms)
    yield _nothing(terms)


def _settled(terms: InstrumentTerms, name: str, story: str, **states: object) -> Example:
    """The example of one lot, of which what `states` does not say was used, as par unless it says otherwise."""
    contracted = terms.lot.gpus * delivery_ms(terms)
    other = sum(value for state, value in states.items() if state.endswith("_gpu_ms") and isinstance(value, int))
    content: dict[str, object] = {
        "position": "example",
        "instrument": terms.id,
        "start_ms": terms.window.start_ms,
        "end_ms": terms.window.end_ms,
        "status": RecordStatus.FINAL,
        "contracted_gpu_ms": contracted,
        "used_gpu_ms": contracted - other,
    }
    record = MeterRecord.model_validate(content | states)
    par = floor_div(record.delivered_gpu_ms * terms.deliverables[0].conversion_ppm, ONE_PPM)
    record = record.model_copy(update={"par_gpu_ms": par})
    return Example(name, story, record, lines_of(terms, [record]))


def _hour(terms: InstrumentTerms) -> int:
    """An hour, or all of a shorter delivery."""
    return min(MS_PER_HOUR, delivery_ms(terms))


def _hit(terms: InstrumentTerms) -> tuple[str, int]:
    """Who is hit by one sick GPU, in words, and how many GPUs that is."""
    if terms.lot.cell == Level.GPU:
        return "One GPU", 1
    return f"One GPU, and with it the whole lot of {counted(terms.lot.gpus, 'GPU')},", terms.lot.gpus


def _delivered(terms: InstrumentTerms) -> Example:
    return _settled(terms, "delivered", "Everything is delivered at par, and all of it is used.")


def _best(terms: InstrumentTerms) -> Iterator[Example]:
    """The most that can be paid, where a better grade than par may stand in."""
    best = max(terms.deliverables, key=lambda each: each.conversion_ppm)
    if best.conversion_ppm <= ONE_PPM:
        return
    plain = _delivered(terms).record
    par = floor_div(plain.delivered_gpu_ms * best.conversion_ppm, ONE_PPM)
    record = plain.model_copy(update={"par_gpu_ms": par})
    story = f"Everything is delivered as {best.grade}, the best that may stand in, and all of it is used."
    yield Example("best_grade", story, record, lines_of(terms, [record]))


def _out(terms: InstrumentTerms, name: str, story: str, cause: Cause, out_ms: int = 0) -> Example:
    """One sick GPU with what it takes with it, or the whole lot, for an hour (or `out_ms`), by a cause."""
    (who, gpus), hour = _hit(terms), out_ms or _hour(terms)
    if cause is not Cause.GPU_FAULT:
        who, gpus = f"The lot of {counted(terms.lot.gpus, 'GPU')}", terms.lot.gpus
    lost = gpus * hour
    told = f"{who} {story.format(length(hour))}."
    return _settled(terms, name, told, losses=((cause, lost),), **{f"{STATE_OF_CAUSE[cause]}_gpu_ms": lost})


def _maintained(terms: InstrumentTerms) -> Iterator[Example]:
    """Maintenance within the budget and the drain, where there are any, and an hour beyond them."""
    budget = min(terms.maintenance.budget_ms, _hour(terms))
    if budget:
        story = "is out for {} of announced maintenance within the budget"
        yield _out(terms, "maintenance", story, Cause.PLANNED_MAINTENANCE, budget)
    drained_ms = min(terms.drain_s * 1_000, delivery_ms(terms))
    if drained_ms:
        yield _out(terms, "drain", "is drained for the last {} of the window", Cause.DRAIN, drained_ms)
    story = "is out for {} of maintenance beyond the budget"
    yield _out(terms, "maintenance_beyond", story, Cause.MAINTENANCE_OVER_BUDGET)


def _slow(terms: InstrumentTerms) -> Iterator[Example]:
    """The whole lot for an hour five points below the floor, or at nothing where the floor is lower; and rejected."""
    throughput, hour = terms.throughput, _hour(terms)
    at_risk, limit = terms.lot.gpus * hour, throughput.reject_below_ppm
    below = min(BELOW_PPM, throughput.floor_ppm)
    ppm = throughput.floor_ppm - below
    rejected = f"{quantity(at_risk)} count as not delivered."
    if below:
        told = (
            f"The whole lot runs at {percent(ppm)} of the reference for {length(hour)}, {percent(below)} of it below "
            "the "
            "floor"
        )
        if ppm < limit:
            yield _under(terms, "below_floor", f"{told}, and below the limit of {percent(limit)}: {rejected}", at_risk)
        else:
            slope = throughput.discount_slope_ppm
            lost = derated_gpu_ms(at_risk, ppm=ppm, floor_ppm=throughput.floor_ppm, slope_ppm=slope)
            losses = ((Cause.UNDER_PERFORMANCE, lost),) if lost else ()
            told = f"{told}: {quantity(lost)} are derated."
            yield _settled(terms, "below_floor", told, derated_gpu_ms=lost, losses=losses)
    if 0 < limit <= ppm:
        told = f"The whole lot runs at less than {percent(limit)} of the reference for {length(hour)}: {rejected}"
        yield _under(terms, "rejected", told, at_risk)


def _under(terms: InstrumentTerms, name: str, story: str, lost: int) -> Example:
    return _settled(terms, name, story, out_forced_gpu_ms=lost, losses=((Cause.UNDER_PERFORMANCE, lost),))


def _recalled(terms: InstrumentTerms) -> Iterator[Example]:
    """A recall within the limit, and one beyond it."""
    recall = terms.firmness
    if not isinstance(recall, Recallable):
        return
    whole, most = terms.lot.gpus * delivery_ms(terms), recall.max_quantity_gpu_ms
    within = min(terms.lot.gpus * _hour(terms), most)
    told = f"The seller recalls {quantity(within)} of the lot, within the limit of {quantity(most)}."
    yield _settled(terms, "recall", told, recalled_gpu_ms=within, losses=((Cause.RECALL, within),))
    beyond = min(whole, most + terms.lot.gpus * _hour(terms))
    if beyond > most:
        told = f"The seller recalls {quantity(beyond)} of the lot, {quantity(beyond - most)} beyond the limit."
        yield _settled(terms, "recall_beyond", told, recalled_gpu_ms=beyond, losses=((Cause.RECALL, beyond),))


def _unused(terms: InstrumentTerms) -> Example:
    """An hour of the lot that its owner does not use."""
    idle = terms.lot.gpus * _hour(terms)
    lot = f"the lot of {counted(terms.lot.gpus, 'GPU')} for {length(_hour(terms))}"
    if isinstance(terms.unused_rule, ReleaseUnused):
        return _settled(terms, "released", f"The owner gives back {lot}.", released_gpu_ms=idle)
    kept = " It is paid all the same." if isinstance(terms.unused_rule, PayUnused) else ""
    return _settled(terms, "unused", f"The owner does not use {lot}.{kept}", available_unused_gpu_ms=idle)


def _nothing(terms: InstrumentTerms) -> Example:
    """The worst: nothing at all is delivered, through the seller's fault."""
    whole = terms.lot.gpus * delivery_ms(terms)
    told = "Nothing of the lot is delivered through the whole window, by a fault of the seller's."
    if not isinstance(terms.firmness, NonFirm):
        told += " More than that the seller never owes."
    state = f"{State.OUT_FORCED}_gpu_ms"
    return _settled(terms, "nothing_delivered", told, losses=((Cause.GPU_FAULT, whole),), **{state: whole})
