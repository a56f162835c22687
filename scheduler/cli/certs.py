"""`tenor certs`: a development authority and certificates for clusters, exchanges and people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.screen import Output, OutputOption, say, some, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.exchange.certs import Certificate

app = typer.Typer(
    help="Certificates for mutual TLS: a development authority, and an identity for each peer.",
    rich_markup_mode=None,
    add_completion=False,
)

_SOON_MS = 14 * 86_400_000


@app.command()
def make(
    peers: Annotated[
        list[str], typer.Argument(metavar="ROLE/NAME...", help="Roles: cluster, exchange, account, admin, auditor.")
    ],
    folder: Annotated[Path, typer.Option("--folder", help="Where they go; made where it is missing.")] = Path("certs"),
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME|IP", help="Under which clusters and exchanges are called; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="For how long they are valid.")] = 90,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an identity for each peer, and the authority that signs them where the folder has none.

    cluster/STREAM publishes on that stream; account/NAME has its own positions and jobs; exchange/NAME and
    auditor/NAME read what was delivered; admin/NAME runs the cluster. Nothing that is there is overwritten.
    """
    from scheduler.exchange.certs import AUTHORITY, AUTHORITY_KEY
    from scheduler.exchange.certs import make as made
    from scheduler.exchange.peers import Peer

    wanted = [Peer.parse(each) for each in peers]
    certificates = made(folder, wanted, hosts=host or (), days=days, now_ms=parsing.now_ms())
    _shown(certificates, output)
    if any(each.is_authority for each in certificates):
        say(f"{folder / AUTHORITY_KEY} signs certificates: whoever has it can be anybody. Keep it off the servers.")
        say(f"{folder / AUTHORITY} is for everybody: it tells whom to believe.")
    say(
        "each ROLE-NAME.pem is a certificate and its private key (mode 0600): give it to that peer, and to nobody else."
    )
    say(f"use one with TENOR_IDENTITY=FILE TENOR_AUTHORITY={folder / AUTHORITY}, or --identity and --authority.")


@app.command()
def renew(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Identities, or the authority itself.")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="From now on; default: 90, and 3650 for an authority.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Renew certificates in place: the same names and keys, signed again by the authority beside them.

    Servers and clusters that run take the new files by themselves, with the next connection.
    """
    from scheduler.exchange.certs import renew as renewed

    _shown([renewed(each, days=days, now_ms=parsing.now_ms()) for each in files], output)


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    output: OutputOption = Output.TABLE,
) -> None:
    """What certificates say: whose they are, who signed them, and until when."""
    from scheduler.exchange.certs import described

    _shown([described(each) for each in files], output)


def _shown(certificates: Sequence[Certificate], output: Output) -> None:
    from scheduler.api.wording import instant

    if output is Output.JSON:
        write_json(
            [
                {
                    "file": str(each.path),
                    "peer": None if each.peer is None else str(each.peer),
                    "authority": each.is_authority,
                    "issuer": each.issuer,
                    "hosts": list(each.hosts),
                    "not_before_ms": each.not_before_ms,
                    "not_after_ms": each.not_after_ms,
                }
                for each in certificates
            ]
        )
        return
    now_ms = parsing.now_ms()
    rows = [
        (
            each.path,
            "authority" if each.is_authority else some(each.peer and str(each.peer)),
            some(", ".join(each.hosts)),
            instant(each.not_after_ms),
            "EXPIRED" if each.not_after_ms <= now_ms else "soon" if each.not_after_ms <= now_ms + _SOON_MS else "-",
        )
        for each in certificates
    ]
    write_table(("file", "whose", "hosts", "valid until", "note"), rows)
