"""`tenor keys`: the key that signs a cluster's delivery log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.screen import Output, OutputOption, say, write_json, write_lines

app = typer.Typer(help="The key that signs the delivery log.", rich_markup_mode=None, add_completion=False)


@app.command()
def rotate(
    home: Annotated[Path | None, typer.Option("--home", envvar="TENOR_HOME", help="The folder of `tenor up`.")] = None,
    stream: Annotated[str, typer.Option("--stream", envvar="TENOR_STREAM", help="Name of the delivery log.")] = "local",
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a new key follow the log's; the verifier key of the new one.

    The scheduler takes it up within a second, or when it starts: the log says the change, signed by both keys, and the
    old one signs beside it for as long as `key_overlap_ms` says.
    """
    from scheduler.api.address import state_dir
    from scheduler.key_changes import prepare

    folder = home or state_dir()
    key = prepare(folder, f"tenor.local/{stream}").verifier.encode()
    if output is Output.JSON:
        write_json({"vkey": key})
    else:
        write_lines([key])
        say("tell it to those who check this log's bundles; whoever trusts the old key is led to it by the log itself")
