"""What the demonstration may touch, and that its steps are ones that it can show."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.core.errors import Conflict, TenorError
from scheduler.demo.story import DELIVERY_MS, GRACE_MS, INTERVAL_MS, MARK, STEPS, fresh_home


def test_a_home_is_made_and_an_earlier_demonstrations_is_emptied(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "deep" / "demo")
    assert home == tmp_path / "deep" / "demo" / "home"
    assert [path.name for path in home.iterdir()] == [MARK]
    (home / "journal.db").write_bytes(b"old")
    (home / "ray").mkdir()
    (home.parent / "bundle").mkdir()
    assert fresh_home(tmp_path / "deep" / "demo") == home
    assert [path.name for path in home.iterdir()] == [MARK]
    assert (home.parent / "bundle").is_dir()


def test_a_home_named_from_here_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fresh_home(Path("build/demo")) == tmp_path / "build" / "demo" / "home"


@pytest.mark.parametrize("empty", [False, True])
def test_a_home_that_is_somebody_elses_is_left_as_it_is(tmp_path: Path, *, empty: bool) -> None:
    theirs = tmp_path / "home" / "thesis.txt"
    theirs.parent.mkdir()
    if not empty:
        theirs.write_text("years of work")
    with pytest.raises(Conflict, match="was not left by a demonstration: name another folder"):
        fresh_home(tmp_path)
    assert list(theirs.parent.iterdir()) == ([] if empty else [theirs])


def test_a_file_in_the_way_is_said_and_kept(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine")
    with pytest.raises(TenorError):
        fresh_home(tmp_path)
    assert (tmp_path / "home").read_text() == "mine"
    with pytest.raises(TenorError):
        fresh_home(tmp_path / "home")
    assert (tmp_path / "home").read_text() == "mine"


def test_steps_come_in_order_within_delivery_with_time_for_a_grace_between_them() -> None:
    instants = [at_s for at_s, _ in STEPS]
    assert instants[0] == 0
    assert all(later - earlier > GRACE_MS / 1_000 for earlier, later in pairwise(instants))
    assert instants[-1] * 1_000 + INTERVAL_MS < DELIVERY_MS
    assert DELIVERY_MS % INTERVAL_MS == 0
