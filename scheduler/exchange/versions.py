"""Which versions of the wire two ends speak: the caller says it with each call, and a server that speaks none of them
says which it does.

The metadata key `tenor-api-version` holds a number, or `LEAST-MOST`. A version is the `v1` of the packages: within one,
fields and methods are only added, and a caller that says nothing speaks version 1. A server answers with the range that
it serves, in the same form, before its first message; one that serves none of those asked for refuses the call with
VERSION_NOT_SERVED, whose details name its range, before anything is read or changed.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import grpc
import grpc.aio

from scheduler.core.errors import InvalidValue
from scheduler.exchange.errors import VersionNotServed

KEY = "tenor-api-version"
LEAST, MOST = 1, 1
"""What this program speaks, as a caller and as a server."""
_FORM = re.compile(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?")
_UNSAID = "1"

SPOKEN = f"{LEAST}-{MOST}"


def check_version(context: grpc.ServicerContext) -> None:
    """Raises VersionNotServed where the caller speaks no version that is served, InvalidValue for what says none; tells
    the caller which are served.
    """
    said = [value for key, value in context.invocation_metadata() or () if key == KEY]
    asked = said[0] if said else _UNSAID
    least, most = parsed(asked if isinstance(asked, str) else asked.decode("latin-1"))
    if most < LEAST or least > MOST:
        raise VersionNotServed(least, most, LEAST, MOST)
    context.send_initial_metadata(((KEY, SPOKEN),))


def parsed(said: str) -> tuple[int, int]:
    """(least, most) of what a caller speaks. Raises InvalidValue."""
    found = _FORM.fullmatch(said)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if least > most:
        raise InvalidValue(KEY, "the call's metadata", said[:80], "a number, or LEAST-MOST")
    return least, most


class _Details(NamedTuple):
    """What gRPC lets an interceptor change of a call."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Said(_Details, grpc.ClientCallDetails):
    pass


class _Saying(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Says with each call which versions this program speaks."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_said(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_said(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(_said(client_call_details), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(_said(client_call_details), request_iterator)


def _said(details: Any) -> _Said:
    metadata = (*(details.metadata or ()), (KEY, SPOKEN))
    waits, compression = details.wait_for_ready, details.compression
    return _Said(details.method, details.timeout, metadata, details.credentials, waits, compression)


def saying(channel: grpc.Channel) -> grpc.Channel:
    """The channel, whose calls say which versions this program speaks."""
    return grpc.intercept_channel(channel, _Saying())


def _with_version(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    metadata = details.metadata if details.metadata is not None else grpc.aio.Metadata()
    metadata.add(KEY, SPOKEN)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _SayingUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_version(client_call_details), request)


class _SayingStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_version(client_call_details), request)


AIO: tuple[grpc.aio.ClientInterceptor, ...] = (_SayingUnary(), _SayingStream())
"""The same for asyncio: given to a channel as it is made."""
