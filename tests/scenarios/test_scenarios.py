"""Every scenario file does what it says.

`TENOR_GOLDEN=write` writes what the steps print now into the files; a person then reads the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from scheduler.core.workloads import Reason, StopCause
from tests.scenarios.stage import Stage
from tests.scenarios.text import Step, length, length_ms, parsed, ranges, written
from tests.scenarios.words import DEEDS, ORDERS, run

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*/*.txt"))


def played(stage: Stage, step: Step) -> list[str]:
    """What a step prints; `ok` where there is nothing to say."""
    lines: list[str] = []
    for command in step.commands:
        try:
            lines += run(stage, command)
        except (ValueError, AssertionError, LookupError) as error:
            error.add_note(f"in {command!r}, step at line {step.line}")
            raise
    return lines or ["ok"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_scenario_is_as_it_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    stage = Stage()
    now = written(parsed(text), lambda step: played(stage, step))
    stage.close()
    if os.environ.get("TENOR_GOLDEN") == "write":
        path.write_text(now, encoding="utf-8")
        text = now
    assert now == text


def test_every_word_is_used_in_some_scenario() -> None:
    commands = [
        command.split()
        for path in FILES
        for step in parsed(path.read_text(encoding="utf-8"))
        if isinstance(step, Step)
        for command in step.commands
    ]
    used = {words[0] for words in commands} | {words[1] for words in commands if len(words) > 1}
    assert {*ORDERS, *DEEDS} <= used


@pytest.mark.parametrize(
    ("told", "closed"), [(r" waits: (\w+)[, ]", Reason), (r" is told to stop: (\w+)[, ]", StopCause)]
)
def test_every_reason_and_every_cause_of_a_stop_is_in_some_scenario(
    told: str, closed: type[Reason | StopCause]
) -> None:
    said = {word for path in FILES for word in re.findall(told, path.read_text(encoding="utf-8"))}
    assert {str(each) for each in closed} <= said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("acme hopes for 2 nodes", "means nothing"),
        ("fleet of gold", "is no fleet"),
        ("acme buys 2 racks", "is no cell"),
        ("acme submits train 8 colour=red", "means nothing here"),
        ("after lunch", "is no length of time"),
        ("round twice", "mean nothing here"),
    ],
)
def test_a_word_that_nobody_knows_fails_the_scenario(line: str, said: str) -> None:
    stage = Stage()
    run(stage, "fleet 1 nodes of 8 H100")
    with pytest.raises(ValueError, match=said):
        run(stage, line)
    stage.close()


def test_a_step_without_a_ruler_is_no_scenario() -> None:
    with pytest.raises(ValueError, match="line 3: a step ends with"):
        parsed("# prose\n\nround\n\nround\n----\nok\n")


def test_lengths_and_ranges_are_read_as_they_are_written() -> None:
    assert [length(length_ms(text)) for text in ("0s", "1h30m", "250ms", "2d1s")] == ["0s", "1h30m", "250ms", "2d1s"]
    assert [ranges(numbers) for numbers in ((), (3,), (0, 1, 2, 5))] == ["", "3", "0-2,5"]
