"""One publisher's turn on a stream: the opening, batches, and the answers, however the server groups them."""

from __future__ import annotations

import queue
from types import TracebackType
from typing import Any, Self

import grpc

from scheduler.exchange.conformance.outcome import Failed, Refusal, checked_refusal, must, refusal_of
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc


class Session:
    """An open `Publish`. A context manager that ends it. `opened` is the answer to the opening."""

    def __init__(self, stub: Any, opening: delivery_pb2.PublishOpen | None, timeout_s: float) -> None:
        self._requests: queue.Queue[delivery_pb2.PublishRequest | None] = queue.Queue()
        self._call = stub.Publish(iter(self._requests.get, None), timeout=timeout_s)
        self.acknowledged = 0
        self.credits = 0
        self.rejections: list[delivery_pb2.Rejection] = []
        self.cosigned = b""
        self.witness = ""
        self.opened = delivery_pb2.PublishResponse()
        if opening is not None:
            self.send(delivery_pb2.PublishRequest(open=opening))
            self.opened = self.receive()

    @classmethod
    def on(cls, channel: grpc.Channel, stream: str, epoch: int, vkey: str, timeout_s: float) -> Session:
        """Opens a turn."""
        opening = delivery_pb2.PublishOpen(stream=stream, epoch=epoch, vkey=vkey)
        return cls(delivery_pb2_grpc.DeliveryServiceStub(channel), opening, timeout_s)

    @property
    def alive(self) -> bool:
        """Whether neither end has ended it."""
        return bool(self._call.is_active())

    def send(self, request: delivery_pb2.PublishRequest) -> None:
        """Sends, and waits for nothing."""
        self._requests.put(request)

    def send_batch(self, batch: delivery_pb2.Batch) -> None:
        """The same with a batch."""
        self.send(delivery_pb2.PublishRequest(batch=batch))

    def receive(self) -> delivery_pb2.PublishResponse:
        """The next answer. Raises grpc.RpcError where the server refuses, Failed where it ends without a word."""
        try:
            answer: delivery_pb2.PublishResponse = next(self._call)
        except StopIteration:
            raise Failed("the server ended the stream without an answer or an error") from None
        must(
            answer.acknowledged >= self.acknowledged,
            f"acknowledged went back from {self.acknowledged} to {answer.acknowledged}",
        )
        self.acknowledged, self.credits = answer.acknowledged, answer.credits
        self.rejections += answer.rejections
        if answer.cosigned:
            self.cosigned, self.witness = answer.cosigned, answer.witness
        return answer

    def deliver(self, batch: delivery_pb2.Batch) -> None:
        """Sends a batch and waits until all of it is acknowledged."""
        self.send_batch(batch)
        self.wait(batch.first_index + len(batch.leaves))

    def wait(self, acknowledged: int) -> None:
        """Returns once so many leaves are acknowledged; Failed for more than that, which were never sent."""
        self.receive()
        while self.acknowledged < acknowledged:
            self.receive()
        must(self.acknowledged == acknowledged, f"{self.acknowledged} are acknowledged, {acknowledged} were sent")

    def refused(self, batch: delivery_pb2.Batch, code: grpc.StatusCode, *reasons: str) -> Refusal:
        """The refusal that a batch must come to."""
        self.send_batch(batch)
        return self.ended(code, *reasons)

    def ended(self, code: grpc.StatusCode, *reasons: str) -> Refusal:
        """The refusal that what was sent must come to."""
        try:
            answer = self.receive()
        except grpc.RpcError as failed:
            return checked_refusal(refusal_of(failed), (code,), reasons)
        raise Failed(f"it was taken: {answer.acknowledged} leaves are acknowledged")

    def close(self) -> None:
        """Ends the turn."""
        self._requests.put(None)
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
