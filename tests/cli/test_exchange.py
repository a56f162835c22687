"""`tenor exchange`: a real exchange process, and everything that its members do there, by command."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.cluster import Level
from scheduler.core.instruments import PeakProfile
from scheduler.exchange.client import ExchangeClient
from tests.cli.conftest import TENOR, Ended, tenor

TERMS = """
symbol = "LOGICAL.8N.LOCAL.PEAK"
price_micro_per_gpu_hour = 2_500_000

[lot]
gpus = 8
cell = "NODE"

[grade]
klass = "LOGICAL"

[window]
start_ms = 1_798_761_600_000
end_ms = 1_801_440_000_000

[profile]
kind = "PEAK"
time_zone = "Europe/Berlin"
holidays = [2027-01-06]
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exchange")
    process = subprocess.Popen(
        [TENOR, "exchange", "serve", "--db", str(folder / "exchange.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def trade(address: str, home: Path, *arguments: str) -> Ended:
    return tenor("exchange", "trade", *arguments, home=home, TENOR_EXCHANGE=address)


def document(address: str, home: Path, *arguments: str) -> Any:
    ended = trade(address, home, *arguments, "-o", "json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_a_day_of_trading_by_command(address: str, tmp_path: Path) -> None:
    listed = document(
        address,
        tmp_path,
        *("list", "--symbol", "LOGICAL.8N", "--cell", "node", "--gpus", "8", "--start", "2027-01-01"),
        *("--end", "2027-02-01", "--metering-s", "10", "--price-micro", "3000000"),
    )
    assert listed["instrument"] == "LOGICAL.8N@1"
    bought = document(address, tmp_path, "buy", "acme", "LOGICAL.8N@1", "--lots", "3", "--request-id", "r-1")
    again = document(address, tmp_path, "buy", "acme", "LOGICAL.8N@1", "--lots", "3", "--request-id", "r-1")
    assert again == bought
    sold = document(address, tmp_path, "sell", bought["position"], "--to", "borealis", "--from", "2027-01-10")
    assert (sold["kind"], sold["account"], sold["lots"], sold["source"]) == (
        "transfer",
        "borealis",
        1,
        bought["position"],
    )
    halved = document(address, tmp_path, "split", bought["position"])
    assert (halved["kind"], halved["account"]) == ("split", "acme")
    corrected = trade(address, tmp_path, "correct", halved["position"], "--lots", "0", "--from", "2027-01-20")
    assert (corrected.code, corrected.out.strip()) == (0, halved["position"])
    book = document(address, tmp_path, "book")
    assert {each["id"]: each["account"] for each in book["positions"]} == {
        bought["position"]: "acme",
        sold["position"]: "borealis",
        halved["position"]: "acme",
    }
    with ExchangeClient(address) as venue:
        (terms,) = venue.instruments("LOGICAL.8N")
    assert (terms.lot.cell, terms.metering_interval_s, terms.price_micro_per_gpu_hour) == (Level.NODE, 10, 3_000_000)
    shown = trade(address, tmp_path, "book").out.split()
    assert {"POSITION", "acme", "borealis", "LOGICAL.8N@1"} <= set(shown)


def test_terms_come_from_a_file(address: str, tmp_path: Path) -> None:
    toml = tmp_path / "peak.toml"
    toml.write_text(TERMS, encoding="utf-8")
    assert trade(address, tmp_path, "list", str(toml)).out == "LOGICAL.8N.LOCAL.PEAK@1\n"
    with ExchangeClient(address) as venue:
        (terms,) = venue.instruments("LOGICAL.8N.LOCAL.PEAK")
    assert isinstance(terms.profile, PeakProfile)
    assert [day.isoformat() for day in terms.profile.holidays] == ["2027-01-06"]
    as_json = tmp_path / "peak.json"
    as_json.write_text(terms.model_dump_json(), encoding="utf-8")
    assert document(address, tmp_path, "list", str(as_json))["spec_hash"] == terms.spec_hash


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("buy", "acme", "NOTHING@1"), "NOTHING@1"),
        (("sell", "p-nothing", "--to", "acme"), "p-nothing"),
        (("split", "p-nothing"), "position"),
        (("correct", "p-nothing", "--lots", "1"), "p-nothing"),
        (("list", "--symbol", "LATE", "--start", "2027-01-02", "--end", "2027-01-01"), "end_ms"),
    ],
)
def test_what_the_exchange_refuses_is_said_in_one_line(
    address: str, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    ended = trade(address, tmp_path, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert ended.err.startswith("tenor: ")
    assert len(ended.err.strip().splitlines()) == 1


def test_faulty_terms_are_refused_with_every_fault(address: str, tmp_path: Path) -> None:
    toml = tmp_path / "faulty.toml"
    toml.write_text(TERMS.replace('cell = "NODE"', 'cell = "RACK"').replace("2_500_000", '"dear"'), encoding="utf-8")
    ended = trade(address, tmp_path, "list", str(toml))
    assert ended.code == 2
    assert "lot.cell" in ended.err
    assert "price_micro_per_gpu_hour" in ended.err
