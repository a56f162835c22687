"""Keys: their lines, their files, and what is refused."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, Unavailable
from scheduler.ledger.keys import Kind, SignerKey, VerifierKey

# The example of golang.org/x/mod/sumdb/note's documentation.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"


def test_the_documented_keys_of_go_are_a_pair() -> None:
    signer, verifier = SignerKey.parse(GO_SKEY), VerifierKey.parse(GO_VKEY + "\n")
    assert signer.verifier == verifier
    assert (signer.encode(), verifier.encode()) == (GO_SKEY, GO_VKEY)
    assert verifier.key_hash.hex() == "c74f20a3"


@given(st.binary(min_size=32, max_size=32), st.text(max_size=60))
def test_signatures_verify_for_their_text_and_kind_only(seed: bytes, text: str) -> None:
    key = SignerKey("k", seed)
    signed, cosigned = key.sign(text), key.cosign(text, 5)
    assert key.verifier.verify(text, signed)
    assert key.witness.verify(text, cosigned)
    assert not key.verifier.verify(text + "x", signed)
    assert not key.witness.verify(text + "x", cosigned)
    assert not key.verifier.verify(text, cosigned)
    assert not key.witness.verify(text, signed)
    assert not key.witness.verify(text, (6).to_bytes(8, "big") + cosigned[8:])
    assert key.verifier.verify_bytes(b"batch", key.sign_bytes(b"batch"))


@given(st.binary(max_size=80))
def test_any_bytes_may_be_tried_as_a_signature(signature: bytes) -> None:
    key = SignerKey("k", bytes(32))
    assert not key.verifier.verify("text\n", signature)
    assert not key.witness.verify("text\n", signature)


def test_a_witness_has_a_key_of_its_own_kind_and_hash() -> None:
    key = SignerKey.parse(GO_SKEY)
    assert key.witness.kind is Kind.COSIGNATURE
    assert key.witness.key_hash != key.verifier.key_hash
    assert VerifierKey.parse(key.witness.encode()) == key.witness


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a3+",
        "PeterNeumann+c74f20a3+!!!",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcU",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_malformed_key_is_refused(bad: str) -> None:
    with pytest.raises(InvalidValue):
        VerifierKey.parse(bad)
    with pytest.raises(InvalidValue):
        SignerKey.parse("PRIVATE+KEY+" + bad)
    with pytest.raises(InvalidValue):
        SignerKey.parse(bad)


def test_secrets_are_not_shown() -> None:
    key = SignerKey.parse(GO_SKEY)
    assert "seed" not in repr(key)
    with pytest.raises(InvalidValue) as raised:
        SignerKey.parse(GO_SKEY.replace("c74f20a3", "00000000"))
    assert GO_SKEY[-20:] not in str(raised.value)


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    key = SignerKey.load_or_generate(path, "log.example")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SignerKey.load(path) == SignerKey.load_or_generate(path, "log.example") == key
    with pytest.raises(Conflict, match="never overwritten"):
        key.save(path)
    with pytest.raises(Conflict, match=r"expected 'other\.example'"):
        SignerKey.load_or_generate(path, "other.example")
    path.chmod(0o640)
    with pytest.raises(Unauthorised, match="mode 0640, expected 0600"):
        SignerKey.load(path)


def test_a_key_file_that_is_missing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="a file that exists"):
        SignerKey.load(tmp_path / "log.key")
    with pytest.raises(InvalidValue, match="a folder that exists"):
        SignerKey.generate("k").save(tmp_path / "nowhere" / "log.key")
    path = tmp_path / "bytes.key"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(InvalidValue, match="not text"):
        SignerKey.load(path)


def test_a_key_that_could_not_be_kept_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a key would be found at the next start, and refused there for ever."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        SignerKey.load_or_generate(tmp_path / "log.key", "log.example")
    assert list(tmp_path.iterdir()) == []
