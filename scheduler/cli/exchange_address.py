"""Which exchange a verb talks to: the one that is named, else the one that `tenor up` started here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scheduler.exchange.tls import Tls

ExchangeOption = Annotated[
    str | None, typer.Option("--exchange", metavar="HOST:PORT", envvar="TENOR_EXCHANGE", help="The exchange.")
]


def exchange_called(address: str | None) -> tuple[str, Tls | None]:
    """The address, and how to be known there. Raises Unavailable where none is named and none runs here."""
    from scheduler.api.address import checked_address, state_dir
    from scheduler.core.errors import Unavailable
    from scheduler.exchange.tls import EXCHANGE_AUTHORITY_VARIABLE, tls_from_environment

    tls = tls_from_environment(EXCHANGE_AUTHORITY_VARIABLE)
    if address is None:
        tls = None  # the one that `tenor up` started here speaks plaintext, on loopback
        path = state_dir() / "exchange.address"
        try:
            address = path.read_text(encoding="utf-8").strip()
        except OSError:
            raise Unavailable(
                f"no exchange is running here: {path} is missing. Say where it is with --exchange or TENOR_EXCHANGE"
            ) from None
    checked_address(address, "the exchange")
    return address, tls
