"""`tenor bundle`: the evidence of a home, as a folder that anybody can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.screen import Output, OutputOption, progress, say, write_json, write_lines

HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="TENOR_HOME", help="The folder of `tenor up`, which may be running.")
]
StreamOption = Annotated[
    str | None,
    typer.Option("--stream", envvar="TENOR_STREAM", help="Name of the delivery log; default: the only one."),
]


def bundle(
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Made, or brought up to date.")],
    home: HomeOption = None,
    stream: StreamOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write the delivery log of a home as a bundle of evidence, for `tenor audit`.

    Log, checkpoint, keys, cosignatures, terms and statements. The scheduler may run meanwhile; run again, the bundle is
    brought up to date. A folder with another log, or another history of this one, is left as it is.
    """
    from scheduler.api.address import state_dir
    from scheduler.bundling import bundle_home

    with progress("bundling") as told:
        made = bundle_home(home or state_dir(), into, stream, lambda done, of: told(done, of, f"{done:,} of {of:,}"))
    if output is Output.JSON:
        write_json(
            {
                "bundle": str(made.folder),
                "origin": made.origin,
                "size": made.size,
                "before": made.before,
                "statements": made.statements,
                "left_out": made.left_out,
            }
        )
        return
    write_lines([str(into)])
    new = made.size - made.before
    say(f"{made.origin}: {made.size} leaves, {new} of them new; {made.statements} statements")
    for position, why in made.left_out.items():
        say(f"no statement of {position}: {why}")
