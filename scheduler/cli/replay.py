"""`tenor replay`: published traces through the production code, on virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.screen import Output, OutputOption, progress, say, write_fields, write_json, write_table

VIOLATED_EXIT_CODE = 4
PPM = 1_000_000


def replay(
    traces: Annotated[Path, typer.Argument(metavar="TRACES", help="A folder of traces.")],
    from_: Annotated[str, typer.Option("--from", metavar="DATE", help="The first day, as 2017-10-02.")],
    days: Annotated[int, typer.Option("--days", min=1)] = 7,
    check: Annotated[bool, typer.Option("--check", help="Verify every law after every event.")] = False,
    load: Annotated[
        float | None,
        typer.Option(
            "--load", min=0.01, max=100.0, help="Demand as a share of the fleet; without it, jobs as they were."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of failures and scaling.")] = 0,
    failures: Annotated[
        int | None, typer.Option("--failures", min=0, help="Mean days between failures of a node; 0: none.")
    ] = None,
    spares: Annotated[int, typer.Option("--spares", min=0, help="Nodes that are never sold.")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Play published traces on virtual time.

    Says how it went: utilisation, waits, shortfall by cause, statements. Exits with 4 where a law was broken.
    """
    from scheduler.replay.run import ReplaySettings, run
    from scheduler.traces.dates import parse_day

    given: dict[str, Any] = {} if failures is None else {"failures_days": failures}
    settings = ReplaySettings(
        from_date=parse_day(from_, "--from", "the replay"),
        days=days,
        traces=traces,
        check=check,
        load_ppm=None if load is None else round(load * PPM),
        seed=seed,
        spares=spares,
        **given,
    )
    with progress("replaying") as bar:
        start_ms: list[int] = []

        def told(now_ms: int, end_ms: int, scheduler: Any) -> None:
            start_ms[:] = start_ms or [now_ms]
            waiting = scheduler.state.gangs.waiting_count
            bar(now_ms - start_ms[0], end_ms - start_ms[0], f"{waiting} waiting")

        found = run(settings, say, told)
    if output is Output.JSON:
        write_json(found)
    else:
        _write(found)
    if found["violations"]:
        raise typer.Exit(VIOLATED_EXIT_CODE)


def _write(found: dict[str, Any]) -> None:
    from scheduler.api.wording import duration

    laws = f"{found['violations']} violations" if found["checked"] else "not checked (--check does)"
    write_fields(
        [
            ("from", f"{found['from']}, {found['days']} days, seed {found['seed']}"),
            ("fleet", f"{found['nodes']} nodes, {found['gpus']} GPUs, {found['tenants']} tenants"),
            ("gangs", f"{found['gangs']}, {found['waiting_at_end']} still waiting at the end"),
            ("events", f"{found['events']:,} in {found['seconds']:.1f} s, {found['events_per_s']:,.0f} a second"),
            ("laws", laws),
            ("utilisation", _percent(found["utilisation_ppm"])),
            ("avoidable shortfall", f"{found['avoidable_shortfall_gpu_ms']:,} GPU-ms"),
            ("unavoidable shortfall", f"{found['unavoidable_shortfall_gpu_ms']:,} GPU-ms"),
            ("reclaims", found["reclaims"]),
        ]
    )
    waits = [
        (
            name,
            found[f"placed_{placed}"],
            *(duration(found[f"wait_{key}_{each}_ms"]) for each in ("mean", "p99", "max")),
        )
        for name, placed, key in (
            ("inside entitlement", "inside", "owned"),
            ("borrowing", "borrowing", "borrowed"),
        )
    ]
    write_table(("wait", "placements>", "mean>", "p99>", "max>"), waits)
    lost = [(cause.lower(), f"{gpu_ms:,}") for cause, gpu_ms in found["shortfall_by_cause_gpu_ms"].items()]
    write_table(("shortfall by cause", "gpu-ms>"), lost, empty="no shortfall")
    write_table(("statements, in all", "total>"), [(key, f"{n:,}") for key, n in found["statement_totals"].items()])
    for shown in found["violations_shown"]:
        say(f"violated: {shown}")


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.2f} %"
