"""The log of delivery: records and certificates become leaves, leaves and events are durable together, checkpoints
follow.

A checkpoint is signed only over what is already durable, and is durable itself before anybody is told. One log a
stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.core.cluster import Fleet
from scheduler.core.errors import UnknownName
from scheduler.core.events import Event, ForceMajeureDeclared, MaintenanceAnnounced, ShortageDecided
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import MeterRecord
from scheduler.core.settlement import Statement
from scheduler.core.state.state import ClosedInterval, State
from scheduler.exchange.leaves import RecordLeaf, decode, encode_pool, encode_record, encode_shortage
from scheduler.exchange.outages import (
    DeclaredNode,
    ForceMajeure,
    MaintenanceNotice,
    encode_force_majeure,
    encode_maintenance,
)
from scheduler.exchange.statements import RecordedLeaf, statement_of
from scheduler.ledger.journal import Entry, Journal
from scheduler.ledger.keyring import LogSigner
from scheduler.ledger.notes import Checkpoint, sign_checkpoint


def statement(
    journal: Journal, stream: str, state: State, name: str, until_ms: int = 0, size: int | None = None
) -> Statement:
    """What is owed for a position until an instant (0: so far), from the log's first `size` leaves (None: all). Raises
    UnknownName, or InvalidValue before any record.
    """
    position = state.book.positions.get(name)
    if position is None:
        raise UnknownName("position", name, state.book.positions)
    named = name.encode()  # a record holds its position's name as it is: most leaves need not be decoded
    recorded = (RecordedLeaf.of(leaf) for _, leaf in journal.leaves(stream, 0, size) if named in leaf)
    mine = [leaf for leaf in recorded if leaf is not None and leaf.record.position == name]
    return statement_of(state.instruments[position.instrument], position, mine, until_ms)


def _declared(fleet: Fleet, nodes: Sequence[str]) -> tuple[DeclaredNode, ...]:
    found = []
    for name in nodes:
        node = fleet.nodes[fleet.index_of_node[name]]
        path = f"{node.site}/{node.block}/{node.domain}/{node.name}"
        found.append(DeclaredNode(grade=node.grade, site=node.site, cell=path, gpus=node.gpus))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class LogWriter:
    """Writes one stream's log. `signer`'s name is the log's origin."""

    stream: str
    signer: LogSigner

    def leaves_of(self, closing: Closing, written_ms: int) -> list[bytes]:
        """The leaves of a closed interval: records by position, then the pools' certificates."""
        records = [encode_record(record, written_ms) for record in closing.records]
        return records + [encode_pool(pool, written_ms) for pool in closing.pools]

    def leaf_of(self, event: Event, fleet: Fleet) -> bytes | None:
        """The leaf that an event leaves by itself, written at its instant; None for most."""
        match event:
            case ShortageDecided():
                return encode_shortage(event.certificate, event.at_ms)
            case MaintenanceAnnounced():
                notice = MaintenanceNotice(_declared(fleet, (event.node,)), event.from_ms, event.until_ms)
                return encode_maintenance(notice, event.at_ms)
            case ForceMajeureDeclared():
                nodes, evidence = _declared(fleet, event.nodes), bytes.fromhex(event.evidence)
                return encode_force_majeure(ForceMajeure(nodes, event.from_ms, event.until_ms, evidence), event.at_ms)
            case _:
                return None

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
    ) -> dict[str, MeterRecord]:
        """The last version of every position's record of one interval, by position. `unsaved`: leaves that follow those
        of the journal.
        """
        found: dict[str, MeterRecord] = {}
        size = self.size(journal)
        for closed in closings:
            if (closed.interval_ms, closed.end_ms) != (interval_ms, end_ms):
                continue
            saved = max(0, min(closed.leaves, size - closed.first_leaf))
            leaves = [leaf for _, leaf in journal.leaves(self.stream, closed.first_leaf, saved)] if saved else []
            after = max(0, closed.first_leaf - size)
            leaves += unsaved[after : after + closed.leaves - saved]
            for leaf in map(decode, leaves):
                if isinstance(leaf, RecordLeaf):
                    found[leaf.record.position] = leaf.record
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
