"""What the benchmarks of delivery send: an instrument, and what each of its intervals leaves in the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from scheduler.core.cluster import Level
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.exchange.leaves import encode_pool, encode_record
from tests.exchange.world import metered

POSITIONS = 2_000


def interval_leaves(positions: Sequence[str], terms: InstrumentTerms, index: int) -> list[bytes]:
    """What an interval leaves in the log: a record a position, and the certificate of the pool behind them."""
    records = [_record(position, terms, index) for position in positions]
    sold = sum(record.contracted_gpu_ms for record in records)
    end_ms = records[0].end_ms
    pool = PoolRecord(
        grade=terms.grade.klass,
        site=terms.site,
        start_ms=records[0].start_ms,
        end_ms=end_ms,
        total_gpu_ms=sold,
        sold_gpu_ms=sold,
        covered_gpu_ms=sold,
        unsold_used_gpu_ms=0,
        unsold_idle_gpu_ms=0,
        unsold_unhealthy_gpu_ms=0,
        unknown_gpu_ms=0,
    )
    return [*(encode_record(record, end_ms) for record in records), encode_pool(pool, end_ms)]


def bench_terms() -> InstrumentTerms:
    """Eleven months of nodes of 8 GPUs, metered every 10 s, from the next hour on."""
    hour_ms = 3_600_000
    start_ms = (time.time_ns() // 1_000_000 // hour_ms + 1) * hour_ms
    return standard_terms(
        symbol="BENCH.BASE",
        start_ms=start_ms,
        end_ms=start_ms + 330 * 24 * hour_ms,
        cell=Level.NODE,
        gpus=8,
        metering_interval_s=10,
    )


@lru_cache(maxsize=POSITIONS)
def _first(position: str, instrument: str) -> MeterRecord:
    return metered(position, 3, 0, instrument=instrument, suite="matmul.v1")


def _record(position: str, terms: InstrumentTerms, index: int) -> MeterRecord:
    """As the meter leaves it: its own work is no part of what is measured."""
    start_ms = terms.window.start_ms + index * terms.interval_ms
    fields = _first(position, terms.id).__dict__  # as a model it would be read field by field
    return MeterRecord.unchecked({**fields, "start_ms": start_ms, "end_ms": start_ms + terms.interval_ms})
