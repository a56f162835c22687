"""How fast traces are replayed through the production code, with and without every law checked after every event.

The baselines are of the same run and the same events: folding the finished journal back (no decisions, no execution),
and appending its entries to an empty journal in the same batches of one (no state at all).
"""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

from scheduler.ledger.journal import Entry, Journal
from scheduler.recovery import fold
from scheduler.replay.run import ReplaySettings
from scheduler.replay.run import run as replay
from scheduler.traces.generate import PHILLY_FROM, write_folder
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib

FROM = date(2017, 9, 25)
"""A week of about 5,000 jobs, 18 tenants with lots, 976 GPUs."""


def run(settings: Settings) -> Result:
    """Events a second of a week of Philly (a generated one where no traces are given), and of its baselines."""
    traces, first_day = _traces(settings)
    days = 1 if settings.quick else 7
    rows: list[dict[str, Figure]] = []
    documents = {}
    for check in (False, True):
        path = settings.scratch / f"replay-{check}.db"
        path.unlink(missing_ok=True)
        asked = ReplaySettings(from_date=first_day, days=days, traces=traces, check=check, journal=path)
        document = replay(asked)
        documents[check] = document
        case = "replay --check" if check else "replay"
        rows.append(
            {
                "case": case,
                "gangs": document["gangs"],
                "gpus": document["gpus"],
                "events": document["events"],
                "seconds": document["seconds"],
                "events_per_s": document["events_per_s"],
                "violations": document["violations"],
                "avoidable_shortfall_gpu_ms": document["avoidable_shortfall_gpu_ms"],
                "peak_mib_so_far": peak_mib(),
            }
        )
    rows += [_refolded(settings.scratch / "replay-False.db"), _appended(settings.scratch)]
    plain, checked = documents[False], documents[True]
    return Result(
        rows,
        f"replay of {plain['gangs']} gangs in {plain['seconds']:.1f} s, {plain['events_per_s']:,.0f} events/s; "
        f"checked {checked['seconds']:.1f} s, {checked['violations']} violations",
    )


def _traces(settings: Settings) -> tuple[Path, date]:
    if settings.traces is not None and (settings.traces / "philly" / "jobs.csv").exists():
        return settings.traces, FROM
    folder = settings.scratch / "generated"
    write_folder(folder, seed=1, tenants=25, nodes=120, days=7, jobs=5_000)
    return folder, PHILLY_FROM


def _refolded(path: Path) -> dict[str, Figure]:
    with Journal.open(path) as journal:
        began = time.perf_counter()
        folded = fold(journal)
        seconds = time.perf_counter() - began
        return _row("fold of the same journal (baseline)", folded.events, seconds)


def _appended(scratch: Path) -> dict[str, Figure]:
    with Journal.open(scratch / "replay-False.db") as journal:
        entries = [Entry(each.at_ms, each.kind, each.version, each.body) for each in journal.read()]
    target = scratch / "appended.db"
    target.unlink(missing_ok=True)
    with Journal.open(target, durable=False) as journal:
        began = time.perf_counter()
        for entry in entries:
            journal.commit((entry,))
        seconds = time.perf_counter() - began
    return _row("append of the same entries, one by one, not synced (baseline)", len(entries), seconds)


def _row(case: str, events: int, seconds: float) -> dict[str, Figure]:
    return {
        "case": case,
        "events": events,
        "seconds": round(seconds, 3),
        "events_per_s": round(events / seconds, 1),
        "peak_mib_so_far": peak_mib(),
    }
