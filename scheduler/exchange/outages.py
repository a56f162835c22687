"""What a log says of outages beside the records: notices of maintenance, and force majeure with its evidence.

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


OutageLeaf = MaintenanceLeaf | ForceMajeureLeaf


def outage_of(entry: wire.LogEntry, kind: str | None) -> OutageLeaf | None:
    """What an entry says, where its kind is one of these. Raises InvalidValue for values outside what they may be."""
    match kind:
        case "maintenance":
            return MaintenanceLeaf(entry.written_ms, _maintenance(entry.maintenance))
        case "force_majeure":
            return ForceMajeureLeaf(entry.written_ms, _force_majeure(entry.force_majeure))
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
