"""The actor of one pool: a replica behind Ray. Workers import this module: Tenor is installed wherever they run."""

from __future__ import annotations

from scheduler.collecting import collections_wait
from scheduler.planners.replica import ReplicaServer


class PoolActor:
    """Serves one pool's replica, one ask after the other; the collector of garbage waits meanwhile."""

    def __init__(self) -> None:
        self._server = ReplicaServer()

    def serve(self, body: bytes) -> bytes:
        """See ReplicaServer."""
        with collections_wait():
            return self._server.serve(body)
