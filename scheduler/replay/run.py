"""`tenor replay`: traces in, one document out. What is printed is `document`; progress goes wherever the caller
wants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scheduler.core.causes import Bearer, Cause
from scheduler.core.errors import Conflict
from scheduler.core.intervals import Interval
from scheduler.replay import book
from scheduler.replay.driver import Outcome, Progress, Script, play
from scheduler.replay.faults import DEFAULT_MEAN_DAYS, node_failures
from scheduler.traces.folder import find_traces
from scheduler.traces.replay_input import ReplayInput, build


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What to replay. `load_ppm` None: jobs as they were. `failures_days` 0: nothing fails."""

    from_date: date
    days: int = 7
    traces: Path | None = None
    check: bool = False
    load_ppm: int | None = None
    seed: int = 0
    failures_days: int = DEFAULT_MEAN_DAYS
    spares: int = 1
    metering_interval_s: int = 3_600
    journal: Path | None = None


def script_of(replay: ReplayInput, settings: ReplaySettings) -> Script:
    """The run that a replay's input asks for."""
    nodes = book.nodes(replay.nodes + settings.spares)
    terms = book.instruments(replay, settings.metering_interval_s)
    span = Interval(replay.origin_ms, replay.origin_ms + replay.end_ms)
    return Script(
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        nodes=nodes,
        terms=terms,
        trades=tuple(book.trades(replay, terms)),
        gangs=book.gangs(replay),
        faults=node_failures(nodes, span, settings.seed, mean_days_between=settings.failures_days),
        spares=tuple(node.name for node in nodes[replay.nodes :]),
    )


def run(
    settings: ReplaySettings, say: Callable[[str], None] = lambda _: None, progress: Progress | None = None
) -> dict[str, Any]:
    """Play the traces and give the document. Raises what the loaders raise on malformed or missing input."""
    replay = build(
        find_traces(settings.traces),
        settings.from_date,
        settings.days,
        load_ppm=settings.load_ppm,
        seed=settings.seed,
    )
    owners = len(set(replay.lots.tenant.tolist()))
    say(f"{len(replay.gangs)} gangs of {owners} tenants on {replay.nodes + settings.spares} nodes, {replay.days} days")
    if settings.journal is not None and settings.journal.exists():
        raise Conflict(f"journal {settings.journal} exists already: a replay writes a new one")
    with TemporaryDirectory(prefix="tenor-replay-") as scratch:
        path = settings.journal or Path(scratch) / "journal.db"
        outcome = play(script_of(replay, settings), path, check=settings.check, progress=progress)
    return document(replay, settings, outcome)


def document(replay: ReplayInput, settings: ReplaySettings, outcome: Outcome) -> dict[str, Any]:
    """The figures of a run as plain data."""
    figures = outcome.figures
    bearers = {cause.name: cause.bearer for cause in Cause}
    seller_short = figures.seller_shortfall_gpu_ms(bearers)
    return {
        "from": settings.from_date.isoformat(),
        "days": replay.days,
        "seed": settings.seed,
        "tenants": len(replay.tenants),
        "nodes": replay.nodes + settings.spares,
        "gpus": (replay.nodes + settings.spares) * 8,
        "gangs": len(replay.gangs),
        "load_ppm": replay.load_ppm,
        "events": outcome.events,
        "rounds": outcome.rounds,
        "seconds": round(outcome.seconds, 3),
        "events_per_s": round(outcome.events / outcome.seconds, 1),
        "checked": settings.check,
        "violations": outcome.violations,
        "violations_shown": outcome.faults,
        "utilisation_ppm": figures.utilisation_ppm,
        "contracted_gpu_ms": figures.contracted_gpu_ms,
        "states_gpu_ms": dict(sorted(figures.states.items())),
        "shortfall_by_cause_gpu_ms": dict(sorted(figures.lost_by_cause.items())),
        "shortfall_by_bearer_gpu_ms": {
            str(bearer): sum(ms for name, ms in figures.lost_by_cause.items() if bearers[name] is bearer)
            for bearer in Bearer
        },
        "unavoidable_shortfall_gpu_ms": outcome.unavoidable_gpu_ms,
        "avoidable_shortfall_gpu_ms": max(0, seller_short - outcome.unavoidable_gpu_ms),
        "wait_owned_max_ms": figures.owned.max_ms,
        "wait_owned_mean_ms": figures.owned.mean_ms,
        "wait_owned_p99_ms": figures.owned.percentile_ms(99),
        "wait_borrowed_max_ms": figures.borrowed.max_ms,
        "wait_borrowed_mean_ms": figures.borrowed.mean_ms,
        "wait_borrowed_p99_ms": figures.borrowed.percentile_ms(99),
        "placed_inside": figures.owned.count,
        "placed_borrowing": figures.borrowed.count,
        "reclaims": figures.reclaimed,
        "waiting_at_end": outcome.state.gangs.waiting_count,
        "statement_totals": outcome.statement_totals,
    }
