"""What `tenor demo` writes of what it showed, and what it refuses before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.__main__ import main
from scheduler.cli.demo import _counted, _view, _write
from scheduler.core.metering.states import State
from scheduler.demo.story import Shown
from scheduler.exchange.audit import AuditReport, Check, Verdict

STATEMENT: dict[str, Any] = {
    "position": "p-1",
    "instrument": "LOGICAL.8N@1",
    "contracted_gpu_ms": 320_000,
    "states": {str(state): 1_000 * k for k, state in enumerate(State, 1)},
    "amount_micro": 177_778,
    "currency": "USD",
}


def shown(*verdicts: Verdict, same_bytes: bool = True) -> Shown:
    checks = tuple(Check(f"check {k}", verdict, 3, "leaf 7" if k else "") for k, verdict in enumerate(verdicts))
    report = AuditReport(Path("bundle"), "tenor.test/log", 8, "00", 1, 4, checks)
    return Shown(12.4, (STATEMENT,), same_bytes, report, Path("bundle"))


def written(capsys: pytest.CaptureFixture[str], of: Shown) -> dict[str, str]:
    """What is written, as the first word of each line and its rest."""
    _write(of)
    lines = (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip())
    return {first: rest[0].strip() if rest else "" for first, *rest in lines}


def test_a_statement_is_a_row_in_gpu_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    states = {state: k for k, state in enumerate(State, 1)}
    delivered = states[State.USED] + states[State.AVAILABLE_UNUSED] + states[State.RELEASED]
    cells = written(capsys, shown(Verdict.OK))["p-1"].split()
    assert cells == [
        "LOGICAL.8N@1",
        "320",
        f"{states[State.USED]}.0",
        f"{delivered}.0",
        f"{states[State.DERATED]}.0",
        f"{states[State.OUT_FORCED]}.0",
        "0.1778",
        "USD",
    ]


def test_a_proof_that_holds_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told = written(capsys, shown(Verdict.OK, Verdict.OK))
    assert told["audit"] == "2 checks, all passed"
    assert told["statements"] == "the cluster's and the exchange's are the same bytes"
    assert told["took"] == "12 s"


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.OK])
def test_a_proof_that_fails_says_where(capsys: pytest.CaptureFixture[str], verdict: Verdict) -> None:
    told = written(capsys, shown(Verdict.OK, verdict, same_bytes=False))
    assert told["audit"].startswith("FAILED")
    assert "check 1" in told["audit"]
    assert told["statements"] == "THEY DIFFER"


@pytest.mark.parametrize(
    ("parts", "rest", "picture"),
    [
        ([("acme", 2)], {}, "[cyan]acme ██[/]"),
        ([("acme", 1), ("else", 1)], {"idle": 0}, "[cyan]acme █[/]  [white]else █[/]"),
        ([], {"unsold": 3}, "[dim]unsold ░░░[/dim]"),
        ([], {"unsold": 0}, ""),
    ],
)
def test_gpus_are_counted_in_blocks(parts: list[tuple[str, int]], rest: dict[str, int], picture: str) -> None:
    assert _counted(parts, **rest) == picture


def test_where_there_is_no_terminal_the_story_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with _view() as (told, _):
        told("one")
        told("two")
    assert capsys.readouterr().err == "one\ntwo\n"


@pytest.mark.parametrize("theirs", ["home/thesis.txt", "home"])
def test_a_folder_that_is_somebody_elses_is_refused_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], theirs: str
) -> None:
    path = tmp_path / theirs
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    assert main(["demo", "--folder", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tenor: ")
    assert "name another folder" in err
    assert path.read_text() == "years of work"
