"""Setting faults while the exchange runs: the service, who may call it, and its client."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from scheduler.core.errors import Unavailable
from scheduler.exchange.admission import Rule, only
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.errors import answers, call_of
from scheduler.exchange.handshakes import failure
from scheduler.exchange.peers import Role
from scheduler.exchange.reference.faults.faults import Faults
from scheduler.exchange.tls import Tls, opened
from scheduler.exchange.v1 import faults_pb2, faults_pb2_grpc

_TIMEOUT_S = 10.0


def rules() -> dict[str, Rule]:
    """Who may: the venue's own people, and over plaintext a process of this machine."""
    service = faults_pb2.DESCRIPTOR.services_by_name["FaultService"]
    return {f"/{service.full_name}/{method.name}": only(Role.EXCHANGE) for method in service.methods}


class FaultControl(faults_pb2_grpc.FaultServiceServicer):
    """Sets, clears and lists the faults of the exchange that serves it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    @answers
    def SetFaults(self, request: faults_pb2.SetFaultsRequest) -> faults_pb2.FaultsResponse:  # noqa: N802
        """All of them, or none where one is wrong."""
        self._faults.set(request.faults)
        return self._response()

    @answers
    def ClearFaults(self, request: faults_pb2.ClearFaultsRequest) -> faults_pb2.FaultsResponse:  # noqa: N802
        """Those named, or all."""
        self._faults.clear(request.faults)
        return self._response()

    @answers
    def ListFaults(self, request: faults_pb2.ListFaultsRequest) -> faults_pb2.FaultsResponse:  # noqa: N802, ARG002
        """All in force."""
        return self._response()

    def _response(self) -> faults_pb2.FaultsResponse:
        counts = self._faults.counts()
        return faults_pb2.FaultsResponse(
            faults=[faults_pb2.Fault(fault=text, met=met, struck=struck) for text, met, struck in counts]
        )


@dataclass(frozen=True, slots=True)
class FaultCount:
    """A fault in force: how many messages it met, and how many it struck."""

    fault: str
    met: int
    struck: int


class FaultClient:
    """Calls to the faults of one exchange. A context manager that closes its channel; raises as `ExchangeClient`."""

    def __init__(self, address: str, *, tls: Tls | None = None) -> None:
        self._address = address
        self._tls = tls
        self._channel = opened(address, tls, CHANNEL_OPTIONS)
        self._stub = faults_pb2_grpc.FaultServiceStub(self._channel)

    def set(self, faults: Iterable[str]) -> tuple[FaultCount, ...]:
        """Puts faults in force; all that are. Raises InvalidValue, UnknownName."""
        return self._asked(self._stub.SetFaults, faults_pb2.SetFaultsRequest(faults=list(faults)))

    def clear(self, faults: Iterable[str] = ()) -> tuple[FaultCount, ...]:
        """Takes faults out of force, or all; those that are left. Raises UnknownName."""
        return self._asked(self._stub.ClearFaults, faults_pb2.ClearFaultsRequest(faults=list(faults)))

    def list(self) -> tuple[FaultCount, ...]:
        """All in force."""
        return self._asked(self._stub.ListFaults, faults_pb2.ListFaultsRequest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def _asked(self, call: Any, request: object) -> tuple[FaultCount, ...]:
        try:
            answer = call(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as failed:
            if (found := call_of(failed)) is not None and found.code() is grpc.StatusCode.UNIMPLEMENTED:
                was = f"the exchange at {self._address} takes no faults"
                raise Unavailable(f"{was}: it was not started with --faults, or is another exchange") from failed
            raise failure(failed, self._address, self._tls) from failed
        return tuple(FaultCount(each.fault, each.met, each.struck) for each in answer.faults)
