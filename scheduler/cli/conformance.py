"""`tenor exchange conformance`: whether somebody's exchange keeps the rules of the protocol."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.screen import Output, OutputOption, progress, say, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.exchange.conformance.callers import Options
    from scheduler.exchange.conformance.suite import Check, Result

IdentitiesOption = Annotated[
    list[Path] | None,
    typer.Option("--identity", metavar="FILE", help="Certificate and key of a peer, whose role it plays; repeatable."),
]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="A check or an area; repeatable.")]

_INTERRUPTED = 130
_READY_S = 10.0


def conformance(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="HOST:PORT of the exchange under test.")] = "",
    identity: IdentitiesOption = None,
    authority: Annotated[
        Path | None, typer.Option("--authority", metavar="FILE", help="Who signs the target's certificate.")
    ] = None,
    instrument: Annotated[
        str, typer.Option("--instrument", metavar="SYMBOL@VERSION", help="What to trade, or what --account owns.")
    ] = "",
    account: Annotated[str, typer.Option("--account", help="Whose positions are traded, or delivered to.")] = "",
    stream: Annotated[
        str, typer.Option("--stream", help="Streams to publish on begin so, in plaintext.")
    ] = "conformance",
    grade: Annotated[str, typer.Option("--grade", help="Of the instruments that the suite lists.")] = "LOGICAL",
    site: Annotated[str, typer.Option("--site", help="Of the same.")] = "local",
    only: OnlyOption = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Only say which checks there are.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Wait for nothing: see above.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=2, max=600, help="The longest of one call.")] = 10.0,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also as JUnit XML.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Test an exchange, any server of tenor.exchange.v1, against the rules of the protocol: black box, over gRPC.

    Only ever test a sandbox: the suite lists instruments, trades, publishes, and freezes two streams of its own.

    Where the target serves TradingService the suite lists CONFORMANCE instruments and buys what it needs. Where it does
    not, set up an account that owns a position in an instrument, of at least three metering intervals and with nothing
    delivered to it yet, and name both with --instrument and --account.

    Over mutual TLS give an --identity for each role: exchange/NAME, account/NAME, auditor/NAME, and three of
    cluster/NAME that have published nothing yet, of which two are frozen. What there is no identity for is skipped.

    It waits until the intervals that it delivers are over, and through half a minute of pings: a minute or so in all.
    With --quick it does not: for exchanges that take records early, as the reference exchange does. The exit code is 1
    where a check failed, 0 where none did.
    """
    from scheduler.exchange.conformance.suite import chosen

    checks = chosen(only or (), quick=quick)
    if list_checks:
        _listed(checks, output)
        return
    if not target:
        raise typer.BadParameter("say which exchange, as 127.0.0.1:7001", param_hint="'TARGET'")
    from scheduler.exchange.conformance.callers import Options

    options = Options(
        address=target,
        identities=tuple(identity or ()),
        authority=authority,
        instrument=instrument,
        account=account,
        stream=stream,
        grade=grade,
        site=site,
        quick=quick,
        timeout_s=timeout_s,
    )
    results: list[Result] = []
    complete = _ran(options, checks, results)
    _told(target, results, complete=complete, junit=junit, output=output)
    _summed(results, len(checks))
    failed = any(result.status.value == "FAIL" for result in results)
    raise typer.Exit(_INTERRUPTED if not complete else int(failed))


def _ran(options: Options, checks: Sequence[Check], results: list[Result]) -> bool:
    """Runs the checks, each result appended as it comes; whether nobody stopped it. Raises Unavailable."""
    from scheduler.api.address import checked_address
    from scheduler.exchange.conformance.suite import run
    from scheduler.exchange.conformance.target import Target

    checked_address(options.address, "the target")
    with progress("conformance") as shown:
        said: set[str] = set()

        def note(text: str) -> None:
            shown(len(results), len(checks), text)

        def waits(text: str) -> None:
            """Why it takes long: once for each reason where there is no bar to show it."""
            note(text)
            if not sys.stderr.isatty() and text.partition(" ")[0] not in said:
                said.add(text.partition(" ")[0])
                say(text)

        with Target(options, note=waits) as target:
            target.reach(min(_READY_S, options.timeout_s))
            try:
                for result in run(target, checks):
                    results.append(result)
                    note(result.check.name)
            except KeyboardInterrupt:
                return False
    return True


def _listed(checks: Sequence[Check], output: Output) -> None:
    if output is Output.JSON:
        write_json(
            [{"name": each.name, "area": each.area, "rule": each.rule, "expected": each.expected} for each in checks]
        )
        return
    write_table(
        ("area", "name", "rule", "expected"), [(each.area, each.name, each.rule, each.expected) for each in checks]
    )


def _told(target: str, results: Sequence[Result], *, complete: bool, junit: Path | None, output: Output) -> None:
    from scheduler.exchange.conformance.report import document, write_junit

    if junit is not None:
        write_junit(junit, target, results)
    if output is Output.JSON:
        write_json(document(target, results, complete=complete))
        return
    rows = [
        (each.status.value, each.check.area, each.check.name, each.check.rule, each.check.expected, each.seen)
        for each in results
    ]
    write_table(("result", "area", "check", "rule", "expected", "seen"), rows, empty="no check was run")


def _summed(results: Sequence[Result], wanted: int) -> None:
    from scheduler.exchange.conformance.report import counts

    found = counts(results)
    missing = f", {wanted - len(results)} not run: interrupted" if len(results) < wanted else ""
    say(f"{found['pass']} passed, {found['fail']} failed, {found['skipped']} skipped{missing}")
    if found["fail"]:
        say("the rules are in docs/guides/exchanges.md")
