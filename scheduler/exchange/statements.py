"""Statements, the same on both sides: which leaves of a log a statement uses, over which period, and its bytes.

The exchange computes a statement from the leaves that it holds, the cluster from those that it wrote, an auditor from
a bundle. All three come here, so that they agree byte for byte: the latest version of each interval, in order of time,
the Merkle root over those leaves' bytes, and `scheduler.core.settlement` over the records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval
from scheduler.core.merkle import leaf_hash, root
from scheduler.core.metering.records import MeterRecord
from scheduler.core.positions import Position
from scheduler.core.quantities import ceil_div, floor_div
from scheduler.core.settlement import Statement, settle
from scheduler.core.state.contracted import contracted_gpus
from scheduler.exchange.leaves import RecordLeaf, decode


@dataclass(frozen=True, slots=True)
class RecordedLeaf:
    """A record with the leaf hash (32 bytes) of the bytes that it came in."""

    record: MeterRecord
    hash: bytes

    @classmethod
    def of(cls, leaf: bytes) -> RecordedLeaf | None:
        """The record in a leaf; None where it holds something else. Raises Refused for what is no leaf."""
        decoded = decode(leaf)
        return cls(decoded.record, leaf_hash(leaf)) if isinstance(decoded, RecordLeaf) else None


def delivery_period(terms: InstrumentTerms, position: Position) -> Interval | None:
    """The whole metering intervals from the first to the last in which the position contracts something, inside the
    window; None: it never does.
    """
    steps = contracted_gpus(terms, position).steps
    if not steps:
        return None
    length_ms, window = terms.interval_ms, terms.window.interval
    start_ms = floor_div(steps[0][0], length_ms) * length_ms
    end_ms = ceil_div(steps[-1][0], length_ms) * length_ms
    return Interval(max(start_ms, window.start_ms), min(end_ms, window.end_ms))


def statement_of(
    terms: InstrumentTerms, position: Position, leaves: Iterable[RecordedLeaf], until_ms: int = 0
) -> Statement:
    """What is owed for a position, from its records in any versions and order; other positions' are passed over.

    `until_ms` settles the intervals that end by then; 0: all of them. A statement before the end of the delivery says
    so itself (`complete`). Raises InvalidValue where nothing is metered yet, Conflict where the records have gaps,
    overlap or contradict each other.
    """
    period = delivery_period(terms, position)
    if period is None:
        raise InvalidValue("lots", position.id, position.lots, "lots inside the delivery profile")
    end_ms = (
        min(period.end_ms, floor_div(until_ms, terms.interval_ms) * terms.interval_ms) if until_ms else period.end_ms
    )
    if end_ms <= period.start_ms:
        raise InvalidValue("until_ms", position.id, until_ms, f"after the first interval from {period.start_ms}")
    mine = [each for each in leaves if each.record.position == position.id]
    return statement_over(terms, Interval(period.start_ms, end_ms), mine)


def statement_over(terms: InstrumentTerms, period: Interval, leaves: Iterable[RecordedLeaf]) -> Statement:
    """The statement of one position's records over a stated period. Raises as `statement_of`."""
    chosen: dict[int, RecordedLeaf] = {}
    for each in leaves:
        start_ms, end_ms = each.record.start_ms, each.record.end_ms
        if start_ms < period.start_ms or end_ms > period.end_ms:
            continue
        other = chosen.get(start_ms)
        if other is not None and other.record.version == each.record.version and other.hash != each.hash:
            which = f"{each.record.position} [{start_ms}, {end_ms})"
            raise Conflict(f"version {each.record.version} of {which} was given twice, with different content")
        if other is None or other.record.version < each.record.version:
            chosen[start_ms] = each
    ordered = [chosen[start_ms] for start_ms in sorted(chosen)]
    records_root = root([each.hash for each in ordered]).hex()
    return settle(terms, [each.record for each in ordered], records_root=records_root, window=period, partial=True)
