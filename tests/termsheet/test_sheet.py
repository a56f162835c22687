"""The term sheet says every term, no two terms alike, and its amounts are those of settlement."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler.core.errors import InvalidInstrument, UnknownName
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.listing import check_listing
from scheduler.core.metering.records import broken_identities
from scheduler.core.settlement import settle
from scheduler.termsheet import document, markdown, term_sheet, text
from scheduler.termsheet.sheet import leaf_paths
from scheduler.termsheet.wording import decimal, length, money, percent, quantity
from tests.termsheet.listings import HOUR_MS, LISTINGS, START_MS, listing

GOLDEN = Path(__file__).parent / "golden"
named = pytest.mark.parametrize("name", LISTINGS)


@named
def test_the_sheet_reads_as_it_did(name: str) -> None:
    """Golden files; TENOR_GOLDEN=write writes them anew, to be read before they are committed."""
    terms, path = LISTINGS[name], GOLDEN / f"{name}.txt"
    made = text(term_sheet(terms), terms)
    if os.environ.get("TENOR_GOLDEN") == "write":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")
    assert max(map(len, made.splitlines())) <= 100


@named
def test_every_field_of_the_terms_is_spoken_of(name: str) -> None:
    sheet = term_sheet(LISTINGS[name])
    assert sheet.fields == {path for path, _ in leaf_paths(LISTINGS[name])}


def other_values(value: object) -> Iterator[Any]:
    """Values of the same type that are not this one."""
    match value:
        case bool():
            yield not value
        case Enum():
            yield from (
                each.name if isinstance(value, int) else each.value for each in type(value) if each is not value
            )
        case int():
            yield from (value * 2, value // 2, value + 1, 60, 600, value + 300_000, value - 300_000)
        case date():
            yield "2027-03-26"
        case str():
            yield from (f"{value}X", "00:30", "12:30", "Europe/Paris", "EUR", "SAT")
        case _:
            return


def replaced(plain: Any, path: list[str], value: object) -> Any:
    """Plain data with another value at a path."""
    if not path:
        return value
    if isinstance(plain, list):
        return [replaced(each, path[1:], value) if str(at) == path[0] else each for at, each in enumerate(plain)]
    held = plain or {}  # what is left at its default is left out
    return held | {path[0]: replaced(held.get(path[0]), path[1:], value)}


@named
def test_another_value_of_any_field_is_another_text(name: str) -> None:
    """Every field but those that only others together can change, each by a value that can be listed."""
    terms = LISTINGS[name]
    before = text(term_sheet(terms), terms).replace(terms.spec_hash, "")
    plain, unchanged = terms.model_dump(mode="json"), []
    for path, value in leaf_paths(terms):
        if path.endswith("kind") or value is None or value == ():
            continue
        for other in other_values(value):
            try:
                changed = InstrumentTerms.model_validate_json(json.dumps(replaced(plain, path.split("."), other)))
                check_listing(changed)
            except (ValidationError, InvalidInstrument):
                continue
            if changed == terms:
                continue
            assert text(term_sheet(changed), changed).replace(changed.spec_hash, "") != before, path
            break
        else:
            unchanged.append(path)
    tied = {"grade.klass", *(f"deliverables.0.{name}" for name in ("grade", "conversion_ppm", "needs_consent"))}
    assert set(unchanged) - tied <= {"grade.tenancy"}, "the par grade is said twice, and a lot of GPUs is never alone"


@named
def test_examples_are_sound_records_settled_as_statements_are(name: str) -> None:
    sheet = term_sheet(LISTINGS[name])
    assert len({each.name for each in sheet.examples}) == len(sheet.examples)
    for each in sheet.examples:
        assert broken_identities(each.record) == (), each.name
        assert each.paid_micro == sum(line.amount_micro for line in each.lines)
    assert sheet.examples[0].paid_micro <= max(each.paid_micro for each in sheet.examples)


def test_a_delivery_of_one_interval_is_settled_to_the_same_lines() -> None:
    """Where a window is one metering interval, the example's record makes a real statement."""
    for name in ("recallable", "release", "pause_credit", "total", "non_firm", "base_firm"):
        plain = LISTINGS[name].model_dump(mode="json")
        plain |= {"window": {"start_ms": START_MS, "end_ms": START_MS + HOUR_MS}, "metering_interval_s": 3_600}
        plain |= {"maintenance": {"notice_s": 0, "budget_ms": 0}}
        if name == "recallable":
            plain["firmness"] |= {"max_quantity_gpu_ms": 4 * HOUR_MS}
        terms = InstrumentTerms.model_validate_json(json.dumps(plain))
        for each in term_sheet(terms).examples:
            statement = settle(terms, [each.record], records_root="0" * 64)
            assert (statement.lines, statement.amount_micro) == (each.lines, each.paid_micro), (name, each.name)


