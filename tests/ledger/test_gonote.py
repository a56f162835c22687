"""Go's `golang.org/x/mod/sumdb/note` opens our notes, and we open its: byte for byte the same form."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scheduler.ledger.keys import SignerKey, VerifierKey
from scheduler.ledger.notes import Checkpoint, cosign, open_checkpoint, open_note, sign_checkpoint, sign_note

SOURCE = Path(__file__).parent / "gonote"
TEXT = "größer than ASCII\n\nwith an empty line\n"


@pytest.fixture(scope="module")
def gonote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program; the test is skipped where Go or its module is not to be had."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed")
    try:
        fetched = subprocess.run(
            [go, "mod", "download"], cwd=SOURCE, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the Go module golang.org/x/mod did not come within a minute")
    if fetched.returncode:
        pytest.skip(f"the Go module golang.org/x/mod cannot be had: {fetched.stderr.strip()[-200:]}")
    program = tmp_path_factory.mktemp("gonote") / "gonote"
    subprocess.run([go, "build", "-o", str(program), "."], cwd=SOURCE, capture_output=True, check=True)
    return program


def _run(gonote: Path, *arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run([str(gonote), *arguments], input=given, capture_output=True, check=True).stdout


def test_go_opens_our_notes_and_signs_the_same_bytes(gonote: Path) -> None:
    key = SignerKey.generate("tenor.example/log/1")
    ours = sign_note(TEXT, key)
    assert _run(gonote, "open", key.verifier.encode(), given=ours).decode() == TEXT
    assert _run(gonote, "sign", key.encode(), given=TEXT.encode()) == ours


def test_go_opens_a_cosigned_checkpoint_and_refuses_a_changed_one(gonote: Path) -> None:
    key, witness = SignerKey.generate("tenor.example/log"), SignerKey.generate("exchange.example")
    note = cosign(sign_checkpoint(Checkpoint(key.name, 7, bytes(32)), key), witness, 1_800_000_000)
    assert _run(gonote, "open", key.verifier.encode(), given=note).decode().startswith("tenor.example/log\n7\n")
    with pytest.raises(subprocess.CalledProcessError):
        _run(gonote, "open", key.verifier.encode(), given=note.replace(b"\n7\n", b"\n8\n"))


def test_we_read_the_keys_and_the_notes_of_go(gonote: Path) -> None:
    skey, vkey = _run(gonote, "generate", "go.example/log").decode().split()
    assert SignerKey.parse(skey).verifier == VerifierKey.parse(vkey)
    assert (SignerKey.parse(skey).encode(), VerifierKey.parse(vkey).encode()) == (skey, vkey)
    text = Checkpoint("go.example/log", 12, bytes(range(32)), ("an extension",)).text()
    note = _run(gonote, "sign", skey, given=text.encode())
    assert open_note(note, [VerifierKey.parse(vkey)]).text == text
    assert open_checkpoint(note, [VerifierKey.parse(vkey)]).extensions == ("an extension",)
