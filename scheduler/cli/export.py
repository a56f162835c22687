"""`tenor export`: meter records, FOCUS rows and CloudEvents, from a bundle or from a home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.bundle import HomeOption, StreamOption
from scheduler.cli.screen import progress, say
from scheduler.exports.forms import EventForm, TableForm

if TYPE_CHECKING:
    from scheduler.exports.source import Source
    from scheduler.exports.webhook import Sender

POLL_S = 1.0
GIVE_UP_S = 900.0
COUNTED = 4_096

app = typer.Typer(
    help="Records, FOCUS rows and events, for other systems.", rich_markup_mode=None, add_completion=False
)

BundleArgument = Annotated[
    Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle; without one, the home of `tenor up`.")
]
IntoOption = Annotated[Path | None, typer.Option("--into", metavar="FILE", help="A file; default: stdout.")]
TableOption = Annotated[TableForm, typer.Option("--format", "-f", help="How rows are written.")]


@app.command()
def records(
    bundle: BundleArgument = None,
    form: TableOption = TableForm.CSV,
    into: IntoOption = None,
    home: HomeOption = None,
    stream: StreamOption = None,
) -> None:
    """Meter records: every version, every field, in the order of the log; integers as they are."""
    from scheduler.exports import records as meter_records
    from scheduler.exports.files import writing
    from scheduler.exports.tables import write_table

    _needs_a_file(form, into)
    with _source(bundle, home, stream) as source, writing(into) as file, _counting("records") as told:
        leaves = _told(source.leaves(0), source.size, told)
        write_table(form, meter_records.COLUMNS, meter_records.rows(leaves), file)
    _say_done(into, source)


@app.command()
def focus(
    bundle: BundleArgument = None,
    form: TableOption = TableForm.CSV,
    into: IntoOption = None,
    provider: Annotated[
        str, typer.Option("--provider", metavar="NAME", help="ServiceProviderName; default: the log's origin.")
    ] = "",
    issuer: Annotated[
        str, typer.Option("--issuer", metavar="NAME", help="InvoiceIssuerName; default: the provider.")
    ] = "",
    at: Annotated[
        int | None,
        typer.Option(
            "--at", parser=parsing.moment_ms, metavar="INSTANT", help="Of the status; default: the last told."
        ),
    ] = None,
    home: HomeOption = None,
    stream: StreamOption = None,
) -> None:
    """Positions as rows of FOCUS 1.4, dataset Contract Commitment."""
    from scheduler.exports import focus as commitments
    from scheduler.exports.files import writing
    from scheduler.exports.tables import write_table

    _needs_a_file(form, into)
    with _source(bundle, home, stream) as source, writing(into) as file:
        named = provider or source.origin
        parties = commitments.Parties(named, issuer or named, at)
        write_table(form, commitments.COLUMNS, commitments.rows(source.commitments(), parties), file)
    _say_done(into, source)


@app.command()
def events(
    bundle: BundleArgument = None,
    form: Annotated[
        EventForm, typer.Option("--format", "-f", help="An event a line, or one JSON array.")
    ] = EventForm.JSONL,
    into: IntoOption = None,
    to: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="Send them there, on from the cursor; https, or this machine."),
    ] = "",
    cursor: Annotated[
        Path | None,
        typer.Option("--cursor", metavar="FILE", help="With --to: how far it came; made if missing."),
    ] = None,
    secret: Annotated[
        Path | None, typer.Option("--secret", metavar="FILE", help="With --to: signs each request (HMAC-SHA256).")
    ] = None,
    token: Annotated[
        Path | None, typer.Option("--token", metavar="FILE", help="With --to: goes along as the bearer's token.")
    ] = None,
    sender: Annotated[str, typer.Option("--sender", metavar="NAME", help="With --to: who we say we are.")] = "tenor",
    many: Annotated[
        int, typer.Option("--batch", min=1, max=10_000, help="With --to: events in a request; 1: each by itself.")
    ] = 100,
    unasked: Annotated[
        bool, typer.Option("--unasked", help="With --to: send to a target that cannot say that it wants events.")
    ] = False,
    give_up: Annotated[
        int | None,
        typer.Option("--give-up-after", parser=parsing.duration_ms, metavar="TIME", help="With --to; default: 15m."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="With --to: whom to believe, instead of the system's.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="With --to: go on as the home's log grows.")] = False,
    home: HomeOption = None,
    stream: StreamOption = None,
) -> None:
    """The log's leaves as CloudEvents 1.0: into a file, or to a webhook, each at least once and in order.

    A webhook is first asked whether it wants them (CloudEvents' own handshake), and told again what it did not accept.
    """
    if not to:
        _write_events(bundle, form, into, home, stream)
        return
    from scheduler.exports.webhook import Sender, Target, secret_of

    if cursor is None:
        raise typer.BadParameter("say where to keep how far it came", param_hint="'--cursor'")
    if follow and bundle is not None:
        raise typer.BadParameter("a bundle does not grow: follow a home", param_hint="'--follow'")
    target = Target(
        to,
        sender,
        secret_of(secret) if secret is not None else b"",
        secret_of(token).decode() if token is not None else "",
        many,
        consent=not unasked,
        give_up_s=GIVE_UP_S if give_up is None else give_up / 1_000,
        authority=ca,
    )
    with Sender(target) as sending:
        _send(sending, bundle, home, stream, cursor, follow=follow)


def _write_events(
    bundle: Path | None, form: EventForm, into: Path | None, home: Path | None, stream: str | None
) -> None:
    from scheduler.exports import events as cloud
    from scheduler.exports.files import writing

    with _source(bundle, home, stream) as source, writing(into) as file, _counting("events") as told:
        leaves = _told(source.leaves(0), source.size, told)
        cloud.write_events(form, cloud.events(source.origin, leaves), file)
    _say_done(into, source)


def _send(
    sending: Sender, bundle: Path | None, home: Path | None, stream: str | None, cursor: Path, *, follow: bool
) -> None:
    import time

    while True:
        with _source(bundle, home, stream) as source, _counting("sending") as told:
            source.verify()
            sent = sending.send(source, cursor, told)
        if sent or not follow:
            say(f"{sent} events of {source.origin} accepted, up to leaf {source.size}")
        if not follow:
            return
        time.sleep(POLL_S)


@contextmanager
def _source(bundle: Path | None, home: Path | None, stream: str | None) -> Iterator[Source]:
    from scheduler.api.address import state_dir
    from scheduler.exports.source import opened

    with opened(bundle, home or state_dir(), stream) as source:
        yield source


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    with progress(what) as told:
        yield lambda done, of: told(done, of, f"{done:,} of {of:,}")


def _told(
    leaves: Iterable[tuple[int, bytes]], size: int, told: Callable[[int, int], None]
) -> Iterator[tuple[int, bytes]]:
    for index, leaf in leaves:
        if index % COUNTED == 0:
            told(index, size)
        yield index, leaf


def _needs_a_file(form: TableForm, into: Path | None) -> None:
    if form is TableForm.PARQUET and into is None:
        raise typer.BadParameter("Parquet is written into a file", param_hint="'--into'")


def _say_done(into: Path | None, source: Source) -> None:
    if into is not None:
        say(f"{into}: {source.origin}, {source.size} leaves")
