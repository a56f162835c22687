"""What was on the wire once is read and written the same, and production code still makes it."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from scheduler.exchange.leaves import decode
from scheduler.exchange.v1 import delivery_pb2
from tests.wire.golden import MADE, encoded, kind_of, made, packages, read, released

MESSAGES = [(package, name) for package in packages() for name in read(package)]


def test_every_released_message_is_there() -> None:
    assert {f"{package}.{name}" for package, name in MESSAGES} == set(released()), "run `make protos-release`"
    assert len(MESSAGES) > 100


@pytest.mark.parametrize(("package", "name"), MESSAGES)
def test_a_golden_message_is_read_and_written_the_same(package: str, name: str) -> None:
    golden = read(package)[name]
    content = bytes.fromhex(golden["hex"])
    message = kind_of(f"{package}.{name}").FromString(content)
    assert encoded(message) == content
    read_from_text = text_format.Parse("\n".join(golden["text"]), kind_of(f"{package}.{name}")())
    assert read_from_text == message
    assert text_format.MessageToString(message, print_unknown_fields=True).splitlines() == golden["text"]


def test_production_code_makes_the_golden_bytes() -> None:
    assert {name: content.hex() for name, content in made().items()} == read(MADE)


def test_every_kind_of_leaf_is_made_and_read_by_the_production_code() -> None:
    kinds = {field.name for field in delivery_pb2.LogEntry.DESCRIPTOR.oneofs_by_name["kind"].fields}
    golden = {name: bytes.fromhex(content) for name, content in read(MADE).items() if name.startswith("leaf ")}
    found = {delivery_pb2.LogEntry.FromString(content).WhichOneof("kind") for content in golden.values()}
    assert found == kinds, "add the new kind to `made` and run `python -m tests.wire.golden`"
    for content in golden.values():
        decode(content)
