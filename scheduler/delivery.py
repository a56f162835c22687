"""The log of delivery: records and certificates become leaves, leaves and events are durable together, checkpoints
follow.

A checkpoint is signed only over what is already durable, and is durable itself before anybody is told. One log a
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.errors import UnknownName
from scheduler.core.metering.closing import Closing
from scheduler.core.settlement import Statement
from scheduler.core.state.state import State
from scheduler.exchange.leaves import encode_pool, encode_record, encode_shortage
from scheduler.exchange.statements import RecordedLeaf, statement_of
from scheduler.ledger.journal import Entry, Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint


def statement(journal: Journal, stream: str, state: State, name: str) -> Statement:
    """What is owed for a position so far, from the log's leaves. Raises UnknownName, or InvalidValue before any
    record.
    """
    position = state.book.positions.get(name)
    if position is None:
        raise UnknownName("position", name, state.book.positions)
    recorded = (RecordedLeaf.of(leaf) for _, leaf in journal.leaves(stream))
    mine = [leaf for leaf in recorded if leaf is not None and leaf.record.position == name]
    return statement_of(state.instruments[position.instrument], position, mine)


@dataclass(frozen=True, slots=True)
class LogWriter:
    """Writes one stream's log. `signer`'s name is the log's origin."""

    stream: str
    signer: SignerKey

    def leaves_of(self, closing: Closing, written_ms: int) -> list[bytes]:
        """The leaves of a closed interval: records by position, then the pools' certificates."""
        records = [encode_record(record, written_ms) for record in closing.records]
        return records + [encode_pool(pool, written_ms) for pool in closing.pools]

    def shortage_leaf(self, certificate: str, written_ms: int) -> bytes:
        """The leaf of a shortage certificate (canonical JSON)."""
        return encode_shortage(certificate, written_ms)

    def size(self, journal: Journal) -> int:
        """How many leaves the log holds durably."""
        return journal.log_size(self.stream)

    def commit(self, journal: Journal, entries: Sequence[Entry], leaves: Sequence[bytes]) -> None:
        """Events and leaves in one transaction; then a checkpoint over them, where there were leaves."""
        journal.commit(entries, leaves=leaves, stream=self.stream)
        if leaves:
            self.checkpoint(journal)

    def checkpoint(self, journal: Journal) -> bytes:
        """Sign the log as it is and keep the note. A crash before leaves an older checkpoint: call it at start-up."""
        size = journal.log_size(self.stream)
        note = sign_checkpoint(Checkpoint(self.signer.name, size, journal.root(self.stream, size)), self.signer)
        journal.save_checkpoint(self.stream, size, note)
        return note
