"""How it is metered, what becomes of what is not used, and what is paid, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from scheduler.core.instruments import (
    InstrumentTerms,
    NonFirm,
    PauseCredit,
    PayUnused,
    ReleaseUnused,
    SettlementCalendar,
)
from scheduler.termsheet.sentence import Sentence, said
from scheduler.termsheet.wording import length, money, percent

_DUE = {
    SettlementCalendar.DELIVERY_END: "Statements fall due when the delivery has ended.",
    SettlementCalendar.DAILY: "Statements fall due every day of delivery.",
    SettlementCalendar.MONTHLY: "Statements fall due every month of delivery.",
}


def metered(terms: InstrumentTerms) -> Iterator[Sentence]:
    """The interval, and what counts."""
    yield said(
        f"Each {length(terms.interval_ms)} has a meter record of its own, which says where every contracted "
        "GPU-millisecond "
        "went. What is lost has one cause, and each cause one who bears it.",
        "metering_interval_s",
    )


def unused(terms: InstrumentTerms) -> Iterator[Sentence]:
    """Pay, credit or release."""
    match terms.unused_rule:
        case PayUnused():
            yield said("What is available is paid, used or not.", "unused_rule.kind")
        case PauseCredit():
            credit = percent(terms.unused_rule.credit_ppm)
            yield said(
                f"What is available and not used is paid, and {credit} of its price is credited.",
                *("unused_rule.kind", "unused_rule.credit_ppm"),
            )
        case ReleaseUnused():
            yield said(
                "The owner may give back what it does not use: what is released is not paid. What is neither used nor "
                "released is paid.",
                "unused_rule.kind",
            )
        case _:
            assert_never(terms.unused_rule)


def paid(terms: InstrumentTerms) -> Iterator[Sentence]:
    """Price, damages, caps, and when."""
    price, damages = terms.price_micro_per_gpu_hour, terms.damages
    yield said(
        f"The price is {money(price, terms.currency)} a GPU-hour of par that is delivered. Each line of a statement is "
        "rounded towards zero once, to a millionth, and says what was cut off.",
        *("price_micro_per_gpu_hour", "currency"),
    )
    reference = damages.reference_price_micro_per_gpu_hour
    rate = max(0, reference - price)
    if not reference:
        words = "There are no damages: what is not delivered is not paid, and nothing more."
    elif isinstance(terms.firmness, NonFirm):
        words = (
            f"The reference price is {money(reference, terms.currency)} a GPU-hour; what is not firm owes no damages."
        )
    else:
        words = (
            f"The reference price of a replacement is {money(reference, terms.currency)} a GPU-hour: what the seller "
            "owed and "
            f"did not deliver costs it {money(rate, terms.currency)} a GPU-hour of damages, besides the price that it "
            "does "
            "not get."
        )
    yield said(words, "damages.reference_price_micro_per_gpu_hour")
    yield said(_cap(terms), "damages.cap_micro", "damages.cap_ppm")
    yield said(_DUE[terms.settlement_calendar], "settlement_calendar")
    initial, final, dispute, answer = (
        length(seconds * 1_000)
        for seconds in (
            terms.settlement.initial_after_s,
            terms.settlement.final_after_s,
            terms.settlement.dispute_s,
            terms.settlement.answer_s,
        )
    )
    yield said(
        f"Facts that are missing when an interval ends may come {initial} later. Records are final {final} after the "
        f"end of their settlement period, and until {dispute} after that they may be disputed, and are corrected by "
        f"what is learnt late. A dispute is answered within {answer}.",
        *("settlement.initial_after_s", "settlement.final_after_s", "settlement.dispute_s", "settlement.answer_s"),
    )


def _cap(terms: InstrumentTerms) -> str:
    damages = terms.damages
    if damages.cap_micro is not None:
        return f"Damages are capped at {money(damages.cap_micro, terms.currency)} a lot over the window."
    if damages.cap_ppm is not None:
        return f"Damages are capped at {percent(damages.cap_ppm)} of what is contracted, at its price."
    return "Damages have no cap."
