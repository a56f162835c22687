"""Who may ask the API for what: one line a method. An account has its own positions and jobs; exchanges and auditors
see what was sold, what backs it and what is owed, and no job; the cluster's admins see and do everything.
"""

from __future__ import annotations

from typing import Any, TypeVar

from scheduler.api.v1 import api_pb2 as wire
from scheduler.core.errors import Unauthorised, UnknownName
from scheduler.exchange.admission import Rule, only
from scheduler.exchange.peers import Peer, Role
from scheduler.service import Scheduler

SERVICE = "tenor.api.v1.Scheduler"

_Listing = TypeVar("_Listing", wire.ListPositionsRequest, wire.ListJobsRequest)
_EVERYTHING = frozenset({Role.LOCAL, Role.ADMIN})
_DELIVERY = frozenset({Role.EXCHANGE, Role.AUDITOR})


def rules(scheduler: Scheduler) -> dict[str, Rule]:
    """The rule of every method, by its full name."""
    own = _Own(scheduler)
    delivery = only(Role.ADMIN, Role.EXCHANGE, Role.AUDITOR)
    admin = only(Role.ADMIN)
    each: dict[str, Rule] = {
        "GetStatus": delivery,
        "ListPositions": own.positions,
        "ListJobs": own.jobs,
        "GetJob": own.job,
        "Why": own.why,
        "GetFleet": admin,
        "GetCoverage": own.coverage,
        "GetDeliverable": delivery,
        "GetBacking": delivery,
        "GetStatement": own.statement,
        "ListDisputes": delivery,
        "AnswerDispute": admin,
        "Submit": own.submission,
        "Cancel": own.job,
        "Drain": admin,
        "Mark": admin,
        "Recall": admin,
        "Release": own.release,
        "DeclareForceMajeure": admin,
        "Logs": own.job,
        "WatchEvents": admin,
    }
    return {f"/{SERVICE}/{method}": rule for method, rule in each.items()}


class _Own:
    """Rules that compare the peer with what the request is about."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def positions(self, peer: Peer, request: wire.ListPositionsRequest) -> wire.ListPositionsRequest:
        """An account lists its own; exchanges and auditors list all."""
        return request if peer.role in _DELIVERY else _of_own_account(peer, request, "positions")

    def jobs(self, peer: Peer, request: wire.ListJobsRequest) -> wire.ListJobsRequest:
        """An account lists its own; jobs are nobody else's business."""
        return _of_own_account(peer, request, "jobs")

    def job(self, peer: Peer, request: Any) -> Any:
        """One job of the account's."""
        if peer.role in _EVERYTHING:
            return request
        if peer.role is not Role.ACCOUNT or self._account_of_job(request.job) != peer.name:
            raise _refused(peer, f"job {request.job}")
        return request

    def why(self, peer: Peer, request: wire.WhyRequest) -> wire.WhyRequest:
        """One job of the account's, and nothing of others' work; those that see everything may ask as an account."""
        self.job(peer, request)
        return request if peer.role in _EVERYTHING else wire.WhyRequest(job=request.job, told_to=peer.name)

    def coverage(self, peer: Peer, request: wire.GetCoverageRequest) -> wire.GetCoverageRequest:
        """An account asks for one position, its own."""
        if peer.role in _EVERYTHING or peer.role in _DELIVERY:
            return request
        if not request.position:
            raise Unauthorised(f"{peer} may not see the coverage of all: name one of its own positions")
        self._check_position(peer, request.position, "the coverage")
        return request

    def statement(self, peer: Peer, request: wire.GetStatementRequest) -> wire.GetStatementRequest:
        """What is owed for a position of the account's."""
        if peer.role not in _EVERYTHING and peer.role not in _DELIVERY:
            self._check_position(peer, request.position, "the statement")
        return request

    def release(self, peer: Peer, request: wire.ReleaseRequest) -> wire.ReleaseRequest:
        """An account releases what is its own; admins may for it."""
        if peer.role not in _EVERYTHING:
            self._check_position(peer, request.position, "the release")
        return request

    def submission(self, peer: Peer, request: wire.SubmitRequest) -> wire.SubmitRequest:
        """An account submits its own jobs."""
        if peer.role not in _EVERYTHING and (peer.role, peer.name) != (Role.ACCOUNT, request.spec.account):
            raise _refused(peer, f"jobs of account {request.spec.account}")
        return request

    def _check_position(self, peer: Peer, name: str, what: str) -> None:
        with self._scheduler.guard:
            position = self._scheduler.state.book.positions.get(name)
        if peer.role is not Role.ACCOUNT or position is None or position.account != peer.name:
            raise _refused(peer, f"{what} of {name}")

    def _account_of_job(self, name: str) -> str | None:
        try:
            with self._scheduler.guard:
                return self._scheduler.state.gangs.get(name).account
        except UnknownName:  # said like somebody else's, so that nobody learns which there are
            return None


def _of_own_account(peer: Peer, request: _Listing, what: str) -> _Listing:
    """The request for the account's own, where it names none. Raises Unauthorised for another's."""
    if peer.role in _EVERYTHING:
        return request
    if peer.role is not Role.ACCOUNT or request.account not in ("", peer.name):
        raise _refused(peer, f"{what} of {request.account or 'all accounts'}")
    narrowed = type(request)()
    narrowed.CopyFrom(request)
    narrowed.account = peer.name
    return narrowed


def _refused(peer: Peer, what: str) -> Unauthorised:
    return Unauthorised(f"{peer} may not ask for {what[:200]}: it is not its own")
