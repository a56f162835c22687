"""`tenor up`: the whole scheduler on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.screen import say


def up(
    home: Annotated[Path | None, typer.Option("--home", help="Its folder; default: ~/.local/state/tenor.")] = None,
    listen: Annotated[str | None, typer.Option("--listen", metavar="HOST:PORT", help="The API's address.")] = None,
    exchange: Annotated[
        str | None, typer.Option("--exchange", metavar="HOST:PORT", help="Default: a reference exchange of its own.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="Certificate and key; with it, mutual TLS.")
    ] = None,
    authority: Annotated[
        Path | None, typer.Option("--authority", metavar="FILE", help="Who signs certificates of callers.")
    ] = None,
    exchange_authority: Annotated[
        Path | None, typer.Option("--exchange-authority", metavar="FILE", help="Who signs the exchange's.")
    ] = None,
    denied: Annotated[
        Path | None,
        typer.Option("--denied", metavar="FILE", help="Peers that are refused, ROLE/NAME a line; read again."),
    ] = None,
    feed: Annotated[
        str | None,
        typer.Option("--feed", metavar="HOST:PORT", help="Where exchanges and auditors pull; '': nowhere."),
    ] = None,
    feed_authority: Annotated[
        Path | None, typer.Option("--feed-authority", metavar="FILE", help="Who signs those of the feed's callers.")
    ] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="Name of the delivery log.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Local nodes.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option("--gpus-per-node", min=1, help="Logical GPUs of each.")] = None,
    grade: Annotated[str | None, typer.Option("--grade", help="Grade of their GPUs.")] = None,
    spares: Annotated[int | None, typer.Option("--spares", min=0, help="Nodes that are never sold.")] = None,
    planners: Annotated[
        str | None, typer.Option("--planners", metavar="auto|local|ray", help="Who plans; default: auto.")
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C.

    Ray, a reference exchange (unless another is named), the scheduler, its API and its feed. Ctrl-C stops all of it,
    with grace.
    """
    from scheduler.config import load_settings

    settings = load_settings(
        home=home,
        listen=listen,
        exchange=exchange,
        identity=identity,
        authority=authority,
        exchange_authority=exchange_authority,
        denied=denied,
        feed=feed,
        feed_authority=feed_authority,
        stream=stream,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        grade=grade,
        spares=spares,
        planners=planners,
    )
    from scheduler.embedded import up as run  # all of the scheduler: only once there is something to run

    raise typer.Exit(run(settings, say))
