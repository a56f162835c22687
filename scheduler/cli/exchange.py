"""`tenor exchange serve`, `trade`, `probes`, `fault`, `conformance`: the reference exchange, and its members' work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli import conformance, faults, parsing, probes
from scheduler.cli.exchange_address import ExchangeOption, exchange_called
from scheduler.cli.faults import FaultFileOption, FaultOption, FaultSeedOption
from scheduler.cli.screen import (
    AuthorityOption,
    IdentityOption,
    Output,
    OutputOption,
    say,
    write_json,
    write_lines,
    write_table,
)

if TYPE_CHECKING:
    from scheduler.core.instruments import InstrumentTerms
    from scheduler.core.positions import PositionEvent
    from scheduler.exchange.client import ExchangeClient

app = typer.Typer(help="The reference exchange, and trading on it.", rich_markup_mode=None, add_completion=False)
trade = typer.Typer(help="List, buy, sell, split, correct.", rich_markup_mode=None, add_completion=False)
app.add_typer(trade, name="trade")
app.add_typer(faults.app, name="fault")
app.command()(conformance.conformance)
app.command()(probes.probes)

LotsOption = Annotated[int, typer.Option("--lots", min=1)]
EffectiveOption = Annotated[
    int | None,
    typer.Option("--from", parser=parsing.moment_ms, metavar="INSTANT", help="In effect from then on; default: now."),
]
RequestOption = Annotated[str, typer.Option("--request-id", help="The same id gives the same answer again.")]


@app.command()
def serve(
    db: Annotated[Path, typer.Option("--db", help="Its SQLite file, made where it is missing.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Without an identity loopback; port 0: any.")
    ] = "127.0.0.1:0",
    identity: IdentityOption = None,
    authority: AuthorityOption = None,
    calls_per_s: Annotated[int, typer.Option("--calls-per-s", min=1, help="Of each peer with a certificate.")] = 100,
    streams: Annotated[int, typer.Option("--streams-per-peer", min=1, help="Open at once, of each such peer.")] = 8,
    address_file: Annotated[Path | None, typer.Option("--address-file", help="Where its address is left.")] = None,
    denied: Annotated[
        Path | None,
        typer.Option("--denied", metavar="FILE", help="Peers that are refused, ROLE/NAME a line; read again."),
    ] = None,
    probe_every_s: Annotated[
        int, typer.Option("--probe-every-s", min=0, help="Mean time between probes of a stream's devices; 0: never.")
    ] = 900,
    fault: FaultOption = None,
    fault_file: FaultFileOption = None,
    fault_seed: FaultSeedOption = None,
    faults: Annotated[bool, typer.Option("--faults", help="Let `tenor exchange fault` set faults as it runs.")] = False,
) -> None:
    """Run a reference exchange until Ctrl-C. Its address is the one line on stdout.

    With --fault it misbehaves on purpose, the same way for the same seed: `tenor exchange fault kinds` lists how.
    """
    from scheduler.exchange.admission import Limits
    from scheduler.exchange.reference.faults.faults import faults_of
    from scheduler.exchange.reference.server import ServerSettings, run
    from scheduler.exchange.reference.venue import VenueRules
    from scheduler.exchange.tls import tls_of

    limits, tls = Limits(calls_per_s, 4 * calls_per_s, streams), tls_of(identity, authority)
    wrong = faults_of(fault or (), fault_file, fault_seed, controlled=faults)
    if wrong is not None:
        say("this exchange misbehaves on purpose: nothing that it says is worth anything")
    settings = ServerSettings(
        db,
        listen,
        address_file,
        VenueRules(probe_every_ms=1_000 * probe_every_s),
        tls=tls,
        limits=limits,
        denied=denied,
        faults=wrong,
        fault_control=faults,
    )
    raise typer.Exit(run(settings))


@trade.command("list")
def list_instrument(
    terms: Annotated[Path | None, typer.Argument(metavar="[TERMS]", help="A JSON or TOML file of terms.")] = None,
    symbol: Annotated[str, typer.Option("--symbol", help="Instead of a file: its symbol, and simple terms.")] = "",
    grade: Annotated[str, typer.Option("--grade")] = "LOGICAL",
    site: Annotated[str, typer.Option("--site")] = "local",
    cell: Annotated[str, typer.Option("--cell", help="gpu, node, domain, block or site.")] = "gpu",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of one lot.")] = 1,
    start: Annotated[int | None, typer.Option("--start", parser=parsing.moment_ms, metavar="INSTANT")] = None,
    end: Annotated[int | None, typer.Option("--end", parser=parsing.moment_ms, metavar="INSTANT")] = None,
    price_micro: Annotated[int, typer.Option("--price-micro", min=0, help="Per GPU-hour, in millionths.")] = 2_000_000,
    metering_s: Annotated[int, typer.Option("--metering-s", help="10, 60, 300, 900 or 3600.")] = 300,
    lots_listed: Annotated[int, typer.Option("--lots-listed", min=0, help="How many may be sold; 0: no limit.")] = 0,
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List an instrument from a file of terms, or a plain firm one by flags."""
    if (terms is None) == (not symbol):
        raise typer.BadParameter("give a file of terms, or --symbol and flags, not both", param_hint="'TERMS'")
    listed = (
        read_terms(terms)
        if terms is not None
        else _plain_terms(symbol, grade, site, cell, gpus, start, end, price_micro, metering_s)
    )
    with venue_at(exchange) as venue:
        name = venue.list_instrument(listed, lots_listed)
    if output is Output.JSON:
        write_json({"instrument": name, "spec_hash": listed.spec_hash})
    else:
        write_lines([name])


