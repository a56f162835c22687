"""The public track record of sellers, from their logs alone: what was promised, what was delivered, who bears the
rest.

It exists because a buyer of the next month has only the last ones to go by. Every figure is a sum over the latest
version of the records in bundles that were audited, by instrument and calendar month (UTC, of the interval's start), or
over the pools' certificates; anybody with the same bundles gets the same bytes. What the audit says of each bundle
stands beside it: a record of a log that fails it is worth what the log is.

The time to bind is from a gang's placement inside its entitlement until all its workers run, by pool: no log says whose
it was. What was bound too late is a loss besides, LATE_BIND.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from scheduler.core.causes import Bearer, Cause
from scheduler.core.instruments import InstrumentTerms, ThroughputScope
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.disputes import DisputeState
from scheduler.core.metering.records import BIND_EDGES_MS, MeterRecord, PoolRecord, RecordStatus
from scheduler.core.metering.states import State
from scheduler.core.quantities import share_ppm
from scheduler.exchange.audit.audited import Audited, audited
from scheduler.exchange.audit.log import Log
from scheduler.exchange.audit.report import AuditReport
from scheduler.ledger.keys import VerifierKey


@dataclass(frozen=True, slots=True)
class InstrumentMonth:
    """One instrument of one seller in one month. All `_gpu_ms` are sums over `records` latest versions."""

    seller: str
    instrument: str
    month: str
    positions: int
    records: int
    contracted_gpu_ms: int
    delivered_gpu_ms: int
    delivered_ppm: int
    """Of what was contracted; 1 of nothing."""
    states: tuple[tuple[State, int], ...]
    shortfall_by_cause: tuple[tuple[str, int], ...]
    shortfall_by_bearer: tuple[tuple[Bearer, int], ...]
    floors_measured: int
    """Records in which performance was measured, and in how many of them the floor was met."""
    floors_met: int
    estimated_gpu_ms: int
    corrections: int
    corrections_after_final: int
    disputes: int
    """Records that were disputed, and how many of them were corrected for it, and not answered in time."""
    disputes_accepted: int
    disputes_expired: int


@dataclass(frozen=True, slots=True)
class PoolMonth:
    """One pool of one seller in one month, over certificates that count each instant once. `pledged_gpu_ms`: of
    devices, in those intervals.
    """

    seller: str
    pool: str
    month: str
    certificates: int
    total_gpu_ms: int
    sold_gpu_ms: int
    covered_gpu_ms: int
    pledged_gpu_ms: int
    accredited_gpu_ms: int
    """What was honoured after the loss of any NVLink domain, as certificates say; those that say nothing count 0."""
    binds: tuple[int, ...]
    """Binds of owners by how long they took, as in `BIND_EDGES_MS`, then longer."""
    slowest_bind_ms: int
    shortages: int
    """Shortage certificates of the pool that begin in the month."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """The track record, and the audits that it rests on."""

    instruments: tuple[InstrumentMonth, ...]
    pools: tuple[PoolMonth, ...]
    reports: tuple[AuditReport, ...]


def disclosed(folders: Sequence[Path], trusted: Sequence[VerifierKey] = ()) -> Disclosure:
    """The track record in the bundles at `folders`, each audited first, by seller, instrument or pool, and month.

    Of bundles of one log only the longest counts. Raises InvalidValue where there is no bundle.
    """
    found = [audited(folder, trusted) for folder in folders]
    instruments: list[InstrumentMonth] = []
    pools: list[PoolMonth] = []
    for seller, log in sorted(_longest(found).items()):
        instruments += _instrument_months(seller, log)
        pools += _pool_months(seller, log)
    return Disclosure(tuple(instruments), tuple(pools), tuple(each.report for each in found))


def _longest(found: Iterable[Audited]) -> dict[str, Log]:
    """The longest log of each seller among the bundles that could be read."""
    sizes: dict[str, int] = {}
    logs: dict[str, Log] = {}
    for each in found:
        seller, size = each.report.origin, each.report.size
        if each.log is not None and size >= sizes.get(seller, 0):
            sizes[seller], logs[seller] = size, each.log
    return logs


# -- instruments -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Month:
    positions: set[str] = field(default_factory=set)
    records: list[MeterRecord] = field(default_factory=list)
    measured: int = 0
    met: int = 0
    corrections: int = 0
    after_final: int = 0
    disputes: Counter[DisputeState | None] = field(default_factory=Counter)


def _instrument_months(seller: str, log: Log) -> list[InstrumentMonth]:
    months: dict[tuple[str, str], _Month] = {}
    for position in sorted(log.by_position):
        for record in log.by_position[position]:
            month = months.setdefault((record.instrument, _month(record.start_ms)), _Month())
            if record.status is RecordStatus.CORRECTED:
                month.corrections += 1
                month.after_final += (position, record.start_ms, record.version) in log.settling.after_final
        for dispute, answer in log.settling.disputes.values():
            if dispute.position == position:
                state = answer.state if answer is not None else None
                months[log.by_position[position][0].instrument, _month(dispute.start_ms)].disputes[state] += 1
        for record in log.latest(position):
            month = months[record.instrument, _month(record.start_ms)]
            month.positions.add(position)
            month.records.append(record)
            met = _floor_met(record, log.terms.get(record.instrument))
            month.measured += met is not None
            month.met += bool(met)
    return [_summed(seller, *key, months[key]) for key in sorted(months)]


def _floor_met(record: MeterRecord, terms: InstrumentTerms | None) -> bool | None:
    """Whether what was measured reached the floor; None where nothing was."""
    if terms is None or not record.measured_mean_ppm:
        return None
    by_total = terms.throughput.scope is ThroughputScope.TOTAL
    ppm = record.measured_mean_ppm if by_total else record.measured_min_ppm
    return ppm >= terms.throughput.floor_ppm


def _summed(seller: str, instrument: str, month: str, found: _Month) -> InstrumentMonth:
    records = found.records
    losses: Counter[Cause] = Counter()
    bearers: Counter[Bearer] = Counter()
    for record in records:
        for cause, gpu_ms in record.losses:
            losses[cause] += gpu_ms
            bearers[cause.bearer] += gpu_ms
    contracted = sum(record.contracted_gpu_ms for record in records)
    delivered = sum(record.delivered_gpu_ms for record in records)
    return InstrumentMonth(
        seller=seller,
        instrument=instrument,
        month=month,
        positions=len(found.positions),
        records=len(records),
        contracted_gpu_ms=contracted,
        delivered_gpu_ms=delivered,
        delivered_ppm=share_ppm(delivered, contracted) if contracted else 1_000_000,
        states=tuple((state, sum(record.gpu_ms(state) for record in records)) for state in State),
        shortfall_by_cause=tuple((cause.name, losses[cause]) for cause in sorted(losses)),
        shortfall_by_bearer=tuple((bearer, bearers[bearer]) for bearer in Bearer if bearers[bearer]),
        floors_measured=found.measured,
        floors_met=found.met,
        estimated_gpu_ms=sum(record.estimated_gpu_ms for record in records),
        corrections=found.corrections,
        corrections_after_final=found.after_final,
        disputes=found.disputes.total(),
        disputes_accepted=found.disputes[DisputeState.ACCEPTED],
        disputes_expired=found.disputes[DisputeState.EXPIRED],
    )


# -- pools -------------------------------------------------------------------------------------------------------------


def _pool_months(seller: str, log: Log) -> list[PoolMonth]:
    pledged = log.devices.gpus_by_pool()
    shortages = Counter((each.pool, _month(each.start_ms)) for each in log.shortages)
    months: dict[tuple[str, str], list[PoolRecord]] = {}
    for pool in _each_instant_once(pool for _, pool in log.pools.values()):
        months.setdefault((pool.pool, _month(pool.start_ms)), []).append(pool)
    return [
        PoolMonth(
            seller=seller,
            pool=name,
            month=month,
            certificates=len(pools),
            total_gpu_ms=sum(pool.total_gpu_ms for pool in pools),
            sold_gpu_ms=sum(pool.sold_gpu_ms for pool in pools),
            covered_gpu_ms=sum(pool.covered_gpu_ms for pool in pools),
            pledged_gpu_ms=sum(
                pledged.get(name, StepFunction()).integral(Interval(pool.start_ms, pool.end_ms))
                for pool in pools
                if pool.start_ms < pool.end_ms
            ),
            accredited_gpu_ms=sum((pool.accredited_gpus or 0) * (pool.end_ms - pool.start_ms) for pool in pools),
            binds=_binds(pools),
            slowest_bind_ms=max(pool.slowest_bind_ms for pool in pools),
            shortages=shortages[f"{pools[0].grade}@{pools[0].site}", month],
        )
        for (name, month), pools in sorted(months.items())
    ]


def _each_instant_once(pools: Iterable[PoolRecord]) -> Iterator[PoolRecord]:
    """Certificates of which no two of one pool overlap, by pool and start. Metering intervals of several lengths have
    one each, and the shorter ones lie within the longer ones, which say as much: of one instant the longest counts.
    """
    until_ms: dict[str, int] = {}
    for each in sorted(pools, key=lambda each: (each.pool, each.start_ms, -each.end_ms)):
        if each.start_ms >= until_ms.get(each.pool, each.start_ms):
            until_ms[each.pool] = each.end_ms
            yield each


def _binds(pools: Iterable[PoolRecord]) -> tuple[int, ...]:
    counts = [0] * (len(BIND_EDGES_MS) + 1)
    for pool in pools:
        for place, count in enumerate(pool.binds):
            counts[place] += count
    return tuple(counts)


def _month(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m")
