"""Lots that nothing stands behind for a while: `tenor recall`, `tenor release`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.screen import AddressOption, Output, OutputOption, say, write_json

if TYPE_CHECKING:
    from scheduler.api.messages import Position

PositionArgument = Annotated[str, typer.Argument(metavar="POSITION")]
LotsOption = Annotated[int, typer.Option("--lots", metavar="N", min=1, help="How many of its lots.")]
AtOption = Annotated[int, typer.Option("--at", parser=parsing.moment_ms, metavar="INSTANT", help="From then on.")]
UntilOption = Annotated[int, typer.Option("--until", parser=parsing.moment_ms, metavar="INSTANT", help="Until then.")]


def recall(
    position: PositionArgument,
    lots: LotsOption,
    at: AtOption,
    until: UntilOption,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Take lots of a position back for a while.

    Only of RECALLABLE instruments, with the notice that they ask for, after the least run, as often as they let it; the
    notice goes into the log. Idle cells go first; work that is left on one is told to stop when the notice is over,
    with its grace. Meanwhile the cells serve others. What is recalled beyond the terms' quantity is paid for.
    """
    from scheduler.api.client import Client

    with Client(address) as tenor:
        changed = tenor.recall(position, lots, at, until)
    _tell(changed, "recalled", lots, at, until, output)


def release(
    position: PositionArgument,
    lots: LotsOption,
    at: AtOption,
    until: UntilOption,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Give lots of a position back for a while.

    Only of instruments with the unused rule RELEASE: what is released is not paid for. Idle cells go first; meanwhile
    they serve others, and then they are the position's again.
    """
    from scheduler.api.client import Client

    with Client(address) as tenor:
        changed = tenor.release(position, lots, at, until)
    _tell(changed, "released", lots, at, until, output)


def _tell(position: Position, how: str, lots: int, from_ms: int, until_ms: int, output: Output) -> None:
    from scheduler.api.wording import count, instant

    if output is Output.JSON:
        write_json(position)
    else:
        say(f"{count(lots, 'lot')} of {position.id} {how} from {instant(from_ms)} to {instant(until_ms)}")
