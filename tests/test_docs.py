"""What the documents show is there: links, command lines, make targets, imports, options, decisions.

Command lines are parsed by the command itself, types and required options included, without running anything. What a
command prints is not compared: it was printed once by the command above it, on some day and some machine.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from scheduler.cli.__main__ import DEBUG, application
from scheduler.config import UpSettings
from tests.benchmarks.table import BENCHMARKS
from tests.sources import ROOT, ours

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMANDS = {"", "sh", "console"}
"""Languages of blocks whose lines may be command lines; `text` is what something printed."""


def documents() -> list[Path]:
    return [path for path in ours(".md") if path.parts[0] == "docs" or len(path.parts) == 1]


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: Path, *languages: str) -> Iterator[str]:
    yield from (body for language, body in FENCE.findall(text_of(path)) if language in languages)


def prose(path: Path) -> str:
    return FENCE.sub("", text_of(path))


def command_lines(path: Path, program: str) -> Iterator[list[str]]:
    """The words after `program` of every line that runs it; in transcripts only lines with a prompt do."""
    for body in blocks(path, *COMMANDS):
        lines = body.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        for line in prompted or lines:
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            words = words[: words.index(">")] if ">" in words else words  # what the shell keeps for itself
            if words and words[0].rpartition("/")[2] == program:
                yield words[1:]


@cache
def tenor() -> Any:
    return typer.main.get_command(application())


def verb_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """(command, its name, the words that are its own) of what follows `tenor`. Fails on a verb that is not there."""
    command, name = tenor(), "tenor"
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{name} has no verb {words[0]!r}"
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    return command, name, words


def anchor(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table_under(path: Path, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    section = text_of(path).split(f"## {heading}\n", 1)[1]
    rows = [line for line in section.split("\n## ", 1)[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_there_are_documents_and_commands_in_them() -> None:
    assert Path("README.md") in documents()
    assert len([words for path in documents() for words in command_lines(path, "tenor")]) > 30


@pytest.mark.parametrize("path", documents(), ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(prose(path)):
        if "://" in target:
            continue
        file, _, part = target.partition("#")
        found = (ROOT / path.parent / file).resolve() if file else ROOT / path
        assert found.exists(), f"{path} links to {target}: no such file"
        if part:
            anchors = {anchor(heading) for heading in HEADING.findall(found.read_text(encoding="utf-8"))}
            assert part in anchors, f"{path} links to {target}: no such heading"


@pytest.mark.parametrize("path", documents(), ids=str)
def test_command_lines_parse(path: Path) -> None:
    for words in command_lines(path, "tenor"):
        ours_end = words.index("--") if "--" in words else len(words)
        given = [word for at, word in enumerate(words) if word != DEBUG or at >= ours_end]
        command, name, own = verb_of(given)
        if own in (["--help"], ["-h"]):
            continue
        command.make_context(name, own)  # raises on an option, an argument or a value that it does not take


@pytest.mark.parametrize("path", documents(), ids=str)
def test_verbs_and_options_in_prose_are_there(path: Path) -> None:
    for span in INLINE.findall(prose(path)):
        words = span.split()
        if len(words) < 2 or words[0] != "tenor" or not words[1].islower() or words[1].startswith("-"):
            continue
        wanted = [word for word in words[1:] if word.startswith("--") and word != "--"]
        verbs = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word)][:3]
        command, name, _ = verb_of(verbs)
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", DEBUG}
        assert set(wanted) <= options, f"{path} says {span!r}: {name} takes {sorted(options)}"


@pytest.mark.parametrize("path", documents(), ids=str)
def test_make_targets_are_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [words[0] for words in command_lines(path, "make") if words]
    named += re.findall(r"`make ([a-z]+)[^`]*`", prose(path))
    assert set(named) <= targets, f"{path} names {sorted(set(named) - targets)}, the Makefile has {sorted(targets)}"


@pytest.mark.parametrize("path", documents(), ids=str)
def test_python_examples_import_what_there_is(path: Path) -> None:
    for body in blocks(path, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scheduler"):
                module = importlib.import_module(node.module or "")
                missing = [each.name for each in node.names if not hasattr(module, each.name)]
                assert not missing, f"{path} imports {missing} from {node.module}"


def test_the_table_of_options_is_that_of_the_code() -> None:
    defaults = {name: field.get_default(call_default_factory=True) for name, field in UpSettings.model_fields.items()}
    shown = {name: "none" if default is None else f"`{default}`" for name, default in defaults.items()}
    shown["home"] = "`~/.local/state/tenor`"
    expected = [[f"`{name}`", shown[name], field.description] for name, field in UpSettings.model_fields.items()]
    assert table_under(Path("docs/guides/admins.md"), "Configuration") == expected


def test_every_decision_is_listed_under_its_title() -> None:
    listed = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", text_of(Path("docs/decisions/README.md")), re.MULTILINE
    )
    pages = [path for path in documents() if path.parts[:2] == ("docs", "decisions") and path.name != "README.md"]
    titles = [(path.name, text_of(path).splitlines()[0]) for path in pages]
    assert [(name, f"# {number} {title}") for number, name, title in listed] == titles


def test_every_decision_says_what_it_costs_and_what_else_was_weighed() -> None:
    for path in documents():
        if path.parts[:2] == ("docs", "decisions") and path.name != "README.md":
            sections = re.findall(r"^## (.+)$", text_of(path), re.MULTILINE)
            assert sections == ["Context", "Choice", "What it costs", "What else was weighed"], path


def test_every_package_has_its_place_in_the_architecture() -> None:
    page = text_of(Path("docs/concepts/architecture.md"))
    packages = sorted(
        path.name for path in (ROOT / "scheduler").iterdir() if path.is_dir() and (path / "__init__.py").is_file()
    )
    missing = [name for name in packages if f"`scheduler.{name}`" not in page]
    assert missing == [], f"docs/concepts/architecture.md says nothing of {missing}"
    named = re.findall(r"`scheduler\.(\w+)`", page)
    gone = [
        name
        for name in named
        if not (ROOT / "scheduler" / name).is_dir() and not (ROOT / f"scheduler/{name}.py").is_file()
    ]
    assert gone == []


def test_every_benchmark_is_in_the_page() -> None:
    assert [row[0] for row in table_under(Path("docs/benchmarks.md"), "What there is")] == [
        f"`{name}`" for name in BENCHMARKS
    ]
