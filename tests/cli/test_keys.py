"""`tenor keys rotate`: the next key is where the scheduler takes it up, once, and no secret is shown."""

from __future__ import annotations

import json
from pathlib import Path

from scheduler.ledger.keyring import NEXT_FILE
from scheduler.ledger.keys import SignerKey
from tests.cli.conftest import tenor


def test_the_next_key_is_left_for_the_scheduler(tmp_path: Path) -> None:
    ended = tenor("keys", "rotate", "--home", str(tmp_path), "--stream", "east", "-o", "json", home=tmp_path)
    assert ended.code == 0, ended.err
    key = SignerKey.load(tmp_path / NEXT_FILE)
    assert json.loads(ended.out) == {"vkey": key.verifier.encode()}
    assert key.name == "tenor.local/east"
    assert "PRIVATE" not in ended.out + ended.err
    again = tenor("keys", "rotate", home=tmp_path)
    assert (again.code, "a signer key is never overwritten" in again.err) == (2, True)
    assert SignerKey.load(tmp_path / NEXT_FILE) == key


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = tenor("keys", "rotate", "--home", str(tmp_path / "none"), home=tmp_path)
    assert (ended.code, "expected a folder that exists" in ended.err) == (2, True)
