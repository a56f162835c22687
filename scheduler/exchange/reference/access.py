"""Who may ask the exchange for what: one line a method. An account has its own positions, a cluster its own stream; the
venue's own people do what changes the market; auditors read all of it; proofs are hashes, and for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.errors import Unauthorised, UnknownName
from scheduler.exchange.admission import Rule, anybody, only
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.reference.intake import Intake
from scheduler.exchange.reference.venue import Venue
from scheduler.exchange.v1 import delivery_pb2, disputes_pb2, positions_pb2, probes_pb2

_READERS = frozenset({Role.LOCAL, Role.EXCHANGE, Role.AUDITOR})


def rules(venue: Venue, intake: Intake) -> dict[str, Rule]:
    """The rule of every method, by its full name."""
    positions, trading = "/tenor.exchange.v1.PositionService/", "/tenor.exchange.v1.TradingService/"
    delivery, evidence = "/tenor.exchange.v1.DeliveryService/", "/tenor.exchange.v1.EvidenceService/"
    disputes = "/tenor.exchange.v1.DisputeService/"
    probes = "/tenor.exchange.v1.ProbeService/"
    own = _Own(venue, intake)
    return {
        positions + "ListInstruments": anybody,
        positions + "GetSnapshot": own.snapshot,
        positions + "Watch": only(Role.CLUSTER, Role.EXCHANGE, Role.AUDITOR),  # with gaps it would be no sequence
        trading + "ListInstrument": only(Role.EXCHANGE),
        trading + "Trade": own.trade,
        trading + "Transfer": own.transfer,
        trading + "Correct": only(Role.EXCHANGE),
        trading + "Consent": own.consent,
        delivery + "Publish": own.publishing,
        delivery + "GetStatement": own.statement,
        disputes + "OpenDispute": own.dispute,
        disputes + "ListDisputes": own.disputes,
        **{
            probes + name: own.probing
            for name in ("NextProbe", "RevealNonce", "AnswerProbe", "OpenRows", "DeclineProbe")
        },
        probes + "ListProbes": own.probes,
        evidence + "GetCheckpoint": anybody,
        evidence + "GetInclusionProof": anybody,
        evidence + "GetConsistencyProof": anybody,
        evidence + "AddCosignature": only(Role.EXCHANGE, Role.AUDITOR),  # places for witnesses are few
    }


_Probing = (
    probes_pb2.NextProbeRequest
    | probes_pb2.RevealNonceRequest
    | probes_pb2.AnswerProbeRequest
    | probes_pb2.OpenRowsRequest
    | probes_pb2.DeclineProbeRequest
)


class _Own:
    """Rules that compare the peer with what the request is about."""

    def __init__(self, venue: Venue, intake: Intake) -> None:
        self._venue = venue
        self._intake = intake

    def snapshot(self, peer: Peer, request: positions_pb2.GetSnapshotRequest) -> positions_pb2.GetSnapshotRequest:
        """An account sees its own positions."""
        if peer.role in _READERS or peer.role is Role.CLUSTER:
            return request
        if peer.role is not Role.ACCOUNT:
            raise _refused(peer, "positions")
        if request.account not in ("", peer.name):
            raise _refused(peer, f"positions of {request.account}")
        return positions_pb2.GetSnapshotRequest(stream=request.stream, account=peer.name)

    def trade(self, peer: Peer, request: positions_pb2.TradeRequest) -> positions_pb2.TradeRequest:
        """An account buys for itself."""
        if not _may_trade(peer, request.account):
            raise _refused(peer, f"trades of {request.account}")
        return request

    def transfer(self, peer: Peer, request: positions_pb2.TransferRequest) -> positions_pb2.TransferRequest:
        """An account gives away what is its own."""
        if peer.role is Role.ACCOUNT and self._account_of(request.source) == peer.name:
            return request
        if not _may_trade(peer, ""):
            raise _refused(peer, f"transfers of {request.source}")
        return request

    def consent(self, peer: Peer, request: positions_pb2.ConsentRequest) -> positions_pb2.ConsentRequest:
        """An account consents for its own positions, and nobody for another: not the exchange, who profits from it."""
        own = peer.role is Role.ACCOUNT and self._account_of(request.position) == peer.name
        if not own and peer.role is not Role.LOCAL:
            raise _refused(peer, f"consents of {request.position}")
        return request

    def publishing(
        self, peer: Peer, requests: Iterator[delivery_pb2.PublishRequest]
    ) -> Iterator[delivery_pb2.PublishRequest]:
        """A cluster speaks on the stream of its own name."""
        for request in requests:
            if request.HasField("open") and peer.role is not Role.LOCAL:
                stream = request.open.stream
                if peer.role is not Role.CLUSTER or stream != peer.name:
                    raise Unauthorised(f"{peer} may not publish on stream {stream!r}, that is for cluster/{stream}")
            yield request

    def statement(self, peer: Peer, request: delivery_pb2.GetStatementRequest) -> delivery_pb2.GetStatementRequest:
        """An account has its own, a cluster those of the positions that it delivered to."""
        position = request.position
        match peer.role:
            case Role.ACCOUNT:
                allowed = self._account_of(position) == peer.name
            case Role.CLUSTER:
                allowed = self._intake.streams_of(position) <= {peer.name}
            case _:
                allowed = peer.role in _READERS
        if not allowed:
            raise _refused(peer, f"the statement of {position}")
        return request

    def dispute(self, peer: Peer, request: disputes_pb2.OpenDisputeRequest) -> disputes_pb2.OpenDisputeRequest:
        """An account disputes records of its own positions, the exchange any."""
        own = peer.role is Role.ACCOUNT and self._account_of(request.position) == peer.name
        if not own and peer.role not in (Role.LOCAL, Role.EXCHANGE):
            raise _refused(peer, f"a dispute of {request.position}")
        return request

    def disputes(self, peer: Peer, request: disputes_pb2.ListDisputesRequest) -> disputes_pb2.ListDisputesRequest:
        """An account sees its own, a cluster those about its stream."""
        asked = disputes_pb2.ListDisputesRequest()
        asked.CopyFrom(request)
        if peer.role is Role.ACCOUNT and request.account in ("", peer.name):
            asked.account = peer.name
        elif peer.role is Role.CLUSTER and request.stream in ("", peer.name):
            asked.stream = peer.name
        elif peer.role not in _READERS:
            raise _refused(peer, f"disputes of {request.account or request.stream or 'all'}")
        return asked

    def probing(self, peer: Peer, request: _Probing) -> _Probing:
        """A cluster lets its own devices compute."""
        if peer.role is not Role.LOCAL and (peer.role is not Role.CLUSTER or request.stream != peer.name):
            raise _refused(peer, f"probes of {request.stream}")
        return request

    def probes(self, peer: Peer, request: probes_pb2.ListProbesRequest) -> probes_pb2.ListProbesRequest:
        """A cluster sees those of its own devices."""
        if peer.role in _READERS:
            return request
        if peer.role is not Role.CLUSTER or request.stream not in ("", peer.name):
            raise _refused(peer, f"probes of {request.stream or 'all'}")
        return probes_pb2.ListProbesRequest(stream=peer.name, after=request.after)

    def _account_of(self, position: str) -> str | None:
        try:
            return self._venue.position(position).account
        except UnknownName:  # said like somebody else's, so that nobody learns which there are
            return None


def _may_trade(peer: Peer, account: str) -> bool:
    own = peer.role is Role.ACCOUNT and peer.name == account
    return own or peer.role in (Role.LOCAL, Role.EXCHANGE)


def _refused(peer: Peer, what: str) -> Unauthorised:
    return Unauthorised(f"{peer} may not ask for {what[:200]}: they are not its own")
