"""The core imports only what is listed here, reads no clock, and holds no float where a decision or money is made.

Import contracts can forbid; only a list of what is allowed also stops what nobody thought of. To add a line below is a
decision: say why it keeps the core a function of its arguments.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.sources import ROOT, python_sources

# Values and algorithms of the standard library: no files, no clocks, no chance, no threads. `datetime` and `zoneinfo`
# are for calendars: a profile in local time expands once to UTC intervals.
STANDARD = set(
    """
    __future__ abc base64 binascii bisect collections copy dataclasses datetime enum functools hashlib heapq itertools
    json math operator re string struct textwrap types typing zoneinfo
    """.split()  # noqa: SIM905 - a list of thirty words reads as words
)
LIBRARIES = {"numpy", "pydantic", "annotated_types", "typing_extensions"}
ALLOWED = STANDARD | LIBRARIES
# The compiler has one door, through which the same integers come out faster.
COMPILER = {"numba": {Path("scheduler/core/kernels.py")}}
# Constants that come with a locked distribution: the time zone rules of `tzdata`, the same on every machine. The
# standard `ZoneInfo(name)` would ask the machine first.
CONSTANTS = {"importlib.resources": {Path("scheduler/core/profiles.py")}}

# Where a float is what was measured, before it becomes ppm. Everything else counts in integers.
MEASURED_IN_FLOATS = {"throughput"}

CLOCKS = {"now", "utcnow", "today", "time_ns", "monotonic", "monotonic_ns", "perf_counter"}
EFFECTS = {"open", "print", "input", "eval", "exec", "breakpoint", "exit", "quit"}

CORE = tuple(path for path in python_sources() if path.parts[:2] == ("scheduler", "core"))


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; say where from"
            names.add(node.module or "")
    return names


def calls(path: Path) -> list[tuple[int, str, bool]]:
    """Line, name and whether it is an attribute (`datetime.now`) of each call."""
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.append((node.lineno, node.func.attr, True))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append((node.lineno, node.func.id, False))
    return found


@pytest.mark.parametrize("path", CORE, ids=str)
def test_the_core_imports_only_what_is_listed(path: Path) -> None:
    constants = {name for name, paths in {**CONSTANTS, **COMPILER}.items() if path in paths}
    foreign = {name for name in imported(path) - constants if name.split(".")[0] not in ALLOWED and not inside(name)}
    assert not foreign, f"{path} imports {', '.join(sorted(foreign))}"


def inside(name: str) -> bool:
    return name == "scheduler.core" or name.startswith("scheduler.core.")


@pytest.mark.parametrize("path", CORE, ids=str)
def test_the_core_reads_no_clock_and_has_no_effect(path: Path) -> None:
    for line, name, attribute in calls(path):
        forbidden = name in CLOCKS if attribute else name in EFFECTS
        assert not forbidden, f"{path}:{line} calls {name}()"
        assert not (attribute and name in {"default_rng", "shuffle", "permutation"}), (
            f"{path}:{line} leaves it to chance"
        )


@pytest.mark.parametrize("path", [path for path in CORE if path.stem not in MEASURED_IN_FLOATS], ids=str)
def test_the_core_counts_in_integers(path: Path) -> None:
    nodes = list(ast.walk(tree(path)))
    floats = [node.lineno for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, float)]
    assert not floats, f"{path} holds floats at lines {floats}"
    divisions = [
        node.lineno for node in nodes if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
    ]
    assert not divisions, f"{path} divides by a bare / at lines {divisions}; floor_div, ceil_div, apportion say how"
