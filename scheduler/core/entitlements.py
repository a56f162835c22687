"""Entitlements: what positions become over time. This account may have these GPUs, of this shape, in `[start, end)`.

A position says how many lots, its instrument says when a lot is delivered; an entitlement is a longest stretch in which
the profile is on and the lots are constant and positive. Laws: a position's entitlements tile exactly the instants at
which it holds lots inside the profile, and the integral of their GPUs is lots × GPUs × time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from scheduler.core.cluster import Level
from scheduler.core.errors import UnknownName
from scheduler.core.holdings import Demand
from scheduler.core.instruments import MAX_INSTANT_MS, InstrumentTerms, cells_per_lot
from scheduler.core.intervals import Interval
from scheduler.core.positions import Position
from scheduler.core.profiles import delivery_intervals
from scheduler.core.quantities import GpuMs, Ppm


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`gpus` GPUs of `grade` at `site` for `account` in `interval`: `lots` lots in whole cells of level `cell`."""

    position: str
    account: str
    instrument: str
    interval: Interval
    lots: int
    gpus: int
    cell: Level
    grade: str
    floor_ppm: Ppm
    site: str

    @property
    def gpu_ms(self) -> GpuMs:
        """GPUs times the length of the interval."""
        return GpuMs(self.gpus * self.interval.length_ms)


def derive(
    positions: Iterable[Position], instruments: Mapping[str, InstrumentTerms], window: Interval
) -> tuple[Entitlement, ...]:
    """All entitlements inside the window, by start, then end, then position.

    `instruments` by id (`SYMBOL@VERSION`). Raises UnknownName for a position of an instrument that is not among them.
    """
    found = [
        entitlement
        for position in positions
        for entitlement in _entitlements(position, _terms_of(position, instruments), window)
    ]
    return tuple(sorted(found, key=lambda each: (each.interval.start_ms, each.interval.end_ms, each.position)))


def demands(
    position: Position, terms: InstrumentTerms, pool_index_of: Callable[[str, str], int], from_ms: int
) -> tuple[Demand, ...]:
    """What coverage must find for a position from an instant on: one demand for each stretch of constant lots.

    `pool_index_of(grade, site)` gives the pool of the par grade, and raises where the fleet has none.
    """
    stretches = tuple(_stretches(position, terms, Interval(from_ms, max(from_ms, MAX_INSTANT_MS) + 1)))
    if not stretches:
        return ()
    pool = pool_index_of(terms.grade.klass, terms.site)
    cells = cells_per_lot(terms)
    return tuple(
        Demand(position.id, terms.lot.cell, lots * cells, interval.start_ms, interval.end_ms, pool)
        for interval, lots in stretches
    )


def account_gpus(entitlements: Iterable[Entitlement], at_ms: int) -> dict[str, int]:
    """How many GPUs each account may have at an instant, by account name; accounts with none are left out."""
    gpus: dict[str, int] = {}
    for each in entitlements:
        if each.interval.contains(at_ms):
            gpus[each.account] = gpus.get(each.account, 0) + each.gpus
    return dict(sorted(gpus.items()))


def _terms_of(position: Position, instruments: Mapping[str, InstrumentTerms]) -> InstrumentTerms:
    terms = instruments.get(position.instrument)
    if terms is None:
        raise UnknownName(f"instrument of position {position.id}", position.instrument, instruments)
    return terms


def _entitlements(position: Position, terms: InstrumentTerms, window: Interval) -> Iterator[Entitlement]:
    for interval, lots in _stretches(position, terms, window):
        yield Entitlement(
            position=position.id,
            account=position.account,
            instrument=position.instrument,
            interval=interval,
            lots=lots,
            gpus=lots * terms.lot.gpus,
            cell=terms.lot.cell,
            grade=terms.grade.klass,
            floor_ppm=Ppm(terms.throughput.floor_ppm),
            site=terms.site,
        )


def _stretches(position: Position, terms: InstrumentTerms, window: Interval) -> Iterator[tuple[Interval, int]]:
    """(interval, lots) for each longest stretch in the window with the profile on and constant, positive lots."""
    lots = position.lots_over_time
    for on in _within(delivery_intervals(terms), window):
        for piece, held in lots.pieces(on):
            if held > 0:
                yield piece, held


def _within(intervals: tuple[Interval, ...], window: Interval) -> Iterator[Interval]:
    """The parts of sorted, disjoint intervals inside the window; a year of hours is searched, not scanned."""
    first = bisect_right(intervals, window.start_ms, key=lambda interval: interval.end_ms)
    last = bisect_left(intervals, window.end_ms, key=lambda interval: interval.start_ms)
    for interval in intervals[first:last]:
        both = interval.intersection(window)
        if both is not None:
            yield both
