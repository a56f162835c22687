"""What may be sold and what backs what is: `tenor deliverable`, `tenor backing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.screen import AddressOption, Output, OutputOption, some, write_fields, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.api.messages import Accredited, BackedPosition

FromOption = Annotated[
    int | None,
    typer.Option("--from", parser=parsing.moment_ms, metavar="INSTANT", help="Default: now, or the delivery's start."),
]
ToOption = Annotated[
    int | None, typer.Option("--to", parser=parsing.moment_ms, metavar="INSTANT", help="Default: the delivery's end.")
]
LossesOption = Annotated[
    int | None, typer.Option("--losses", metavar="K", min=0, help="Failure domains that may be lost; default: 1.")
]
LevelOption = Annotated[
    str,
    typer.Option(
        "--level",
        parser=parsing.failure_domain,
        metavar="LEVEL",
        help="What fails as one: node, domain (NVLink, the default), block or site.",
    ),
]


def deliverable(
    instrument: Annotated[str, typer.Argument(metavar="INSTRUMENT", help="As SYMBOL@VERSION.")],
    from_: FromOption = None,
    to: ToOption = None,
    losses: LossesOption = None,
    level: LevelOption = "",
    bounds_only: Annotated[bool, typer.Option("--bounds-only", help="Do not ask the planner: quicker.")] = False,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """How many more lots of an instrument may be sold.

    Everything sold stays honoured after the loss of any K failure domains. `proven` lots find cells that are free
    throughout; `planned` ones would be granted now, with the future planned anew where that helps; more than `at most`
    cannot be. Instants are UTC, as 2027-01-01T12:00, or from now on, as 2h.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import count, instant

    with Client(address) as tenor:
        found = tenor.deliverable(instrument, from_, to, losses=losses, domain=level, bounds_only=bounds_only)
    if output is Output.JSON:
        write_json(found)
        return
    write_fields(
        (
            ("instrument", found.instrument),
            ("lot", f"{found.gpus_per_lot} GPUs of {found.grade} at {found.site}, cell {_words(found.cell)}"),
            ("window", f"{instant(found.from_ms)} to {instant(found.to_ms)}"),
            ("survives the loss of", f"any {count(found.losses, _words(found.domain))}"),
            ("proven", f"{count(found.proven_lots, 'more lot')}"),
            ("planned", "not asked" if found.planned_lots is None else f"{count(found.planned_lots, 'more lot')}"),
            ("at most", f"{count(found.at_most_lots, 'more lot')}, tightest at {instant(found.tightest_ms)}"),
            *(() if found.survives else (("beware", "what is sold already does not survive that loss"),)),
            *((("uncovered", f"{count(found.uncovered_lots, 'cell')} sold"),) if found.uncovered_lots else ()),
        )
    )
    _write_intervals(found.intervals)


def backing(
    subject: Annotated[str, typer.Argument(metavar="POSITION|INSTRUMENT")],
    from_: FromOption = None,
    to: ToOption = None,
    losses: LossesOption = None,
    level: LevelOption = "",
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """What stands behind a position or an instrument.

    Its cells now and over the window, their health, what would stand in for a lost one, planned handovers, and sold
    against accredited: what is still honoured after the loss of any K failure domains.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import count, instant, listed

    with Client(address) as tenor:
        found = tenor.backing(subject, from_, to, losses=losses, domain=level)
    if output is Output.JSON:
        write_json(found)
        return
    write_fields(
        (
            ("backing of", found.subject),
            ("instrument", f"{found.instrument}, {found.grade} at {found.site}, cell {_words(found.cell)}"),
            ("window", f"{instant(found.from_ms)} to {instant(found.to_ms)}"),
            ("would stand in", f"{_spares(found.spares)}; {count(found.unsold_cells, 'unsold cell')}"),
            ("margin", f"{found.margin} after the loss of any {count(found.losses, _words(found.domain))}"),
            ("survives it", "yes" if found.survives else "no"),
        )
    )
    rows = [row for each in found.positions for row in _position_rows(each)]
    write_table(("position", "account", "lots>", "from", "to", "cells", "health"), rows, empty="nobody holds any of it")
    if found.handovers:
        write_table(
            ("handover", "at", "leaves", "enters"),
            [
                (each.position, instant(each.at_ms), listed(each.leaves, most=6), listed(each.enters, most=6))
                for each in found.handovers
            ],
        )
    _write_intervals(found.intervals)


def _position_rows(each: BackedPosition) -> list[tuple[object, ...]]:
    from scheduler.api.wording import instant, listed

    ill = " ".join(f"{cause.cause}:{cause.gpus}" for cause in each.ill)
    health = ill or (f"well, {each.least_ppm} ppm" if each.gpus else "-")
    if each.uncovered_cause:
        health = f"not covered as sold: {each.uncovered_cause}"
    rows: list[tuple[object, ...]] = [
        (
            each.position,
            each.account,
            each.lots,
            instant(stretch.start_ms),
            instant(stretch.end_ms),
            listed(stretch.cells, most=6),
            health,
        )
        for stretch in each.stretches
    ]
    return rows or [(each.position, each.account, each.lots, "-", "-", "-", health)]


def _write_intervals(intervals: Sequence[Accredited]) -> None:
    from scheduler.api.wording import instant

    if not intervals:
        return
    columns = ("from", "to", "cells>", "healthy>", "sold>", "free>", "lost>", "accredited>", "more>")
    write_table(
        columns,
        [
            (
                instant(each.start_ms),
                instant(each.end_ms),
                each.cells,
                each.healthy,
                each.sold,
                each.free,
                each.lost,
                each.accredited,
                each.more,
            )
            for each in intervals
        ],
    )


def _spares(names: Sequence[str]) -> str:
    from scheduler.api.wording import listed

    return f"spares {listed(names, most=6)}" if names else "no spare"


def _words(cell: str) -> str:
    return some(cell.replace("_", " "))
