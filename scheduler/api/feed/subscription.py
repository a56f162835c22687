"""One subscriber: how many leaves it may still be sent, and what its sender waits for.

The subscriber's grants come in on a thread of their own, since gRPC gives them one after the other and waits in
between; the sender waits for a grant, for new leaves, or for the time of the next heartbeat, whichever comes first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from scheduler.core.errors import InvalidValue, TenorError
from scheduler.exchange.v1 import feed_pb2

MOST_CREDITS = 1_000_000


class Subscription:
    """See the module. Its sender calls `take` and `wait`; everybody else the rest."""

    def __init__(self, granted: int) -> None:
        self._guard = threading.Condition()
        self._credits = _checked(granted, 0)
        self._failure: TenorError | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether the subscriber left, or the server stops."""
        return self._over

    @property
    def credits(self) -> int:
        """How many leaves may be sent. Raises what was wrong with a grant."""
        with self._guard:
            if self._failure is not None:
                raise self._failure
            return self._credits

    def take(self, leaves: int) -> None:
        """So many were sent."""
        with self._guard:
            self._credits -= leaves

    def wait(self, timeout_s: float) -> None:
        """Returns when something may have changed, or after the timeout."""
        with self._guard:
            if not self._over and self._failure is None:
                self._guard.wait(timeout_s)

    def wake(self) -> None:
        """Something changed."""
        with self._guard:
            self._guard.notify_all()

    def end(self) -> None:
        """Nothing more is to be sent."""
        with self._guard:
            self._over = True
            self._guard.notify_all()

    def follow(self, requests: Iterator[feed_pb2.SubscribeRequest]) -> None:
        """Takes the grants as they come, on a thread that ends with the call."""
        threading.Thread(target=self._granted, args=(requests,), name="feed-grants", daemon=True).start()

    def _granted(self, requests: Iterator[feed_pb2.SubscribeRequest]) -> None:
        try:
            for request in requests:
                if request.WhichOneof("kind") != "grant":
                    raise InvalidValue("kind", "a subscription", request.WhichOneof("kind"), "open first, then grants")
                with self._guard:
                    self._credits = _checked(request.grant.credits, self._credits)
                    self._guard.notify_all()
        except TenorError as error:
            with self._guard:
                self._failure = error
                self._guard.notify_all()
        except grpc.RpcError:
            self.end()  # the call is over: that is how gRPC ends the requests of one that was cancelled


def _checked(granted: int, before: int) -> int:
    if not granted or before + granted > MOST_CREDITS:
        raise InvalidValue("credits", "a subscription", granted, f"1 or more, and at most {MOST_CREDITS} unused")
    return before + granted
