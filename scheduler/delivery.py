"""The log of delivery: records and certificates become leaves, leaves and events are durable together, checkpoints
follow.

A checkpoint is signed only over what is already durable, and is durable itself before anybody is told. One log a
stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.core.cluster import Fleet
from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.events import (
    DeviceProbed,
    Event,
    ForceMajeureDeclared,
    LotsRecalled,
    LotsReleased,
    MaintenanceAnnounced,
    PositionChanged,
    PositionsLoaded,
    ShortageDecided,
)
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import PoolRecord
from scheduler.core.positions import PositionEvent, PositionEventKind
from scheduler.core.rounds.settling import Told
from scheduler.core.settlement import Statement
from scheduler.core.state.closings import ClosedInterval
from scheduler.core.state.state import State
from scheduler.exchange.consents import consents_of, encode_consent
from scheduler.exchange.leaves import PoolLeaf, RecordLeaf, decode, encode_pool, encode_record, encode_shortage
from scheduler.exchange.outages import (
    DeclaredNode,
    ForceMajeure,
    MaintenanceNotice,
    WithheldLots,
    encode_force_majeure,
    encode_maintenance,
    encode_withheld,
)
from scheduler.exchange.probe_leaves import encode_probe
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.ledger.journal import Entry, Journal
from scheduler.ledger.keyring import LogSigner
from scheduler.ledger.notes import Checkpoint, sign_checkpoint


def statement(journal: Journal, stream: str, state: State, name: str, as_of: int = 0, until_ms: int = 0) -> Statement:
    """What is owed for a position until an instant (0: so far), from the log's first `as_of` leaves; 0: from all.
    Raises UnknownName, or InvalidValue before any record and for more leaves than there are.
    """
    position = state.book.positions.get(name)
    if position is None:
        raise UnknownName("position", name, state.book.positions)
    size = journal.log_size(stream)
    if not 0 <= as_of <= size:
        raise InvalidValue("as_of", f"the statement of {name}", as_of, f"0..{size}, the leaves that there are")
    versions = versions_of(journal.leaves(stream, 0, as_of or size), name)
    return statement_of(state.instruments[position.instrument], position, versions, until_ms)


def _declared(fleet: Fleet, nodes: Sequence[str]) -> tuple[DeclaredNode, ...]:
    found = []
    for name in nodes:
        node = fleet.nodes[fleet.index_of_node[name]]
        path = f"{node.site}/{node.block}/{node.domain}/{node.name}"
        found.append(DeclaredNode(grade=node.grade, site=node.site, cell=path, gpus=node.gpus))
    return tuple(found)


def _agreed(event: PositionEvent, state: State) -> tuple[tuple[str, int], ...]:
    """(grade, from when on its owner agrees to it) of what an event adds to a position."""
    match event.kind:
        case PositionEventKind.CONSENT:
            return tuple((grade, event.effective_ms) for grade in event.grades)
        case PositionEventKind.SPLIT:
            source = state.book.positions.get(event.source or "")
            return () if source is None else source.consents
        case _:
            return ()


def _consents(
    position: str, agreed: tuple[tuple[str, int], ...], instrument: str, written_ms: int
) -> tuple[bytes, ...]:
    return tuple(encode_consent(said, written_ms) for said in consents_of(position, instrument, agreed))


@dataclass(frozen=True, slots=True)
class Issued:
    """The last records of an interval that were told in full, by position, and its last certificates, by pool."""

    records: dict[str, Told]
    pools: dict[str, PoolRecord]


@dataclass(frozen=True, slots=True)
class LogWriter:
    """Writes one stream's log. `signer`'s name is the log's origin."""

    stream: str
    signer: LogSigner

    def leaves_of(self, closing: Closing, written_ms: int) -> list[bytes]:
        """The leaves of a closed interval: records by position, then the pools' certificates."""
        records = [encode_record(record, written_ms) for record in closing.records]
        return records + [encode_pool(pool, written_ms) for pool in closing.pools]

    def leaves_of_event(self, event: Event, state: State) -> tuple[bytes, ...]:
        """The leaves that an event leaves by itself, written at its instant; none for most. `state`: before it."""
        match event:
            case ShortageDecided():
                return (encode_shortage(event.certificate, event.at_ms),)
            case DeviceProbed():
                return (encode_probe(event.probe, event.at_ms),)
            case MaintenanceAnnounced():
                notice = MaintenanceNotice(_declared(state.fleet, (event.node,)), event.from_ms, event.until_ms)
                return (encode_maintenance(notice, event.at_ms),)
            case ForceMajeureDeclared():
                nodes, evidence = _declared(state.fleet, event.nodes), bytes.fromhex(event.evidence)
                declared = ForceMajeure(nodes, event.from_ms, event.until_ms, evidence)
                return (encode_force_majeure(declared, event.at_ms),)
            case LotsRecalled() | LotsReleased():
                instrument = state.book.positions[event.position].instrument
                said = WithheldLots(event.position, instrument, event.lots, event.from_ms, event.until_ms)
                return (encode_withheld(said, event.at_ms, recalled=isinstance(event, LotsRecalled)),)
            case PositionChanged():
                return _consents(event.event.position, _agreed(event.event, state), event.event.instrument, event.at_ms)
            case PositionsLoaded():
                known = state.book.positions
                changed = [each for each in event.positions if each.consents]
                changed = [each for each in changed if each.id not in known or known[each.id].consents != each.consents]
                found = (_consents(each.id, each.consents, each.instrument, event.at_ms) for each in changed)
                return tuple(leaf for leaves in found for leaf in leaves)
            case _:
                return ()

    def size(self, journal: Journal) -> int:
        """How many leaves the log holds durably."""
        return journal.log_size(self.stream)

    def issued(
        self,
        journal: Journal,
        unsaved: Sequence[bytes],
        closings: Sequence[ClosedInterval],
        interval_ms: int,
        end_ms: int,
    ) -> Issued:
        """What was told last of one interval. `unsaved`: leaves that follow those of the journal."""
        found = Issued({}, {})
        size = self.size(journal)
        for closed in closings:
            if (closed.interval_ms, closed.end_ms) != (interval_ms, end_ms):
                continue
            saved = max(0, min(closed.leaves, size - closed.first_leaf))
            leaves = [leaf for _, leaf in journal.leaves(self.stream, closed.first_leaf, saved)] if saved else []
            after = max(0, closed.first_leaf - size)
            leaves += unsaved[after : after + closed.leaves - saved]
            for index, leaf in enumerate(map(decode, leaves), closed.first_leaf):
                if isinstance(leaf, RecordLeaf):
                    found.records[leaf.record.position] = Told(leaf.record, index)
                elif isinstance(leaf, PoolLeaf):
                    found.pools[leaf.pool.pool] = leaf.pool
        return found

    def commit(
        self, journal: Journal, entries: Sequence[Entry], leaves: Sequence[bytes], cursors: Mapping[str, bytes]
    ) -> None:
        """Events, leaves and cursors in one transaction; a checkpoint over new leaves is to follow."""
        journal.commit(entries, leaves=leaves, stream=self.stream, cursors=cursors)

    def checkpoint(self, journal: Journal) -> None:
        """Sign the log as it is and keep the note, where it grew since the last time. A crash before that leaves an
        older one: call it at start-up.
        """
        size, kept = journal.log_size(self.stream), journal.checkpoint(self.stream)
        if size == (kept[0] if kept else 0):
            return
        signers = self.signer.signers(journal.acknowledged(self.stream))
        note = sign_checkpoint(Checkpoint(self.signer.name, size, journal.root(self.stream, size)), *signers)
        journal.save_checkpoint(self.stream, size, note)
