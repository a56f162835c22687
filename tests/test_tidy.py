"""The code stays small and named by what it is: limits that a reader feels, kept by a test rather than by good will.

A limit that gets in the way is a sign to split, not to raise it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import ROOT, ours, python_sources

MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 70

# Words that say nothing about what is inside. Each hides a noun of the field that nobody looked for.
EMPTY_WORDS = set("data info manager managers handler handlers util utils helper helpers misc stuff".split())  # noqa: SIM905
# Power markets have a base profile, so `base` may be part of a name; a module called so holds leftovers.
EMPTY_MODULES = EMPTY_WORDS | {"base", "common", "shared"}
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
PLACES_OF_ONE_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|work|farm)/\w")


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def words(name: str) -> set[str]:
    """The words of a CamelCase or snake_case name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_there_is_something_to_keep_tidy() -> None:
    assert Path("scheduler/core/errors.py") in python_sources()
    assert Path("tests/test_tidy.py") in python_sources()


@pytest.mark.parametrize("path", python_sources(), ids=str)
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES_OF_A_FILE, f"{path} has {len(lines)} lines, expected at most {MOST_LINES_OF_A_FILE}"
    if text.strip():
        assert ast.get_docstring(parsed(path)), f"{path} opens without saying what it is and why it exists"


@pytest.mark.parametrize("path", python_sources(), ids=str)
def test_functions_fit_a_screen(path: Path) -> None:
    for function in functions(path):
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        length = (function.end_lineno or function.lineno) - first + 1
        assert length <= MOST_LINES_OF_A_FUNCTION, f"{path}:{function.lineno} {function.name} has {length} lines"


@pytest.mark.parametrize("path", python_sources(), ids=str)
def test_names_say_something(path: Path) -> None:
    for part in (*path.parts[:-1], path.stem):
        assert not words(part) & EMPTY_MODULES, f"{path} is named by a word that says nothing"
    named: list[str] = []
    named += [node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    named += [function.name for function in functions(path)]
    for name in named:
        assert not words(name) & EMPTY_WORDS, f"{path}: {name} is named by a word that says nothing"


@pytest.mark.parametrize("path", ours(".py", ".proto", ".md", ".toml", ".txt", ".yaml", "Makefile", ".sh"), ids=str)
def test_nothing_is_left_for_later_in_the_text(path: Path) -> None:
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        assert not UNFINISHED.search(line), f"{path}:{number} leaves work in a comment: {line.strip()}"
        assert not PLACES_OF_ONE_MACHINE.search(line), f"{path}:{number} names a place of one machine: {line.strip()}"


def test_packages_mirror_their_tests() -> None:
    """A folder under tests/ that mirrors a package must name one that exists, or tests outlive what they test."""
    free_standing = {"benchmarks", "chaos", "scenarios", "simulation", "cluster", "operators", "judges", "wire"}
    for folder in sorted(
        {path.parts[1] for path in python_sources() if path.parts[0] == "tests" and len(path.parts) > 2}
    ):
        package = ROOT / "scheduler" / folder
        assert folder in free_standing or package.is_dir() or package.with_suffix(".py").is_file(), folder
