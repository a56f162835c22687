"""What admins do: `tenor fleet`, `coverage`, `drain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.screen import AddressOption, Output, OutputOption, say, some, write_json, write_table

if TYPE_CHECKING:
    from scheduler.api.messages import Node


def fleet(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only this node.")] = "",
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Nodes by owner, occupant and health."""
    from scheduler.api.client import Client

    with Client(address) as tenor:
        found = tenor.fleet(node)
    if output is Output.JSON:
        write_json({"nodes": found})
        return
    columns = ("node", "grade", "place", "gpus>", "owners", "occupants", "idle>", "health", "ppm>", "drain")
    write_table(columns, [_node_row(each) for each in found], empty="no nodes have joined yet")


def coverage(
    position: Annotated[str, typer.Argument(metavar="[POSITION]", help="Only this position.")] = "",
    from_: Annotated[
        int | None, typer.Option("--from", parser=parsing.moment_ms, metavar="INSTANT", help="Default: now.")
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", parser=parsing.moment_ms, metavar="INSTANT", help="Default: a week later.")
    ] = None,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Which cells stand behind which position.

    Instants are UTC, as 2027-01-01T12:00, or from now on, as 2h.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import instant, listed

    with Client(address) as tenor:
        found = tenor.coverage(from_, to, position=position)
    if output is Output.JSON:
        write_json(found)
        return
    rows: list[tuple[object, ...]] = []
    for each in found.positions:
        rows += [
            (
                each.position,
                each.account,
                instant(stretch.start_ms),
                instant(stretch.end_ms),
                stretch.gpus,
                stretch.cell.replace("_", " "),
                listed(stretch.cells, most=6),
            )
            for stretch in each.stretches
        ]
        if each.uncovered_cause:
            rows.append((each.position, each.account, "-", "-", 0, "-", f"not covered as sold: {each.uncovered_cause}"))
    write_table(("position", "account", "from", "to", "gpus>", "cell", "cells"), rows, empty="nothing is covered")


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    by: Annotated[
        int | None,
        typer.Option("--by", parser=parsing.moment_ms, metavar="10m", help="Empty by then; default: at once."),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Call the drain off.")] = False,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Empty a node, or call that off.

    It takes no new work, and its promises move where they can; what is still there when its time has come has to leave.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import instant

    if cancel and by is not None:
        raise typer.BadParameter("--by and --cancel exclude each other", param_hint="'--cancel'")
    with Client(address) as tenor:
        by_ms = None if cancel else by if by is not None else parsing.now_ms()
        drained = tenor.drain(node, by_ms)
    if output is Output.JSON:
        write_json(drained)
        return
    say(
        f"{node} drains by {instant(drained.drain_by_ms)}"
        if drained.drain_by_ms is not None
        else f"{node} does not drain"
    )


def _node_row(node: Node) -> tuple[object, ...]:
    from scheduler.api.wording import instant

    owners = [f"{each.account}/{each.position}:{each.gpus}" for each in node.owners]
    owners += [f"unsold:{node.unsold_gpus}"] if node.unsold_gpus else []
    return (
        node.name,
        node.grade,
        f"{node.site}/{node.block}/{node.domain}",
        node.gpus,
        some(" ".join(owners)),
        some(" ".join(f"{each.job}({each.account}):{each.gpus}" for each in node.occupants)),
        node.idle_gpus,
        " ".join(f"{each.cause}:{each.gpus}" for each in node.ill) or "well",
        node.least_ppm,
        "-" if node.drain_by_ms is None else f"by {instant(node.drain_by_ms)}",
    )
