"""A log of delivery that the suite writes and signs itself, right or wrong as a check wants it."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core import merkle
from scheduler.exchange.v1 import delivery_pb2
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint


class Log:
    """The leaves of one stream, and its key. Nothing is sent from here."""

    def __init__(self, stream: str, first_epoch: int, *, fresh: bool) -> None:
        self.stream = stream
        self.epoch = first_epoch
        self.fresh = fresh
        """Whether the stream's name was made up for this run, so that no server can know it."""
        self.opened = False
        """Whether the server has taken a turn on it in this run."""
        self.key = SignerKey.generate(f"conformance.test/{stream}")
        self.leaves: list[bytes] = []
        self.hashes: list[bytes] = []

    @property
    def vkey(self) -> str:
        """The verifier key, in C2SP form."""
        return self.key.verifier.encode()

    def add(self, *leaves: bytes) -> int:
        """Appends leaves; the index of the first."""
        first = len(self.leaves)
        self.leaves += leaves
        self.hashes += map(merkle.leaf_hash, leaves)
        return first

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        return merkle.root(self.hashes[:size])

    def note(self, size: int, root: bytes | None = None, key: SignerKey | None = None) -> bytes:
        """The signed checkpoint over so many leaves; another root or key where a check wants it wrong."""
        made = Checkpoint(self.key.name, size, self.root(size) if root is None else root)
        return sign_checkpoint(made, key or self.key)

    def batch(self, first: int, end: int | None = None, size: int | None = None) -> delivery_pb2.Batch:
        """The leaves `[first, end)` under a checkpoint over `size` leaves; None: all there are."""
        end = len(self.leaves) if end is None else end
        size = len(self.leaves) if size is None else size
        return delivery_pb2.Batch(
            first_index=first,
            leaves=self.leaves[first:end],
            checkpoint=self.note(size),
            consistency=merkle.consistency_proof(self.hashes, end, size) if end < size else (),
        )

    def beside(self, first: int, leaves: Sequence[bytes]) -> delivery_pb2.Batch:
        """A batch of other leaves from `first` on than the log has, soundly signed: what an equivocator sends."""
        hashes = [*self.hashes[:first], *map(merkle.leaf_hash, leaves)]
        note = self.note(len(hashes), merkle.root(hashes))
        return delivery_pb2.Batch(first_index=first, leaves=leaves, checkpoint=note)
