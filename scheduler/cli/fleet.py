"""What admins do: `tenor fleet`, `coverage`, `drain`, `mark`, `force-majeure`."""

from __future__ import annotations

from pathlib import Path
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
    if node and found:
        _write_devices(found[0])


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
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Call the drain off, and announced maintenance with it.")
    ] = False,
    maintenance: Annotated[
        bool, typer.Option("--maintenance", help="Announce it, with --at and --for: planned by the instruments' terms.")
    ] = False,
    at: Annotated[
        int | None, typer.Option("--at", parser=parsing.moment_ms, metavar="INSTANT", help="When it begins.")
    ] = None,
    for_: Annotated[
        int | None, typer.Option("--for", parser=parsing.duration_ms, metavar="4h", help="How long it takes.")
    ] = None,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Empty a node, or call that off.

    It takes no new work, and its promises move where they can; what is still there when its time has come has to leave.
    Maintenance that is announced goes into the log at once; the node stays in use until it begins. What contracts lose
    by it is planned where it was announced as early as their terms ask and within their budget, and the seller's
    otherwise. It ends when it is called off.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import instant

    if cancel and by is not None:
        raise typer.BadParameter("--by and --cancel exclude each other", param_hint="'--cancel'")
    if maintenance != (at is not None) or maintenance != (for_ is not None):
        raise typer.BadParameter("--maintenance, --at and --for go together", param_hint="'--maintenance'")
    if maintenance and (cancel or by is not None):
        raise typer.BadParameter("it goes with neither --by nor --cancel", param_hint="'--maintenance'")
    with Client(address) as tenor:
        if at is not None and for_ is not None:
            drained = tenor.drain(node, at, until_ms=at + for_)
        else:
            drained = tenor.drain(node, None if cancel else by if by is not None else parsing.now_ms())
    if output is Output.JSON:
        write_json(drained)
        return
    if at is not None and for_ is not None:
        say(f"the maintenance of {node} is announced, from {instant(at)} to {instant(at + for_)}")
    elif drained.drain_by_ms is not None:
        say(f"{node} drains by {instant(drained.drain_by_ms)}")
    else:
        say(f"{node} does not drain")


def mark(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    gpus: Annotated[
        list[int] | None, typer.Argument(metavar="[GPU]...", help="On the node, from 0; all if none.")
    ] = None,
    cause: Annotated[
        str,
        typer.Option(
            "--cause",
            metavar="CAUSE",
            help="gpu_fault, ecc, nvlink, fabric, thermal, power_cap, wrong_grade or control_plane.",
        ),
    ] = "",
    well: Annotated[bool, typer.Option("--well", help="Take it back.")] = False,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Say what is wrong with GPUs.

    They take no work and are metered by that cause until it is taken back, whatever is observed of them; what is
    observed besides goes before it while it lasts.
    """
    from scheduler.api.client import Client

    if well == bool(cause):
        raise typer.BadParameter("say either --cause or --well", param_hint="'--cause'")
    with Client(address) as tenor:
        marked = tenor.mark(node, gpus or (), cause=cause.lower())
    if output is Output.JSON:
        write_json(marked)
        return
    which = f"GPUs {', '.join(map(str, gpus))}" if gpus else "all GPUs"
    say(f"{which} of {node}: {'nothing is said to be wrong' if well else cause.lower()}")


def force_majeure(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...")],
    from_: Annotated[int, typer.Option("--from", parser=parsing.moment_ms, metavar="INSTANT", help="Since when.")],
    until: Annotated[int, typer.Option("--until", parser=parsing.moment_ms, metavar="INSTANT", help="Until when.")],
    evidence: Annotated[
        Path, typer.Option("--evidence", metavar="FILE", help="What shows it: its SHA-256 goes into the log.")
    ],
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Declare that faults of nodes were beyond control.

    Where the terms excuse it, what contracts lost by faults of these nodes in that time is excused; elsewhere it stays
    the seller's. Intervals that are closed already are corrected, as far back as the meter remembers. The evidence
    itself stays here: keep it, for those who ask to see it.
    """
    from scheduler.api.client import Client
    from scheduler.api.wording import count, instant

    content = _content(evidence)
    with Client(address) as tenor:
        corrected = tenor.force_majeure(nodes, from_, until, content)
    if output is Output.JSON:
        write_json({"nodes": nodes, "from_ms": from_, "until_ms": until, "corrected_intervals": corrected})
        return
    say(f"force majeure on {', '.join(nodes)} from {instant(from_)} to {instant(until)}")
    if corrected:
        say(f"{count(corrected, 'closed interval')} corrected")


def _content(path: Path) -> bytes:
    from scheduler.core.errors import InvalidValue

    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidValue("evidence", str(path), "unreadable", f"a file ({error.strerror})") from error


def _node_row(node: Node) -> tuple[object, ...]:

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
        _drain(node),
    )


def _write_devices(node: Node) -> None:
    """Who the GPUs of one node are."""
    if node.devices_detail:
        say(f"{node.devices_by}: {node.devices_detail}")
    if node.devices:
        columns = ("gpu>", "device", "uuid", "serial", "board", "vbios", "memory MiB>")
        facts = [
            (d.gpu, d.name, d.uuid, some(d.serial), some(d.board), some(d.vbios), d.memory_mib) for d in node.devices
        ]
        write_table(columns, facts, empty="")


def _drain(node: Node) -> str:
    from scheduler.api.wording import instant

    told = [] if node.drain_by_ms is None else [f"by {instant(node.drain_by_ms)}"]
    if node.maintenance_from_ms is not None and node.maintenance_until_ms is not None:
        told.append(f"maintenance {instant(node.maintenance_from_ms)} to {instant(node.maintenance_until_ms)}")
    return some(", ".join(told))
