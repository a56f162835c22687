"""A bundle kept by a puller: every leaf of a log, as an auditor takes it (`scheduler.ledger.mirror`)."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.errors import Conflict
from scheduler.core.models import canonical_bytes
from scheduler.exchange.feed_client import FeedHead
from scheduler.exchange.following import Place, Taken
from scheduler.exchange.witnessing import cosigners_of
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.mirror import Mirror
from scheduler.ledger.notes import Checkpoint, parse_note


class MirrorKeeper:
    """A `Keeper` over a mirror: the bundle is made anew whenever every leaf under a checkpoint is here. A bundle does
    not say which epoch it is of; the leaves themselves show whether a log is another one.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._epoch = 0

    @property
    def key(self) -> VerifierKey | None:
        """The key that the bundle was begun with; None where there is none yet."""
        kept = self._mirror.kept
        return kept.keys()[0] if kept is not None else None

    def place(self) -> Place | None:
        """How far it is."""
        return Place(self._mirror.range, self._epoch)

    def take(self, taken: Taken, head: FeedHead) -> None:
        """Lays the leaves down. Raises as `Mirror.add` and `Mirror.close`."""
        self._mirror.add(taken.leaves)
        self._epoch = taken.place.epoch
        if taken.reached:
            self._close(taken, head)

    def restore(self, head: FeedHead, leaves: Iterator[tuple[int, bytes]]) -> None:
        """Raises Conflict: a bundle has every leaf."""
        del leaves
        raise Conflict(f"a bundle has every leaf: a snapshot of {head.cursor.stream} is no part of one")

    def _close(self, taken: Taken, head: FeedHead) -> None:
        """The bundle as of a checkpoint, with the latest cosigned one that is not ahead of it."""
        size, note, earlier = taken.checkpoint.size, taken.note, b""
        kept = self._mirror.kept
        for cosigned in (head.cosigned, kept.cosigned if kept is not None else b""):
            stated = Checkpoint.parse(parse_note(cosigned).text) if cosigned else None
            if stated is None or stated.size > size:
                continue
            if stated == taken.checkpoint:
                note = cosigned
            else:
                earlier = cosigned
            break
        self._mirror.close(
            note,
            [key.encode() for key in head.vkeys],
            {terms.id: canonical_bytes(terms) for terms in head.instruments},
            witnesses=cosigners_of(head.witnesses, note, earlier),
            cosigned_note=earlier,
        )
