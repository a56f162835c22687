"""`tenor disclosure`: the public track record of sellers, as a table, as JSON, or as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.delivery import FAILED_AUDIT_EXIT_CODE, gpu_hours, percent
from scheduler.cli.screen import Output, OutputOption, say, write_json, write_table

if TYPE_CHECKING:
    from scheduler.exchange.disclosure import Disclosure, InstrumentMonth, PoolMonth

Row = tuple[object, ...]
INSTRUMENTS = (
    *("seller", "instrument", "month", "positions>", "promised>", "delivered>", "share>"),
    *("shortfall by cause", "borne by", "floor met>", "corrections>", "after final>"),
    *("disputes accepted>", "not answered>"),
)
POOLS = (
    *("seller", "pool", "month", "certificates>", "there was>", "sold>", "covered>", "accredited>", "pledged>"),
    *("shortages>", "bound"),
)
_SHOWN_BIND_MS = 30_000
"""Within how long binds are counted for people."""


def disclosure(
    bundle: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders with logs, as for `tenor audit`.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one page for a browser.")] = None,
    vkey: Annotated[list[str] | None, typer.Option("--vkey", help="A verifier key to trust; repeatable.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """The public track record of sellers, from their logs alone.

    Promised and delivered by instrument and month, shortfall by cause and bearer, floors met, corrections, what was
    sold against what stood behind it. Each bundle is audited first; exits with 4 where one fails.
    """
    from scheduler.exchange.disclosure import disclosed
    from scheduler.ledger.keys import VerifierKey

    found = disclosed(bundle, [VerifierKey.parse(each) for each in vkey or ()])
    if html is not None:
        _write_page(html, found)
    if output is Output.JSON:
        audits = [{"bundle": str(each.folder), "origin": each.origin, "ok": each.ok} for each in found.reports]
        write_json({"instruments": found.instruments, "pools": found.pools, "audits": audits})
    else:
        write_table(INSTRUMENTS, map(instrument_row, found.instruments), empty="no record of any instrument")
        write_table(POOLS, map(pool_row, found.pools), empty="no certificate of any pool")
    for report in found.reports:
        wrong = report.first_wrong
        told = "" if wrong is None else f": {wrong.name}: {wrong.detail}"
        say(f"{report.folder}: {'the audit passes' if report.ok else 'THE AUDIT FAILS'}{told}")
    if not all(report.ok for report in found.reports):
        raise typer.Exit(FAILED_AUDIT_EXIT_CODE)


def instrument_row(month: InstrumentMonth) -> Row:
    """The cells of `INSTRUMENTS`."""
    return (
        month.seller,
        month.instrument,
        month.month,
        month.positions,
        gpu_hours(month.contracted_gpu_ms),
        gpu_hours(month.delivered_gpu_ms),
        percent(month.delivered_ppm),
        _parts([(name.lower().replace("_", " "), gpu_ms) for name, gpu_ms in month.shortfall_by_cause]),
        _parts([(str(bearer), gpu_ms) for bearer, gpu_ms in month.shortfall_by_bearer]),
        f"{month.floors_met} of {month.floors_measured}",
        month.corrections,
        month.corrections_after_final,
        f"{month.disputes_accepted} of {month.disputes}",
        month.disputes_expired,
    )


def pool_row(month: PoolMonth) -> Row:
    """The cells of `POOLS`."""
    quantities = (month.total_gpu_ms, month.sold_gpu_ms, month.covered_gpu_ms)
    return (
        *(month.seller, month.pool, month.month, month.certificates),
        *(gpu_hours(gpu_ms) for gpu_ms in (*quantities, month.accredited_gpu_ms, month.pledged_gpu_ms)),
        month.shortages,
        _bound(month),
    )


def _bound(month: PoolMonth) -> str:
    """`97 of 99 in 30 s, slowest 41.2 s`."""
    from scheduler.core.metering.records import BIND_EDGES_MS

    within = sum(month.binds[: BIND_EDGES_MS.index(_SHOWN_BIND_MS) + 1])
    slowest = f"{month.slowest_bind_ms // 1_000}.{month.slowest_bind_ms // 100 % 10}"
    told = f"{within} of {sum(month.binds)} in {_SHOWN_BIND_MS // 1_000} s, slowest {slowest} s"
    return told if sum(month.binds) else "none"


def page(found: Disclosure) -> str:
    """One HTML page with nothing from outside: the tables, and what the audit said of each bundle."""
    audits: list[Row] = [
        (each.origin, each.size, each.root, "passes" if each.ok else "FAILS", _first_wrong(each.first_wrong))
        for each in found.reports
    ]
    parts = (
        _html_table("Promised and delivered", INSTRUMENTS, [instrument_row(each) for each in found.instruments]),
        _html_table("Sold and backed", POOLS, [pool_row(each) for each in found.pools]),
        _html_table("The logs that this rests on", ("seller", "leaves>", "root", "audit", "first thing wrong"), audits),
    )
    return _PAGE.replace("{body}", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Track record of delivery</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color-scheme: light dark; }
table { border-collapse: collapse; margin-bottom: 2rem; }
th, td { padding: 0.25rem 0.75rem; text-align: left; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
</style>
</head>
<body>
<h1>Track record of delivery</h1>
<p>Every figure is a sum over the latest records and certificates in the logs below; <code>tenor disclosure</code> gives
the same page from the same bundles. Months are of UTC.</p>
{body}
</body>
</html>
"""


def _html_table(title: str, columns: tuple[str, ...], rows: list[Row]) -> str:
    from html import escape

    kinds = [' class="number"' if name.endswith(">") else "" for name in columns]
    heads = "".join(
        f"<th{kind}>{escape(name.removesuffix('>'))}</th>" for kind, name in zip(kinds, columns, strict=True)
    )
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    body = "\n".join(lines)
    return f"<h2>{escape(title)}</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _write_page(path: Path, found: Disclosure) -> None:
    from scheduler.core.errors import Refused

    try:
        path.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from error


def _first_wrong(check: object) -> str:
    from scheduler.exchange.audit import Check

    return f"{check.name}: {check.detail}" if isinstance(check, Check) else ""


def _parts(parts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {gpu_hours(gpu_ms)}" for name, gpu_ms in parts) or "none"
