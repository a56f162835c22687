"""One stream's log as the feed tells it: cursors, batches under a checkpoint, the head and the state at it.

It reads over a connection of its own (`Journal.beside`), a page at a time, and only what a signed checkpoint covers, so
no reader waits for the scheduler and nothing is told that is not signed. A cursor's `seq` is a leaf's index plus 1; its
`epoch` is the log's: one that begins anew has a higher one, and a restart of the scheduler changes nothing.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.merkle import leaf_hash
from scheduler.core.settlement import Statement
from scheduler.core.state.state import State
from scheduler.delivery import statement
from scheduler.exchange import convert
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, positions_pb2
from scheduler.exchange.witnessing import witnesses
from scheduler.ledger.journal import Journal

BATCH_LEAVES = 512
BATCH_BYTES = 2**20
"""A batch ends with the leaf that reaches this."""
EPOCH_CURSOR = "feed_epoch"

Key = tuple[str, int]
"""A verifier key in C2SP form, and the index of the leaf that brought it; -1 for the first."""


def epoch_of(journal: Journal, stream: str, now_ms: int) -> int:
    """The epoch of a stream's log: the instant at which it was first asked for, kept in the journal ever since."""
    name = f"{EPOCH_CURSOR}:{stream}"
    kept = journal.cursor(name)
    if kept is None:
        kept = str(max(1, now_ms)).encode()
        journal.commit((), cursors={name: kept})
    return int(kept)


@dataclass(frozen=True, slots=True)
class Signed:
    """The latest checkpoint: its size and its note; 0 and nothing before the first."""

    size: int
    note: bytes


