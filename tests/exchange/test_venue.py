"""Listings and trades over gRPC: what is allowed, what is refused and how, and that asking twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.errors import (
    Conflict,
    InvalidInstrument,
    InvalidValue,
    Oversold,
    TenorError,
    UnknownName,
)
from scheduler.core.instruments import Deliverable
from scheduler.core.positions import PositionBook, PositionEventKind
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.reference.venue import VenueRules
from tests.exchange.world import END_MS, START_MS, Embedded, embedded, terms


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Embedded]:
    with embedded(tmp_path / "exchange.db") as running:
        running.client.list_instrument(terms(), lots_listed=8)
        yield running


def test_a_listing_with_faults_names_every_one(exchange: Embedded) -> None:
    wrong = terms("BAD", availability_target_ppm=2_000_000, bind_limit_s=0)
    with pytest.raises(InvalidInstrument) as refused:
        exchange.client.list_instrument(wrong)
    assert len(refused.value.faults) >= 1
    assert all("expected" in fault for fault in refused.value.faults)
    assert [each.symbol for each in exchange.client.instruments()] == ["H100.BASE"]


def test_the_same_listing_again_changes_nothing_and_another_is_refused(exchange: Embedded) -> None:
    assert exchange.client.list_instrument(terms(), lots_listed=8) == "H100.BASE@1"
    with pytest.raises(Conflict, match="new version"):
        exchange.client.list_instrument(terms(price_micro_per_gpu_hour=1), lots_listed=8)
    with pytest.raises(Conflict, match="8 lots"):
        exchange.client.list_instrument(terms(), lots_listed=9)


def test_a_trade_makes_a_position_now(exchange: Embedded) -> None:
    event = exchange.client.trade("acme", "H100.BASE@1", 3)
    assert (event.kind, event.position, event.cursor.seq) == (PositionEventKind.TRADE, "pos-1", 1)
    assert event.effective_ms == event.committed_ms == exchange.clock.now_ms
    (position,) = exchange.client.snapshot().positions
    assert (position.account, position.lots) == ("acme", ((exchange.clock.now_ms, 3),))


Call = Callable[[ExchangeClient], object]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda client: client.trade("acme", "NO.SUCH@1", 1), UnknownName, "NO.SUCH@1"),
        (lambda client: client.trade("acme", "H100.BASE@1", 0), InvalidValue, "lots"),
        (lambda client: client.trade("acme", "H100.BASE@1", -1), InvalidValue, "lots"),
        (lambda client: client.trade("acme", "H100.BASE@1", 2**31), InvalidValue, "lots"),
        (lambda client: client.trade("no name!", "H100.BASE@1", 1), InvalidValue, "account"),
        (lambda client: client.trade("acme", "H100.BASE@1", 9), Oversold, "8 are listed"),
        (lambda client: client.trade("acme", "H100.BASE@1", 1, effective_ms=5), InvalidValue, "effective_ms"),
        (lambda client: client.trade("acme", "H100.BASE@1", 1, effective_ms=END_MS), InvalidValue, "window"),
        (lambda client: client.trade("acme", "H100.BASE@1", 1, request_id="x" * 300), InvalidValue, "request_id"),
        (lambda client: client.transfer("pos-9", "acme", 1), UnknownName, "pos-9"),
        (lambda client: client.correct("pos-9", 1), UnknownName, "pos-9"),
        (lambda client: client.transfer("pos-1", "borealis", 6), Oversold, "holds 5"),
        (lambda client: client.correct("pos-1", 9), Oversold, "8 are listed"),
        (lambda client: client.consent("pos-9", ["A100SXM"]), UnknownName, "pos-9"),
        (lambda client: client.consent("pos-1", ["A100SXM"]), InvalidValue, "H100.BASE@1 asks for no consent"),
        (lambda client: client.consent("pos-1", []), InvalidValue, "grades of the consent of pos-1 was 'empty'"),
        (lambda client: client.statement("pos-1"), InvalidValue, "at least one record"),
        (lambda client: client.statement("pos-9"), UnknownName, "pos-9"),
        (lambda client: client.checkpoint("nobody"), UnknownName, "nobody"),
        (lambda client: client.snapshot("other"), UnknownName, "other"),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(
    exchange: Embedded, call: Call, error: type[TenorError], says: str
) -> None:
    exchange.client.trade("acme", "H100.BASE@1", 5)
    before = exchange.client.snapshot()
    with pytest.raises(error, match=says) as refused:
        call(exchange.client)
    assert type(refused.value) is error
    assert exchange.client.snapshot() == before


def test_lots_that_are_free_only_later_are_not_sold_earlier(exchange: Embedded) -> None:
    exchange.client.trade("acme", "H100.BASE@1", 8)
    exchange.client.correct("pos-1", 2, effective_ms=START_MS + 60_000)
    with pytest.raises(Oversold):
        exchange.client.trade("borealis", "H100.BASE@1", 1)
    assert exchange.client.trade("borealis", "H100.BASE@1", 6, effective_ms=START_MS + 60_000).lots == 6


def test_the_same_request_gives_the_same_answer_and_another_content_is_refused(exchange: Embedded) -> None:
    first = exchange.client.trade("acme", "H100.BASE@1", 3, request_id="r-1")
    exchange.clock.now_ms += 5_000
    assert exchange.client.trade("acme", "H100.BASE@1", 3, request_id="r-1") == first
    with pytest.raises(Conflict, match="another content"):
        exchange.client.trade("acme", "H100.BASE@1", 4, request_id="r-1")
    with pytest.raises(Conflict, match="another content"):
        exchange.client.transfer("pos-1", "acme", 1, request_id="r-1")
    assert len(exchange.client.snapshot().positions) == 1


def test_a_transfer_in_the_middle_of_delivery_conserves_lots(exchange: Embedded) -> None:
    exchange.client.trade("acme", "H100.BASE@1", 5, effective_ms=START_MS)
    moved = exchange.client.transfer("pos-1", "borealis", 2, effective_ms=START_MS + 45_000)
    split = exchange.client.transfer("pos-1", "acme", 1, effective_ms=START_MS + 50_000)
    assert (moved.kind, split.kind) == (PositionEventKind.TRANSFER, PositionEventKind.SPLIT)
    positions = exchange.client.snapshot().positions
    for at_ms in (START_MS, START_MS + 44_999, START_MS + 45_000, START_MS + 60_000):
        assert sum(position.lots_at(at_ms) for position in positions) == 5
    assert [position.lots_at(START_MS + 60_000) for position in positions] == [2, 2, 1]


def test_a_correction_to_nothing_ends_the_position(exchange: Embedded) -> None:
    exchange.client.trade("acme", "H100.BASE@1", 5)
    ended = exchange.client.correct("pos-1", 0, effective_ms=START_MS + 30_000)
    assert ended.kind is PositionEventKind.EXPIRY
    with pytest.raises(Oversold, match="ended"):
        exchange.client.transfer("pos-1", "borealis", 1, effective_ms=START_MS + 40_000)


def test_an_owner_agrees_to_a_substitute_for_good_and_a_split_keeps_it(exchange: Embedded) -> None:
    client, others = exchange.client, (Deliverable(grade="A100SXM", conversion_ppm=450_000, needs_consent=True),)
    client.list_instrument(terms("SUB", deliverables=(*terms("SUB").deliverables, *others)))
    client.trade("acme", "SUB@1", 5)
    with pytest.raises(InvalidValue, match="grades of the consent of pos-1 was 'H100SXM', expected some of A100SXM"):
        client.consent("pos-1", ["H100SXM"])
    agreed = client.consent("pos-1", ["A100SXM"], effective_ms=START_MS + 9, request_id="c")
    assert (agreed.kind, agreed.lots, agreed.grades) == (PositionEventKind.CONSENT, 0, ("A100SXM",))
    assert client.consent("pos-1", ["A100SXM"], effective_ms=START_MS + 9, request_id="c") == agreed
    client.transfer("pos-1", "acme", 2)
    client.transfer("pos-1", "borealis", 1)
    held = {each.id: (each.lots_at(START_MS), each.consents) for each in client.snapshot().positions}
    given = (("A100SXM", START_MS + 9),)
    assert held == {"pos-1": (2, given), "pos-2": (2, given), "pos-3": (1, ())}


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with embedded(tmp_path / "exchange.db") as running:
        running.client.list_instrument(terms(), lots_listed=8)
        running.client.trade("acme", "H100.BASE@1", 5, request_id="r-1")
        running.client.transfer("pos-1", "borealis", 2)
        before = running.client.snapshot()
    with embedded(tmp_path / "exchange.db") as running:
        assert running.client.snapshot() == before
        assert running.client.trade("acme", "H100.BASE@1", 5, request_id="r-1").position == "pos-1"
        with pytest.raises(Oversold):
            running.client.trade("acme", "H100.BASE@1", 4)
        assert running.client.trade("acme", "H100.BASE@1", 3).cursor.seq == 3


def test_a_venue_refuses_what_its_fleet_cannot_deliver(tmp_path: Path) -> None:
    with (
        embedded(tmp_path / "exchange.db", VenueRules(known_grades=("A100",), known_sites=("local",))) as running,
        pytest.raises(InvalidInstrument, match="H100SXM"),
    ):
        running.client.list_instrument(terms())


def test_the_fold_of_the_events_is_the_snapshot(exchange: Embedded) -> None:
    exchange.client.trade("acme", "H100.BASE@1", 5)
    exchange.client.transfer("pos-1", "borealis", 2, effective_ms=START_MS + 5)
    exchange.client.correct("pos-2", 1, effective_ms=START_MS + 9)
    book = PositionBook()
    snapshot = exchange.client.snapshot()
    for event in exchange.server.venue.events_after(snapshot.cursor.model_copy(update={"seq": 0})):
        book.apply(event)
    assert book.snapshot() == snapshot.positions
    assert book.cursor == snapshot.cursor
