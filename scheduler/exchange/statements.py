"""Statements, the same on both sides: which leaves of a log a statement uses, over which period, and its bytes.

The exchange computes a statement from the leaves that it holds, the cluster from those that it wrote, an auditor from
a bundle. All three come here, so that they agree byte for byte: the version of each interval that holds after the
leaves that are given, in order of time, the Merkle root over the bytes in which those were told, and
`scheduler.core.settlement` over the records. Fewer leaves of the same log give the statement as it was then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval
from scheduler.core.merkle import leaf_hash, root
from scheduler.core.metering.disputes import Answer, Dispute
from scheduler.core.metering.versions import LateFact, PositionVersions, Promotion, final_starts
from scheduler.core.positions import Position
from scheduler.core.quantities import ceil_div, floor_div
from scheduler.core.settlement import Statement, settle
from scheduler.core.state.contracted import contracted_gpus
from scheduler.exchange.leaves import RecordLeaf, SettlingLeaf, decode
from scheduler.exchange.settling_leaves import Settling


class Versions:
    """The versions of every position's records, from a log's leaves in their order. `only`: of these positions."""

    def __init__(self, only: Collection[str] | None = None) -> None:
        self.of: defaultdict[str, PositionVersions] = defaultdict(PositionVersions)
        self._only = only
        self._disputed: dict[str, str] = {}
        self._heard: list[bytes] = []

    def add(self, index: int, leaf: bytes) -> None:
        """The next leaf. Raises Refused for what is no leaf."""
        decoded = decode(leaf)
        if isinstance(decoded, SettlingLeaf):
            self.settle(index, decoded.told)
        elif isinstance(decoded, RecordLeaf) and (self._only is None or decoded.record.position in self._only):
            self.of[decoded.record.position].tell(index, decoded.record, leaf_hash(leaf))

    def answers(self, leaf: bytes) -> bool:
        """Whether a leaf may answer a dispute that was heard; an answer names no position."""
        return any(dispute in leaf for dispute in self._heard)

    def settle(self, index: int, told: Settling) -> None:
        """What settles records, at a leaf: of a position that has none nothing changes."""
        position = self._disputed.get(told.dispute, "") if isinstance(told, Answer) else told.position
        if position not in self.of:
            return
        versions = self.of[position]
        match told:
            case Promotion():
                versions.promote(index, told)
            case Dispute():
                self._disputed[told.id] = position
                self._heard.append(told.id.encode())
                versions.hear(told)
            case Answer():
                versions.answer(told)
            case LateFact():
                pass


def versions_of(leaves: Iterable[tuple[int, bytes]], position: str) -> PositionVersions:
    """The versions of a position's records after these leaves of a log, each with its index, in their order."""
    found = Versions((position,))
    named = position.encode()  # a leaf holds names as they are: most need not be decoded
    for index, leaf in leaves:
        if named in leaf or found.answers(leaf):
            found.add(index, leaf)
    return found.of[position]


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
    terms: InstrumentTerms, position: Position, versions: PositionVersions, until_ms: int = 0
) -> Statement:
    """What is owed for a position, from the versions of its records.

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
    return statement_over(terms, Interval(period.start_ms, end_ms), versions)


def statement_over(terms: InstrumentTerms, period: Interval, versions: PositionVersions) -> Statement:
    """The statement of one position's records over a stated period. Raises as `statement_of`."""
    used = [
        held
        for _, held in sorted(versions.held.items())
        if period.start_ms <= held.record.start_ms and held.record.end_ms <= period.end_ms
    ]
    return settle(
        terms,
        [held.current for held in used],
        records_root=root([held.leaf_hash for held in used]).hex(),
        window=period,
        partial=True,
        final=final_starts(used),
        disputed=versions.disputed,
    )
