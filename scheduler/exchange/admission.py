"""The door of a server: who may call what, and how often. Nothing gets past it that no rule lets in.

A *rule* is given the peer and the request, and gives the request as it may be asked (an account that names no account
means its own), or raises Unauthorised. A method without a rule is refused for everybody: a method that is added and
forgotten here is closed, not open. Bytes that are no request of the method are refused as such. Limits hold for each
identity by itself, so that one peer cannot keep others out; a process of this machine, over plaintext, has none but
those of the whole server.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from scheduler.core.errors import InvalidValue, TenorError, Unauthorised
from scheduler.exchange.denied import Denied
from scheduler.exchange.errors import Exhausted, refuse
from scheduler.exchange.peers import Peer, Role, peer_of
from scheduler.exchange.versions import check_version

Rule = Callable[[Peer, Any], Any]
_KEPT_PACES = 4_096
_STREAM_RETRY_MS = 1_000
HEALTH = "/grpc.health.v1.Health/"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one peer. `calls_per_s` on average and `burst` at once; `streams` open together."""

    calls_per_s: int = 100
    burst: int = 400
    streams: int = 8


def anybody(peer: Peer, request: Any) -> Any:
    """The rule of what every peer may ask."""
    del peer
    return request


def only(*roles: Role) -> Rule:
    """The rule of what some roles may ask."""
    allowed = ", ".join(roles)

    def of_roles(peer: Peer, request: Any) -> Any:
        if peer.role not in roles and peer.role is not Role.LOCAL:
            raise Unauthorised(f"{peer} may not ask this, it is for: {allowed}")
        return request

    return of_roles


class Admission(grpc.ServerInterceptor):
    """See the module. `rules`: by the method's full name, `/package.Service/Method`."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        limits: Limits | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        denied: Denied | None = None,
    ) -> None:
        self._rules = rules
        self._denied = denied
        self._limits = limits or Limits()
        self._clock_s = clock_s
        self._guard = threading.Lock()
        self._paces: dict[Peer, tuple[float, float]] = {}  # calls left, as of when
        self._open: Counter[Peer] = Counter()

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method behind its rule; what the server does not have stays UNIMPLEMENTED."""
        method = str(handler_call_details.method)
        found = continuation(handler_call_details)
        if found is None:
            return None
        rule = anybody if method.startswith(HEALTH) else self._rules.get(method)
        return replaced(found, self._guarded(found, rule, method))

    def admit(self, peer: Peer) -> None:
        """Counts one call. Raises Exhausted where the peer has made too many."""
        if peer.role is Role.LOCAL:
            return
        limits = self._limits
        with self._guard:
            now_s = self._clock_s()
            left, as_of_s = self._paces.get(peer, (float(limits.burst), now_s))
            left = min(float(limits.burst), left + (now_s - as_of_s) * limits.calls_per_s)
            if left < 1:
                raise Exhausted(
                    f"{peer} made more than {limits.calls_per_s} calls a second: try again later",
                    subject=str(peer),
                    retry_ms=1 + int((1 - left) * 1_000 / limits.calls_per_s),
                )
            self._paces[peer] = (left - 1, now_s)
            if len(self._paces) > _KEPT_PACES:
                self._forget(now_s)

    def _refuse_denied(self, peer: Peer) -> None:
        if self._denied is not None:
            self._denied.check(peer)

    def _end_denied(self, context: grpc.ServicerContext) -> None:
        """Ends the stream of a peer that came onto the list since it opened it."""
        if self._denied is not None:
            try:
                self._denied.check(peer_of(context))
            except TenorError as error:
                refuse(context, error)

    def _forget(self, now_s: float) -> None:
        """Those that have all their calls again are as if they had never called."""
        refilled_s = self._limits.burst / self._limits.calls_per_s
        self._paces = {peer: pace for peer, pace in self._paces.items() if now_s - pace[1] < refilled_s}

    def _guarded(self, found: Any, rule: Rule | None, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        inner = found.unary_unary or found.unary_stream or found.stream_unary or found.stream_stream

        def let_in(request: Any, context: grpc.ServicerContext, leave: ExitStack) -> Any:
            """The request as it may be asked. Raises TenorError."""
            peer = peer_of(context)
            self._refuse_denied(peer)
            self.admit(peer)
            check_version(context)
            if rule is None:
                raise Unauthorised(f"{method} is open to nobody")
            if found.response_streaming or found.request_streaming:
                leave.callback(self._enter(peer))
            return rule(peer, map(_readable, request) if found.request_streaming else _readable(request))

        def called(request: Any, context: grpc.ServicerContext) -> Any:
            with ExitStack() as leave:
                try:
                    asked = let_in(request, context, leave)
                except TenorError as error:
                    refuse(context, error)
                return inner(asked, context)

        def streamed(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with ExitStack() as leave:
                try:
                    asked = let_in(request, context, leave)
                except TenorError as error:
                    refuse(context, error)
                for answer in inner(asked, context):
                    self._end_denied(context)
                    yield answer

        return streamed if found.response_streaming else called

    def _enter(self, peer: Peer) -> Callable[[], None]:
        """One of the peer's places for streams; call what it gives to leave. Raises Exhausted."""
        limit = self._limits.streams
        with self._guard:
            if peer.role is not Role.LOCAL and self._open[peer] >= limit:
                raise Exhausted(
                    f"{peer} has {self._open[peer]} streams open, expected fewer than {limit}: try again later",
                    subject=str(peer),
                    retry_ms=_STREAM_RETRY_MS,
                )
            self._open[peer] += 1

        def leave() -> None:
            with self._guard:
                self._open[peer] -= 1
                if not self._open[peer]:
                    del self._open[peer]

        return leave


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Bytes that are no request, and why. gRPC by itself would say no more than INTERNAL, and leave a trace."""

    length: int
    why: str


def _reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The same deserializer, with a value for what it cannot read."""

    def readable_or_not(sent: bytes) -> Any:
        try:
            return read(sent)
        except DecodeError as error:
            return _Unreadable(len(sent), str(error))

    return readable_or_not


def _readable(request: Any) -> Any:
    """The request itself. Raises InvalidValue for what was none."""
    if isinstance(request, _Unreadable):
        raise InvalidValue("message", "a request", f"{request.length} bytes ({request.why})", "one of this method")
    return request


def replaced(found: Any, guarded: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """The same kind of method with another inside."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    read = found.request_deserializer
    make: Any = kinds[found.request_streaming, found.response_streaming]
    return make(guarded, read and _reader(read), found.response_serializer)  # type: ignore[no-any-return]
