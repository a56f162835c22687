"""Every law of the model names the tests that hold it, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.sources import ROOT

PAGE = Path("docs/concepts/laws.md")
ROW = re.compile(r"^\| (\d+) \| `(tests/[\w/]+\.py)::(test_\w+)` \| (.+) \|$", re.MULTILINE)
LAW = re.compile(r"^(\d+)\. \*\*", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    return [(law, path, name) for law, path, name, _ in ROW.findall((ROOT / PAGE).read_text(encoding="utf-8"))]


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_law_has_a_test() -> None:
    laws = LAW.findall((ROOT / "docs/concepts/model.md").read_text(encoding="utf-8"))
    assert laws == [str(number) for number in range(1, 13)]
    assert sorted({law for law, _, _ in rows()}, key=int) == laws


@pytest.mark.parametrize(("law", "path", "name"), rows())
def test_what_holds_a_law_is_there(law: str, path: str, name: str) -> None:
    assert name in functions(path), f"law {law} is to be held by {name}, which {path} does not have"


RULE = re.compile(r"^\| [a-z][^|]+ \| `(tests/[\w/]+\.py)::(test_\w+)` \|$", re.MULTILINE)


def test_what_holds_a_rule_is_there() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    rules = page.partition("## Rules beside the laws")[2].partition("\n## ")[0]
    found = RULE.findall(rules)
    assert len(found) == sum(line.startswith("| ") for line in rules.splitlines()) - 1
    assert [name for path, name in found if name not in functions(path)] == []


def test_every_row_of_the_page_is_read() -> None:
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") and line[2].isdigit() for line in lines) == len(rows())


def test_every_story_is_told_of_and_is_there() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    told = re.findall(r"`(\w+)`", page.partition("## The stories")[2].partition("\n## ")[0].partition("| of |")[2])
    there = [path.stem for path in (ROOT / "tests/scenarios").glob("*/*.txt")]
    assert sorted(told) == sorted(there)
