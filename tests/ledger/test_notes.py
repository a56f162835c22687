"""Notes and checkpoints: what is believed, what is not, and what is malformed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import Conflict, InvalidValue, TenorError, Unauthorised
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import (
    Checkpoint,
    cosign,
    cosigned_at_s,
    open_checkpoint,
    open_note,
    parse_note,
    sign_checkpoint,
    sign_note,
    with_cosignature,
)

LOG, OTHER, WITNESS = (SignerKey(name, bytes([number]) * 32) for number, name in enumerate(("log", "other", "witness")))
TEXT = "a text\n"
# The note of golang.org/x/mod/sumdb/note's documentation, signed with the key of test_keys.
GO_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_documented_note_of_go_is_ours() -> None:
    key = SignerKey.parse(GO_KEY)
    assert sign_note(GO_TEXT, key).decode() == GO_NOTE
    assert open_note(GO_NOTE.encode(), [key.verifier]).text == GO_TEXT


@given(st.text(st.characters(codec="utf-8", min_codepoint=0x20), max_size=60).map(lambda text: text + "\n"))
def test_any_text_that_may_be_signed_is_opened_again(text: str) -> None:
    note = sign_note(text, OTHER, LOG)
    opened = open_note(note, [LOG.verifier])
    assert (opened.text, [it.name for it in opened.verified]) == (text, ["log"])
    assert [it.name for it in opened.unverified] == ["other"]
    assert parse_note(note).encode() == note


def test_a_note_is_believed_only_with_a_trusted_signature() -> None:
    with pytest.raises(Unauthorised, match="signed by other, expected a signature of log"):
        open_note(sign_note(TEXT, OTHER), [LOG.verifier])
    with pytest.raises(Unauthorised, match="expected a signature of nobody"):
        open_note(sign_note(TEXT, LOG), [])


def test_a_wrong_signature_of_a_trusted_key_spoils_the_note() -> None:
    both = sign_note(TEXT, LOG, OTHER).replace(b"a text", b"b text")
    with pytest.raises(Unauthorised, match="is not its key's"):
        open_note(both, [LOG.verifier])


def test_repeated_signatures_count_once_and_only_the_first() -> None:
    line = sign_note(TEXT, LOG).split(b"\n\n")[1]
    opened = open_note(sign_note(TEXT, LOG, OTHER, OTHER) + line, [LOG.verifier, LOG.verifier])
    assert (len(opened.verified), len(opened.unverified)) == (1, 1)


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"a text\n",
        b"a text\n\n",
        b"a text\n\nno dash\n",
        sign_note(TEXT, LOG)[:-1],
        sign_note(TEXT, LOG) + b"\n",
        sign_note(TEXT, LOG) + b"more\n",
        sign_note(TEXT, LOG).replace(b" text", b"\ttext"),
        sign_note(TEXT, LOG).replace(b" text", b"\xfftext"),
        sign_note(TEXT, LOG).replace("— log".encode(), "— l+g".encode()),
        sign_note(TEXT, LOG).replace("— log".encode(), "— ".encode()),
        b"a text\n\n" + "— log AAAA\n".encode(),
        b"a text\n\n" + "— log !!!!AAAA\n".encode(),
        b"a text\n\n" + sign_note(TEXT, LOG).split(b"\n\n")[1] * 101,
    ],
)
def test_a_malformed_note_is_refused(malformed: bytes) -> None:
    with pytest.raises(InvalidValue):
        open_note(malformed, [LOG.verifier])


@given(st.binary(max_size=200), st.integers(0, 150), st.integers(0, 150))
def test_spoiled_notes_are_refused_or_left_as_they_were(noise: bytes, start: int, length: int) -> None:
    note = sign_checkpoint(Checkpoint("log", 5, bytes(32)), LOG)
    spoiled = note[:start] + noise + note[start + length :]
    try:
        assert open_checkpoint(spoiled, [LOG.verifier]) == Checkpoint("log", 5, bytes(32))
    except TenorError:
        assert spoiled != note


@pytest.mark.parametrize("text", ["no end of line", "", "a\ttab\n"])
def test_a_text_that_no_note_can_have_is_not_signed(text: str) -> None:
    with pytest.raises(InvalidValue):
        sign_note(text, LOG)


def test_a_checkpoint_is_as_the_specification_has_it() -> None:
    """The example of https://c2sp.org/tlog-checkpoint."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.text() == text
    extended = Checkpoint("o", 0, bytes(32), ("one", "two"))
    assert Checkpoint.parse(extended.text()) == extended


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n",
        f"o\n5\n{ROOT}",
        f"o\n05\n{ROOT}\n",
        f"o\n-5\n{ROOT}\n",
        f"o\n٥\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"\n5\n{ROOT}\n",
        "o\n5\nAAAA\n",
        "o\n5\n!\n",
        f"o\n5\n{ROOT}\n\nx\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        Checkpoint.parse(text)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    note = sign_checkpoint(Checkpoint("log", 5, bytes(32)), LOG)
    assert open_checkpoint(note, [LOG.verifier], origin="log").size == 5
    with pytest.raises(Conflict, match="expected 'another'"):
        open_checkpoint(note, [LOG.verifier], origin="another")


def test_a_cosignature_is_taken_over_from_a_copy_of_the_same_checkpoint_only() -> None:
    note = sign_checkpoint(Checkpoint("log", 5, bytes(32)), LOG)
    one, two = cosign(note, WITNESS, 100), cosign(note, OTHER, 200)
    both = with_cosignature(one, two, OTHER.witness)
    assert both == cosign(one, OTHER, 200)
    assert with_cosignature(both, two, OTHER.witness) == both
    other = cosign(sign_checkpoint(Checkpoint("log", 6, bytes(32)), LOG), OTHER, 200)
    with pytest.raises(Conflict, match="was of 6 leaves of log with root 00"):
        with_cosignature(note, other, OTHER.witness)
    with pytest.raises(Unauthorised):
        with_cosignature(note, one, OTHER.witness)
    with pytest.raises(InvalidValue, match="a witness's"):
        with_cosignature(note, two, OTHER.verifier)
    full = note
    for number in range(99):
        full = cosign(full, SignerKey(f"witness-{number}", bytes(32)), 1)
    with pytest.raises(Conflict, match="has 100 signatures, expected fewer than 100"):
        with_cosignature(full, two, OTHER.witness)


def test_a_witness_cosigns_and_its_newer_cosignature_replaces_the_older() -> None:
    note = sign_checkpoint(Checkpoint("log", 5, bytes(32)), LOG)
    twice = cosign(cosign(note, WITNESS, 100), WITNESS, 200)
    opened = open_note(twice, [LOG.verifier, WITNESS.witness])
    assert [it.name for it in opened.verified] == ["log", "witness"]
    assert cosigned_at_s(opened, WITNESS.witness) == 200
    assert cosigned_at_s(opened, OTHER.witness) is None
    assert cosigned_at_s(opened, LOG.verifier) is None
    with pytest.raises(InvalidValue):
        cosign(sign_note("no checkpoint\n", LOG), WITNESS, 1)
