"""What a log says of outages beside the records: notices of maintenance, force majeure with its evidence, lots that
were recalled or released.

These leaves are what lets anybody check the causes in the records: a notice lies in the log before the outage that it
announces, and what shows a force majeure is fixed by its hash. See `leaves` for the laws that hold for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import MAX_INSTANT_MS
from scheduler.core.intervals import Interval
from scheduler.exchange.v1 import delivery_pb2 as wire

EVIDENCE_BYTES = 32
MOST_GPUS = 64
"""Of a node."""


@dataclass(frozen=True, slots=True)
class DeclaredNode:
    """A node, by the path of its cell (`site/block/domain/node`)."""

    grade: str
    site: str
    cell: str
    gpus: int


@dataclass(frozen=True, slots=True)
class MaintenanceNotice:
    """Maintenance of nodes in `[from_ms, until_ms)`."""

    nodes: tuple[DeclaredNode, ...]
    from_ms: int
    until_ms: int

    @property
    def interval(self) -> Interval:
        """When."""
        return Interval(self.from_ms, self.until_ms)


@dataclass(frozen=True, slots=True)
class ForceMajeure:
    """Faults of nodes in `[from_ms, until_ms)` beyond control. `evidence`: the SHA-256 of what shows it."""

    nodes: tuple[DeclaredNode, ...]
    from_ms: int
    until_ms: int
    evidence: bytes

    @property
    def interval(self) -> Interval:
        """When."""
        return Interval(self.from_ms, self.until_ms)


@dataclass(frozen=True, slots=True)
class MaintenanceLeaf:
    """Maintenance, announced at `written_ms`."""

    written_ms: int
    notice: MaintenanceNotice


@dataclass(frozen=True, slots=True)
class ForceMajeureLeaf:
    """Force majeure, declared at `written_ms`."""

    written_ms: int
    declared: ForceMajeure


@dataclass(frozen=True, slots=True)
class WithheldLots:
    """Lots of a position that nothing stands behind in `[from_ms, until_ms)`."""

    position: str
    instrument: str
    lots: int
    from_ms: int
    until_ms: int

    @property
    def interval(self) -> Interval:
        """When."""
        return Interval(self.from_ms, self.until_ms)


@dataclass(frozen=True, slots=True)
class WithheldLeaf:
    """Lots that were recalled, or released (`recalled` false), as was said at `written_ms`."""

    written_ms: int
    recalled: bool
    said: WithheldLots


OutageLeaf = MaintenanceLeaf | ForceMajeureLeaf | WithheldLeaf


def outage_of(entry: wire.LogEntry, kind: str | None) -> OutageLeaf | None:
    """What an entry says, where its kind is one of these. Raises InvalidValue for values outside what they may be."""
    match kind:
        case "maintenance":
            return MaintenanceLeaf(entry.written_ms, _maintenance(entry.maintenance))
        case "force_majeure":
            return ForceMajeureLeaf(entry.written_ms, _force_majeure(entry.force_majeure))
        case "recall":
            return WithheldLeaf(entry.written_ms, recalled=True, said=_withheld("a recall", entry.recall))
        case "release":
            return WithheldLeaf(entry.written_ms, recalled=False, said=_withheld("a release", entry.release))
        case _:
            return None


def encode_maintenance(notice: MaintenanceNotice, written_ms: int) -> bytes:
    """The leaf of a notice of maintenance."""
    sent = wire.MaintenanceNotice(nodes=_sent(notice.nodes), from_ms=notice.from_ms, until_ms=notice.until_ms)
    return wire.LogEntry(written_ms=written_ms, maintenance=sent).SerializeToString()


def encode_force_majeure(declared: ForceMajeure, written_ms: int) -> bytes:
    """The leaf of a force majeure."""
    sent = wire.ForceMajeure(
        nodes=_sent(declared.nodes),
        from_ms=declared.from_ms,
        until_ms=declared.until_ms,
        evidence=declared.evidence,
    )
    return wire.LogEntry(written_ms=written_ms, force_majeure=sent).SerializeToString()


def encode_withheld(said: WithheldLots, written_ms: int, *, recalled: bool) -> bytes:
    """The leaf of a recall, or of a release."""
    sent = wire.WithheldLots(
        position=said.position,
        instrument=said.instrument,
        lots=said.lots,
        from_ms=said.from_ms,
        until_ms=said.until_ms,
    )
    entry = wire.LogEntry(written_ms=written_ms)
    (entry.recall if recalled else entry.release).CopyFrom(sent)
    return entry.SerializeToString()


def _withheld(where: str, sent: wire.WithheldLots) -> WithheldLots:
    _check_times(where, sent.from_ms, sent.until_ms)
    if sent.lots < 1:
        raise InvalidValue("lots", where, sent.lots, "1 or more")
    if not sent.position or not sent.instrument:
        raise InvalidValue("position, instrument", where, f"{sent.position!r}, {sent.instrument!r}", "their names")
    return WithheldLots(sent.position, sent.instrument, sent.lots, sent.from_ms, sent.until_ms)


def _maintenance(sent: wire.MaintenanceNotice) -> MaintenanceNotice:
    _check_times("a notice of maintenance", sent.from_ms, sent.until_ms)
    return MaintenanceNotice(_nodes("a notice of maintenance", sent.nodes), sent.from_ms, sent.until_ms)


def _force_majeure(sent: wire.ForceMajeure) -> ForceMajeure:
    _check_times("a force majeure", sent.from_ms, sent.until_ms)
    if len(sent.evidence) != EVIDENCE_BYTES:
        raise InvalidValue(
            "evidence", "a force majeure", f"{len(sent.evidence)} bytes", f"the {EVIDENCE_BYTES} of a SHA-256"
        )
    return ForceMajeure(_nodes("a force majeure", sent.nodes), sent.from_ms, sent.until_ms, sent.evidence)


def _sent(nodes: Iterable[DeclaredNode]) -> list[wire.DeclaredNode]:
    return [wire.DeclaredNode(grade=each.grade, site=each.site, cell=each.cell, gpus=each.gpus) for each in nodes]


def _nodes(where: str, sent: Iterable[wire.DeclaredNode]) -> tuple[DeclaredNode, ...]:
    nodes = tuple(DeclaredNode(each.grade, each.site, each.cell, each.gpus) for each in sent)
    if not nodes:
        raise InvalidValue("nodes", where, (), "one or more")
    for node in nodes:
        if not 1 <= node.gpus <= MOST_GPUS:
            raise InvalidValue(f"gpus of {node.cell[:253]}", where, node.gpus, f"1..{MOST_GPUS}")
    return nodes


def _check_times(where: str, from_ms: int, until_ms: int) -> None:
    if not 0 <= from_ms < until_ms <= MAX_INSTANT_MS:
        expected = f"instants in order, 0..{MAX_INSTANT_MS} ms since 1970"
        raise InvalidValue("from_ms, until_ms", where, f"{from_ms}, {until_ms}", expected)
