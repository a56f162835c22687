"""`tenor status` and `tenor positions`: everything at a glance, and what an account owns."""

from __future__ import annotations

from typing import Annotated

import typer

from scheduler.cli.screen import AddressOption, Output, OutputOption, some, write_fields, write_json, write_table


def status(output: OutputOption = Output.TABLE, address: AddressOption = None) -> None:
    """The scheduler at a glance."""
    from scheduler.api.client import Client
    from scheduler.api.wording import count, duration, instant

    with Client(address) as tenor:
        now = tenor.status()
    if output is Output.JSON:
        write_json(now)
        return
    jobs = ", ".join(f"{each.jobs} {each.status}" for each in now.jobs if each.jobs)
    link = "none"
    if now.exchange is not None:
        heard = now.exchange.last_heard_ms
        ago = "" if heard is None else f", heard {duration(max(0, now.now_ms - heard))} ago"
        link = f"{'connected' if now.exchange.connected else 'DOWN'} {now.exchange.detail}{ago}".strip()
    signed = "none yet" if now.checkpoint_leaves is None else f"signed over {now.checkpoint_leaves} leaves"
    fields = [
        ("now", instant(now.now_ms)),
        ("version", now.version),
        ("nodes", f"{now.nodes} ({now.nodes_ill} with ill GPUs, {now.nodes_draining} draining)"),
        ("GPUs", f"{now.gpus}: {now.sold_gpus} sold, {now.unsold_gpus} unsold"),
        ("used", f"{now.used_gpus} ({now.lent_gpus} of them lent), {now.idle_gpus} idle, {now.ill_gpus} ill"),
        ("positions", f"{now.positions} of {count(now.accounts, 'account')}, {now.positions_uncovered} not covered"),
        ("jobs", jobs or "none"),
        ("planned", now.planned_by or "not yet"),
        ("score", f"{now.score}; last rehearsal: {now.rehearsed or 'none yet'}"),
        ("journal", f"event {now.journal_seq}"),
        ("exchange", link),
        ("delivery log", f"{now.log_leaves} leaves, {now.outbox_leaves} not yet acknowledged"),
        ("checkpoint", signed),
    ]
    fields += [("PAUSED", now.paused)] if now.paused else []
    write_fields([*fields, *(("ALERT", alert) for alert in now.alerts)])


def positions(
    account: Annotated[str, typer.Option("--account", help="Only this account's.")] = "",
    ended: Annotated[bool, typer.Option("--ended", help="Also those that hold no lots any more.")] = False,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """What is owned, what covers it, who uses that."""
    from scheduler.api.client import Client
    from scheduler.api.wording import instant

    with Client(address) as tenor:
        found = tenor.positions(account, ended=ended)
    if output is Output.JSON:
        write_json({"positions": found})
        return
    columns = "position account instrument lots> entitled> covered> used> lent> idle> ill> next-change note"
    rows = [
        (
            each.id,
            each.account,
            each.instrument,
            each.lots,
            each.entitled_gpus,
            each.covered_gpus,
            each.used_gpus,
            each.lent_gpus,
            each.idle_gpus,
            each.ill_gpus,
            "-" if each.next_change_ms is None else f"{each.next_entitled_gpus} at {instant(each.next_change_ms)}",
            some(each.uncovered_cause and f"not covered: {each.uncovered_cause}"),
        )
        for each in found
    ]
    write_table(columns.split(), rows, empty="no positions")
