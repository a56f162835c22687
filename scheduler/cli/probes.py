"""`tenor exchange probes`: what the exchange found when it had pledged devices compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.exchange_address import ExchangeOption, exchange_called
from scheduler.cli.screen import Output, OutputOption, some, write_json, write_table

if TYPE_CHECKING:
    from scheduler.exchange.probe_client import ListedProbe


def probes(
    stream: Annotated[str, typer.Option("--stream", help="Only of this cluster.")] = "",
    after: Annotated[int, typer.Option("--after", min=0, metavar="N", help="Those after this place.")] = 0,
    exchange: ExchangeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Probes of pledged devices, a page at a time: what was called, how long it took, what was found.

    One that the cluster's log does not tell of yet, or withholds, is shown as not logged.
    """
    from scheduler.api.wording import instant
    from scheduler.exchange.probe_client import ProbeClient

    address, tls = exchange_called(exchange)
    with ProbeClient(address, tls=tls) as client:
        found = client.listed(after, stream=stream)
    if output is Output.JSON:
        shown = [{"seq": each.seq, "stream": each.stream, "logged": each.logged, **_plain(each)} for each in found]
        write_json({"probes": shown})
        return
    rows = [
        (
            each.found.id,
            each.stream,
            each.found.device[:16],
            each.found.suite,
            instant(each.found.called_ms),
            f"{each.found.answered_ms - each.found.revealed_ms} ms" if each.found.answered_ms else "-",
            each.found.outcome.value,
            some(each.found.reason),
            "yes" if each.logged else "no",
        )
        for each in found
    ]
    columns = ("probe", "cluster", "device", "suite", "called", "took>", "found", "why", "logged")
    write_table(columns, rows, empty="no device was probed")


def _plain(listed: ListedProbe) -> dict[str, object]:
    return listed.found.model_dump(mode="json")
