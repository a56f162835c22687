"""How answers look: one JSON document on stdout, or tables; everything else (progress, notes, errors) on stderr.

Rich decides on colours, and respects NO_COLOR and pipes; a pipe gets whole lines, never cut to a width.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 4_096


class Output(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How the answer is written.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", envvar="TENOR_ADDRESS", help="The scheduler's API."),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", envvar="TENOR_IDENTITY", help="Certificate and key: mutual TLS."),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option("--authority", metavar="FILE", envvar="TENOR_AUTHORITY", help="Who signs those of the other side."),
]

_STYLES = {
    "running": "green",
    "succeeded": "green",
    "binding": "cyan",
    "waiting": "yellow",
    "stopping": "magenta",
    "failed": "red",
    "cancelled": "dim",
    "ill": "red",
}


def say(text: str) -> None:
    """A note for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_json(answer: Any) -> None:
    """The answer as exactly one JSON document on stdout."""
    sys.stdout.write(json.dumps(plain(answer), indent=2, ensure_ascii=False) + "\n")


def plain(answer: Any) -> Any:
    """Values as what JSON has: dataclasses by field, tuples as lists."""
    if isinstance(answer, tuple | list):
        return [plain(each) for each in answer]
    if isinstance(answer, dict):
        return {str(name): plain(each) for name, each in answer.items()}
    return plain(asdict(answer)) if is_dataclass(answer) and not isinstance(answer, type) else answer


def console(*, stderr: bool = False) -> Console:
    """Where Rich writes."""
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if file.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=True)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Rows under headings, numbers to the right; a heading that ends with `>` is of numbers."""
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    if not cells and empty:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        right = name.endswith(">")
        table.add_column(name.removesuffix(">").upper(), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console().print(table)


def write_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, Text(str(value)))
    console().print(table)


def write_lines(lines: Iterable[str]) -> None:
    """Sentences, a line each."""
    for line in lines:
        sys.stdout.write(f"{line}\n")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr where that is a terminal, else nothing; call it with (done, of, note)."""
    if not sys.stderr.isatty():
        yield lambda _done, _of, _note: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None, note="")
        yield lambda done, of, note: bars.update(task, completed=done, total=of or None, note=note)


def some(value: object) -> str:
    """A value in a table; a dash where there is none."""
    return "-" if value is None or value == "" else str(value)
