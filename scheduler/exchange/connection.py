"""A channel to one server that keeps a verifiable log, and what every such server answers: checkpoints and proofs.

Every method raises the error that the server raised, of the same class, or Unavailable where it did not answer. Calls
that could not be answered for the moment are made again, a few times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc

from scheduler.core.errors import TenorError, Unavailable
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.errors import is_retried, retry_pause_s
from scheduler.exchange.handshakes import explained, failure
from scheduler.exchange.tls import Tls, opened
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc

Message = TypeVar("Message")

_TRIES = 5
_FIRST_PAUSE_S = 0.1


class Connection:
    """Calls to one server at `HOST:PORT`, with TLS where `tls` is given; `of` says who it is, in messages. Safe for
    threads. A context manager that closes its channel. Raises Unauthorised for plaintext off loopback, and what
    `Tls.valid` raises.
    """

    def __init__(self, address: str, *, timeout_s: float, tls: Tls | None, of: str) -> None:
        self.address = address
        self._tls = tls
        self._of = of
        self._timeout_s = timeout_s
        self._channel = opened(address, tls, CHANNEL_OPTIONS, of)
        self._evidence = delivery_pb2_grpc.EvidenceServiceStub(self._channel)

    def checkpoint(self, stream: str) -> tuple[int, bytes]:
        """How many leaves of a log the other end holds, and the latest checkpoint they reach. Raises UnknownName."""
        request = delivery_pb2.GetCheckpointRequest(stream=stream)
        answer = self._asked(lambda: self._evidence.GetCheckpoint(request, timeout=self._timeout_s))
        return answer.size, answer.checkpoint

    def witnesses(self, stream: str) -> tuple[str, ...]:
        """The verifier keys of all who cosigned a log; of an exchange its own first. Raises UnknownName."""
        request = delivery_pb2.GetCheckpointRequest(stream=stream)
        return tuple(self._asked(lambda: self._evidence.GetCheckpoint(request, timeout=self._timeout_s)).witnesses)

    def add_cosignature(self, stream: str, checkpoint: bytes, vkey: str) -> bytes:
        """Adds a witness's cosignature to a log's latest checkpoint, and gives it with all of them. Raises UnknownName,
        InvalidValue, Unauthorised, Conflict where it is not the latest.
        """
        request = delivery_pb2.AddCosignatureRequest(stream=stream, checkpoint=checkpoint, vkey=vkey)
        return self._asked(lambda: self._evidence.AddCosignature(request, timeout=self._timeout_s)).checkpoint

    def inclusion_proof(self, stream: str, index: int, size: int) -> tuple[bytes, ...]:
        """That leaf `index` is among the first `size`, for `core.merkle.verify_inclusion`. Raises InvalidValue."""
        request = delivery_pb2.GetProofRequest(stream=stream, index=index, size=size)
        answer = self._asked(lambda: self._evidence.GetInclusionProof(request, timeout=self._timeout_s))
        return tuple(answer.hashes)

    def consistency_proof(self, stream: str, first: int, second: int) -> tuple[bytes, ...]:
        """That the first `first` leaves begin the first `second`, for `core.merkle.verify_consistency`."""
        request = delivery_pb2.GetProofRequest(stream=stream, index=first, size=second)
        answer = self._asked(lambda: self._evidence.GetConsistencyProof(request, timeout=self._timeout_s))
        return tuple(answer.hashes)

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Returns once the other end answers. Raises Unavailable after the timeout."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError as error:
            late = Unavailable(f"{self._of} at {self.address} did not answer within {timeout_s:g} s")
            raise explained(late, self.address, self._tls, self._of) from error

    def close(self) -> None:
        """Ends every call and closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _asked(self, call: Callable[[], Message]) -> Message:
        """The answer; calls that may succeed later are made again, with longer and longer pauses."""
        for attempt in range(_TRIES):
            try:
                return call()
            except grpc.RpcError as failed:
                error = self._failure(failed)
                if attempt + 1 == _TRIES or not is_retried(error):
                    raise error from failed
            time.sleep(retry_pause_s(error, _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)))
        raise AssertionError("the last attempt returned or raised")

    def _failure(self, failed: grpc.RpcError) -> TenorError:
        return failure(failed, self.address, self._tls, self._of)