class FeedLog:
    """See the module. `keep_leaves`: how many of the last leaves can be asked for; 0: all."""

    def __init__(self, journal: Journal, stream: str, epoch: int, keep_leaves: int = 0) -> None:
        self._journal = journal
        self._stream = stream
        self._epoch = epoch
        self._keep_leaves = keep_leaves
        self._guard = threading.Lock()
        self._looked_at = 0
        self._reissued: dict[tuple[str, int, int], list[int]] = {}
        """The leaves of each record that was ever issued again, among those looked at; few, and so kept in memory."""

    def signed(self) -> Signed:
        """How far the log is signed."""
        return Signed(*(self._journal.checkpoint(self._stream) or (0, b"")))

    def cursor(self, seq: int) -> positions_pb2.Cursor:
        """The place of the leaf with that number."""
        return positions_pb2.Cursor(stream=self._stream, epoch=self._epoch, seq=seq)

    def check_stream(self, stream: str) -> None:
        """Raises UnknownName for another stream than this one."""
        if stream != self._stream:
            raise UnknownName("stream", stream, [self._stream])

    def after(self, sent: positions_pb2.Cursor) -> int:
        """The number of leaves that whoever sends this cursor has.

        Raises UnknownName for another stream, CursorCompacted where what follows is gone or for an epoch that is over,
        Conflict for a cursor ahead of this log, which means that one of the two lost something.
        """
        if (sent.stream, sent.epoch, sent.seq) == ("", 0, 0):
            self.check_kept(0)
            return 0
        cursor = convert.cursor_from_wire(sent)
        self.check_stream(cursor.stream)
        size = self.signed().size
        if cursor.epoch > self._epoch or (cursor.epoch == self._epoch and cursor.seq > size):
            at = f"{cursor.stream}/{cursor.epoch}/{cursor.seq}"
            raise Conflict(f"the cursor {at} is ahead of the log, which is at {self._epoch}/{size}")
        if cursor.epoch < self._epoch:
            raise CursorCompacted(self._named(), self._oldest() + 1, cursor.seq + 1)
        self.check_kept(cursor.seq)
        return cursor.seq

    def check_kept(self, after: int) -> None:
        """Raises CursorCompacted where the leaf after so many cannot be asked for any more."""
        oldest = self._oldest()
        if after < oldest:
            raise CursorCompacted(self._named(), oldest + 1, after + 1)

    def batch(self, after: int, limit: int, signed: Signed) -> feed_pb2.FeedBatch:
        """The leaves after so many, at most `limit` and one at least, under the checkpoint. Raises CursorCompacted."""
        self.check_kept(after)
        leaves: list[bytes] = []
        length = 0
        for _, leaf in self._journal.leaves(self._stream, after, min(limit, BATCH_LEAVES, signed.size - after)):
            leaves.append(leaf)
            length += len(leaf)
            if length >= BATCH_BYTES:
                break
        end = after + len(leaves)
        proof = self._journal.consistency_proof(self._stream, end, signed.size)
        batch = delivery_pb2.Batch(first_index=after, leaves=leaves, checkpoint=signed.note, consistency=proof)
        return feed_pb2.FeedBatch(last=self.cursor(end), batch=batch)

    def head(self, keys: Sequence[Key]) -> feed_pb2.FeedHead:
        """Where the log stands, without the instruments."""
        signed = self.signed()
        _, cosigned, _ = self._journal.cosigned(self._stream) or (0, b"", "")
        changes = [leaf for _, at in keys if 0 <= at < signed.size for leaf in self._leaves(at, at + 1)]
        return feed_pb2.FeedHead(
            cursor=self.cursor(signed.size),
            checkpoint=signed.note,
            edge=self._journal.edge(self._stream, signed.size).hashes,
            vkeys=[vkey for vkey, _ in keys],
            key_changes=changes,
            cosigned=cosigned,
            witnesses=witnesses(self._journal, self._stream),
            oldest=self.cursor(self._oldest() + 1),
        )

    def in_force(self, size: int) -> Iterator[list[feed_pb2.FeedLeaf]]:
        """The first `size` leaves, in lists; of a record that a later version among them superseded only the hash."""
        self._look_at(size)
        page: list[feed_pb2.FeedLeaf] = []
        length = 0
        for seq, leaf in enumerate(self._leaves(0, size), 1):
            record = delivery_pb2.LogEntry.FromString(leaf).record
            if record.position and self._is_superseded(record, seq - 1, size):
                page.append(feed_pb2.FeedLeaf(seq=seq, hash=leaf_hash(leaf)))
            else:
                page.append(feed_pb2.FeedLeaf(seq=seq, leaf=leaf))
            length += len(leaf)
            if len(page) == BATCH_LEAVES or length >= BATCH_BYTES:
                yield page
                page, length = [], 0
        if page:
            yield page

    def statement(self, state: State, position: str, until_ms: int, size: int) -> Statement:
        """What is owed for a position until an instant (0: so far), from the first `size` leaves. Raises as
        `delivery.statement`; InvalidValue while nothing is signed.
        """
        if not size:
            raise InvalidValue("checkpoint", f"stream {self._stream}", "missing", "a log that was signed once")
        return statement(self._journal, self._stream, state, position, size, until_ms)

    def check_signed(self, size: int) -> None:
        """Raises InvalidValue for a size that no checkpoint covers yet: nothing is told of what is not signed."""
        most = self.signed().size
        if not 0 <= size <= most:
            raise InvalidValue("size", f"stream {self._stream!r}", size, f"an integer in 0..{most}")

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """That leaf `index` is among the first `size` (RFC 9162). Raises InvalidValue outside what is signed."""
        self.check_signed(size)
        return self._journal.inclusion_proof(self._stream, index, size)

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """That the first `first` leaves begin the first `second`. Raises InvalidValue outside what is signed."""
        self.check_signed(second)
        return self._journal.consistency_proof(self._stream, first, second)

    def witnesses(self) -> tuple[str, ...]:
        """The verifier keys of all who cosigned this log."""
        return witnesses(self._journal, self._stream)

    def _look_at(self, size: int) -> None:
        """Notes which records were issued again among the first `size` leaves; what was looked at is not read again."""
        with self._guard:
            if size <= self._looked_at:
                return
            for index, leaf in enumerate(self._leaves(self._looked_at, size), self._looked_at):
                record = delivery_pb2.LogEntry.FromString(leaf).record
                if record.version > 1:
                    self._reissued.setdefault(_interval(record), []).append(index)
            self._looked_at = size

    def _is_superseded(self, record: delivery_pb2.MeterRecord, index: int, size: int) -> bool:
        """Whether a later version of a record, itself at leaf `index`, is among the first `size` leaves."""
        again = self._reissued.get(_interval(record), [])
        known = bisect_left(again, size)
        return known > 0 and again[known - 1] > index

    def _leaves(self, start: int, stop: int) -> Iterator[bytes]:
        return (leaf for _, leaf in self._journal.leaves(self._stream, start, stop - start))

    def _oldest(self) -> int:
        """The index of the oldest leaf that can be asked for."""
        return max(0, self.signed().size - self._keep_leaves) if self._keep_leaves else 0

    def _named(self) -> str:
        return f"{self._stream} epoch {self._epoch}"


def _interval(record: delivery_pb2.MeterRecord) -> tuple[str, int, int]:
    return record.position, record.start_ms, record.end_ms
