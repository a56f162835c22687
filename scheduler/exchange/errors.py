"""Tenor's errors on the wire, and back: `google.rpc.Status` with an `ErrorInfo`, so that any gRPC client can read them.

The `ErrorInfo` carries the error's code as its reason, `tenor.dev` as its domain, and the error's fields as metadata; a
refused listing names each fault as a field violation. A client raises the same class that the server did. Only
`UNAVAILABLE` and `RESOURCE_EXHAUSTED` may be tried again: everything else would be refused again. Of a server that says
a code and no more, a code by which the same call would be refused again is a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from scheduler.core.errors import (
    Conflict,
    Damaged,
    Equivocation,
    Fenced,
    InvalidInstrument,
    InvalidValue,
    Oversold,
    Refused,
    SequenceGap,
    TenorError,
    Unauthorised,
    Unavailable,
    UnknownName,
)

DOMAIN = "tenor.dev"

_LONGEST_MESSAGE = 1_200
"""In bytes as a header has them: what is not ASCII is three for each byte."""
_SHORTEST_DETAIL, _LONGEST_DETAIL = 100, 1_000
_MOST_BYTES = 4_800
"""Of a status. gRPC takes trailers of 8 KiB, the message in them twice and the details in base64; of longer ones the
caller sees RESOURCE_EXHAUSTED in the error's stead, and tries again.
"""
_AROUND = 8
"""Bytes around one part of a list, at most."""
_LONGEST_RETRY_MS = 60_000
_DETAILS = "grpc-status-details-bin"
_TOO_LARGE = "message larger than max"  # what gRPC itself says of a message beyond either end's limit

Result = TypeVar("Result")


class CursorCompacted(SequenceGap):
    """The events after a cursor are no longer kept. Take a snapshot, then go on from its cursor."""

    code = "CURSOR_COMPACTED"


class VersionNotServed(Refused):
    """The caller speaks no version of the wire that the server serves, `least` to `most`: the older end is to be
    renewed.
    """

    code = "VERSION_NOT_SERVED"

    def __init__(self, asked_least: int, asked_most: int, least: int, most: int) -> None:
        super().__init__(
            f"the caller speaks version {asked_least} to {asked_most} of the wire, expected one of {least} to {most}"
        )
        self.least = least
        self.most = most


class Exhausted(Unavailable):
    """The receiver takes no more for now. The same call may succeed after `retry_ms`, where the receiver knows it."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, subject: str = "", retry_ms: int = 0) -> None:
        super().__init__(message)
        self.subject = subject
        self.retry_ms = retry_ms


class Overdue(Unavailable):
    """No answer came within the call's own deadline, or the call was cancelled. Whether it was done is not known: a
    call that may be sent twice may be sent again, by who knows that it may.
    """

    code = "OVERDUE"


class Untrusted(Unavailable):
    """No connection was made, since one end does not know the other: a certificate expired, is another authority's or
    another name's, or one end speaks plaintext. The same call may succeed once a person has looked; until then nothing
    is sent, and what was known stays.
    """

    code = "UNTRUSTED"


_CODES: dict[type[TenorError], int] = {
    InvalidValue: code_pb2.INVALID_ARGUMENT,
    InvalidInstrument: code_pb2.INVALID_ARGUMENT,
    UnknownName: code_pb2.NOT_FOUND,
    CursorCompacted: code_pb2.OUT_OF_RANGE,
    VersionNotServed: code_pb2.FAILED_PRECONDITION,
    SequenceGap: code_pb2.FAILED_PRECONDITION,
    Fenced: code_pb2.ABORTED,
    Equivocation: code_pb2.FAILED_PRECONDITION,
    Oversold: code_pb2.FAILED_PRECONDITION,
    Conflict: code_pb2.FAILED_PRECONDITION,
    Unauthorised: code_pb2.PERMISSION_DENIED,
    Refused: code_pb2.INVALID_ARGUMENT,
    Exhausted: code_pb2.RESOURCE_EXHAUSTED,
    Unavailable: code_pb2.UNAVAILABLE,
    Damaged: code_pb2.DATA_LOSS,
    TenorError: code_pb2.INTERNAL,
}
"""The status code of each class; a class that is not here has its nearest ancestor's."""

_CLASSES = {kind.code: kind for kind in _CODES}
_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
_FOR_GOOD: dict[grpc.StatusCode, type[Refused]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Refused,
    grpc.StatusCode.NOT_FOUND: Refused,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
    grpc.StatusCode.OUT_OF_RANGE: Refused,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.ABORTED: Refused,  # as who is fenced is told
    grpc.StatusCode.UNIMPLEMENTED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorised,
    grpc.StatusCode.PERMISSION_DENIED: Unauthorised,
}
"""What becomes of codes that come without our details, where the same call would be refused again."""


