"""What a check can come to, and what a refusal must say so that a caller can tell what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from scheduler.exchange.errors import DOMAIN, call_of

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_LONGEST = 600


class Failed(Exception):
    """The server does otherwise; the text says what was seen."""


class Skipped(Exception):
    """The check could not be made; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused: its code, the reason of its `ErrorInfo`, the fields that it named."""

    code: grpc.StatusCode
    said: str
    reason: str = ""
    domain: str = ""
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason or '(no ErrorInfo)'}: {self.said}"


def must(holds: bool, seen: str) -> None:  # noqa: FBT001 - reads as the sentence that it is
    """Raises Failed with what was seen, unless it holds."""
    if not holds:
        raise Failed(seen[:_LONGEST])


def refusal_of(failed: grpc.RpcError) -> Refusal:
    """What a failed call said."""
    call = call_of(failed)
    if call is None:
        raise Failed(f"a call failed without a status: {failed!r}")
    said = (call.details() or "")[:_LONGEST]
    try:
        status = rpc_status.from_call(call)
    except ValueError as error:
        raise Failed(f"{call.code().name} with details of another status: {error}") from failed
    reason, domain, fields = "", "", []
    for detail in status.details if status is not None else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, domain = info.reason, info.domain
        elif detail.Unpack(request):
            fields += [each.field for each in request.field_violations]
    return Refusal(call.code(), said, reason, domain, tuple(fields))


def refused(call: Callable[[], object], code: grpc.StatusCode, *reasons: str) -> Refusal:
    """The refusal that a call must come to. Raises Failed where it is taken, or refused in another way."""
    try:
        answer = call()
    except grpc.RpcError as failed:
        refusal = refusal_of(failed)
    else:
        raise Failed(f"it was taken: {str(answer)[:200] or 'an answer without content'}")
    return checked_refusal(refusal, (code,), reasons)


def checked_refusal(refusal: Refusal, codes: Collection[grpc.StatusCode], reasons: Collection[str] = ()) -> Refusal:
    """The refusal, where it is one of these and typed. Raises Failed."""
    must(refusal.code not in _RETRIED or refusal.code in codes, f"a code that is tried again for ever: {refusal}")
    expected = " or ".join(code.name for code in codes)
    must(refusal.code in codes, f"{refusal}, expected {expected}")
    must(bool(refusal.reason), f"{refusal.code.name} without an ErrorInfo: {refusal.said}")
    must(refusal.domain == DOMAIN, f"an ErrorInfo of the domain {refusal.domain!r}, expected {DOMAIN}")
    must(not reasons or refusal.reason in reasons, f"{refusal}, expected the reason {' or '.join(reasons)}")
    return refusal
