"""The term sheet as text for a terminal, as Markdown, and as plain data for JSON. Same terms, same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from scheduler.core.instruments import InstrumentTerms
from scheduler.core.settlement import Line
from scheduler.termsheet.examples import Example
from scheduler.termsheet.sheet import TermSheet
from scheduler.termsheet.wording import money, percent, quantity

WIDTH = 100
EXAMPLES = "What it comes to"
_NO_ADVICE = (
    "Each example is one lot over the whole window, in which all else is delivered and used; the amounts are those of "
    "a "
    "statement. More lots come to as many times as much, but for rounding."
)


def text(sheet: TermSheet, terms: InstrumentTerms) -> str:
    """For a terminal, 100 columns wide."""
    lines = [f"TERM SHEET OF {sheet.instrument}", f"spec hash {sheet.spec_hash}"]
    for section in sheet.sections:
        lines += ["", section.title.upper(), ""]
        for sentence in section.sentences:
            lines += textwrap.wrap(sentence.text, WIDTH, initial_indent="- ", subsequent_indent="  ")
    lines += ["", EXAMPLES.upper(), "", *textwrap.wrap(_NO_ADVICE, WIDTH)]
    for number, example in enumerate(sheet.examples, 1):
        head = f"{number}. "
        lines += ["", *textwrap.wrap(example.story, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))]
        rows = list(_rows(example, terms))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for what, how_much, amount in rows:
            row = f"   {what.ljust(widths[0])}  {how_much.ljust(widths[1])}  {amount.rjust(widths[2])}"
            lines.append(row)
        lines += textwrap.wrap(_verdict(sheet, example, terms), WIDTH, initial_indent="   ", subsequent_indent="   ")
    return "\n".join(lines) + "\n"


def markdown(sheet: TermSheet, terms: InstrumentTerms) -> str:
    """As a page."""
    lines = [f"# Term sheet of {sheet.instrument}", "", f"Spec hash `{sheet.spec_hash}`"]
    for section in sheet.sections:
        lines += ["", f"## {section.title}", "", *(f"- {sentence.text}" for sentence in section.sentences)]
    lines += ["", f"## {EXAMPLES}", "", _NO_ADVICE]
    for example in sheet.examples:
        lines += ["", f"**{example.story}**", "", "| line | of | amount |", "|---|---|---:|"]
        lines += [f"| {what} | {how_much} | {amount} |" for what, how_much, amount in _rows(example, terms)]
        lines += ["", _verdict(sheet, example, terms)]
    return "\n".join(lines) + "\n"


def document(sheet: TermSheet, terms: InstrumentTerms) -> dict[str, Any]:
    """As plain data: sentences with the fields that they speak of, examples with their records and lines."""
    return {
        "instrument": sheet.instrument,
        "spec_hash": sheet.spec_hash,
        "currency": terms.currency,
        "sections": [
            {
                "title": section.title,
                "sentences": [{"text": each.text, "fields": list(each.fields)} for each in section.sentences],
            }
            for section in sheet.sections
        ],
        "examples": [
            {
                "name": each.name,
                "story": each.story,
                "record": each.record.model_dump(mode="json"),
                "lines": [line.model_dump(mode="json") for line in each.lines],
                "paid_micro": each.paid_micro,
            }
            for each in sheet.examples
        ],
    }


def _rows(example: Example, terms: InstrumentTerms) -> Iterator[tuple[str, str, str]]:
    """The lines that come to something, and the sum."""
    for line in example.lines:
        if line.amount_micro:
            yield str(line.kind).replace("_", " "), _of(line, terms), money(line.amount_micro, terms.currency)
    yield "paid", "", money(example.paid_micro, terms.currency)


def _of(line: Line, terms: InstrumentTerms) -> str:
    share = f" × {percent(line.share_ppm)}" if line.share_ppm != 1_000_000 else ""
    capped = ", capped" if line.capped else ""
    return f"{quantity(line.gpu_ms)} × {money(line.price_micro_per_gpu_hour, terms.currency)}{share}{capped}"


def _verdict(sheet: TermSheet, example: Example, terms: InstrumentTerms) -> str:
    """What the example says against everything being delivered."""
    most = max(each.paid_micro for each in sheet.examples)
    if example is sheet.examples[0]:
        extent = "That is the most that is ever paid for a lot." if example.paid_micro == most else ""
        return f"The buyer pays {money(example.paid_micro, terms.currency)}. {extent}".strip()
    if example.paid_micro == most > sheet.examples[0].paid_micro:
        return f"The buyer pays {money(most, terms.currency)}: the most that is ever paid for a lot."
    whole = sheet.examples[0].paid_micro
    less = whole - example.paid_micro
    if not less:
        return "The buyer pays the same as if everything is delivered."
    if example.paid_micro < 0:
        return f"The seller pays {money(-example.paid_micro, terms.currency)}."
    return f"The buyer pays {money(less, terms.currency)} less than if everything is delivered."
