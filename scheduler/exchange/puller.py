"""Delivery in, for those that pull: a thread that keeps a copy of a cluster's log, across every loss of either side.

It asks where the log stands, subscribes from the place that its keeper has, and grants as many leaves as the keeper has
made durable, so that neither side ever holds more. Where the leaves after its place are gone, are of a log that began
anew, or are too many, it takes a snapshot and goes on from there, with nothing missed in between; a keeper that wants
every leaf is told instead. What contradicts itself or its signatures freezes the puller, visibly; what was kept stays.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from scheduler.core.errors import Refused, SequenceGap, TenorError, Unauthorised
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.feed_client import CREDITS, FeedAlive, FeedClient, FeedHead, FeedSubscription
from scheduler.exchange.following import Follower, Place, Taken
from scheduler.exchange.tls import Tls
from scheduler.ledger.keys import VerifierKey


class Keeper(Protocol):
    """Who keeps the copy. What `place` says after a crash is what it has then; a call that raises changed nothing that
    it does not say.
    """

    def place(self) -> Place | None:
        """How much it has; None: nothing."""

    def take(self, taken: Taken, head: FeedHead) -> None:
        """Leaves that follow what it has, proven; at a checkpoint that is reached, the head is of just now."""

    def restore(self, head: FeedHead, leaves: Iterator[tuple[int, bytes]]) -> None:
        """Everything as of the head's cursor, in place of what it has. `leaves` raises where they prove wrong: nothing
        of them is to be kept then.
        """


class PullState(StrEnum):
    """How the puller stands."""

    CONNECTING = "connecting"
    PULLING = "pulling"
    FROZEN = "frozen"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PullStatus:
    """`taken`: leaves that the keeper has. `caught_up`: whether that was all, when it was last heard. `heard_ms`: the
    cluster's clock then. `detail`: the last error, or why it is frozen.
    """

    state: PullState
    taken: int
    caught_up: bool = False
    detail: str = ""
    heard_ms: int = 0
    snapshots: int = 0
    error: TenorError | None = None


class Puller(Dialling):
    """See the module. `address`: where the feed is, or who says it anew for each time that it is dialled. `trusted`:
    the log's keys to believe; none: the first that it names. `whole`: every leaf is wanted, and no snapshot in its
    place. `most_replayed`: behind by more leaves than this, a snapshot is taken.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        keeper: Keeper,
        *,
        trusted: Sequence[VerifierKey] = (),
        whole: bool = False,
        most_replayed: int = 1_000_000,
        granted: int = CREDITS,
        tls: Tls | None = None,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__("feed-puller", chance=chance)
        self._address = address
        self._keeper = keeper
        self._whole = whole
        self._most_replayed = most_replayed
        self._granted = granted
        self._tls = tls
        self._follower = Follower(keeper.place(), trusted)
        self._snapshot_due = False
        self._gap_at: int | None = None
        self._guard = threading.Condition()
        self._status = PullStatus(PullState.CONNECTING, self._follower.place.range.size)
        self._open: FeedSubscription | None = None

    def status(self) -> PullStatus:
        """How it stands."""
        with self._guard:
            return self._status

    def wait(self, size: int, timeout_s: float | None = None) -> bool:
        """Whether the keeper has the first `size` leaves, or all that there are where `size` is 0: waits until it has,
        the timeout, or the end.
        """

        def has() -> bool:
            status = self._status
            return status.taken >= size if size else status.caught_up

        over = (PullState.FROZEN, PullState.STOPPED)
        with self._guard:
            self._guard.wait_for(lambda: has() or self._status.state in over, timeout_s)
            return has()

    def _hang_up(self) -> None:
        with self._guard:
            subscription = self._open
        if subscription is not None:
            subscription.cancel()

    def _stopped(self) -> None:
        if self.status().state is not PullState.FROZEN:
            self._note(state=PullState.STOPPED)

    def _progress(self) -> object:
        status = self.status()
        return status.taken, status.heard_ms

    def _dial(self) -> None:
        if self._tls is not None:
            self._tls.check()
        address = self._address if isinstance(self._address, str) else self._address()
        with FeedClient(address, tls=self._tls) as client:
            self._pull(client)

    def _told(self, error: Exception) -> bool:
        match error:
            case CursorCompacted() if self._whole:
                return self._frozen(f"{said_of(error)}; every leaf is wanted", error)
            case CursorCompacted():
                self._snapshot_due = True
            case SequenceGap() | Unauthorised():  # something was left out, or a key changed: ask again, once
                taken = self._follower.place.range.size
                if self._gap_at == taken:
                    return self._frozen(said_of(error), error)
                self._gap_at = taken
            case TenorError() if not isinstance(error, Refused):
                pass
            case _:
                return self._frozen(said_of(error), error if isinstance(error, TenorError) else None)
        self._note(state=PullState.CONNECTING, detail=said_of(error), error=error)
        return True

    def _pull(self, client: FeedClient) -> None:
        """Takes leaves until the cluster is lost. Raises what the cluster or the keeper raises."""
        follower = self._follower
        if self._snapshot_due:
            self._restore(client)
        else:
            follower.learn(client.head())
        behind = follower.head.cursor.seq - follower.place.range.size
        if behind > self._most_replayed and not self._whole:
            self._restore(client)
        subscription = client.subscribe(follower.cursor, self._granted)
        with self._guard:
            self._open = subscription
        if self._stop.is_set():
            subscription.cancel()
        try:
            for told in subscription:
                if isinstance(told, FeedAlive):
                    caught_up = follower.beat(told)
                    self._heard(caught_up=caught_up, heard_ms=told.at_ms)
                    continue
                taken = follower.take(told)
                if taken is not None:
                    self._keep(client, taken)
                    self._heard(taken=taken.place.range.size, caught_up=taken.reached)
                subscription.grant(len(told.leaves))
        finally:
            with self._guard:
                self._open = None

    def _keep(self, client: FeedClient, taken: Taken) -> None:
        """Hands leaves to the keeper. Raises what it raises, with the place that it has then."""
        follower = self._follower
        try:
            if taken.reached:  # keys and listings that came since
                follower.learn(client.head())
            self._keeper.take(taken, follower.head)
        except BaseException:
            follower.place = self._keeper.place() or Place()
            raise

    def _restore(self, client: FeedClient) -> None:
        head, sent = client.snapshot()
        before = self._follower.place
        try:
            self._keeper.restore(head, self._follower.restored(head, sent))
        except BaseException:
            self._follower.place = before
            raise
        self._snapshot_due = False
        self._note(taken=head.cursor.seq, snapshots=self.status().snapshots + 1)

    def _heard(self, **changes: object) -> None:
        self._gap_at = None
        self._note(state=PullState.PULLING, detail="", error=None, **changes)

    def _frozen(self, detail: str, error: TenorError | None) -> bool:
        self._note(state=PullState.FROZEN, detail=detail, error=error)
        return False

    def _note(self, **changes: object) -> None:
        with self._guard:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
            self._guard.notify_all()
