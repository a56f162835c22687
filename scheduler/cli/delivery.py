"""What exchanges and auditors ask: `tenor statement`, `tenor audit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.screen import AddressOption, Output, OutputOption, say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from scheduler.exchange.audit import AuditReport, Check

FAILED_AUDIT_EXIT_CODE = 4


def statement(
    position: Annotated[str, typer.Argument(metavar="POSITION")],
    exchange: Annotated[
        str | None, typer.Option("--exchange", metavar="HOST:PORT", help="Ask this exchange for its own.")
    ] = None,
    as_of: Annotated[
        int, typer.Option("--as-of", metavar="SIZE", min=0, help="By the log's first SIZE leaves; 0: all.")
    ] = 0,
    difference: Annotated[
        int, typer.Option("--difference", metavar="SIZE", min=0, help="What changed since the log had SIZE leaves.")
    ] = 0,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """What is owed for a position.

    The records may have been corrected and settled since: --as-of makes the statement of an earlier version set, and
    --difference the exact change of each line from that one to this.
    """
    made = _statements(exchange, address)
    found = made(position, as_of)
    if difference:
        _write_difference(made(position, difference), found, output)
    elif output is Output.JSON:
        write_json(found)
    else:
        _write_statement(found)


def _statements(exchange: str | None, address: str | None) -> Callable[[str, int], dict[str, Any]]:
    """How statements are asked for: of the exchange that is named, or else of the scheduler."""
    import json

    def of_scheduler(position: str, as_of: int) -> dict[str, Any]:
        from scheduler.api.client import Client

        with Client(address) as tenor:
            return tenor.statement(position, as_of)

    def of_exchange(position: str, as_of: int) -> dict[str, Any]:
        from scheduler.exchange.client import ExchangeClient
        from scheduler.exchange.tls import EXCHANGE_AUTHORITY_VARIABLE, tls_from_environment

        tls = tls_from_environment(EXCHANGE_AUTHORITY_VARIABLE)
        with ExchangeClient(str(exchange), tls=tls) as venue:
            found: dict[str, Any] = json.loads(venue.statement(position, as_of=as_of)[0])
            return found

    return of_scheduler if exchange is None else of_exchange


def _write_difference(before: dict[str, Any], after: dict[str, Any], output: Output) -> None:
    import json

    from scheduler.core.adjustments import adjustment
    from scheduler.core.settlement import Statement

    earlier, later = (Statement.model_validate_json(json.dumps(each)) for each in (before, after))
    changed = adjustment(earlier, later)
    if output is Output.JSON:
        write_json(changed.model_dump(mode="json"))
        return
    lines = [
        (line.kind.replace("_", " "), gpu_hours(line.gpu_ms), _money(line.amount_micro, changed.currency))
        for line in changed.lines
    ]
    total = ("total", "", _money(changed.amount_micro, changed.currency))
    write_table(("line", "quantity>", "amount>"), [*lines, total], empty="nothing changed")


def audit(
    bundle: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Folders with a log, its checkpoint and terms.")
    ],
    vkey: Annotated[
        list[str] | None,
        typer.Option("--vkey", help="A verifier key to trust, of a log or a witness; repeatable."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check bundles of evidence offline.

    Signatures, proofs, conservation, statements; of several, that logs are not forked and no device is pledged twice.
    Exits with 4 where anything is wrong.
    """
    from scheduler.exchange.audit import audit_all
    from scheduler.ledger.keys import VerifierKey

    found = audit_all(bundle, [VerifierKey.parse(each) for each in vkey or ()])
    if output is Output.JSON:
        reports = [_report_document(report) for report in found.reports]
        across = [_check_document(check) for check in found.across]
        write_json(reports[0] if len(reports) == 1 else {"ok": found.ok, "bundles": reports, "across": across})
    else:
        for report in found.reports:
            _write_checks(report.checks)
            held = f"{report.size} leaves, {report.records} records of {report.positions} positions"
            _say_verdict(report.ok, report.first_wrong, f"{report.origin or report.folder}, {held}")
        if found.across:
            _write_checks(found.across)
            _say_verdict(found.ok, found.first_wrong, f"{len(found.reports)} bundles together")
    if not found.ok:
        raise typer.Exit(FAILED_AUDIT_EXIT_CODE)


def _report_document(report: AuditReport) -> dict[str, Any]:
    figures = {name: getattr(report, name) for name in ("origin", "size", "root", "positions", "records")}
    checks = [_check_document(check) for check in report.checks]
    return {"bundle": str(report.folder), "ok": report.ok, **figures, "checks": checks}


def _check_document(check: Check) -> dict[str, Any]:
    return {"name": check.name, "verdict": str(check.verdict), "examined": check.examined, "detail": check.detail}


def _write_checks(checks: Sequence[Check]) -> None:
    rows = [(each.name, str(each.verdict).replace("_", " "), each.examined, each.detail) for each in checks]
    write_table(("check", "verdict", "examined>", "detail"), rows)


def _say_verdict(ok: bool, wrong: Check | None, held: str) -> None:
    say(f"{'the audit passes' if ok else 'THE AUDIT FAILS'}: {held}")
    if wrong is not None:
        say(f"the first thing that is wrong: {wrong.name}: {wrong.detail}")


def _write_statement(found: dict[str, Any]) -> None:
    from scheduler.api.wording import instant

    state = "complete" if found["complete"] else f"up to {instant(found['through_ms'])}"
    met = "met" if found["availability_met"] else "MISSED"
    disputed = f", {found['records_disputed']} of them disputed" if found["records_disputed"] else ""
    write_fields(
        [
            ("position", found["position"]),
            ("instrument", found["instrument"]),
            ("period", f"{instant(found['start_ms'])} to {instant(found['end_ms'])}, {state}"),
            ("records", f"{found['records']}, {found['records_unsettled']} not yet settled{disputed}"),
            ("contracted", gpu_hours(found["contracted_gpu_ms"])),
            (
                "availability",
                f"{percent(found['availability_ppm'])}, target {percent(found['availability_target_ppm'])} {met}",
            ),
        ]
    )
    states = [(name.replace("_", " "), gpu_hours(gpu_ms)) for name, gpu_ms in found["states"] if gpu_ms]
    write_table(("state", "quantity>"), states)
    if found["losses"]:
        lost = [(_cause(number), gpu_hours(gpu_ms)) for number, gpu_ms in found["losses"]]
        write_table(("cause of loss", "quantity>"), lost)
    currency = found["currency"]
    lines = [
        (line["kind"].replace("_", " "), gpu_hours(line["gpu_ms"]), _money(line["amount_micro"], currency))
        for line in found["lines"]
    ]
    write_table(("line", "quantity>", "amount>"), [*lines, ("total", "", _money(found["amount_micro"], currency))])


def _cause(number: int) -> str:
    from scheduler.core.causes import Cause

    cause = Cause(number)
    return f"{cause.name.lower().replace('_', ' ')} (borne by {cause.bearer})"


def gpu_hours(gpu_ms: int) -> str:
    """GPU-ms as GPU-hours with three digits, rounded down."""
    whole, rest = divmod(gpu_ms, 3_600_000)
    return f"{whole:,}.{rest * 1_000 // 3_600_000:03d} GPU-h"


def percent(ppm: int) -> str:
    """With four digits, which are all there are."""
    whole, rest = divmod(ppm, 10_000)
    return f"{whole}.{rest:04d} %"


def _money(micro: int, currency: str) -> str:
    whole, rest = divmod(abs(micro), 1_000_000)
    return f"{'-' if micro < 0 else ''}{whole:,}.{rest:06d} {currency}"
