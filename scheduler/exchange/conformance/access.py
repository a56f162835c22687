"""Checks of who may what: only where identities are given, since plaintext is a process of this machine."""

from __future__ import annotations

import grpc

from scheduler.exchange.addresses import host_of, is_loopback
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.conformance.callers import Calls
from scheduler.exchange.conformance.outcome import Failed, Refusal, Skipped, must, refusal_of, refused
from scheduler.exchange.conformance.session import Session
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.v1 import delivery_pb2, positions_pb2

_NO = grpc.StatusCode.PERMISSION_DENIED
_CODE = "UNAUTHORISED"


def strangers_get_nothing(target: Target) -> str:
    """Without a certificate nothing is answered; in plaintext only to this machine."""
    if not target.secure:
        must(is_loopback(host_of(target.options.address)), "plaintext is answered off loopback")
        return "plaintext, on a loopback address"
    with grpc.insecure_channel(target.options.address, options=CHANNEL_OPTIONS) as channel:
        try:
            Calls.over(channel).positions.ListInstruments(
                positions_pb2.ListInstrumentsRequest(), timeout=target.timeout_s
            )
        except grpc.RpcError as failed:
            refusal = refusal_of(failed)
            must(refusal.code is grpc.StatusCode.UNAVAILABLE, f"{refusal}, expected no connection at all")
            return "no connection without a certificate"
    raise Failed("a caller without a certificate was answered")


def account_sees_its_own(target: Target) -> str:
    """Not those of others, and no stream of events, which would have gaps."""
    account, calls = _peer(target, Role.ACCOUNT)
    own = calls.positions.GetSnapshot(positions_pb2.GetSnapshotRequest(), timeout=target.timeout_s)
    others = sorted({each.account for each in own.positions} - {account.name})
    must(not others, f"{account} sees positions of {others[0]}" if others else "")
    asked = positions_pb2.GetSnapshotRequest(account=f"{account.name}-2")
    refused(lambda: calls.positions.GetSnapshot(asked, timeout=target.timeout_s), _NO, _CODE)
    return str(refused(lambda: list(target.watch(own.cursor, calls)), _NO, _CODE))


def account_trades_for_itself(target: Target) -> str:
    """Not for others, and lists nothing."""
    account, calls = _peer(target, Role.ACCOUNT)
    terms = target.market.terms()
    request = positions_pb2.TradeRequest(
        request_id=f"conformance-{target.run}-other", account=f"{account.name}-2", instrument=terms.id, lots=1
    )
    seen = _not_allowed(lambda: calls.trading.Trade(request, timeout=target.timeout_s))
    listing = positions_pb2.ListInstrumentRequest()
    _not_allowed(lambda: calls.trading.ListInstrument(listing, timeout=target.timeout_s))
    return str(seen)


def cluster_publishes_its_own(target: Target) -> str:
    """On the stream of its own name, and trades nothing."""
    cluster, calls = _peer(target, Role.CLUSTER)
    log = target.log()
    opening = delivery_pb2.PublishOpen(stream=f"{cluster.name}-2", epoch=1, vkey=log.vkey)
    refusal = refused(lambda: Session(calls.delivery, opening, target.timeout_s), _NO, _CODE)
    request = positions_pb2.CorrectRequest(request_id=f"conformance-{target.run}-c", position="pos-1", lots=0)
    _not_allowed(lambda: calls.trading.Correct(request, timeout=target.timeout_s))
    return str(refusal)


def auditor_only_reads(target: Target) -> str:
    """All of it, and changes nothing."""
    auditor, calls = _peer(target, Role.AUDITOR)
    calls.positions.GetSnapshot(positions_pb2.GetSnapshotRequest(), timeout=target.timeout_s)
    opening = delivery_pb2.PublishOpen(stream=auditor.name, epoch=1, vkey=target.log().vkey)
    refused(lambda: Session(calls.delivery, opening, target.timeout_s), _NO, _CODE)
    request = positions_pb2.TradeRequest(
        request_id=f"conformance-{target.run}-a", account=auditor.name, instrument=target.market.terms().id, lots=1
    )
    return str(_not_allowed(lambda: calls.trading.Trade(request, timeout=target.timeout_s)))


def statement_is_its_owners(target: Target) -> str:
    """Nobody's statement is told to another account."""
    _, calls = _peer(target, Role.ACCOUNT)
    request = delivery_pb2.GetStatementRequest(position=f"no-such-{target.run}")
    return str(refused(lambda: calls.delivery.GetStatement(request, timeout=target.timeout_s), _NO, _CODE))


def _peer(target: Target, role: Role) -> tuple[Peer, Calls]:
    found = target.peers(role)
    if not found:
        raise Skipped(f"needs an --identity of {role}/NAME")
    return found[0], target.as_peer(found[0])


def _not_allowed(call: object) -> Refusal | str:
    """The refusal of a call to a service that need not be there."""
    try:
        return refused(call, _NO, _CODE)  # type: ignore[arg-type]
    except Failed as failed:
        if str(failed).startswith("UNIMPLEMENTED"):
            return "there is no TradingService"
        raise
