"""`tenor demo`: contracts honoured in front of your eyes, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.screen import Output, OutputOption, say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from scheduler.demo.story import Demo, Shown

FAILED_EXIT_CODE = 4


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where its files and the bundle go; made anew.")] = Path(
        "build/demo"
    ),
    output: OutputOption = Output.TABLE,
) -> None:
    """Trade, run, fail and deliver on this machine, with real processes, in about a minute.

    Starts a reference exchange, the scheduler and a Ray cluster of four nodes, plays a day of it, stops everything, and
    audits what was delivered. Exits with 4 where the statements differ or the audit fails.
    """
    from scheduler.demo.story import fresh_home, play

    home, bundle = fresh_home(folder), folder / "bundle"
    with _view() as (told, tick):
        shown = play(home, bundle, told, tick)
    if output is Output.JSON:
        write_json(
            {
                "seconds": round(shown.seconds, 1),
                "same_bytes": shown.same_bytes,
                "statements": shown.statements,
                "audit": {"ok": shown.report.ok, "checks": shown.report.checks},
                "bundle": str(bundle),
            }
        )
    else:
        _write(shown)
    if not (shown.report.ok and shown.same_bytes):
        raise typer.Exit(FAILED_EXIT_CODE)


def _write(shown: Shown) -> None:
    rows = []
    for statement in shown.statements:
        states = dict(statement["states"])
        contracted = statement["contracted_gpu_ms"]
        delivered = states["used"] + states["available_unused"] + states["released"]
        rows.append(
            (
                statement["position"],
                statement["instrument"],
                f"{contracted / 1_000:,.0f}",
                f"{states['used'] / 1_000:,.1f}",
                f"{delivered / 1_000:,.1f}",
                f"{states['derated'] / 1_000:,.1f}",
                f"{states['out_forced'] / 1_000:,.1f}",
                f"{statement['amount_micro'] / 1_000_000:.4f} {statement['currency']}",
            )
        )
    header = ("position", "instrument", "contracted GPU-s>", "used>", "delivered>", "derated>", "forced out>", "owed>")
    write_table(header, rows)
    failed = [check for check in shown.report.checks if str(check.verdict) != "ok"]
    write_fields(
        [
            (
                "statements",
                "the cluster's and the exchange's are the same bytes" if shown.same_bytes else "THEY DIFFER",
            ),
            ("audit", f"{len(shown.report.checks)} checks, all passed" if shown.report.ok else f"FAILED: {failed[0]}"),
            ("took", f"{shown.seconds:.0f} s"),
            ("bundle", f"{shown.bundle} — check it yourself: tenor audit {shown.bundle}"),
        ]
    )


class _view:  # noqa: N801 - used as a context manager only
    """A live picture on a terminal; plain lines elsewhere. Gives (`told`, `tick`)."""

    def __enter__(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(stderr=True)
        self.live = (
            Live(console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        )
        if self.live is not None:
            self.live.start()
        return self.told, self.tick

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def told(self, text: str) -> None:
        """One more line of the story."""
        if self.live is None:
            say(text)
        else:
            self.live.console.print(f"[dim]·[/dim] {text}")

    def tick(self, demo: Demo) -> None:
        """The picture as it is now; a scheduler that does not answer right now is shown a little later."""
        from scheduler.core.errors import TenorError

        if self.live is not None:
            try:
                self.live.update(_picture(demo))
            except TenorError:
                return


def _picture(demo: Demo) -> Any:
    from rich.console import Group
    from rich.table import Table

    second = demo.second()
    title = f"delivery begins in {-second:.0f} s" if second < 0 else f"delivering, second {second:.0f}"
    fleet = Table(title=title, title_justify="left", expand=False)
    for column in ("node", "covers", "runs", "measured", "health"):
        fleet.add_column(column)
    for node in demo.client.fleet():
        fleet.add_row(
            node.name,
            _counted([(owner.account, owner.gpus) for owner in node.owners], unsold=node.unsold_gpus),
            _counted([(occupant.account, occupant.gpus) for occupant in node.occupants], idle=node.idle_gpus),
            f"{node.least_ppm / 10_000:.0f} %",
            "[red]" + ", ".join(ill.cause.lower() for ill in node.ill) + "[/red]"
            if node.ill
            else "[green]well[/green]",
        )
    jobs = Table(expand=False)
    for column in ("job", "account", "GPUs", "status", "on", "basis", "attempt"):
        jobs.add_column(column)
    for job in reversed(list(demo.client.jobs())):
        where = ", ".join(sorted({place.node for place in job.places}))
        basis = ("its own" if job.inside else "borrowed") if job.places else job.reason.replace("_", " ")
        jobs.add_row(job.spec.name, job.spec.account, str(job.gpus), job.status, where, basis, str(job.attempt))
    return Group(fleet, jobs)


_COLOURS = {"acme": "cyan", "borealis": "magenta", "cygnus": "yellow", "dorado": "blue"}


def _counted(parts: list[tuple[str, int]], **rest: int) -> str:
    """`acme ████████`, a block a GPU, in the account's colour."""
    shown = [f"[{_COLOURS.get(name, 'white')}]{name} {'█' * gpus}[/]" for name, gpus in parts]
    shown += [f"[dim]{name} {'░' * gpus}[/dim]" for name, gpus in rest.items() if gpus]
    return "  ".join(shown)
