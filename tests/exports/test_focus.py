"""FOCUS 1.4, dataset Contract Commitment: what the specification asks of each column, checked on real rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from scheduler.core.errors import Damaged
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position
from scheduler.exports import focus
from scheduler.exports.focus import Parties
from scheduler.exports.forms import TableForm
from scheduler.exports.source import Commitments, opened
from scheduler.exports.tables import write_table
from tests.api.world import DAY_MS, MINUTE_MS, START_MS
from tests.termsheet.listings import LISTINGS
from tests.termsheet.listings import START_MS as LISTED_MS

MANDATORY = [
    "BillingCurrency",
    "ContractCommitmentApplicability",
    "ContractCommitmentBenefitCategory",
    "ContractCommitmentCategory",
    "ContractCommitmentCost",
    "ContractCommitmentCreated",
    "ContractCommitmentDescription",
    "ContractCommitmentDiscountPercentage",
    "ContractCommitmentDurationType",
    "ContractCommitmentFulfillmentInterval",
    "ContractCommitmentId",
    "ContractCommitmentLastUpdated",
    "ContractCommitmentLifecycleStatus",
    "ContractCommitmentModel",
    "ContractCommitmentOfferCategory",
    "ContractCommitmentPaymentInterval",
    "ContractCommitmentPaymentModel",
    "ContractCommitmentPeriodEnd",
    "ContractCommitmentPeriodStart",
    "ContractCommitmentQuantity",
    "ContractCommitmentType",
    "ContractCommitmentUnit",
    "ContractId",
    "ContractPeriodEnd",
    "ContractPeriodStart",
    "InvoiceIssuerName",
    "ServiceProviderName",
]
"""Of the dataset in version 1.4, in its order; three more are conditional and do not apply."""

ALLOWED = {
    "ContractCommitmentBenefitCategory": {"Discount", "Entitlement", "Availability", "Other"},
    "ContractCommitmentCategory": {"Spend", "Usage"},
    "ContractCommitmentFulfillmentInterval": {
        *("Hourly", "Daily", "Weekly", "Monthly", "Quarterly", "Semi-Annual", "Annual", "Full Period"),
        *("Transactional", "Custom"),
    },
    "ContractCommitmentLifecycleStatus": {
        *("Proposed", "Pending", "Active", "Exhausted", "Expired", "Canceled", "Superseded")
    },
    "ContractCommitmentModel": {"Continuous", "Discontinuous"},
    "ContractCommitmentOfferCategory": {"Public", "Negotiated"},
    "ContractCommitmentPaymentInterval": {"One-Time", "Monthly", "Quarterly", "Semi-Annual", "Annual", "Custom"},
    "ContractCommitmentPaymentModel": {"No Upfront", "Partial Upfront", "All Upfront"},
}
MAY_BE_NULL = {"ContractCommitmentDiscountPercentage"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DURATION = re.compile(r"(1 (Minute|Hour|Day)|([2-9]|[1-9]\d+) (Minutes|Hours|Days))")

Row = Mapping[str, str]


def exported(found: Commitments, at_ms: int | None = None) -> list[Row]:
    """The rows as a reader of CSV has them."""
    file = io.BytesIO()
    write_table(TableForm.CSV, focus.COLUMNS, focus.rows(found, Parties("Acme Compute", "Acme Billing", at_ms)), file)
    return list(csv.DictReader(io.StringIO(file.getvalue().decode())))


def conforms(row: Row) -> None:
    """What the specification asks of one row."""
    assert [name for name in row if not name.startswith("x_")] == MANDATORY
    for name in MANDATORY:
        assert row[name] or name in MAY_BE_NULL, name
        assert row[name] in ALLOWED.get(name, {row[name]}), name
        if name.endswith(("Start", "End", "Created", "Updated")):
            assert INSTANT.fullmatch(row[name]), name
    assert re.fullmatch(r"[A-Z]{3}", row["BillingCurrency"])
    assert DURATION.fullmatch(row["ContractCommitmentDurationType"])
    assert row["ContractCommitmentLastUpdated"] >= row["ContractCommitmentCreated"]
    assert row["ContractCommitmentPeriodStart"] < row["ContractCommitmentPeriodEnd"]
    if row["ContractCommitmentBenefitCategory"] == "Availability":
        assert row["ContractCommitmentDiscountPercentage"] == ""
    full = row["ContractCommitmentFulfillmentInterval"] == "Full Period"
    assert full == (row["ContractCommitmentModel"] == "Discontinuous")
    assert row["ContractCommitmentCategory"] == "Usage"
    assert Decimal(row["ContractCommitmentQuantity"]) > 0
    applicability = json.loads(row["ContractCommitmentApplicability"])
    assert applicability["InclusionOperator"] in {"And", "Or"}
    assert all(rule.keys() == {"Dimension", "Operator", "Values"} for rule in applicability["Inclusions"])


def test_rows_of_a_home_say_what_is_owned(home: Path) -> None:
    with opened(None, home) as source:
        found = source.commitments()
    rows = exported(found)
    assert [row["ContractCommitmentId"] for row in rows] == ["p-acme", "p-borealis"]
    for row in rows:
        conforms(row)
    acme = rows[0]
    assert (acme["x_Account"], acme["ContractId"]) == ("acme", "LOGICAL.8N.LOCAL.BASE@1")
    assert Decimal(acme["ContractCommitmentQuantity"]) == 16 * 24
    assert Decimal(acme["ContractCommitmentCost"]) == 16 * 24 * 2
    assert (acme["ContractCommitmentDurationType"], acme["ContractCommitmentLifecycleStatus"]) == ("1 Day", "Active")
    assert acme["x_ContractedGpuMs"] == str(16 * DAY_MS)
    assert acme["x_DeliveredGpuMs"] == str(16 * 10 * MINUTE_MS)
    assert {exported(found, at_ms)[0]["ContractCommitmentLifecycleStatus"] for at_ms in (START_MS - 1,)} == {"Pending"}
    assert exported(found, START_MS + DAY_MS)[0]["ContractCommitmentLifecycleStatus"] == "Expired"


def test_rows_of_a_bundle_say_what_is_metered(bundle_of_home: Path, bundle: Path) -> None:
    with opened(bundle_of_home, bundle_of_home) as source:
        rows = exported(source.commitments())
    for row in rows:
        conforms(row)
    assert rows[0]["x_Account"] == ""
    assert rows[0]["x_ContractedGpuMs"] == str(16 * 10 * MINUTE_MS)
    assert rows[0]["x_MeteredThrough"] == "2027-01-01T12:10:00Z"
    with opened(bundle, bundle) as source:
        rows = exported(source.commitments())
    assert [row["ContractCommitmentLifecycleStatus"] for row in rows] == ["Expired"] * 3
    assert all(row["ContractCommitmentDurationType"] == "2 Minutes" for row in rows)


@pytest.mark.parametrize("name", LISTINGS)
def test_every_kind_of_terms_has_a_row_that_conforms(name: str) -> None:
    terms = LISTINGS[name]
    start_ms = terms.window.start_ms
    position = Position(id="p", account="acme", instrument=terms.id, acquired_ms=1, lots=((start_ms, 2),))
    ended = Position(
        id="q", account="acme", instrument=terms.id, acquired_ms=1, lots=((start_ms, 2), (LISTED_MS * 2, 0))
    )
    cut = position.model_copy(update={"id": "r", "lots": ((start_ms, 1), (terms.window.end_ms - 600_000, 0))})
    found = Commitments({terms.id: terms}, {}, {"p": position, "q": ended, "r": cut})
    rows = exported(found, terms.window.end_ms)
    for row in rows:
        conforms(row)
    assert [row["ContractCommitmentLifecycleStatus"] for row in rows] == ["Expired", "Expired", "Canceled"]
    assert rows[0]["x_AmountOwed"] == ""
    assert rows[0]["BillingCurrency"] == terms.currency


def test_statements_that_are_none_are_named() -> None:
    terms = LISTINGS["base_firm"]
    with pytest.raises(Damaged, match="the statement of p: "):
        exported(Commitments({terms.id: terms}, {"p": b"{}"}))


def test_a_statement_without_its_terms_is_named(bundle: Path) -> None:
    with opened(bundle, bundle) as source:
        found = source.commitments()
    with pytest.raises(Damaged, match="whose terms are not there"):
        exported(Commitments({}, found.statements))
    assert canonical_bytes(json.loads(found.statements["pos-1"])) == found.statements["pos-1"]


def test_parquet_holds_decimals_and_instants(bundle: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra `parquet`)")
    with opened(bundle, bundle) as source:
        found = source.commitments()
    file = io.BytesIO()
    write_table(TableForm.PARQUET, focus.COLUMNS, focus.rows(found, Parties("A", "B")), file)
    table = parquet.read_table(io.BytesIO(file.getvalue()))
    rows = exported(found)
    assert [str(each) for each in table["ContractCommitmentCost"].to_pylist()] == [
        f"{Decimal(row['ContractCommitmentCost']):.9f}" for row in rows
    ]
    starts = [f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in table["ContractCommitmentPeriodStart"].to_pylist()]
    assert starts == [row["ContractCommitmentPeriodStart"] for row in rows]
