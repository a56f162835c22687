"""Values of the core on the wire and back; what does not agree with itself is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidInstrument, InvalidValue, Refused
from scheduler.core.instruments import standard_terms
from scheduler.core.intervals import StepFunction
from scheduler.core.positions import Cursor, Position, PositionEvent, PositionEventKind
from scheduler.exchange.convert import (
    event_from_wire,
    event_to_wire,
    instrument_from_wire,
    instrument_to_wire,
    position_from_wire,
    position_to_wire,
)
from scheduler.exchange.v1 import instruments_pb2, positions_pb2
from tests.exchange.samples import instants, names

TERMS = standard_terms(symbol="H100.BASE", start_ms=0, end_ms=3_600_000, cell=Level.NODE, gpus=8)


def test_terms_come_back_as_they_were() -> None:
    sent = instrument_to_wire(TERMS, lots_listed=5)
    assert instrument_from_wire(sent) == TERMS
    assert sent.spec_hash.hex() == TERMS.spec_hash


def _hash(sent: instruments_pb2.Instrument) -> None:
    sent.spec_hash = bytes(32)


def _cell(sent: instruments_pb2.Instrument) -> None:
    sent.cell = instruments_pb2.CELL_GPU


def _gpus(sent: instruments_pb2.Instrument) -> None:
    sent.gpus_per_lot = 4


def _window(sent: instruments_pb2.Instrument) -> None:
    sent.window_end_ms += 1


def _spaces(sent: instruments_pb2.Instrument) -> None:
    sent.terms = sent.terms.replace(b":", b": ")


def _unknown(sent: instruments_pb2.Instrument) -> None:
    sent.terms = sent.terms.replace(b'{"', b'{"aaa":1,"', 1)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_hash, "spec_hash"),
        (_cell, "cell"),
        (_gpus, "gpus_per_lot"),
        (_window, "window_end_ms"),
        (_spaces, "canonical"),
        (_unknown, "aaa"),
    ],
)
def test_a_listing_that_contradicts_its_terms_is_refused(
    change: Callable[[instruments_pb2.Instrument], None], names: str
) -> None:
    sent = instrument_to_wire(TERMS)
    change(sent)
    with pytest.raises(Refused, match=names):
        instrument_from_wire(sent)


def test_terms_of_the_wrong_form_name_every_fault() -> None:
    sent = instrument_to_wire(TERMS)
    sent.terms = b'{"symbol":"H100.BASE"}'
    with pytest.raises(InvalidInstrument) as refused:
        instrument_from_wire(sent)
    assert len(refused.value.faults) > 1


@given(
    kind=st.sampled_from(PositionEventKind),
    position=names,
    source=st.none() | names,
    account=names,
    seq=st.integers(0, 2**63),
    lots=st.integers(0, 10_000_000),
    effective_ms=instants,
)
def test_an_event_comes_back_as_it_was(
    kind: PositionEventKind, position: str, source: str | None, account: str, seq: int, lots: int, effective_ms: int
) -> None:
    event = PositionEvent(
        cursor=Cursor(stream="tenor", epoch=1, seq=seq),
        kind=kind,
        position=position,
        source=source,
        account=account,
        instrument="H100.BASE@1",
        lots=lots,
        effective_ms=effective_ms,
        committed_ms=1,
    )
    assert event_from_wire(event_to_wire(event)) == event


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidValue, match="kind"):
        event_from_wire(positions_pb2.PositionEvent(position="pos-1"))


@given(st.dictionaries(instants, st.integers(0, 1_000), max_size=5))
def test_a_position_comes_back_as_it_was(steps: dict[int, int]) -> None:
    lots = StepFunction.of(steps.items()).steps
    position = Position(id="pos-1", account="acme", instrument="H100.BASE@1", acquired_ms=5, lots=lots)
    assert position_from_wire(position_to_wire(position)) == position


def test_a_position_whose_steps_go_back_is_refused() -> None:
    sent = positions_pb2.Position(id="pos-1", account="acme", instrument="H@1", acquired_ms=5)
    sent.lots.add(from_ms=5, lots=1)
    sent.lots.add(from_ms=3, lots=2)
    with pytest.raises(InvalidValue, match="steps"):
        position_from_wire(sent)