@trade.command()
def buy(
    account: Annotated[str, typer.Argument()],
    instrument: Annotated[str, typer.Argument(help="SYMBOL@VERSION")],
    lots: LotsOption = 1,
    effective: EffectiveOption = None,
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Buy lots: a new position."""
    with venue_at(exchange) as venue:
        _told(venue.trade(account, instrument, lots, effective_ms=effective or 0, request_id=request_id), output)


@trade.command()
def sell(
    position: Annotated[str, typer.Argument()],
    to: Annotated[str, typer.Option("--to", help="The account that gets them.")],
    lots: LotsOption = 1,
    effective: EffectiveOption = None,
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Transfer lots of a position to another account, also in the middle of their delivery."""
    with venue_at(exchange) as venue:
        _told(venue.transfer(position, to, lots, effective_ms=effective or 0, request_id=request_id), output)


@trade.command()
def split(
    position: Annotated[str, typer.Argument()],
    lots: LotsOption = 1,
    effective: EffectiveOption = None,
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move lots of a position into a new one of the same account."""
    with venue_at(exchange) as venue:
        event = venue.transfer(
            position, _account_of(venue, position), lots, effective_ms=effective or 0, request_id=request_id
        )
        _told(event, output)


@trade.command()
def correct(
    position: Annotated[str, typer.Argument()],
    lots: Annotated[int, typer.Option("--lots", min=0, help="From then on; 0 ends it.")],
    effective: EffectiveOption = None,
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say that a position has so many lots."""
    with venue_at(exchange) as venue:
        _told(venue.correct(position, lots, effective_ms=effective or 0, request_id=request_id), output)


@trade.command()
def consent(
    position: Annotated[str, typer.Argument()],
    grades: Annotated[list[str], typer.Argument(metavar="GRADE...", help="Deliverables that need consent.")],
    effective: EffectiveOption = None,
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Agree, for good, that a position may be delivered in other grades; what they are worth, the terms say."""
    with venue_at(exchange) as venue:
        _told(venue.consent(position, grades, effective_ms=effective or 0, request_id=request_id), output)


@trade.command()
def book(exchange: ExchangeOption = None, output: OutputOption = Output.TABLE) -> None:
    """What is listed, and who owns what."""
    from scheduler.api.wording import instant

    with venue_at(exchange) as venue:
        known = venue.snapshot()
    if output is Output.JSON:
        write_json(
            {
                "cursor": known.cursor.model_dump(mode="json"),
                "instruments": [terms.model_dump(mode="json") for terms in known.instruments],
                "positions": [position.model_dump(mode="json") for position in known.positions],
            }
        )
        return
    listed = [
        (each.id, each.lot.gpus, each.lot.cell.name.lower(), instant(each.window.start_ms), instant(each.window.end_ms))
        for each in known.instruments
    ]
    write_table(("instrument", "gpus>", "cell", "from", "to"), listed, empty="nothing is listed")
    held = [
        (each.id, each.account, each.instrument, ", ".join(f"{lots} from {instant(at)}" for at, lots in each.lots))
        for each in known.positions
    ]
    write_table(("position", "account", "instrument", "lots"), held, empty="no positions")


def venue_at(address: str | None) -> ExchangeClient:
    """The exchange that was named, else the one that `tenor up` started here. Raises Unavailable."""
    from scheduler.exchange.client import ExchangeClient

    found, tls = exchange_called(address)
    return ExchangeClient(found, tls=tls)


def _account_of(venue: ExchangeClient, position: str) -> str:
    from scheduler.core.errors import UnknownName

    accounts = {each.id: each.account for each in venue.snapshot().positions}
    if position not in accounts:
        raise UnknownName("position", position, accounts)
    return accounts[position]


def _told(event: PositionEvent, output: Output) -> None:
    from scheduler.api.wording import count

    if output is Output.JSON:
        write_json(event.model_dump(mode="json"))
        return
    write_lines([event.position])
    if event.grades:
        say(f"{event.kind} {event.cursor.seq}: {', '.join(event.grades)} for {event.instrument} of {event.account}")
        return
    source = f" from {event.source}" if event.source else ""
    say(
        f"{event.kind} {event.cursor.seq}{source}: {count(event.lots, 'lot')} of {event.instrument} for {event.account}"
    )


def read_terms(path: Path) -> InstrumentTerms:
    """Terms from a file. Raises InvalidValue where it cannot be read, InvalidInstrument with every fault."""
    import tomllib

    from scheduler.core.errors import InvalidValue
    from scheduler.core.listing import parse_terms

    try:
        text = path.read_text(encoding="utf-8")
        return parse_terms(_dated(tomllib.loads(text)) if path.suffix == ".toml" else text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue("terms", str(path), "unreadable", f"a JSON or TOML file ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidValue("terms", str(path), "malformed", f"TOML ({error})") from error


def _dated(plain: Any) -> Any:
    """TOML's dates as JSON has them."""
    if isinstance(plain, dict):
        return {name: _dated(value) for name, value in plain.items()}
    if isinstance(plain, list):
        return [_dated(each) for each in plain]
    return plain.isoformat() if hasattr(plain, "isoformat") else plain


def _plain_terms(
    symbol: str,
    grade: str,
    site: str,
    cell: str,
    gpus: int,
    start: int | None,
    end: int | None,
    price_micro: int,
    metering_s: int,
) -> InstrumentTerms:
    from scheduler.core.listing import parse_terms

    levels = {"gpu": "GPU", "node": "NODE", "domain": "NVLINK_DOMAIN", "block": "FABRIC_BLOCK", "site": "SITE"}
    if cell not in levels:
        raise typer.BadParameter(f"was {cell!r}, expected one of {', '.join(levels)}", param_hint="'--cell'")
    if end is None:
        raise typer.BadParameter("say when the delivery ends", param_hint="'--end'")
    start_ms, end_ms = _aligned(parsing.now_ms() if start is None else start, end, metering_s * 1_000)
    return parse_terms(
        {
            "symbol": symbol,
            "lot": {"gpus": gpus, "cell": levels[cell]},
            "grade": {"klass": grade},
            "site": site,
            "window": {"start_ms": start_ms, "end_ms": end_ms},
            "price_micro_per_gpu_hour": price_micro,
            "metering_interval_s": metering_s,
        }
    )


def _aligned(start_ms: int, end_ms: int, interval_ms: int) -> tuple[int, int]:
    """The whole metering intervals around a window, for `1h` from now seldom ends with one; says so."""
    from scheduler.api.wording import instant
    from scheduler.core.instruments import METERING_INTERVALS_S

    if interval_ms not in (each * 1_000 for each in METERING_INTERVALS_S):
        return start_ms, end_ms  # it will be refused, with all else that is wrong
    whole = start_ms // interval_ms * interval_ms, -(-end_ms // interval_ms) * interval_ms
    if whole != (start_ms, end_ms):
        say(f"the window is whole metering intervals: {instant(whole[0])} to {instant(whole[1])}")
    return whole
