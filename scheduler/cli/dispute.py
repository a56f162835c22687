"""Records that are not believed: `tenor dispute open`, `list` and `answer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.delivery import gpu_hours
from scheduler.cli.exchange import RequestOption, venue_at
from scheduler.cli.exchange_address import ExchangeOption
from scheduler.cli.screen import AddressOption, Output, OutputOption, say, write_json, write_lines, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduler.core.causes import Cause
    from scheduler.core.metering.disputes import Disputed

app = typer.Typer(help="Dispute records, and answer disputes.", rich_markup_mode=None, add_completion=False)

LostOption = Annotated[
    list[str] | None,
    typer.Option("--lost", metavar="CAUSE=GPU_MS", help="What was lost in the interval; repeatable. None: nothing."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, in words.")]


@app.command("open")
def open_dispute(
    position: Annotated[str, typer.Argument(metavar="POSITION")],
    interval: Annotated[
        int, typer.Option("--interval", parser=parsing.moment_ms, metavar="INSTANT", help="When the interval starts.")
    ],
    lost: LostOption = None,
    version: Annotated[int, typer.Option("--version", min=0, help="The version disputed; 0: the last.")] = 0,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="A file whose SHA-256 goes with it; the file does not.")
    ] = None,
    reason: ReasonOption = "",
    request_id: RequestOption = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say that a record is wrong: what was lost in its interval, all of it."""
    from scheduler.api.wording import instant

    losses, digest = _losses(lost), _digest(evidence)
    with venue_at(exchange) as venue:
        opened = venue.open_dispute(
            position, interval, losses, version=version, evidence=digest, reason=reason, request_id=request_id
        )
    if output is Output.JSON:
        write_json({"dispute": opened.dispute.model_dump(mode="json"), "state": str(opened.state)})
        return
    write_lines([opened.dispute.id])
    say(f"version {opened.dispute.version} is disputed, to be answered by {instant(opened.dispute.answer_by_ms)}")


@app.command("list")
def list_disputes(
    position: Annotated[str, typer.Option("--position", help="Only of this position.")] = "",
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """The disputes at the exchange that the caller may see, with their answers."""
    from scheduler.api.wording import instant

    found: list[Disputed] = []
    with venue_at(exchange) as venue:
        while page := venue.disputes(found[-1].seq if found else 0, position=position):
            found += page
    if output is Output.JSON:
        write_json(
            [
                {
                    **each.dispute.model_dump(mode="json"),
                    "state": str(each.state),
                    "reason": each.reason,
                    "answer": each.answer,
                    "corrected": each.corrected,
                }
                for each in found
            ]
        )
        return
    write_table(
        ("dispute", "position", "interval", "version>", "claimed lost", "answer by", "state", "answer"),
        [
            (
                each.dispute.id,
                each.dispute.position,
                instant(each.dispute.start_ms),
                each.dispute.version,
                _claimed((cause.name, gpu_ms) for cause, gpu_ms in each.dispute.losses),
                instant(each.dispute.answer_by_ms),
                str(each.state),
                each.answer or "-",
            )
            for each in found
        ],
        empty="no disputes",
    )


@app.command()
def answer(
    dispute: Annotated[str, typer.Argument(metavar="DISPUTE", help="As `tenor dispute list` names it.")],
    accept: Annotated[bool, typer.Option("--accept/--reject", help="Whether the record is corrected.")],
    reason: ReasonOption = "",
    lost: LostOption = None,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Answer a dispute, as the admin of the cluster that metered the record.

    An accepted one corrects the record as it is claimed, or by --lost where the claim is right in part. The answer goes
    into the log, and cannot be taken back.
    """
    from scheduler.api.client import Client

    if lost and not accept:
        raise typer.BadParameter("a dispute that is rejected corrects nothing", param_hint="'--lost'")
    losses = [(cause.name, gpu_ms) for cause, gpu_ms in _losses(lost)]
    with Client(address) as tenor:
        found = tenor.answer_dispute(dispute, accept=accept, reason=reason, losses=losses)
    if output is Output.JSON:
        write_json(found)
        return
    corrected = f": version {found.corrected} corrects the record" if found.corrected else ""
    write_lines([f"{found.id} is {found.state}{corrected}"])


def _losses(given: Iterable[str] | None) -> list[tuple[Cause, int]]:
    """`CAUSE=GPU_MS` each. Raises BadParameter."""
    from scheduler.core.causes import Cause

    found = []
    for each in given or ():
        name, _, quantity = each.partition("=")
        if name.upper() not in Cause.__members__:
            expected = ", ".join(cause.name.lower() for cause in Cause)
            raise typer.BadParameter(f"cause was {name!r}, expected one of {expected}", param_hint="'--lost'")
        if not (quantity.isascii() and quantity.isdecimal()):
            raise typer.BadParameter(f"quantity was {quantity!r}, expected GPU-milliseconds", param_hint="'--lost'")
        found.append((Cause[name.upper()], int(quantity)))
    return found


def _digest(path: Path | None) -> bytes:
    """The SHA-256 of a file; nothing of none. Raises InvalidValue."""
    import hashlib

    from scheduler.core.errors import InvalidValue

    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InvalidValue("evidence", "a dispute", str(path), f"a file that can be read ({error.strerror})") from error


def _claimed(losses: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{cause.lower()} {gpu_hours(gpu_ms)}" for cause, gpu_ms in losses) or "nothing"