def amounts(terms: InstrumentTerms) -> dict[str, int]:
    """What is paid in each example, in whole units of the currency."""
    return {each.name: each.paid_micro // 1_000_000 for each in term_sheet(terms).examples}


def test_what_examples_come_to_by_hand() -> None:
    """A node for a week: 1,344 GPU-hours at 2; an hour of eight GPUs costs 16, and 8 of damages."""
    found = amounts(LISTINGS["base_firm"])
    assert (found["delivered"], found["gpu_out"], found["force_majeure"]) == (2_688, 2_688 - 24, 2_688 - 16)
    assert found["nothing_delivered"] == -537 - 1  # 20 % of 2,688 is 537.60
    assert amounts(LISTINGS["recallable"])["recall_beyond"] == 2_688 - 36 - 5  # 18 GPU-hours, damages capped at 5
    best = amounts(LISTINGS["total"])
    assert (best["delivered"], best["best_grade"]) == (2_688, 3_360)
    assert amounts(LISTINGS["non_firm"])["nothing_delivered"] == 0
    assert amounts(LISTINGS["release"])["released"] == 2_688 - 16


def test_instants_are_shown_by_the_clock_on_the_wall_too() -> None:
    terms = LISTINGS["base_firm"]
    assert "2027-01-01 00:00 UTC (2026-12-31 19:00 America/New_York)" in text(
        term_sheet(terms, "America/New_York"), terms
    )
    with pytest.raises(UnknownName, match="time zone 'Mars/Olympus' is not known"):
        term_sheet(terms, "Mars/Olympus")


def test_terms_that_cannot_be_honoured_have_no_sheet() -> None:
    with pytest.raises(InvalidInstrument, match="bind_limit_s was 0"):
        term_sheet(listing("X", bind_limit_s=0))


@named
def test_markdown_and_json_say_the_same(name: str) -> None:
    terms = LISTINGS[name]
    sheet = term_sheet(terms)
    page, plain = markdown(sheet, terms), document(sheet, terms)
    for part in plain["sections"]:
        assert f"## {part['title']}\n" in page
        assert all(f"- {each['text']}\n" in page for each in part["sentences"])
    assert [each["name"] for each in plain["examples"]] == [each.name for each in sheet.examples]
    assert all(f"**{each['story']}**" in page for each in plain["examples"])
    assert json.loads(json.dumps(plain)) == plain


def test_numbers_are_exact() -> None:
    assert [length(each) for each in (0, 10_000, 93_784_005)] == ["0 s", "10 s", "1 d 2 h 3 min 4 s 5 ms"]
    assert [quantity(each) for each in (HOUR_MS, 28_800_000, 3_600, 10_000)] == [
        "1 GPU-hour",
        "8 GPU-hours",
        "0.001 GPU-hours",
        "10 GPU-seconds",
    ]
    assert [money(each, "USD") for each in (2_500_000, -333_333, 10**12)] == [
        "2.50 USD",
        "-0.333333 USD",
        "1,000,000.00 USD",
    ]
    assert [percent(each) for each in (900_000, 995_001)] == ["90 %", "99.5001 %"]
    assert decimal(5, 0) == "5"
