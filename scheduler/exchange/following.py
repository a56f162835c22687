"""Following a log that somebody else keeps: nothing that its feed tells is believed but what its checkpoints prove.

Laws: leaves are taken in order, each once; what comes again is passed over, what leaves something out is a SequenceGap.
The root over all that was taken, computed here, is consistent with every checkpoint, and each checkpoint is signed by a
key that is trusted, or that one such leads to by the log's own changes. A log that shrinks or tells two histories is an
Equivocation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scheduler.core.errors import Conflict, Damaged, Equivocation, SequenceGap
from scheduler.core.merkle import CompactRange, leaf_hash, verify_consistency
from scheduler.core.positions import Cursor
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.feed_client import FeedAlive, FeedBatch, FeedHead, hash_of
from scheduler.exchange.v1 import feed_pb2
from scheduler.ledger.keyring import followed
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import Checkpoint, open_checkpoint


@dataclass(frozen=True, slots=True)
class Place:
    """How much of a log was taken: the compact range over it, and the epoch (0: nobody kept it)."""

    range: CompactRange = field(default_factory=CompactRange)
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """New leaves, proven: `first_seq` and on, and the place after them. `checkpoint`, with its `note`, covers them, and
    is over exactly them where `reached`.
    """

    first_seq: int
    leaves: tuple[bytes, ...]
    place: Place
    checkpoint: Checkpoint
    note: bytes

    @property
    def reached(self) -> bool:
        """Whether every leaf under the checkpoint is here."""
        return self.checkpoint.size == self.place.range.size


class Follower:
    """One log from a place on. `trusted`: the log's keys to believe; none: the first one that it names."""

    def __init__(self, place: Place | None, trusted: Sequence[VerifierKey] = ()) -> None:
        self.place = place or Place()
        self._head: FeedHead | None = None
        self._trusted = tuple(trusted)
        self._keys: tuple[VerifierKey, ...] = ()

    @property
    def head(self) -> FeedHead:
        """As it was learnt last. Raises Conflict before that."""
        if self._head is None:
            raise Conflict("nothing was learnt of the log yet, expected its head first")
        return self._head

    @property
    def cursor(self) -> Cursor | None:
        """Of the last leaf that was taken; None before the first."""
        if not self.place.range.size:
            return None
        at = self.head.cursor
        return Cursor(stream=at.stream, epoch=at.epoch, seq=self.place.range.size)

    def learn(self, head: FeedHead) -> None:
        """Takes the keys and the epoch of a log that is to be followed.

        Raises CursorCompacted where the log began anew, Unauthorised where nobody who is trusted signed it,
        Equivocation where it has fewer leaves than were taken, Conflict where its parts contradict each other.
        """
        trusted = self._trusted or head.vkeys[:1]
        for change in head.key_changes:
            change.verify()
        self._keys = followed(trusted, head.key_changes)
        if head.checkpoint:
            checkpoint = self._opened(head.checkpoint)
            if (checkpoint.size, checkpoint.root) != (head.cursor.seq, head.edge.root()):
                was = f"{head.cursor.seq} leaves with root {head.edge.root().hex()}"
                raise Conflict(f"the head was of {was}, its checkpoint of {checkpoint.size}, {checkpoint.root.hex()}")
        size, epoch = self.place.range.size, self.place.epoch
        named = f"{head.cursor.stream} epoch {head.cursor.epoch}"
        if epoch and head.cursor.epoch < epoch:
            raise Conflict(f"epoch of {head.cursor.stream} was {head.cursor.epoch}, expected {epoch} or later")
        if epoch and size and head.cursor.epoch > epoch:
            raise CursorCompacted(named, 1, size + 1)
        if head.cursor.seq < size:
            raise Equivocation(f"{named} has {head.cursor.seq} leaves, and had {size} before: the log was cut")
        self._trusted = trusted
        self._head = head
        self.place = Place(self.place.range, head.cursor.epoch)

    def take(self, batch: FeedBatch) -> Taken | None:
        """The leaves of a batch that are new; None where all of them were taken before.

        Raises SequenceGap where something is left out, Equivocation where the leaves are not those of the checkpoint,
        Unauthorised where that is not signed by who is trusted.
        """
        self._check_epoch(batch.last)
        have = self.place.range
        if batch.first_seq > have.size + 1:
            raise SequenceGap(f"{batch.last.stream} epoch {batch.last.epoch}", have.size + 1, batch.first_seq)
        if batch.last.seq <= have.size:
            return None
        leaves = batch.leaves[have.size + 1 - batch.first_seq :]
        extended = have.extend([leaf_hash(leaf) for leaf in leaves])
        checkpoint = self._opened(batch.checkpoint)
        self._check_under(extended, checkpoint, batch.consistency)
        self.place = Place(extended, batch.last.epoch)
        return Taken(have.size + 1, leaves, self.place, checkpoint, batch.checkpoint)

    def beat(self, alive: FeedAlive) -> bool:
        """Whether nothing is missing. Raises SequenceGap where the next leaf is another than the next one here,
        Equivocation where the log as large as it is here has another root.
        """
        self._check_epoch(alive.next)
        have = self.place.range
        if alive.next.seq > have.size + 1:
            raise SequenceGap(f"{alive.next.stream} epoch {alive.next.epoch}", have.size + 1, alive.next.seq)
        if not alive.checkpoint:
            return have.size == 0
        checkpoint = self._opened(alive.checkpoint)
        if checkpoint.size == have.size:
            self._check_under(have, checkpoint, ())
        return checkpoint.size <= have.size

    def restored(self, head: FeedHead, sent: Iterator[feed_pb2.FeedLeaf]) -> Iterator[tuple[int, bytes]]:
        """The leaves of a snapshot with their seq, those that a later version superseded left out; once all were given,
        the place is the head's. Whoever takes them keeps nothing before the end.

        Raises Damaged where they are not the head's, at the end for leaves that were changed.
        """
        self.place = Place()
        self.learn(head)
        taken = CompactRange()
        for each in sent:
            if each.seq != taken.size + 1:
                raise Damaged(f"leaf {each.seq} of the snapshot came after {taken.size}")
            taken = taken.append(leaf_hash(each.leaf) if each.leaf else hash_of(each))
            if each.leaf:
                yield each.seq, each.leaf
        if taken != head.edge:
            was = f"{taken.size} leaves with the root {taken.root().hex()}"
            raise Damaged(f"the snapshot had {was}, expected {head.edge.size}, {head.edge.root().hex()}")
        self.place = Place(taken, head.cursor.epoch)

    def _opened(self, note: bytes) -> Checkpoint:
        return open_checkpoint(note, self._keys, origin=self._keys[-1].name if self._keys else None)

    def _check_epoch(self, cursor: Cursor) -> None:
        of = self.head.cursor
        if (cursor.stream, cursor.epoch) != (of.stream, of.epoch):
            raise Conflict(f"the feed told of {cursor.stream}/{cursor.epoch}, expected {of.stream}/{of.epoch}")

    def _check_under(self, taken: CompactRange, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
        if not verify_consistency(taken.size, checkpoint.size, taken.root(), checkpoint.root, proof):
            raise Equivocation(
                f"the checkpoint of {checkpoint.origin} over {checkpoint.size} leaves, {checkpoint.root.hex()}, is not "
                f"over the {taken.size} leaves that were told, {taken.root().hex()}"
            )
