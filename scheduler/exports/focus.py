"""Contract commitments as rows of the FinOps Open Cost and Usage Specification (FOCUS), version 1.4.

A position is a contract commitment, its instrument the contract. Every mandatory column of the dataset Contract
Commitment is there; the conditional ones are not, since nothing is priced in another currency than it is billed in and
nothing is paid upfront. Columns of our own begin with `x_`, as the specification asks. The specification:
https://focus.finops.org/focus-specification/

From a home the quantity is what the position owns over its whole delivery. A log alone does not say that: from a bundle
it is what was contracted in the intervals that are metered, through `x_MeteredThrough`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from pydantic import ValidationError

from scheduler.core.errors import Damaged
from scheduler.core.instruments import (
    InstrumentTerms,
    NonFirm,
    SettlementCalendar,
    SwingProfile,
)
from scheduler.core.intervals import Interval
from scheduler.core.metering.states import DELIVERED
from scheduler.core.positions import Position
from scheduler.core.quantities import MS_PER_HOUR, ceil_div, floor_div
from scheduler.core.settlement import Statement
from scheduler.core.state.contracted import contracted_gpus
from scheduler.exchange.statements import delivery_period
from scheduler.exports.source import Commitments
from scheduler.exports.tables import Column, Kind, Row, line

VERSION = "1.4"

COLUMNS = (
    Column("BillingCurrency"),
    Column("ContractCommitmentApplicability"),
    Column("ContractCommitmentBenefitCategory"),
    Column("ContractCommitmentCategory"),
    Column("ContractCommitmentCost", Kind.DECIMAL),
    Column("ContractCommitmentCreated", Kind.INSTANT),
    Column("ContractCommitmentDescription"),
    Column("ContractCommitmentDiscountPercentage", Kind.DECIMAL),
    Column("ContractCommitmentDurationType"),
    Column("ContractCommitmentFulfillmentInterval"),
    Column("ContractCommitmentId"),
    Column("ContractCommitmentLastUpdated", Kind.INSTANT),
    Column("ContractCommitmentLifecycleStatus"),
    Column("ContractCommitmentModel"),
    Column("ContractCommitmentOfferCategory"),
    Column("ContractCommitmentPaymentInterval"),
    Column("ContractCommitmentPaymentModel"),
    Column("ContractCommitmentPeriodEnd", Kind.INSTANT),
    Column("ContractCommitmentPeriodStart", Kind.INSTANT),
    Column("ContractCommitmentQuantity", Kind.DECIMAL),
    Column("ContractCommitmentType"),
    Column("ContractCommitmentUnit"),
    Column("ContractId"),
    Column("ContractPeriodEnd", Kind.INSTANT),
    Column("ContractPeriodStart", Kind.INSTANT),
    Column("InvoiceIssuerName"),
    Column("ServiceProviderName"),
    Column("x_Account"),
    Column("x_AmountOwed", Kind.DECIMAL),
    Column("x_ContractedGpuMs", Kind.INTEGER),
    Column("x_DeliveredGpuMs", Kind.INTEGER),
    Column("x_MeteredThrough", Kind.INSTANT),
    Column("x_SpecHash"),
)

_PAYMENT_INTERVALS = {
    SettlementCalendar.DELIVERY_END: "One-Time",
    SettlementCalendar.DAILY: "Custom",
    SettlementCalendar.MONTHLY: "Monthly",
}
_DURATIONS = ((86_400_000, "Day"), (MS_PER_HOUR, "Hour"), (60_000, "Minute"))


@dataclass(frozen=True, slots=True)
class Parties:
    """Who provides, who sends the invoice, and the instant at which the status holds (None: the last one metered)."""

    provider: str
    issuer: str
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Commitment:
    id: str
    terms: InstrumentTerms
    period: Interval
    contracted_gpu_ms: int
    created_ms: int
    account: str | None
    ended_early: bool
    statement: Statement | None

    @property
    def updated_ms(self) -> int:
        """When something was last told of it."""
        return max(self.created_ms, self.statement.through_ms if self.statement else 0)


def rows(found: Commitments, parties: Parties) -> Iterator[Row]:
    """A row for each position, by id. Raises Damaged for a statement that is none, or without its terms."""
    commitments = [*_all(found)]
    last_ms = max((each.updated_ms for each in commitments), default=0)
    at_ms = last_ms if parties.at_ms is None else parties.at_ms
    for each in sorted(commitments, key=lambda one: one.id):
        row = _row(each, parties, at_ms)
        yield [row[column.name] for column in COLUMNS]


def _all(found: Commitments) -> Iterator[_Commitment]:
    statements = {name: _statement(name, content) for name, content in found.statements.items()}
    for name, position in found.positions.items():
        terms = found.terms.get(position.instrument)
        period = None if terms is None else delivery_period(terms, position)
        if terms is not None and period is not None:
            yield _owned(position, terms, period, statements.get(name))
    for name, statement in statements.items():
        if name in found.positions:
            continue
        terms = found.terms.get(statement.instrument)
        if terms is None:
            raise Damaged(f"the statement of {name} is of {statement.instrument}, whose terms are not there")
        yield _Commitment(
            id=name,
            terms=terms,
            period=Interval(statement.start_ms, statement.end_ms),
            contracted_gpu_ms=statement.contracted_gpu_ms,
            created_ms=statement.start_ms,
            account=None,
            ended_early=False,
            statement=statement,
        )


def _owned(position: Position, terms: InstrumentTerms, period: Interval, statement: Statement | None) -> _Commitment:
    last_ms, last_lots = position.lots[-1]
    return _Commitment(
        id=position.id,
        terms=terms,
        period=period,
        contracted_gpu_ms=contracted_gpus(terms, position).integral(period),
        created_ms=position.acquired_ms,
        account=position.account,
        ended_early=last_lots == 0 and last_ms < terms.window.end_ms,
        statement=statement,
    )


def _statement(name: str, content: bytes) -> Statement:
    try:
        return Statement.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Damaged(f"the statement of {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _row(each: _Commitment, parties: Parties, at_ms: int) -> dict[str, object]:
    terms, statement = each.terms, each.statement
    swing = isinstance(terms.profile, SwingProfile)
    cost_micro = floor_div(terms.price_micro_per_gpu_hour * each.contracted_gpu_ms, MS_PER_HOUR)
    delivered = sum(gpu_ms for state, gpu_ms in statement.states if state in DELIVERED) if statement else None
    return {
        "BillingCurrency": terms.currency,
        "ContractCommitmentApplicability": line(_applicability(each)),
        "ContractCommitmentBenefitCategory": "Entitlement" if isinstance(terms.firmness, NonFirm) else "Availability",
        "ContractCommitmentCategory": "Usage",
        "ContractCommitmentCost": Decimal(cost_micro).scaleb(-6),
        "ContractCommitmentCreated": _second(each.created_ms),
        "ContractCommitmentDescription": _description(terms),
        "ContractCommitmentDiscountPercentage": None,
        "ContractCommitmentDurationType": _duration(each.period.length_ms),
        "ContractCommitmentFulfillmentInterval": _fulfilment(terms),
        "ContractCommitmentId": each.id,
        "ContractCommitmentLastUpdated": _second(each.updated_ms),
        "ContractCommitmentLifecycleStatus": _status(each, at_ms),
        "ContractCommitmentModel": "Discontinuous" if swing else "Continuous",
        "ContractCommitmentOfferCategory": "Public",
        "ContractCommitmentPaymentInterval": _PAYMENT_INTERVALS[terms.settlement_calendar],
        "ContractCommitmentPaymentModel": "No Upfront",
        "ContractCommitmentPeriodEnd": each.period.end_ms,
        "ContractCommitmentPeriodStart": each.period.start_ms,
        "ContractCommitmentQuantity": _gpu_hours(each.contracted_gpu_ms),
        "ContractCommitmentType": f"{terms.firmness.kind} {terms.profile.kind}",
        "ContractCommitmentUnit": "GPU-Hours",
        "ContractId": terms.id,
        "ContractPeriodEnd": terms.window.end_ms,
        "ContractPeriodStart": terms.window.start_ms,
        "InvoiceIssuerName": parties.issuer,
        "ServiceProviderName": parties.provider,
        "x_Account": each.account,
        "x_AmountOwed": None if statement is None else Decimal(statement.amount_micro).scaleb(-6),
        "x_ContractedGpuMs": each.contracted_gpu_ms,
        "x_DeliveredGpuMs": delivered,
        "x_MeteredThrough": None if statement is None else statement.through_ms,
        "x_SpecHash": terms.spec_hash,
    }


def _gpu_hours(gpu_ms: int) -> Decimal:
    """Rounded down to a thousand-millionth; `x_ContractedGpuMs` is exact."""
    return Decimal(floor_div(gpu_ms * 10**9, MS_PER_HOUR)).scaleb(-9)


def _second(at_ms: int) -> int:
    """The specification has no parts of a second."""
    return floor_div(at_ms, 1_000) * 1_000


def _applicability(each: _Commitment) -> dict[str, object]:
    """It covers the instrument at its site, and where it is known whose it is, that account's use alone."""
    named = [("RegionId", each.terms.site), ("SkuId", each.terms.id)]
    named += [("SubAccountId", each.account)] if each.account else []
    rules = [{"Dimension": dimension, "Operator": "In", "Values": [value]} for dimension, value in named]
    return {"InclusionOperator": "And", "Inclusions": rules}


def _description(terms: InstrumentTerms) -> str:
    lot = f"{terms.lot.gpus} GPUs of {terms.grade.klass}, cell {terms.lot.cell.name}"
    return f"{terms.symbol} version {terms.version}: lots of {lot}, at {terms.site}"


def _duration(length_ms: int) -> str:
    """Whole days, hours or minutes; a part of a minute counts as one, since the specification has no seconds."""
    for unit_ms, unit in _DURATIONS:
        if length_ms % unit_ms == 0 or unit_ms == _DURATIONS[-1][0]:
            number = ceil_div(length_ms, unit_ms)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    raise AssertionError("minutes are the least unit")


def _fulfilment(terms: InstrumentTerms) -> str:
    """What is not used is over with its metering interval; a swing budget lasts for the whole period."""
    if isinstance(terms.profile, SwingProfile):
        return "Full Period"
    return "Hourly" if terms.interval_ms == MS_PER_HOUR else "Custom"


def _status(each: _Commitment, at_ms: int) -> str:
    if at_ms < each.period.start_ms:
        return "Pending"
    if at_ms < each.period.end_ms:
        return "Active"
    return "Canceled" if each.ended_early else "Expired"
