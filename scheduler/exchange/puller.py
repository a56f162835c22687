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
from types import TracebackType
from typing import Protocol, Self

from scheduler.core.errors import Refused, SequenceGap, TenorError, Unauthorised
from scheduler.exchange.errors import CursorCompacted, retry_pause_s
from scheduler.exchange.feed_client import CREDITS, FeedAlive, FeedClient, FeedHead, FeedSubscription
from scheduler.exchange.following import Follower, Place, Taken
from scheduler.exchange.tls import Tls
from scheduler.ledger.keys import VerifierKey

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


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


class Puller:
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
        self._address = address
        self._keeper = keeper
        self._whole = whole
        self._most_replayed = most_replayed
        self._granted = granted
        self._tls = tls
        self._chance = chance or random.Random()
        self._follower = Follower(keeper.place(), trusted)
        self._snapshot_due = False
        self._gap_at: int | None = None
        self._stop = threading.Event()
        self._guard = threading.Condition()
        self._status = PullStatus(PullState.CONNECTING, self._follower.place.range.size)
        self._open: FeedSubscription | None = None
        self._thread = threading.Thread(target=self._run, name="feed-puller", daemon=True)

    def start(self) -> Self:
        """Begins; gives itself."""
        self._thread.start()
        return self

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

    def stop(self) -> None:
        """Ends the thread and waits for it. Stopping twice does nothing."""
        self._stop.set()
        with self._guard:
            subscription = self._open
        if subscription is not None:
            subscription.cancel()
        if self._thread.is_alive():
            self._thread.join()
        if self.status().state is not PullState.FROZEN:
            self._note(state=PullState.STOPPED)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            before = self.status()
            if not self._pulled():
                return
            after = self.status()
            if (after.taken, after.heard_ms) != (before.taken, before.heard_ms):
                pause_s = FIRST_PAUSE_S
            told_s = 0.0 if after.error is None else retry_pause_s(after.error, 0.0)
            self._stop.wait(max(told_s, pause_s * self._chance.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _pulled(self) -> bool:
        """One connection, from its beginning to its end; False where there must not be another."""
        try:
            if self._tls is not None:
                self._tls.check()
            address = self._address if isinstance(self._address, str) else self._address()
            with FeedClient(address, tls=self._tls) as client:
                self._pull(client)
        except CursorCompacted as error:
            if self._whole:
                return self._frozen(f"{error.code}: {error}; every leaf is wanted", error)
            self._snapshot_due = True
            self._note(state=PullState.CONNECTING, detail=f"{error.code}: {error}", error=error)
        except (SequenceGap, Unauthorised) as error:  # something was left out, or a key changed: ask again, once
            taken = self._follower.place.range.size
            if self._gap_at == taken:
                return self._frozen(f"{error.code}: {error}", error)
            self._gap_at = taken
            self._note(state=PullState.CONNECTING, detail=f"{error.code}: {error}", error=error)
        except Refused as error:
            return self._frozen(f"{error.code}: {error}", error)
        except TenorError as error:
            self._note(state=PullState.CONNECTING, detail=f"{error.code}: {error}", error=error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must be seen, not end a thread in silence
            return self._frozen(f"unexpected {type(error).__name__}: {error}", None)
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
