"""The watcher: a book that follows the exchange through restarts and compaction, and refuses an exchange that lies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, Oversold, SequenceGap, Unavailable
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.positions import Cursor, Position, PositionBook, PositionEvent
from scheduler.exchange.client import Alive, ExchangeClient
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.reference.server import ServerSettings, serve
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.watcher import GAP_TRIES, Watcher, WatchState
from tests.exchange.processes import ExchangeProcess
from tests.exchange.world import START_MS, Embedded, embedded, terms, trade_all

WAIT_S = 10.0


class Book:
    """What the scheduler does with what it is told, without the rest of it."""

    def __init__(self, refuse: Callable[[PositionEvent], None] = lambda _: None) -> None:
        self.positions = PositionBook()
        self.instruments: dict[str, InstrumentTerms] = {}
        self.changed = threading.Condition()
        self.refuse = refuse

    def learn_instruments(self, terms: Iterable[InstrumentTerms]) -> None:
        """Keeps them."""
        self.instruments |= {each.id: each for each in terms}

    def learn_positions(self, cursor: Cursor, positions: Sequence[Position]) -> None:
        """Begins again from there."""
        with self.changed:
            self.positions.check_snapshot(cursor, positions)
            self.positions = PositionBook.of(cursor, positions)
            self.changed.notify_all()

    def learn_event(self, event: PositionEvent) -> None:
        """Folds it in, unless it is refused."""
        self.refuse(event)
        with self.changed:
            self.positions.apply(event, self.instruments)
            self.changed.notify_all()

    def wait_for(self, seq: int) -> None:
        """Returns once the book is there."""
        with self.changed:
            assert self.changed.wait_for(lambda: (it := self.positions.cursor) is not None and it.seq >= seq, WAIT_S)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


@contextmanager
def watching(address: str, book: Book, cursor: Cursor | None = None) -> Iterator[Watcher]:
    with Watcher(address, book, cursor=cursor, chance=random.Random(1)) as watcher:
        yield watcher


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Embedded]:
    with embedded(tmp_path / "exchange.db") as running:
        yield running


def test_a_new_watcher_takes_a_snapshot_and_then_follows(exchange: Embedded) -> None:
    trade_all(exchange.client)
    book = Book()
    with watching(exchange.server.address, book) as watcher:
        book.wait_for(3)
        exchange.client.list_instrument(terms("LATER"))
        exchange.client.trade("acme", "LATER@1", 2)
        exchange.client.transfer("pos-1", "borealis", 1)
        book.wait_for(5)
        eventually(lambda: watcher.status().state is WatchState.WATCHING)
        assert watcher.status().snapshots == 1
    assert book.positions.snapshot() == exchange.client.snapshot().positions
    assert watcher.status().state is WatchState.STOPPED


def test_a_watcher_with_a_cursor_takes_no_snapshot(exchange: Embedded) -> None:
    trade_all(exchange.client)
    snapshot = exchange.client.snapshot()
    book = Book()
    book.learn_positions(snapshot.cursor, snapshot.positions)
    exchange.client.transfer("pos-1", "borealis", 1)
    with watching(exchange.server.address, book, snapshot.cursor) as watcher:
        book.wait_for(4)
        assert watcher.status().snapshots == 0
    assert book.instruments.keys() == {"H100.BASE@1"}
    assert book.positions.snapshot() == exchange.client.snapshot().positions


def test_a_compacted_cursor_leads_to_a_snapshot(exchange: Embedded) -> None:
    trade_all(exchange.client)
    exchange.server.venue.compact(keep_events=1)
    cursor = Cursor(stream="exchange", epoch=1, seq=1)
    with pytest.raises(CursorCompacted) as compacted:
        next(iter(exchange.client.watch(cursor)))
    assert (compacted.value.code, compacted.value.expected) == ("CURSOR_COMPACTED", 3)
    book = Book()
    with watching(exchange.server.address, book, cursor) as watcher:
        book.wait_for(3)
        assert watcher.status().snapshots == 1
    assert book.positions.snapshot() == exchange.client.snapshot().positions


def test_a_new_epoch_of_the_exchange_leads_to_a_snapshot(exchange: Embedded) -> None:
    trade_all(exchange.client)
    before = exchange.client.snapshot().cursor
    exchange.server.venue.begin_epoch()
    book = Book()
    with watching(exchange.server.address, book, before):
        eventually(lambda: (it := book.positions.cursor) is not None and it.epoch == 2)
        exchange.client.transfer("pos-1", "borealis", 1)
        book.wait_for(1)
    assert book.positions.snapshot() == exchange.client.snapshot().positions


@pytest.mark.parametrize(
    "cursor", [Cursor(stream="exchange", epoch=1, seq=9), Cursor(stream="exchange", epoch=2, seq=0)]
)
def test_a_cursor_ahead_of_the_exchange_freezes_and_takes_nothing(exchange: Embedded, cursor: Cursor) -> None:
    trade_all(exchange.client)
    with pytest.raises(Conflict, match="ahead"):
        next(iter(exchange.client.watch(cursor)))
    book = Book()
    with watching(exchange.server.address, book, cursor) as watcher:
        eventually(lambda: watcher.status().state is WatchState.FROZEN)
        assert "ahead" in watcher.status().detail
    assert watcher.status().state is WatchState.FROZEN
    assert not book.positions.positions


def test_a_quiet_exchange_says_that_it_lives(exchange: Embedded) -> None:
    trade_all(exchange.client)
    watch = exchange.client.watch(Cursor(stream="exchange", epoch=1, seq=3))
    told = iter(watch)
    assert isinstance(next(told), InstrumentTerms)
    heard = [next(told), next(told)]
    assert [isinstance(each, Alive) and each.next.seq for each in heard] == [4, 4]
    watch.cancel()
    with pytest.raises(Unavailable):
        next(told)


def test_what_the_scheduler_refuses_freezes_the_watcher(exchange: Embedded) -> None:
    trade_all(exchange.client)

    def refuse(event: PositionEvent) -> None:
        if event.cursor.seq == 5:
            raise Oversold("more than there is")

    book = Book(refuse)
    with watching(exchange.server.address, book) as watcher:
        book.wait_for(3)
        exchange.client.transfer("pos-1", "borealis", 1)
        exchange.client.transfer("pos-1", "borealis", 1)
        eventually(lambda: watcher.status().state is WatchState.FROZEN)
        assert watcher.status().detail == "OVERSOLD: more than there is"
        assert (it := watcher.status().cursor) is not None
        assert it.seq == 4
    assert book.positions.cursor == it


def test_a_gap_is_asked_for_a_few_times_and_then_freezes(exchange: Embedded) -> None:
    trade_all(exchange.client)
    asked = []

    def refuse(event: PositionEvent) -> None:
        if event.cursor.seq == 4:
            asked.append(event)
            raise SequenceGap("exchange epoch 1", 3, 4)

    book = Book(refuse)
    with watching(exchange.server.address, book) as watcher:
        book.wait_for(3)
        exchange.client.transfer("pos-1", "borealis", 1)
        eventually(lambda: watcher.status().state is WatchState.FROZEN)
    assert len(asked) == GAP_TRIES


def test_what_could_not_be_saved_is_told_again(exchange: Embedded) -> None:
    trade_all(exchange.client)
    failures = iter([Unavailable("the disk is full")])

    def refuse(_: PositionEvent) -> None:
        for failure in failures:
            raise failure

    book = Book(refuse)
    with watching(exchange.server.address, book):
        book.wait_for(3)
        exchange.client.transfer("pos-1", "borealis", 1)
        book.wait_for(4)
    assert book.positions.snapshot() == exchange.client.snapshot().positions


def test_losing_the_exchange_takes_nothing_and_its_return_is_noticed(tmp_path: Path) -> None:
    book = Book()
    with (
        ExchangeProcess(tmp_path / "exchange.db", "--heartbeat-ms", "50") as process,
        ExchangeClient(process.address) as client,
        watching(process.address, book) as watcher,
    ):
        client.list_instrument(terms())
        client.trade("acme", "H100.BASE@1", 3, effective_ms=START_MS)
        book.wait_for(1)
        process.kill()
        eventually(lambda: watcher.status().state is WatchState.CONNECTING)
        assert book.positions.positions.keys() == {"pos-1"}
        process.start()
        client.trade("acme", "H100.BASE@1", 2, effective_ms=START_MS)
        book.wait_for(2)
        assert watcher.status().snapshots == 1
        assert process.terminate() == 0
        eventually(lambda: watcher.status().state is WatchState.CONNECTING)


def test_a_watcher_stops_at_once_whatever_it_is_doing(tmp_path: Path) -> None:
    clock_ms = START_MS
    settings = ServerSettings(tmp_path / "exchange.db", pace=Pace(heartbeat_ms=60_000), clock_ms=lambda: clock_ms)
    with serve(settings) as server:
        watcher = Watcher(server.address, Book()).start()
        eventually(lambda: watcher.status().state is WatchState.WATCHING)
        begun = time.monotonic()
        watcher.stop()
        watcher.stop()
        address = server.address
    lost = Watcher(address, Book()).start()
    eventually(lambda: lost.status().detail != "")
    lost.stop()
    assert time.monotonic() - begun < 5
