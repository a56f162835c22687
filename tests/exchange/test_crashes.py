"""`kill -9` of either side at random moments, seeded: nothing is lost, nothing is there twice, the roots are equal."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scheduler.core.errors import Unavailable, UnknownName
from scheduler.core.positions import PositionEvent
from scheduler.exchange.client import ExchangeClient
from tests.exchange.processes import ExchangeProcess
from tests.exchange.sender import assert_whole
from tests.exchange.world import STREAM, terms, trade_all

LEAVES = 20_000
KILLS = 10
TRADES = 300
MOST_S = 120.0


def sender(journal: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.exchange.sender", str(journal), address, str(LEAVES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reached(client: ExchangeClient) -> int:
    """How many leaves the exchange says that it has."""
    try:
        return client.checkpoint(STREAM)[0]
    except UnknownName:  # the first batch is still to come
        return 0


@pytest.mark.slow
def test_ten_kills_of_the_exchange_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(20270201)
    journal = tmp_path / "journal.db"
    with ExchangeProcess(tmp_path / "exchange.db") as exchange, ExchangeClient(exchange.address) as client:
        trade_all(client)
        with sender(journal, exchange.address) as process:
            assert process.stdout is not None
            for _ in range(KILLS):
                at = reached(client) + chance.randint(1, LEAVES // KILLS)
                while reached(client) < at and process.poll() is None:
                    time.sleep(chance.uniform(0, 0.002))
                exchange.kill()
                exchange.start()
            assert process.stdout.readline() == "done 0\n"
            assert process.wait(MOST_S) == 0
        assert_whole(exchange, journal, LEAVES)


@pytest.mark.slow
def test_ten_kills_of_the_publisher_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(20270202)
    journal = tmp_path / "journal.db"
    with ExchangeProcess(tmp_path / "exchange.db") as exchange, ExchangeClient(exchange.address) as client:
        trade_all(client)
        for _ in range(KILLS):
            at = reached(client) + chance.randint(1, LEAVES // KILLS)
            with sender(journal, exchange.address) as process:
                while reached(client) < at and process.poll() is None:
                    time.sleep(chance.uniform(0, 0.002))
                process.kill()
        with sender(journal, exchange.address) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "done 0\n"
            assert process.wait(MOST_S) == 0
        assert_whole(exchange, journal, LEAVES)


@pytest.mark.slow
def test_trades_through_kills_are_made_once_each(tmp_path: Path) -> None:
    chance = random.Random(20270203)
    events: dict[str, PositionEvent] = {}
    is_up = threading.Event()

    def trade(client: ExchangeClient) -> None:
        for number in range(TRADES):
            name = f"request-{number}"
            while name not in events:
                assert is_up.wait(MOST_S)  # calls in vain would only slow down its start
                with suppress(Unavailable):
                    events[name] = client.trade(f"account-{number}", "H100.BASE@1", 1, request_id=name)

    with (
        ExchangeProcess(tmp_path / "exchange.db") as exchange,
        ExchangeClient(exchange.address, timeout_s=30) as client,
    ):
        client.list_instrument(terms(), lots_listed=TRADES)
        is_up.set()
        trader = threading.Thread(target=trade, args=(client,))
        trader.start()
        for _ in range(3):
            at = min(TRADES, len(events) + chance.randint(1, TRADES // 4))
            while len(events) < at and trader.is_alive():
                time.sleep(0.0005)
            is_up.clear()
            exchange.kill()
            exchange.start()
            is_up.set()
        trader.join(MOST_S)
        assert len(events) == TRADES
        assert sorted(event.cursor.seq for event in events.values()) == list(range(1, TRADES + 1))
        again = {name: client.trade(event.account, "H100.BASE@1", 1, request_id=name) for name, event in events.items()}
        assert again == events
        assert len(client.snapshot().positions) == TRADES
