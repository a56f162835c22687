"""A number of an enumeration that is not known is refused on both sides, at any depth."""

from __future__ import annotations

import pytest

from scheduler.core.errors import InvalidValue
from scheduler.exchange import convert
from scheduler.exchange.leaves import decode, encode_record
from scheduler.exchange.unknown import refuse_unknown
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, instruments_pb2, positions_pb2
from tests.exchange.samples import record
from tests.exchange.world import terms


def test_what_is_known_passes_as_it_is() -> None:
    answer = feed_pb2.DeliveryFeedGetBackingResponse(cell=instruments_pb2.CELL_NODE, losses=1)
    answer.positions.add(position="pos-1").ill.add(cause="node_lost", gpus=1)
    assert refuse_unknown(answer) is answer


def test_an_unknown_number_is_named_wherever_it_is() -> None:
    answer = feed_pb2.DeliveryFeedGetDeliverableResponse()
    answer.MergeFromString(b"\x20\x63")
    with pytest.raises(InvalidValue, match="cell of DeliveryFeedGetDeliverableResponse was 99"):
        refuse_unknown(answer)
    entry = delivery_pb2.LogEntry()
    entry.record.MergeFromString(b"\x30\x63")
    with pytest.raises(InvalidValue, match="status of MeterRecord was 99"):
        refuse_unknown(entry)
    event = positions_pb2.WatchResponse()
    event.event.MergeFromString(b"\x10\x63")
    with pytest.raises(InvalidValue, match="kind of PositionEvent was 99"):
        refuse_unknown(event)


def test_no_side_guesses() -> None:
    leaf = delivery_pb2.LogEntry.FromString(encode_record(record(), 1))
    for field in (b"\x30\x63", b"\xc8\x01\x63"):  # status, quality
        changed = delivery_pb2.LogEntry.FromString(leaf.SerializeToString())
        changed.record.MergeFromString(field)
        with pytest.raises(InvalidValue, match="was 99, expected one of"):
            decode(changed.SerializeToString())
    listed = convert.instrument_to_wire(terms())
    listed.MergeFromString(b"\x28\x63")
    with pytest.raises(InvalidValue, match=r"cell of H100\.BASE@1 was 99"):
        convert.instrument_from_wire(listed)
