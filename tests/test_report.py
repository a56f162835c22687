"""Progress from inside a job: a line where it is wanted, and nothing that could ever fail the job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scheduler.report import LONGEST_LINE_BYTES, PROGRESS_VARIABLE, report


def test_progress_is_a_line_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(path))
    assert report(step=1, loss=0.5)
    assert report(step=np.int64(2), loss=np.float32(0.25), note="warm")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert {"step": 1, "loss": 0.5}.items() <= first.items()
    assert {"step": 2, "loss": 0.25, "note": "warm"}.items() <= second.items()
    assert 0 < first["at_ms"] <= second["at_ms"]


def test_nobody_asked_for_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    assert not report(step=1)


@pytest.mark.parametrize("path", ["/", "/nonexistent/folder/file", "\x00"])
def test_a_file_that_cannot_be_written_is_no_failure(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {PROGRESS_VARIABLE: path})
    assert not report(step=1)


def test_values_that_cannot_be_written_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

    path = tmp_path / "progress"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(path))
    endless: list[object] = []
    endless.append(endless)
    assert not report(odd=Odd())
    assert not report(endless=endless)
    assert not report(long="x" * LONGEST_LINE_BYTES)
    assert report(path=path)
    assert len(path.read_text().splitlines()) == 1


def test_workers_that_share_a_file_never_mix_their_lines(tmp_path: Path) -> None:
    code = "import sys; from scheduler.report import report; [report(worker=sys.argv[1] * 500) for _ in range(200)]"
    path = tmp_path / "progress"
    workers = [
        subprocess.Popen([sys.executable, "-c", code, name], env={PROGRESS_VARIABLE: str(path)}) for name in "abc"
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    told = [json.loads(line)["worker"] for line in path.read_text().splitlines()]
    assert sorted(told) == sorted(name * 500 for name in "abc" for _ in range(200))
