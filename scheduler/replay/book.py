"""A trace as a book of trades and a queue of gangs: what an exchange and its teams would have said.

Each day of the calendar is an instrument (whole nodes, firm, base load for that day), each tenant's lots of a day a
position, traded before the first day begins. Gangs keep their trace's row in their name, so that a figure can be
followed back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.instruments import Damages, InstrumentTerms, standard_terms
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.quantities import MS_PER_DAY
from scheduler.core.workloads import GangSpec
from scheduler.execution.simulated import Work
from scheduler.traces.helios import GPUS_PER_NODE
from scheduler.traces.replay_input import ReplayInput

GRADE = "V100"
STREAM = "replay"
BIND_LIMIT_S = 330
"""30 s beyond the longest grace that the mapping declares."""
RESTART_MS = 30_000
NODES_PER_DOMAIN = 4
DOMAINS_PER_BLOCK = 4


def nodes(count: int) -> tuple[NodeSpec, ...]:
    """So many nodes of eight GPUs, four to a domain, four domains to a block."""
    return tuple(
        NodeSpec(
            name=f"node-{i:04d}",
            grade=GRADE,
            gpus=GPUS_PER_NODE,
            domain=f"domain-{i // NODES_PER_DOMAIN:03d}",
            block=f"block-{i // (NODES_PER_DOMAIN * DOMAINS_PER_BLOCK):03d}",
        )
        for i in range(count)
    )


def instruments(replay: ReplayInput, metering_interval_s: int) -> tuple[InstrumentTerms, ...]:
    """One instrument a day."""
    starts = (replay.origin_ms + day * MS_PER_DAY for day in range(replay.days))
    return tuple(node_terms(start_ms, start_ms + MS_PER_DAY, metering_interval_s) for start_ms in starts)


def trades(replay: ReplayInput, terms: tuple[InstrumentTerms, ...]) -> Iterator[PositionEvent]:
    """All lots as trades, in order of day and tenant, committed and effective at the first instant."""
    for seq, (tenant, day, count) in enumerate(
        zip(replay.lots.tenant.tolist(), replay.lots.day.tolist(), replay.lots.nodes.tolist(), strict=True), 1
    ):
        yield PositionEvent(
            cursor=Cursor(stream=STREAM, epoch=1, seq=seq),
            kind=PositionEventKind.TRADE,
            position=f"{replay.tenants[tenant]}-{day:03d}",
            account=replay.tenants[tenant],
            instrument=terms[day].id,
            lots=count,
            effective_ms=replay.origin_ms,
            committed_ms=replay.origin_ms,
        )


def gangs(replay: ReplayInput) -> Iterator[tuple[int, GangSpec, Work]]:
    """(instant, what is submitted, what it will do) in order of submission."""
    columns = replay.gangs
    for i in range(len(columns)):
        preemptible = bool(columns.preemptible[i])
        checkpoint_ms, grace_ms = int(columns.checkpoint_ms[i]), int(columns.grace_ms[i])
        spec = GangSpec(
            account=replay.tenants[int(columns.tenant[i])],
            name=f"job-{int(columns.row[i])}-{int(columns.copy[i])}",
            command=("replay",),
            workers=int(columns.workers[i]),
            gpus_per_worker=int(columns.gpus_per_worker[i]),
            preemptible=preemptible,
            max_runtime_ms=int(columns.declared_ms[i]),
            grace_ms=grace_ms,
            checkpoint_ms=checkpoint_ms,
            restart_ms=RESTART_MS,
        )
        work = Work(int(columns.duration_ms[i]), checkpoint_ms, RESTART_MS)
        yield replay.origin_ms + int(columns.submitted_ms[i]), spec, work


def node_terms(start_ms: int, end_ms: int, metering_interval_s: int) -> InstrumentTerms:
    """Whole nodes, firm, base load, from one day's beginning to another's."""
    day = datetime.fromtimestamp(start_ms // 1_000, UTC).date().isoformat()
    return standard_terms(
        symbol=f"{GRADE}.{GPUS_PER_NODE}N.LOCAL.BASE.FIRM.{day}",
        start_ms=start_ms,
        end_ms=end_ms,
        grade=GRADE,
        cell=Level.NODE,
        gpus=GPUS_PER_NODE,
        metering_interval_s=metering_interval_s,  # type: ignore[arg-type]
        bind_limit_s=BIND_LIMIT_S,
        replace_within_s=0,  # a scheduler is measured by every millisecond that it could have saved
        damages=Damages(reference_price_micro_per_gpu_hour=3_000_000),
    )
