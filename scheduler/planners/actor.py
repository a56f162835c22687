"""The actor of one pool: a replica behind Ray. Workers import this module: Tenor is installed wherever they run."""

from __future__ import annotations

from scheduler.planners.replica import ReplicaServer


class PoolActor:
    """Serves one pool's replica, one ask after the other."""

    def __init__(self) -> None:
        self._server = ReplicaServer()

    def serve(self, body: bytes) -> bytes:
        """See ReplicaServer."""
        return self._server.serve(body)
