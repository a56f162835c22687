"""Scenario files as text: steps of commands with the output that is expected below each; how quantities are written.

A file is blocks between empty lines. A block of `#` lines is prose. Any other block is a step: command lines, a line
`----`, then what the commands print, in their order (the style of etcd raft's `testdata`, whose `datadriven` package is
the model).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

RULER = "----"
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_LENGTH = re.compile(r"(\d+)(ms|[dhms])")


@dataclass(frozen=True, slots=True)
class Step:
    """Commands that are carried out together, and what they printed when somebody last looked."""

    line: int
    commands: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prose:
    """What the file says to its reader."""

    lines: tuple[str, ...]


def parsed(text: str) -> list[Step | Prose]:
    """The blocks of a scenario file in order. Raises ValueError on a step without a ruler."""
    blocks: list[Step | Prose] = []
    at = 1
    for block in text.strip("\n").split("\n\n"):
        lines = tuple(block.split("\n"))
        if all(line.startswith("#") for line in lines):
            blocks.append(Prose(lines))
        elif RULER not in lines:
            raise ValueError(f"line {at}: a step ends with {RULER!r} and what it prints")
        else:
            ruler = lines.index(RULER)
            blocks.append(Step(at, lines[:ruler], lines[ruler + 1 :]))
        at += len(lines) + 1
    return blocks


def written(blocks: Sequence[Step | Prose], print_of: Callable[[Step], Sequence[str]]) -> str:
    """The file's text with what its steps print now."""
    shown = [
        "\n".join(block.lines) if isinstance(block, Prose) else "\n".join((*block.commands, RULER, *print_of(block)))
        for block in blocks
    ]
    return "\n\n".join(shown) + "\n"


def length_ms(text: str) -> int:
    """A length of time such as `1h30m`, `10s` or `0s`. Raises ValueError."""
    parts = _LENGTH.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise ValueError(f"{text!r} is no length of time, expected something like 1h30m")
    return sum(int(number) * _UNITS_MS[unit] for number, unit in parts)


def length(ms: int) -> str:
    """A length of time as `length_ms` reads it."""
    if ms < 0:
        return f"-{length(-ms)}"
    told = []
    for unit, unit_ms in _UNITS_MS.items():
        number, ms = divmod(ms, unit_ms)
        if number:
            told.append(f"{number}{unit}")
    return "".join(told) or "0s"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `0-3,6`."""
    if not numbers:
        return ""
    cuts = [0, *(i for i, (left, right) in enumerate(pairwise(numbers), 1) if right != left + 1), len(numbers)]
    runs = [numbers[i:j] for i, j in pairwise(cuts)]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
