"""Who may ask the feed for what: one line a method. Exchanges and auditors read the log, an account what is owed for
its own positions, and proofs are hashes, for everybody.
"""

from __future__ import annotations

from scheduler.core.errors import Unauthorised
from scheduler.exchange.admission import Rule, anybody, only
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.v1 import delivery_pb2
from scheduler.service import Scheduler

FEED = "tenor.exchange.v1.DeliveryFeed"
EVIDENCE = "tenor.exchange.v1.EvidenceService"


def rules(scheduler: Scheduler) -> dict[str, Rule]:
    """The rule of every method, by its full name."""
    readers = only(Role.ADMIN, Role.EXCHANGE, Role.AUDITOR)
    return {
        f"/{FEED}/Subscribe": readers,
        f"/{FEED}/Replay": readers,
        f"/{FEED}/GetSnapshot": readers,
        f"/{FEED}/GetStatement": _Own(scheduler).statement,
        f"/{FEED}/GetDeliverable": readers,
        f"/{FEED}/GetBacking": readers,
        f"/{EVIDENCE}/GetCheckpoint": anybody,
        f"/{EVIDENCE}/GetInclusionProof": anybody,
        f"/{EVIDENCE}/GetConsistencyProof": anybody,
        f"/{EVIDENCE}/AddCosignature": only(Role.EXCHANGE, Role.AUDITOR),  # places for witnesses are few
    }


class _Own:
    """The rule that compares the peer with what the request is about."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def statement(self, peer: Peer, request: delivery_pb2.GetStatementRequest) -> delivery_pb2.GetStatementRequest:
        """An account has its own."""
        if peer.role in (Role.LOCAL, Role.ADMIN, Role.EXCHANGE, Role.AUDITOR):
            return request
        with self._scheduler.guard:
            position = self._scheduler.state.book.positions.get(request.position)
        if peer.role is not Role.ACCOUNT or position is None or position.account != peer.name:
            # one that is not there sounds the same, so that nobody learns which there are
            raise Unauthorised(f"{peer} may not ask for the statement of {request.position[:200]}: it is not its own")
        return request
