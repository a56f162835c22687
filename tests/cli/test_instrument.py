"""`tenor instrument`: explain, check and show, from a file and from an exchange."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.exchange.client import ExchangeClient
from tests.cli.conftest import Ended, tenor
from tests.exchange.world import embedded
from tests.termsheet.listings import LISTINGS

GOLDEN = Path(__file__).parent.parent / "termsheet" / "golden"


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    path = tmp_path / "peak.json"
    path.write_text(LISTINGS["peak"].model_dump_json(), encoding="utf-8")
    return path


def instrument(home: Path, *arguments: str) -> Ended:
    return tenor("instrument", *arguments, home=home)


def test_a_file_is_explained_in_three_forms(terms: Path, tmp_path: Path) -> None:
    assert instrument(tmp_path, "explain", str(terms)).out == (GOLDEN / "peak.txt").read_text(encoding="utf-8")
    assert instrument(tmp_path, "explain", str(terms), "-o", "markdown").out.startswith("# Term sheet of H100.PEAK@1\n")
    found = json.loads(instrument(tmp_path, "explain", str(terms), "-o", "json").out)
    assert (found["instrument"], found["spec_hash"]) == ("H100.PEAK@1", LISTINGS["peak"].spec_hash)


def test_what_an_exchange_lists_is_explained_by_its_symbol(tmp_path: Path) -> None:
    with embedded(tmp_path / "exchange.db") as exchange:
        listed: ExchangeClient = exchange.client
        listed.list_instrument(LISTINGS["release"])
        listed.list_instrument(LISTINGS["release"].model_copy(update={"version": 2, "drain_s": 60}))
        at = ("--exchange", exchange.server.address)
        first = instrument(tmp_path, "explain", "H100.RELEASE@1", *at)
        assert first.out == (GOLDEN / "release.txt").read_text(encoding="utf-8")
        latest = instrument(tmp_path, "show", "H100.RELEASE", *at)
        assert ["version", "2"] in [line.split() for line in latest.out.splitlines()]
        assert ["drain_s", "60"] in [line.split() for line in latest.out.splitlines()]
        unknown = instrument(tmp_path, "explain", "H100", *at)
        assert (unknown.code, unknown.out) == (2, "")
        assert "instrument was 'H100', expected one of H100.RELEASE@1, H100.RELEASE@2" in unknown.err


def test_show_gives_every_term_and_what_is_hashed(terms: Path, tmp_path: Path) -> None:
    found = json.loads(instrument(tmp_path, "show", str(terms), "-o", "json").out)
    assert found == {"spec_hash": LISTINGS["peak"].spec_hash, "terms": LISTINGS["peak"].model_dump(mode="json")}
    shown = {line.split()[0] for line in instrument(tmp_path, "show", str(terms)).out.splitlines()}
    assert {"spec_hash", "profile.days.0", "profile.holidays.0", "damages.cap_ppm", "swing"} <= shown


def test_check_names_every_fault(terms: Path, tmp_path: Path) -> None:
    good = instrument(tmp_path, "check", str(terms))
    assert (good.code, good.out) == (0, f"H100.PEAK@1 {LISTINGS['peak'].spec_hash}\n")
    plain = LISTINGS["peak"].model_dump(mode="json")
    faulty = tmp_path / "faulty.json"
    faulty.write_text(json.dumps(plain | {"bind_limit_s": 0, "drain_s": 10**8}), encoding="utf-8")
    ended = instrument(tmp_path, "check", str(faulty))
    assert (ended.code, len(ended.out.splitlines())) == (2, 2)
    assert ended.out.splitlines()[0] == "bind_limit_s was 0, expected 1 or more"
    assert "H100.PEAK@1 cannot be listed as written: 2 to mend" in ended.err
    found = json.loads(instrument(tmp_path, "check", str(faulty), "-o", "json").out)
    assert (found["ok"], len(found["faults"])) == (False, 2)
    faulty.write_text(json.dumps(plain | {"symbol": 7, "colour": "red"}), encoding="utf-8")
    ended = instrument(tmp_path, "check", str(faulty))
    assert (ended.code, "colour" in ended.out, "symbol" in ended.out) == (2, True, True)
    missing = instrument(tmp_path, "check", str(tmp_path / "none.toml"))
    assert (missing.code, missing.out, "unreadable" in missing.err) == (2, "", True)
