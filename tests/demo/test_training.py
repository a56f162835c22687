"""The demonstration's job: it gets better, goes on from its checkpoint, tells its progress, and heeds SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.demo import training
from scheduler.report import PROGRESS_VARIABLE


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No rank and no progress file of the caller's; this process heeds SIGTERM afterwards as it did before."""
    for name in ("RANK", "WORLD_SIZE", PROGRESS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def trained(checkpoint: Path, steps: int, *more: str) -> dict[str, Any]:
    """Train here to a step; what was saved for rank 0."""
    assert training.main(["--steps", str(steps), "--pause-ms", "0", "--checkpoint", str(checkpoint), *more]) == 0
    saved: dict[str, Any] = json.loads(checkpoint.with_name(f"{checkpoint.name}.0").read_text())
    return saved


def test_a_run_that_is_cut_and_goes_on_comes_to_the_same_as_one_that_is_not(tmp_path: Path) -> None:
    trained(tmp_path / "cut", 17)
    cut = trained(tmp_path / "cut", 40)
    whole = trained(tmp_path / "whole", 40)
    assert cut == whole
    assert cut["step"] == 40
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cut.0", "whole.0"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    done = trained(tmp_path / "a", 20)
    assert trained(tmp_path / "a", 20) == done
    assert trained(tmp_path / "a", 5) == done


def test_progress_is_reported_and_the_loss_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress"))
    trained(tmp_path / "a", 100, "--report-every", "20")
    told = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert [(each["rank"], each["step"]) for each in told] == [(0, step) for step in (20, 40, 60, 80, 100)]
    losses = [each["loss"] for each in told]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


def test_each_rank_has_a_checkpoint_and_a_task_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(tmp_path / "a", 10)
    monkeypatch.setenv("RANK", "1")
    assert training.main(["--steps", "12", "--pause-ms", "0", "--checkpoint", str(tmp_path / "a")]) == 0
    second = json.loads((tmp_path / "a.1").read_text())
    assert second["step"] == 12
    assert second["weights"] != first["weights"]
    assert json.loads((tmp_path / "a.0").read_text()) == first


def test_without_a_checkpoint_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert training.main(["--steps", "3", "--pause-ms", "0"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--report-every", "0"], ["--pause-ms", "-1"], ["--steps", "x"]])
def test_what_cannot_be_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        training.main(["--steps", "1", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_sigterm_saves_and_ends_well_and_the_next_run_goes_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "deep" / "a"
    arguments = ["-m", "scheduler.demo.training", "--pause-ms", "1", "--report-every", "1000000"]
    command = [sys.executable, *arguments, "--steps", "10000000", "--checkpoint", str(checkpoint)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == "rank 0 of 1 on here:, from step 0\n"
            job.send_signal(signal.SIGTERM)
            rest, _ = job.communicate(timeout=60)
        finally:
            job.kill()
        assert job.returncode == 0
    saved = json.loads((tmp_path / "deep" / "a.0").read_text())
    assert rest == f"rank 0 stopped, saved at step {saved['step']}\n"
    assert trained(checkpoint, saved["step"] + 1)["step"] == saved["step"] + 1
