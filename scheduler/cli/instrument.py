"""`tenor instrument`: what an instrument promises, in plain English; whether terms can be honoured; all of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.exchange import read_terms, venue_at
from scheduler.cli.exchange_address import ExchangeOption
from scheduler.cli.screen import Output, OutputOption, say, some, write_fields, write_json, write_lines

if TYPE_CHECKING:
    from scheduler.core.instruments import InstrumentTerms

REFUSED_EXIT_CODE = 2

app = typer.Typer(help="What instruments promise.", rich_markup_mode=None, add_completion=False)


class Form(StrEnum):
    """How a term sheet is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


TermsArgument = Annotated[
    str,
    typer.Argument(metavar="TERMS|SYMBOL", help="A JSON or TOML file of terms, or SYMBOL[@VERSION] as listed."),
]


@app.command()
def explain(
    terms: TermsArgument,
    output: Annotated[Form, typer.Option("--output", "-o", help="How it is written.")] = Form.TEXT,
    zone: Annotated[
        str, typer.Option("--zone", metavar="ZONE", help="Show instants in this time zone too, as Europe/Berlin.")
    ] = "",
    exchange: ExchangeOption = None,
) -> None:
    """The term sheet of an instrument: every term in sentences, and what is paid if this or that happens.

    The examples are settled by the code that makes statements.
    """
    from scheduler.termsheet import document, markdown, term_sheet, text

    found = _terms_of(terms, exchange)
    sheet = term_sheet(found, zone)
    if output is Form.JSON:
        write_json(document(sheet, found))
    else:
        write_lines((text if output is Form.TEXT else markdown)(sheet, found).splitlines())


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON or TOML file of terms.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Whether terms can be honoured as written; every fault by name. Exits with 2 where there is one."""
    from scheduler.core.errors import InvalidInstrument
    from scheduler.core.listing import check_listing

    try:
        terms = read_terms(file)
        check_listing(terms)
    except InvalidInstrument as error:
        if output is Output.JSON:
            write_json({"ok": False, "instrument": error.symbol, "faults": error.faults})
        else:
            write_lines(error.faults)
            say(f"{file}: {error.symbol} cannot be listed as written: {len(error.faults)} to mend")
        raise typer.Exit(REFUSED_EXIT_CODE) from None
    if output is Output.JSON:
        write_json({"ok": True, "instrument": terms.id, "spec_hash": terms.spec_hash, "faults": []})
    else:
        write_lines([f"{terms.id} {terms.spec_hash}"])


@app.command()
def show(terms: TermsArgument, exchange: ExchangeOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every term by its name, defaults included; as JSON the canonical terms, which `spec_hash` is the hash of."""
    from scheduler.termsheet.sheet import leaf_paths

    found = _terms_of(terms, exchange)
    if output is Output.JSON:
        write_json({"spec_hash": found.spec_hash, "terms": found.model_dump(mode="json")})
        return
    write_fields([("spec_hash", found.spec_hash), *((path, _shown(value)) for path, value in leaf_paths(found))])


def _terms_of(named: str, exchange: str | None) -> InstrumentTerms:
    """From a file where there is one of that name, else from the exchange; the latest version unless one is named."""
    from scheduler.core.errors import UnknownName

    if Path(named).suffix in {".toml", ".json"} or Path(named).is_file():
        return read_terms(Path(named))
    symbol = named.partition("@")[0]
    with venue_at(exchange) as venue:
        listed = {str(each.id): each for each in venue.instruments(symbol)}
    if named in listed:
        return listed[named]
    versions = [each for each in listed.values() if each.symbol == named]
    if not versions:
        raise UnknownName("instrument", named, listed)
    return max(versions, key=lambda each: each.version)


def _shown(value: Any) -> str:
    name = getattr(value, "name", None)
    return some("none" if value in (None, ()) else name if isinstance(name, str) else value)
