"""What `tenor certs` makes: readable by its owner only, never in the place of something, renewed with the same key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, InvalidValue, TenorError, Unauthorised
from scheduler.exchange import certs
from scheduler.exchange.errors import Untrusted
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.tls import Tls, stale
from tests.exchange.trust import DAY_MS, Trust, now_ms

PEERS = [Peer.parse(each) for each in ("cluster/east", "exchange/venue", "account/acme")]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_authority_and_identities_are_made_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = certs.make(folder, PEERS, hosts=["exchange.example", "10.1.2.3"], now_ms=now_ms())
    assert [each.path.name for each in made] == [
        *("authority.pem", "cluster-east.pem", "exchange-venue.pem", "account-acme.pem")
    ]
    assert [each.peer for each in made] == [None, *PEERS]
    assert {each.path.name: mode(each.path) for each in made[1:]} == {each.path.name: 0o600 for each in made[1:]}
    assert mode(folder / "authority.key") == 0o600
    assert mode(folder) == 0o700
    assert set(made[1].hosts) == {"localhost", "exchange.example", "127.0.0.1", "::1", "10.1.2.3"}
    assert made[3].hosts == ()
    assert made[2].not_after_ms - now_ms() in range(89 * DAY_MS, 91 * DAY_MS)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to judge them")
def test_a_tool_that_is_not_ours_verifies_them(tmp_path: Path) -> None:
    for made in certs.make(tmp_path, PEERS, now_ms=now_ms())[1:]:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "authority.pem"), str(made.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    certs.make(tmp_path, PEERS[:1], now_ms=now_ms())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Conflict, match=r"nothing was made.*cluster-east\.pem"):
        certs.make(tmp_path, [PEERS[1], PEERS[0]], now_ms=now_ms())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "authority.pem").unlink()
    with pytest.raises(Conflict, match=r"authority\.key"):
        certs.make(tmp_path, PEERS[1:2], now_ms=now_ms())
    with pytest.raises(Conflict, match="one of them twice"):
        certs.make(tmp_path / "other", [PEERS[0], PEERS[0]], now_ms=now_ms())


def test_renewing_keeps_key_and_names(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    old = trust.over("cluster/east")
    with pytest.raises(Untrusted, match=r"expired at .*: renew it \(`tenor certs renew"):
        old.valid()
    key = old.load().key.split(b"-----BEGIN PRIVATE KEY")[1]
    renewed = certs.renew(old.identity, now_ms=now_ms())
    assert (renewed.peer, renewed.hosts) == (PEERS[0], ("localhost", "127.0.0.1", "::1"))
    assert old.valid().key.split(b"-----BEGIN PRIVATE KEY")[1] == key
    assert mode(old.identity) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.key", "authority.pem", "cluster-east.pem"]


def test_a_renewed_authority_still_vouches_for_what_it_signed(tmp_path: Path) -> None:
    tls = Trust(tmp_path).of("cluster/east")
    before = certs.described(tls.authority)
    after = certs.renew(tls.authority, days=9_000, now_ms=now_ms())
    assert after.not_after_ms > before.not_after_ms + 5_000 * DAY_MS
    command = ["openssl", "verify", "-CAfile", str(tls.authority), str(tls.identity)]
    if shutil.which("openssl"):
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert certs.renew(tls.identity, now_ms=now_ms()).issuer == after.issuer


def test_another_authoritys_certificate_is_not_renewed(tmp_path: Path) -> None:
    mine, other = Trust(tmp_path / "mine"), Trust(tmp_path / "other")
    mine.of("cluster/east")
    strange = other.of("cluster/west").identity
    moved = mine.folder / strange.name
    shutil.copy2(strange, moved)
    with pytest.raises(Conflict, match=r"was signed by .*, the authority beside it is"):
        certs.renew(moved, now_ms=now_ms())


def test_an_authority_that_is_over_signs_nothing(tmp_path: Path) -> None:
    certs.make(tmp_path, PEERS[:1], now_ms=now_ms() - 5_000 * DAY_MS)
    with pytest.raises(Conflict, match=r"expired at .*: renew it first"):
        certs.make(tmp_path, PEERS[1:], now_ms=now_ms())


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority, east = certs.make(tmp_path, PEERS[:1], days=20_000, now_ms=now_ms())
    assert east.not_after_ms == authority.not_after_ms


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster", "ROLE/NAME"),
        ("local/x", "ROLE/NAME"),
        ("king/x", "one of account, admin, auditor, cluster, exchange"),
        ("account/", "a name"),
        ("account/a/b", "a name"),
    ],
)
def test_what_is_no_peer_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        Peer.parse(text)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://tenor.local/local/x",
        "spiffe:///account/acme",
        "https://tenor.local/account/acme",
        "spiffe://tenor.local/account/",
        "spiffe://tenor.local/account/acme/x",
        "spiffe://tenor.local/ns/x/sa/y",
        "spiffe://tenor.local/account/acme?admin",
    ],
)
def test_what_is_no_identity_is_refused(uri: str) -> None:
    with pytest.raises(InvalidValue):
        Peer.of_uri(uri)


def test_an_identity_has_one_form() -> None:
    assert Peer.of_uri(PEERS[2].uri("any.example")) == Peer(Role.ACCOUNT, "acme")


def broken(folder: Path) -> list[tuple[Tls, type[TenorError], str]]:
    """Files that are of no use, each with what is said of it."""
    trust = Trust(folder)
    good, other = trust.of("cluster/east"), trust.of("cluster/west")
    pem = good.identity.read_text()
    certificate, key = pem[: pem.index("-----BEGIN PRIVATE")], pem[pem.index("-----BEGIN PRIVATE") :]
    files = {
        "open.pem": pem,
        "keyless.pem": certificate,
        "bare.pem": key,
        "mixed.pem": certificate
        + other.identity.read_text().partition("-----BEGIN PRIVATE")[2].join(("-----BEGIN PRIVATE", "")),
        "noise.pem": "noise",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o644 if name == "open.pem" else 0o600)
    return [
        (Tls(folder / "open.pem", good.authority), Unauthorised, r"may be read by others \(mode 0644, expected 0600\)"),
        (Tls(folder / "none.pem", good.authority), InvalidValue, "a PEM file that exists"),
        (Tls(folder / "keyless.pem", good.authority), InvalidValue, "private key of .* was 'missing'"),
        (Tls(folder / "bare.pem", good.authority), InvalidValue, "certificate of .* was 'missing or malformed'"),
        (Tls(folder / "mixed.pem", good.authority), InvalidValue, 'private key of .* was "another\'s"'),
        (Tls(good.identity, folder / "noise.pem"), InvalidValue, "certificate of .*noise"),
    ]


def test_files_that_are_of_no_use_are_named(tmp_path: Path) -> None:
    for tls, kind, says in broken(tmp_path):
        with pytest.raises(kind, match=says):
            tls.load()
        with pytest.raises(Untrusted):  # who dials for ever goes on dialling
            tls.check()


def test_a_folder_as_kubernetes_mounts_it_is_an_identity(tmp_path: Path) -> None:
    good = Trust(tmp_path).of("cluster/east")
    pem = good.identity.read_text()
    at = pem.index("-----BEGIN PRIVATE")
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "tls.crt").write_text(pem[:at])
    (tmp_path / "mounted" / "tls.key").write_text(pem[at:])
    (tmp_path / "mounted" / "tls.key").chmod(0o640)
    assert Tls(tmp_path / "mounted", good.authority).valid().peer == PEERS[0]


def test_whoever_watches_is_told_before_it_is_over(tmp_path: Path) -> None:
    tls = Trust(tmp_path).of("cluster/east")
    assert stale(None, now_ms()) == stale(tls, now_ms()) == []
    assert "expires at" in stale(tls, now_ms() + 84 * DAY_MS)[0]
    assert "expired at" in stale(tls, now_ms() + 91 * DAY_MS)[0]
    assert "is this machine's clock right?" in stale(tls, now_ms() - DAY_MS)[0]
