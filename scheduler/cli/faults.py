"""`tenor exchange fault`: what goes wrong, on purpose, at a reference exchange that was started to let it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.exchange_address import ExchangeOption, exchange_called
from scheduler.cli.screen import Output, OutputOption, write_json, write_table

if TYPE_CHECKING:
    from scheduler.exchange.reference.faults.control import FaultClient, FaultCount

app = typer.Typer(
    help="Faults on demand of a reference exchange (`tenor exchange serve --faults`).",
    rich_markup_mode=None,
    add_completion=False,
)

FaultOption = Annotated[
    list[str] | None,
    typer.Option("--fault", metavar="FAULT", help="KIND:PLACE[:HOW OFTEN[:HOW LONG]], as drop:watch:0.1; repeatable."),
]
FaultFileOption = Annotated[
    Path | None, typer.Option("--fault-file", metavar="FILE", help="A TOML file: faults = [...], seed = N.")
]
FaultSeedOption = Annotated[
    int | None, typer.Option("--fault-seed", metavar="N", help="Which messages a share of them strikes; default 0.")
]


@app.command("set")
def set_faults(
    faults: Annotated[list[str], typer.Argument(metavar="FAULT...", help="KIND:PLACE[:HOW OFTEN[:HOW LONG]]")],
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put faults in force, all or none; one of the same kind and place takes the place of the one before.

    HOW OFTEN is a share of the messages (0.1) or the first so many (3x); HOW LONG is of a delay (200ms).
    """
    with _client(exchange) as client:
        _shown(client.set(faults), output)


@app.command("clear")
def clear_faults(
    faults: Annotated[list[str] | None, typer.Argument(metavar="[FAULT...]", help="As they were set.")] = None,
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take faults out of force: those that are named, or all."""
    with _client(exchange) as client:
        _shown(client.clear(faults or ()), output)


@app.command("list")
def list_faults(exchange: ExchangeOption = None, output: OutputOption = Output.TABLE) -> None:
    """The faults in force: how many messages each met, and how many it struck."""
    with _client(exchange) as client:
        _shown(client.list(), output)


@app.command("kinds")
def fault_kinds(output: OutputOption = Output.TABLE) -> None:
    """Which faults there are, where each can be, and what it does."""
    from scheduler.exchange.reference.faults.faults import MEANINGS, PLACES

    if output is Output.JSON:
        write_json([{"kind": kind, "places": PLACES[kind], "meaning": MEANINGS[kind]} for kind in PLACES])
        return
    rows = [(kind, " ".join(PLACES[kind]), MEANINGS[kind]) for kind in PLACES]
    write_table(("kind", "places", "meaning"), rows)


def _client(exchange: str | None) -> FaultClient:
    from scheduler.exchange.reference.faults.control import FaultClient

    address, tls = exchange_called(exchange)
    return FaultClient(address, tls=tls)


def _shown(counts: tuple[FaultCount, ...], output: Output) -> None:
    if output is Output.JSON:
        write_json(counts)
        return
    write_table(
        ("fault", "met>", "struck>"),
        [(each.fault, each.met, each.struck) for each in counts],
        empty="no faults: the exchange is honest",
    )