def status_of(error: TenorError) -> status_pb2.Status:
    """The error as a status with its details, cut to what travels in a call's trailers."""
    number = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    status = status_pb2.Status(code=number, message=_cut(str(error)))
    room = _MOST_BYTES - status.ByteSize()
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
    for name, value in sorted(vars(error).items()):
        if not name.startswith("_"):
            info.metadata[name] = _packed(value, max(_SHORTEST_DETAIL, min(_LONGEST_DETAIL, room - info.ByteSize())))
    status.details.add().Pack(info)
    violations = _violations(error, _MOST_BYTES - status.ByteSize())
    if violations:
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, Exhausted) and error.retry_ms:
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=status.message)
        status.details.add().Pack(error_details_pb2.QuotaFailure(violations=[quota]))
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def error_of(failed: grpc.RpcError, of: str = "the exchange") -> TenorError:
    """The error that the server raised, of the same class; where it said none, as the code says. `of`: who was asked,
    in messages.
    """
    call = call_of(failed)
    if call is None:
        return TenorError(f"{of} failed: {failed!r}")
    status = _status(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in _CLASSES and status is not None:
            return _raised(_CLASSES[info.reason], status.message, dict(info.metadata))
    code = call.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (call.details() or ""):
        return Refused(f"the message is larger than one end takes: {call.details()}")
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return Overdue(f"{of} did not answer: {code.name}, {call.details()}")
    if code in _RETRIED:
        return Unavailable(f"{of} did not answer: {code.name}, {call.details()}")
    if code in _FOR_GOOD:
        return _FOR_GOOD[code](f"{of} refused for good, without details of {DOMAIN}: {code.name}, {call.details()}")
    return TenorError(f"{of} failed: {code.name}, {call.details()}")


def is_retried(error: TenorError) -> bool:
    """Whether the same call may succeed a moment later, without anybody's doing."""
    return isinstance(error, Unavailable) and not isinstance(error, Untrusted | Overdue)


def retry_pause_s(error: TenorError, pause_s: float) -> float:
    """How long to wait before the same call is made again: `pause_s`, or longer where the other end says so."""
    told_ms = getattr(error, "retry_ms", 0) if isinstance(error, Exhausted) else 0
    return max(pause_s, min(int(told_ms), _LONGEST_RETRY_MS) / 1_000)


def never_arrived(failed: grpc.RpcError) -> bool:
    """Whether a call failed without any server having said so itself."""
    call = call_of(failed)
    return call is not None and call.code() is grpc.StatusCode.UNAVAILABLE and not told_itself(failed)


def told_itself(failed: grpc.RpcError) -> bool:
    """Whether the server said more of a failure than its code."""
    call = call_of(failed)
    return call is not None and any(key == _DETAILS for key, _ in call.trailing_metadata() or ())


def refuse(context: grpc.ServicerContext, error: TenorError) -> NoReturn:
    """End a call with the error's status."""
    context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status raises")


def answers(call: Callable[[Any, Any], Result]) -> Callable[..., Result]:
    """A servicer's method from a request to an answer, whose TenorErrors end the call with their status."""

    @wraps(call)
    def answered(service: Any, request: Any, context: grpc.ServicerContext) -> Result:
        try:
            return call(service, request)
        except TenorError as error:
            refuse(context, error)

    return answered


def streams(call: Callable[[Any, Any, grpc.ServicerContext], Iterator[Result]]) -> Callable[..., Iterator[Result]]:
    """The same for a method that answers with a stream; it is given the context too."""

    @wraps(call)
    def streamed(service: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Result]:
        try:
            yield from call(service, request, context)
        except TenorError as error:
            refuse(context, error)

    return streamed


def _cut(message: str) -> str:
    length = 0
    for at, character in enumerate(message):
        plain = character.isascii() and character.isprintable() and character != "%"
        length += 1 if plain else 3 * len(character.encode(errors="replace"))
        if length > _LONGEST_MESSAGE:
            return message[:at]
    return message


def _packed(value: object, most: int) -> str:
    try:
        packed = json.dumps(value)
    except (TypeError, ValueError):
        packed = json.dumps(repr(value))
    return packed if len(packed) <= most else json.dumps(packed[: most // 2])


def _unpacked(packed: str) -> object:
    try:
        value = json.loads(packed)
    except ValueError:
        return packed
    return tuple(value) if isinstance(value, list) else value


def _violations(error: TenorError, room: int) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """Those of the error's fields, as many as there is room for in bytes."""
    match error:
        case InvalidInstrument():
            faults = [(fault.partition(" ")[0], fault) for fault in error.faults]
        case InvalidValue():
            faults = [(error.what, str(error))]
        case _:
            return []
    found = []
    for field, fault in faults:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field[:_SHORTEST_DETAIL], description=fault[: _LONGEST_DETAIL // 2]
        )
        room -= violation.ByteSize() + _AROUND
        if room < 0:
            break
        found.append(violation)
    return found


def call_of(failed: object) -> grpc.Call | None:
    """What every error of a call is too, though the types do not say so; asyncio's has the same methods."""
    if isinstance(failed, grpc.aio.AioRpcError):
        return cast("grpc.Call", failed)
    return failed if isinstance(failed, grpc.Call) else None


def _status(call: grpc.Call) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(call)
    except ValueError:  # the details are of another status than the call's: somebody in between changed one
        return None


def _raised(kind: type[TenorError], message: str, fields: dict[str, str]) -> TenorError:
    """The error without its constructor: the message and the fields are those that the server made."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    for name, packed in fields.items():
        setattr(error, name, _unpacked(packed))
    if isinstance(error, InvalidInstrument) and not isinstance(getattr(error, "faults", None), tuple):
        error.faults = (message,)
    return error
