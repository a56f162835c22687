"""`tenor certs`, and what it is for: an exchange and its members that know each other by certificates, by command."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import TENOR, Ended, tenor


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "certs"
    peers = ("cluster/east", "exchange/venue", "account/acme", "account/borealis", "auditor/klm")
    ended = tenor("certs", "make", *peers, "--folder", str(folder), "--host", "exchange.example", home=folder.parent)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0].split() == ["FILE", "WHOSE", "HOSTS", "VALID", "UNTIL", "NOTE"]
    assert "authority.key signs certificates: whoever has it can be anybody" in ended.err
    assert "give it to that peer, and to nobody else" in ended.err
    assert "PRIVATE KEY" not in ended.out + ended.err
    return folder


@pytest.fixture(scope="module")
def address(certs: Path) -> Iterator[str]:
    command = [TENOR, "exchange", "serve", "--db", str(certs.parent / "exchange.db")]
    command += ["--identity", str(certs / "exchange-venue.pem"), "--authority", str(certs / "authority.pem")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def trade(address: str, certs: Path, peer: str, *arguments: str) -> Ended:
    """The command as that peer."""
    return tenor(
        *("exchange", "trade", *arguments),
        home=certs.parent,
        TENOR_EXCHANGE=address,
        TENOR_IDENTITY=str(certs / f"{peer}.pem"),
        TENOR_AUTHORITY=str(certs / "authority.pem"),
    )


def test_members_trade_as_who_they_are(address: str, certs: Path) -> None:
    terms = ("--symbol", "LOGICAL.1G", "--start", "2027-01-01", "--end", "2027-02-01")
    refused = trade(address, certs, "account-acme", "list", *terms)
    assert (refused.code, "account/acme may not ask this, it is for: exchange" in refused.err) == (2, True)
    listed = trade(address, certs, "exchange-venue", "list", *terms)
    assert listed.code == 0, listed.err
    bought = trade(address, certs, "account-acme", "buy", "acme", "LOGICAL.1G@1")
    assert bought.code == 0, bought.err
    refused = trade(address, certs, "account-borealis", "buy", "acme", "LOGICAL.1G@1")
    assert (refused.code, "account/borealis may not ask for trades of acme" in refused.err) == (2, True)
    for peer, seen in (("account-acme", 1), ("account-borealis", 0), ("auditor-klm", 1)):
        book = trade(address, certs, peer, "book", "-o", "json")
        assert len(json.loads(book.out)["positions"]) == seen


def test_options_before_the_verb_say_it_too(address: str, certs: Path) -> None:
    who = ("--identity", str(certs / "auditor-klm.pem"), "--authority", str(certs / "authority.pem"))
    ended = tenor(*who, "exchange", "trade", "book", home=certs.parent, TENOR_EXCHANGE=address)
    assert ended.code == 0, ended.err


def test_plaintext_is_told_what_it_met(address: str, certs: Path) -> None:
    ended = tenor("exchange", "trade", "book", home=certs.parent, TENOR_EXCHANGE=address)
    assert ended.code == 3
    assert "speaks TLS, and was called in plaintext: say who you are (TENOR_IDENTITY, TENOR_AUTHORITY)" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_stranger_is_told_in_one_line(address: str, certs: Path, tmp_path: Path) -> None:
    made = tenor("certs", "make", "admin/root", "--folder", str(tmp_path / "certs"), home=tmp_path)
    assert made.code == 0, made.err
    ended = trade(address, tmp_path / "certs", "admin-root", "book")
    assert (ended.code, len(ended.err.strip().splitlines())) == (3, 1)
    assert "has a certificate of another authority than those in" in ended.err


def test_a_remote_address_needs_certificates(certs: Path) -> None:
    serve = ("exchange", "serve", "--db", str(certs.parent / "other.db"), "--listen", "0.0.0.0:0")
    up = ("up", "--home", str(certs.parent / "up"), "--exchange", "exchange.example:7001")
    for arguments in (serve, up, ("up", "--home", str(certs.parent / "up"), "--listen", "0.0.0.0:0")):
        ended = tenor(*arguments, home=certs.parent)
        assert (ended.code, "in plaintext, which is for a loopback address only" in ended.err) == (2, True)


def test_up_refuses_certificates_that_are_of_no_use(certs: Path, tmp_path: Path) -> None:
    up = ("up", "--home", str(tmp_path), "--identity", str(certs / "cluster-east.pem"))
    ended = tenor(*up, home=tmp_path)
    assert (ended.code, "authority of TLS was None" in ended.err) == (2, True)
    ended = tenor(*up, "--authority", str(certs / "none.pem"), home=tmp_path)
    assert (ended.code, "expected a PEM file that exists" in ended.err) == (2, True)


def test_nothing_is_overwritten_and_all_is_shown_and_renewed(certs: Path) -> None:
    again = tenor("certs", "make", "cluster/west", "cluster/east", "--folder", str(certs), home=certs.parent)
    assert (again.code, "nothing was made" in again.err) == (2, True)
    assert not (certs / "cluster-west.pem").exists()
    renewed = tenor("certs", "renew", str(certs / "cluster-east.pem"), "--days", "5", "-o", "json", home=certs.parent)
    (told,) = json.loads(renewed.out)
    assert (told["peer"], told["authority"]) == ("cluster/east", False)
    shown = tenor("certs", "show", str(certs / "cluster-east.pem"), str(certs / "authority.pem"), home=certs.parent)
    lines = shown.out.splitlines()
    assert lines[1].endswith("soon")
    assert "exchange.example" in lines[1]
    assert lines[2].split()[1] == "authority"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("make", "king/x"), "ROLE/NAME"),
        (("make", "cluster/a", "--host", "a:7"), "without a port"),
        (("show", "nowhere.pem"), "a PEM file that exists"),
        (("renew", "nowhere.pem"), "a PEM file that exists"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    verb, *rest = arguments
    folder = ("--folder", str(tmp_path)) if verb == "make" else ()
    ended = tenor("certs", verb, *rest, *folder, home=tmp_path)
    assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
    assert says in ended.err
    assert list(tmp_path.iterdir()) == []
