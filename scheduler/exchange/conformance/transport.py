"""Checks of the connection: health, reflection, pings, sizes, deadlines."""

from __future__ import annotations

import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from scheduler.exchange.channels import CHANNEL_OPTIONS, MOST_RECEIVED_BYTES
from scheduler.exchange.conformance.callers import Calls
from scheduler.exchange.conformance.delivery import pools
from scheduler.exchange.conformance.outcome import Failed, must, refusal_of
from scheduler.exchange.conformance.session import Session
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.tls import opened
from scheduler.exchange.v1 import delivery_pb2, positions_pb2

PING_MS = 5_000
PINGS = 6
"""A server of gRPC that takes none so often ends the connection at the fifth."""
_LOOKS = 4
"""How often it is looked, between two pings, whether the stream lives."""
_ABANDONED = 20
_ABANDONED_AFTER_S = 0.02
_FREED_S = 10.0
_LIST_SERVICES = b"\x3a\x00"  # a ServerReflectionRequest with an empty `list_services`
_SERVICES = ("PositionService", "DeliveryService", "EvidenceService")


def health_is_told(target: Target) -> str:
    """The health service answers for the server and for each service."""
    for name in ("", *(f"tenor.exchange.v1.{each}" for each in _SERVICES)):
        answer = target.reader().health.Check(health_pb2.HealthCheckRequest(service=name), timeout=target.timeout_s)
        state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        must(state == "SERVING", f"{name or 'the server'} is {state}")
    return "SERVING"


def reflection_is_off(target: Target) -> str:
    """What there is to call is no secret, and nobody needs to be asked."""
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        ask: Any = target.reader().channel.stream_stream(method)
        try:
            answers = list(ask(iter([_LIST_SERVICES]), timeout=target.timeout_s))
        except grpc.RpcError as failed:
            refusal = refusal_of(failed)
            must(refusal.code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED), str(refusal))
        else:
            raise Failed(f"reflection {version} answered {len(answers)} times")
    return refusal.code.name


def pings_are_taken(target: Target) -> str:
    """A quiet publisher that pings each 5 s is not cut off for it."""
    return held_through_pings(target, PING_MS, PINGS)


def held_through_pings(target: Target, ping_ms: int, pings: int) -> str:
    """Whether a quiet stream lives through so many pings of a client, and still takes leaves."""
    log = target.log()
    peer = Peer(Role.CLUSTER, log.stream) if target.secure else None
    options = dict(CHANNEL_OPTIONS) | {"grpc.keepalive_time_ms": ping_ms, "grpc.keepalive_permit_without_calls": 1}
    channel = opened(
        target.options.address, None if peer is None else target.tls_of(peer), tuple(options.items()), "the target"
    )
    quiet_s = ping_ms * pings / 1_000
    first = log.add(*pools(target, 1))
    log.epoch += 1
    with channel, Session.on(channel, log.stream, log.epoch, log.vkey, target.timeout_s + quiet_s) as session:
        target.note(f"keeping a quiet stream open for {quiet_s:g} s")
        for _ in range(_LOOKS * pings):
            if not session.alive:
                break
            target.pause(ping_ms / 1_000 / _LOOKS)
        try:
            session.deliver(log.batch(first))
        except grpc.RpcError as failed:
            raise Failed(f"after {quiet_s:g} s with a ping each {ping_ms} ms: {refusal_of(failed)}") from failed
    return f"a quiet stream lived through {pings} pings"


def large_message_is_refused(target: Target) -> str:
    """A message of more than 16 MiB is refused for good, and the server goes on."""
    log = target.log()
    with target.session(log) as session:
        batch = delivery_pb2.Batch(first_index=len(log.leaves), leaves=[bytes(MOST_RECEIVED_BYTES + 1)])
        batch.checkpoint = log.note(len(log.leaves))
        session.send_batch(batch)
        try:
            session.receive()
        except grpc.RpcError as failed:
            refusal = refusal_of(failed)
        else:
            raise Failed("it was taken")
    codes = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
    must(refusal.code in codes, f"{refusal}, expected {' or '.join(code.name for code in codes)}")
    retried = refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED and bool(refusal.reason)
    must(not retried, f"{refusal}: with a reason of the server's own it is tried again for ever")
    target.snapshot()
    return f"{refusal.code.name}, and the server goes on"


def usual_batch_is_taken(target: Target) -> str:
    """512 leaves in one message, as clusters send them."""
    log = target.log()
    session = target.deliver(log, *pools(target, 512))
    must(not session.rejections, f"a sound leaf was rejected: {session.rejections[:1]}")
    return "512 leaves in one message"


def abandoned_streams_are_freed(target: Target) -> str:
    """Streams whose deadline is over take nobody's place."""
    cursor = target.snapshot().cursor
    request = positions_pb2.WatchRequest(cursor=cursor)
    calls = target.reader()
    for _ in range(_ABANDONED):
        _abandoned(calls, request)
    until = time.monotonic() + min(_FREED_S, target.timeout_s)
    while True:
        try:
            watch = calls.positions.Watch(request, timeout=target.timeout_s)
            next(watch)
            watch.cancel()
        except grpc.RpcError as failed:
            refusal = refusal_of(failed)
            if refusal.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > until:
                raise Failed(f"after {_ABANDONED} streams whose deadline was over: {refusal}") from failed
            target.pause(0.2)
        else:
            return f"{_ABANDONED} streams ended by their deadline, and the next is served"


def _abandoned(calls: Calls, request: positions_pb2.WatchRequest) -> None:
    try:
        for _ in calls.positions.Watch(request, timeout=_ABANDONED_AFTER_S):
            pass
    except grpc.RpcError:
        return
