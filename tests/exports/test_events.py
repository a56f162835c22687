"""CloudEvents 1.0: what the specification asks of each attribute, and that the whole log is told."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.errors import Refused
from scheduler.core.merkle import leaf_hash
from scheduler.exchange.leaves import encode_key_change
from scheduler.exchange.outages import (
    DeclaredNode,
    ForceMajeure,
    MaintenanceNotice,
    encode_force_majeure,
    encode_maintenance,
)
from scheduler.exports.events import event, events, write_events
from scheduler.exports.forms import EventForm
from scheduler.exports.source import opened
from scheduler.ledger.bundle import read_bundle
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import SignerKey

ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
"""Names of context attributes: lower-case letters and digits, twenty at most."""
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")
REQUIRED = {"specversion", "id", "source", "type"}


def exported(form: EventForm, bundle: Path) -> bytes:
    file = io.BytesIO()
    with opened(bundle, bundle) as source:
        assert write_events(form, events(source.origin, source.leaves(0)), file) == source.size
    return file.getvalue()


def conforms(one: dict[str, Any]) -> None:
    """What the specification asks of one event in structured JSON."""
    assert one.keys() >= REQUIRED
    assert all(ATTRIBUTE.fullmatch(name) for name in one)
    assert one["specversion"] == "1.0"
    assert all(isinstance(value, str) and value for name, value in one.items() if name != "data")
    assert INSTANT.fullmatch(one["time"])
    assert one["datacontenttype"] == "application/json"
    assert re.fullmatch(r"//[A-Za-z0-9.-]+(/[A-Za-z0-9._-]+)*", one["source"])


def test_every_leaf_is_an_event_that_conforms(bundle: Path) -> None:
    told = [json.loads(line) for line in exported(EventForm.JSONL, bundle).splitlines()]
    leaves = list(read_bundle(bundle).leaves())
    assert [one["leafhash"] for one in told] == [leaf_hash(leaf).hex() for leaf in leaves]
    for one in told:
        conforms(one)
    assert len({(one["source"], one["id"]) for one in told}) == len(told)
    assert sorted(told, key=lambda one: str(one["sequence"])) == told
    kinds = Counter(one["type"].removeprefix("dev.tenor.delivery.") for one in told)
    assert kinds == {"pledge.v1": 264, "record.v1": 37, "coverage.v1": 12, "shortage.v1": 1}


def test_a_record_says_all_that_the_leaf_says(bundle: Path) -> None:
    told = [json.loads(line) for line in exported(EventForm.JSONL, bundle).splitlines()]
    first = next(one for one in told if one["type"].endswith("record.v1"))
    assert (first["subject"], first["data"]["position"]) == ("pos-1", "pos-1")
    assert first["data"]["contracted_gpu_ms"] == 240_000
    assert first["data"]["losses"] == [{"cause": 1005, "name": "NODE_LOST", "bearer": "seller", "gpu_ms": 3_000}]
    shortage = next(one for one in told if one["type"].endswith("shortage.v1"))
    assert (shortage["subject"], shortage["data"]["rule"]) == ("H100SXM@local", "class-then-pro-rata-2")


def test_a_batch_is_one_array_of_the_same_events(bundle: Path) -> None:
    whole = json.loads(exported(EventForm.BATCH, bundle))
    assert whole == [json.loads(line) for line in exported(EventForm.JSONL, bundle).splitlines()]
    empty = io.BytesIO()
    assert write_events(EventForm.BATCH, (), empty) == 0
    assert json.loads(empty.getvalue()) == []
    nothing = io.BytesIO()
    write_events(EventForm.JSONL, (), nothing)
    assert nothing.getvalue() == b""


def test_a_change_of_keys_is_an_event_too() -> None:
    old, new = (SignerKey("log.example/x", bytes([number] * 32)) for number in (1, 2))
    told = event("log.example/x", 3, encode_key_change(KeyChange.signed(old, new, 9_000), 1_500))
    conforms(dict(told))
    assert (told["type"], told["subject"]) == ("dev.tenor.delivery.key_change.v1", new.verifier.encode())
    assert told["data"]["old"] == old.verifier.encode()
    assert told["time"] == "1970-01-01T00:00:01.500Z"
    assert json.loads(json.dumps(told)) == told


def test_outages_are_events_too() -> None:
    nodes = (DeclaredNode("H100SXM", "local", "local/block/domain/node-1", 8),)
    planned = event("log.example/x", 4, encode_maintenance(MaintenanceNotice(nodes, 5_000, 9_000), 1_000))
    declared = event("log.example/x", 5, encode_force_majeure(ForceMajeure(nodes, 5_000, 9_000, bytes(32)), 2_000))
    for told, kind in ((planned, "maintenance"), (declared, "force_majeure")):
        conforms(dict(told))
        assert told["type"] == f"dev.tenor.delivery.{kind}.v1"
        assert (told["data"]["from_ms"], told["data"]["until_ms"]) == (5_000, 9_000)
        assert "node-1" in json.dumps(told["data"]["nodes"])
    assert declared["data"]["evidence"] == "00" * 32


def test_what_is_no_leaf_is_refused() -> None:
    with pytest.raises(Refused):
        event("log.example/x", 0, b"\xff")
