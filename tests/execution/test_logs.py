"""Following a log: every line once, also what comes just before the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scheduler.execution.logs import exit_path, log_path, read_exit, tail


def test_a_log_is_followed_until_the_exit_is_there(tmp_path: Path) -> None:
    path = log_path(tmp_path, "gang-1", 2, 0)
    path.parent.mkdir(parents=True)
    lines = tail(path)
    path.write_text("one\ntwo\nthr")
    assert [next(lines), next(lines)] == ["one", "two"]
    with path.open("a") as file:
        file.write("ee\nlast")
    exit_path(tmp_path, "gang-1", 2, 0).write_text('{"exit_code": 0, "at_ms": 5}')
    assert list(lines) == ["three", "last"]
    assert read_exit(exit_path(tmp_path, "gang-1", 2, 0)) == (0, 5)


def test_a_log_that_never_came_is_empty(tmp_path: Path) -> None:
    assert list(tail(tmp_path / "0.log", ended=lambda: True)) == []


def test_a_torn_exit_is_none(tmp_path: Path) -> None:
    (tmp_path / "0.exit").write_text('{"exit_code": 0')
    assert read_exit(tmp_path / "0.exit") is None
    assert read_exit(tmp_path / "1.exit") is None


@given(chunks=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=6), max_size=8))
def test_however_it_is_written_the_lines_are_the_same(chunks: list[str]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.log"
        left = list(chunks)

        def ended() -> bool:
            with path.open("a") as file:
                file.write(left.pop(0) if left else "")
            return not left

        text = "".join(chunks)
        expected = text.split("\n")
        assert list(tail(path, ended=ended)) == (expected if expected[-1] else expected[:-1])
