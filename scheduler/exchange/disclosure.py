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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from scheduler.core.causes import Bearer
from scheduler.core.instruments import InstrumentTerms, ThroughputScope
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.disputes import DisputeState
from scheduler.core.metering.records import BIND_EDGES_MS, MeterRecord, PoolRecord, RecordStatus
from scheduler.core.metering.states import State
from scheduler.core.quantities import share_ppm
from scheduler.core.totals import Totals
from scheduler.exchange.audit.audited import audited
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
    longest: dict[str, tuple[int, _Track, Log]] = {}
    reports = []
    for folder in folders:
        track = _Track()
        found = audited(folder, trusted, track)
        reports.append(found.report)
        seller, size = found.report.origin, found.report.size
        if found.log is not None and (seller not in longest or size >= longest[seller][0]):
            longest[seller] = (size, track, found.log)
    instruments: list[InstrumentMonth] = []
    pools: list[PoolMonth] = []
    for seller, (_, track, log) in sorted(longest.items()):
        instruments += track.instrument_months(seller, log)
        pools += track.pool_months(seller, log)
    return Disclosure(tuple(instruments), tuple(pools), tuple(reports))


@dataclass(slots=True)
class _Month:
    """Sums over the latest versions of an instrument's records in a month."""

    totals: Totals = field(default_factory=Totals)
    positions: Counter[str] = field(default_factory=Counter)
    records: int = 0
    measured: int = 0
    met: int = 0
    corrections: int = 0
    after_final: int = 0
    disputes: Counter[DisputeState | None] = field(default_factory=Counter)


@dataclass(slots=True)
class _PoolMonthSums:
    """Sums over the certificates of a pool in a month. `spans`: when they are of, those that touch as one."""

    shortage_pool: str
    certificates: int = 0
    total_gpu_ms: int = 0
    sold_gpu_ms: int = 0
    covered_gpu_ms: int = 0
    accredited_gpu_ms: int = 0
    binds: list[int] = field(default_factory=lambda: [0] * (len(BIND_EDGES_MS) + 1))
    slowest_bind_ms: int = 0
    spans: list[Interval] = field(default_factory=list)

    def add(self, pool: PoolRecord) -> None:
        """One certificate more."""
        self.certificates += 1
        self.total_gpu_ms += pool.total_gpu_ms
        self.sold_gpu_ms += pool.sold_gpu_ms
        self.covered_gpu_ms += pool.covered_gpu_ms
        self.accredited_gpu_ms += (pool.accredited_gpus or 0) * (pool.end_ms - pool.start_ms)
        for place, count in enumerate(pool.binds):
            self.binds[place] += count
        self.slowest_bind_ms = max(self.slowest_bind_ms, pool.slowest_bind_ms)
        if pool.start_ms >= pool.end_ms:
            return
        first_ms = pool.start_ms
        if self.spans and self.spans[-1].end_ms == first_ms:
            first_ms = self.spans.pop().start_ms
        self.spans.append(Interval(first_ms, pool.end_ms))


