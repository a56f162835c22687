"""Messages that nobody would send: real ones changed in any field to any value, or in their bytes, and what must come
back for them.

A server answers each with what was asked for or with a typed error: a `google.rpc.Status` with its ErrorInfo, of a code
that says what the caller can do. It does not fall over, hang, or say that it does not know what happened.
`TENOR_FUZZ=10000` before `pytest tests/exchange/test_fuzz.py tests/api/test_fuzz.py tests/api/feed/test_fuzz.py` tries
more than the suite does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, Phase, currently_in_test_context, note, settings
from hypothesis import strategies as st

from scheduler.exchange.errors import DOMAIN

TRIES = int(os.environ.get("TENOR_FUZZ", "120"))
"""Of each target."""
fuzz = settings(
    max_examples=TRIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # what was sent is noted: smaller would not say more
)
chances = st.randoms(use_true_random=False)

_CALL_S = 20.0
_OPEN_S = 0.2
"""A stream that has not failed by then is open."""
_DEEPEST = 4
_INTEGERS = (0, 1, -1, 2, 7, 100, 255, -(2**31), 2**31 - 1, 2**31, 2**32 - 1, 2**53, -(2**63), 2**63 - 1, 2**64 - 1)
_NUMBERS = (0.0, -0.0, 1.5, -1.0, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", " ", "x", "\0", "no name!", "../../etc/passwd", "'; DROP TABLE stream; --", "%s%n{0}", "é∑𝄞", "9" * 4_000)
_BODIES = (b"", b"\0", b"\xff" * 33, b"{}", b"[[[[", b"null", bytes(70_000), "— \n".encode() * 9)
_FINE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""What a caller can be told whose message is at fault."""


@dataclass(frozen=True, slots=True)
class Words:
    """Values that mean something to the server: names, instants, notes."""

    texts: Sequence[str] = ()
    bodies: Sequence[bytes] = ()
    integers: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: so many responses, then a failure or none."""

    responses: int
    failed: grpc.RpcError | None

    @property
    def reason(self) -> str:
        """The reason of the typed error; empty where it went well. Raises AssertionError for an error without one."""
        if self.failed is None:
            return ""
        call: Any = self.failed
        code, details = call.code(), call.details()
        assert code in _FINE, f"{code.name}: {details}"
        status = rpc_status.from_call(call)
        assert status is not None, f"{code.name} without a status: {details}"
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in status.details), f"{code.name} without ErrorInfo: {details}"
        assert (info.domain, bool(info.reason)) == (DOMAIN, True)
        assert "Traceback" not in status.message
        return str(info.reason)


def path_of(method: MethodDescriptor) -> str:
    """As it stands on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def methods_of(*services: ServiceDescriptor) -> list[MethodDescriptor]:
    """Every method of the services."""
    return [method for service in services for method in service.methods]


def ask(channel: grpc.Channel, method: MethodDescriptor, payloads: Sequence[bytes], *, ends: bool = True) -> Answer:
    """The method called with these bytes, whatever they are; of a stream of answers as many as there are payloads.
    `ends`: whether a stream of requests that is over ends its answers too.
    """
    if currently_in_test_context():
        note(f"{path_of(method)}: {[sent[:2_000] for sent in payloads]}")
    if not method.server_streaming:
        one: Any = channel.unary_unary(path_of(method))
        try:
            one(payloads[0], timeout=_CALL_S)
        except grpc.RpcError as failed:
            return Answer(0, failed)
        return Answer(1, None)
    many: Callable[..., Any] = channel.stream_stream if method.client_streaming else channel.unary_stream
    ends = ends and method.client_streaming
    call = many(path_of(method))(
        iter(payloads) if method.client_streaming else payloads[0], timeout=_CALL_S if ends else _OPEN_S
    )
    count = 0
    try:
        for _ in call:
            count += 1
            if count == len(payloads) and not ends:
                call.cancel()
                break
    except grpc.RpcError as failed:
        is_open = not ends and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return Answer(count, None if is_open else failed)
    return Answer(count, None)


def anything(chance: random.Random, method: MethodDescriptor, real: Sequence[Message], words: Words) -> bytes:
    """A message for the method: a real one or an empty one, up to four times changed, perhaps in its bytes too."""
    message = GetMessageClass(method.input_type)()
    if real and chance.random() < 0.8:
        message.CopyFrom(chance.choice(real))
    for _ in range(chance.randint(0, 4)):
        change(chance, message, words)
    sent = message.SerializeToString()
    return garbled(chance, sent) if chance.random() < 0.25 else sent


def garbled(chance: random.Random, sent: bytes) -> bytes:
    """Bytes cut, flipped, doubled or made up."""
    at = chance.randrange(len(sent) + 1)
    match chance.randrange(5):
        case 0:
            return sent[:at]
        case 1 if at < len(sent):
            return sent[:at] + bytes([sent[at] ^ (1 << chance.randrange(8))]) + sent[at + 1 :]
        case 2:
            return sent + sent[at:]
        case 3:
            return chance.randbytes(chance.randrange(200))
        case _:
            return sent[:at] + chance.randbytes(3) + sent[at:]


def change(chance: random.Random, message: Message, words: Words, depth: int = 0) -> None:
    """One field, at any depth, another value that its type has."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    inside = field.message_type
    if inside is not None and inside.GetOptions().map_entry:
        _change_map(chance, getattr(message, field.name), inside, words)
    elif field.is_repeated:
        _change_list(chance, message, field, words, depth)
    elif inside is None:
        setattr(message, field.name, _value(chance, field, words))
    elif depth < _DEEPEST and chance.random() < 0.8:
        part = getattr(message, field.name)
        part.SetInParent()
        change(chance, part, words, depth + 1)
    else:
        message.ClearField(field.name)


def _change_map(chance: random.Random, entries: Any, kinds: Any, words: Words) -> None:
    key, value = (kinds.fields_by_name[name] for name in ("key", "value"))
    if value.message_type is None:
        entries[_value(chance, key, words)] = _value(chance, value, words)


def _change_list(chance: random.Random, message: Message, field: FieldDescriptor, words: Words, depth: int) -> None:
    values: Any = getattr(message, field.name)
    at = chance.randrange(len(values)) if values else 0
    match chance.randrange(4):
        case 0:
            message.ClearField(field.name)
        case 1 if values:
            del values[at]
        case 2 if values:
            values.extend([values[at]])
        case _ if field.message_type is not None:
            part = values[at] if values else values.add()
            if depth < _DEEPEST:
                change(chance, part, words, depth + 1)
        case _:
            value = _value(chance, field, words)
            if values and chance.random() < 0.5:
                values[at] = value
            else:
                values.append(value)


def _value(chance: random.Random, field: FieldDescriptor, words: Words) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            body = chance.choice((*_BODIES, *words.bodies))
            return garbled(chance, body) if chance.random() < 0.3 else body
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice((*_TEXTS, *words.texts))
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice(_NUMBERS)
        case kind:
            least, most = _RANGES[kind]
            near = chance.choice((*_INTEGERS, *words.integers)) + chance.choice((0, 0, 1, -1))
            return min(max(near, least), most)


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