class _Track:
    """What one log says, added up while the audit reads it."""

    def __init__(self) -> None:
        self._months: dict[tuple[str, str], _Month] = {}

    def record(self, record: MeterRecord, before: MeterRecord | None, terms: InstrumentTerms | None) -> None:
        """A record in full, and the one that it takes the place of."""
        if before is not None:
            self._count(before, terms, -1)
        month = self._count(record, terms, 1)
        month.corrections += record.status is RecordStatus.CORRECTED

    def instrument_months(self, seller: str, log: Log) -> list[InstrumentMonth]:
        """By instrument and month."""
        for position, start_ms, _ in log.settling.after_final:
            self._months[log.courses[position].instrument, _month(start_ms)].after_final += 1
        for dispute, answer in log.settling.disputes.values():
            month = self._months.get((log.courses[dispute.position].instrument, _month(dispute.start_ms)))
            if month is not None:
                month.disputes[answer.state if answer is not None else None] += 1
        return [_summed(seller, *key, self._months[key]) for key in sorted(self._months)]

    def pool_months(self, seller: str, log: Log) -> list[PoolMonth]:
        """By pool and month."""
        found: dict[tuple[str, str], _PoolMonthSums] = {}
        for leaf in _each_instant_once(log):
            pool = log.again.pool(leaf)
            key = (pool.pool, _month(pool.start_ms))
            if key not in found:
                found[key] = _PoolMonthSums(f"{pool.grade}@{pool.site}")
            found[key].add(pool)
        pledged = log.devices.gpus_by_pool()
        shortages = Counter((each.pool, _month(each.start_ms)) for each in log.shortages)
        return [
            PoolMonth(
                seller=seller,
                pool=name,
                month=month,
                certificates=sums.certificates,
                total_gpu_ms=sums.total_gpu_ms,
                sold_gpu_ms=sums.sold_gpu_ms,
                covered_gpu_ms=sums.covered_gpu_ms,
                pledged_gpu_ms=sum(map(pledged.get(name, StepFunction()).integral, sums.spans)),
                accredited_gpu_ms=sums.accredited_gpu_ms,
                binds=tuple(sums.binds),
                slowest_bind_ms=sums.slowest_bind_ms,
                shortages=shortages[sums.shortage_pool, month],
            )
            for (name, month), sums in sorted(found.items())
        ]

    def _count(self, record: MeterRecord, terms: InstrumentTerms | None, sign: int) -> _Month:
        key = (record.instrument, _month(record.start_ms))
        month = self._months.get(key)
        if month is None:
            month = self._months[key] = _Month()
        month.totals.add(record, sign)
        month.positions[record.position] += sign
        month.records += sign
        met = _floor_met(record, terms)
        month.measured += sign * (met is not None)
        month.met += sign * bool(met)
        return month


def _each_instant_once(log: Log) -> Iterator[int]:
    """The leaves of certificates of which no two of one pool overlap, by pool and start. Metering intervals of several
    lengths have one each, and the shorter ones lie within the longer ones, which say as much: of one instant the
    longest counts.
    """
    until_ms: dict[str, int] = {}
    for pool, start_ms, end_ms in sorted(log.certificates, key=lambda each: (each[0], each[1], -each[2])):
        if start_ms >= until_ms.get(pool, start_ms):
            until_ms[pool] = end_ms
            yield log.certificates[pool, start_ms, end_ms].leaf


def _floor_met(record: MeterRecord, terms: InstrumentTerms | None) -> bool | None:
    """Whether what was measured reached the floor; None where nothing was."""
    if terms is None or not record.measured_mean_ppm:
        return None
    by_total = terms.throughput.scope is ThroughputScope.TOTAL
    ppm = record.measured_mean_ppm if by_total else record.measured_min_ppm
    return ppm >= terms.throughput.floor_ppm


def _summed(seller: str, instrument: str, month: str, found: _Month) -> InstrumentMonth:
    totals = found.totals
    losses, contracted, delivered = totals.losses, totals.contracted_gpu_ms, totals.delivered_gpu_ms
    bearers: Counter[Bearer] = Counter()
    for cause, gpu_ms in losses.items():
        bearers[cause.bearer] += gpu_ms
    return InstrumentMonth(
        seller=seller,
        instrument=instrument,
        month=month,
        positions=sum(count > 0 for count in found.positions.values()),
        records=found.records,
        contracted_gpu_ms=contracted,
        delivered_gpu_ms=delivered,
        delivered_ppm=share_ppm(delivered, contracted) if contracted else 1_000_000,
        states=tuple(totals.states.items()),
        shortfall_by_cause=tuple((cause.name, gpu_ms) for cause, gpu_ms in losses.items()),
        shortfall_by_bearer=tuple((bearer, bearers[bearer]) for bearer in Bearer if bearers[bearer]),
        floors_measured=found.measured,
        floors_met=found.met,
        estimated_gpu_ms=totals.estimated_gpu_ms,
        corrections=found.corrections,
        corrections_after_final=found.after_final,
        disputes=found.disputes.total(),
        disputes_accepted=found.disputes[DisputeState.ACCEPTED],
        disputes_expired=found.disputes[DisputeState.EXPIRED],
    )


@lru_cache(maxsize=4_096)
def _month(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m")
