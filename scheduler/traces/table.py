"""Delimited text as a table whose every fault names the file, the line, the column, what it was and what was expected.

The published files are read whole and strictly: UTF-8 (a byte-order mark is allowed), one row a line, every row as
wide as the header. A last line without a line break may be torn, so it is accepted only where the loader can tell
that it is whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.traces.arrays import Bools, Int64s, sealed

INTEGER_MAX = 10**12

_INTEGER = re.compile(r"-?[0-9]{1,18}").fullmatch
_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]*)?").fullmatch
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}").fullmatch


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns. `lines_before` is how many lines of the file precede the first row."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines_before: int
    ends_in_line_break: bool

    def has(self, column: str) -> bool:
        """Whether the file has the column."""
        return column in self.columns

    def texts(self, column: str) -> list[str]:
        """A column as it stands."""
        at = self.columns.index(column)
        return [row[at] for row in self.rows]

    def names(self, column: str) -> list[str]:
        """A column of names: not empty, no surrounding blanks."""
        texts = self.texts(column)
        self._refuse(column, (i for i, text in enumerate(texts) if not text or text != text.strip()), "a name")
        return texts

    def integers(self, column: str, at_least: int = 0, at_most: int = INTEGER_MAX) -> Int64s:
        """A column of integers: (n_rows,) int64."""
        expected = f"an integer of {at_least} or more" if at_most == INTEGER_MAX else f"{at_least}..{at_most}"
        texts = self.texts(column)
        self._refuse(column, (i for i, text in enumerate(texts) if not _INTEGER(text)), expected)
        values = np.fromiter(map(int, texts), dtype=np.int64, count=len(texts))
        self.require(column, (values >= at_least) & (values <= at_most), expected)
        return sealed(values)

    def seconds_as_ms(
        self, column: str, at_least_ms: int = 0, at_most_ms: int = 10**15, empty_as_ms: int | None = None
    ) -> Int64s:
        """A column of seconds, with or without decimals, as milliseconds to the nearest: (n_rows,) int64.

        An empty field is refused unless `empty_as_ms` says what it stands for.
        """
        expected = (
            "a number of seconds of 0 or more" if at_least_ms == 0 else f"seconds, {at_least_ms}..{at_most_ms} ms"
        )
        texts = self.texts(column)
        if empty_as_ms is not None:
            texts = [text or f"{empty_as_ms / 1000:.3f}" for text in texts]
        self._refuse(column, (i for i, text in enumerate(texts) if not _SECONDS(text)), expected)
        seconds = np.fromiter(map(float, texts), dtype=np.float64, count=len(texts))
        values = np.rint(seconds * 1000).astype(np.int64)
        self.require(column, (values >= at_least_ms) & (values <= at_most_ms), expected)
        return sealed(values)

    def timestamps_ms(self, column: str) -> Int64s:
        """A column of `YYYY-MM-DD hh:mm:ss` without zone, read as UTC: (n_rows,) int64 milliseconds since 1970."""
        expected = "a time as 2017-09-04 10:30:41"
        texts = self.texts(column)
        self._refuse(column, (i for i, text in enumerate(texts) if not _TIMESTAMP(text)), expected)
        try:
            instants = np.array(texts, dtype="datetime64[s]")
        except ValueError:
            self._refuse(column, (i for i, text in enumerate(texts) if not _is_instant(text)), expected)
            raise
        values = instants.astype("datetime64[ms]").astype(np.int64)
        self.require(column, values >= 0, expected + ", 1970 or later")
        return sealed(values)

    def require(self, column: str, holds: Bools, expected: str) -> None:
        """Raise InvalidValue for the first row where `holds` (n_rows,) is false."""
        self._refuse(column, iter(np.flatnonzero(~holds).tolist()), expected)

    def fault(self, column: str, row: int, expected: str) -> InvalidValue:
        """The error for one field: `duration of line 17 of jobs.csv was 'x', expected a number of seconds`."""
        was = self.rows[row][self.columns.index(column)]
        return InvalidValue(column, f"line {row + self.lines_before + 1} of {self.path}", was, expected)

    def require_whole_last_line(self, is_whole: Callable[[], bool] = lambda: False) -> None:
        """Refuse a last line without line break, unless `is_whole` can tell from its contents that nothing is cut."""
        if self.rows and not self.ends_in_line_break and not is_whole():
            raise self.fault(
                self.columns[-1], len(self.rows) - 1, "a whole line that ends in a line break (it is torn)"
            )

    def _refuse(self, column: str, faulty: Iterator[int], expected: str) -> None:
        row = next(faulty, None)
        if row is not None:
            raise self.fault(column, row, expected)


def read_table(path: Path, required: Sequence[str], delimiter: str = ",") -> Table:
    """A file whose first line names its columns; columns beyond the `required` ones are kept.

    Raises InvalidValue for a file that is absent, empty, not UTF-8, without a required column, or torn.
    """
    rows, whole = _rows_of(path, delimiter, csv.QUOTE_MINIMAL)
    header = tuple(rows[0])
    for column in required:
        if column not in header:
            raise InvalidValue("header", f"line 1 of {path}", ",".join(header)[:200], f"a column {column}")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise InvalidValue("header", f"line 1 of {path}", ",".join(repeated), "each column once")
    if len(rows) == 1:
        raise InvalidValue("rows", str(path), 0, "at least one row under the header")
    return _table(path, header, rows[1:], 1, whole=whole)


def read_headless(path: Path, columns: Sequence[str], delimiter: str) -> Table:
    """A file without header or quoting, whose columns are known by their place."""
    rows, whole = _rows_of(path, delimiter, csv.QUOTE_NONE)
    return _table(path, tuple(columns), rows, 0, whole=whole)


def read_text(path: Path) -> str:
    """The whole file as text. Raises InvalidValue for one that is absent, unreadable, empty or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidValue("trace file", str(path), error.strerror or type(error).__name__, "a readable file") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise InvalidValue("encoding", f"line {line} of {path}", byte, "UTF-8 text") from None
    if not text.strip():
        raise InvalidValue("contents", str(path), "an empty file", "a header and rows")
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise InvalidValue("encoding", f"line {line} of {path}", "byte 0x00", "UTF-8 text")
    return text


def _rows_of(path: Path, delimiter: str, quoting: int) -> tuple[list[list[str]], bool]:
    text = read_text(path)
    lines = text.rstrip("\r\n").split("\n")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InvalidValue("quoting", f"line {reader.line_num} of {path}", str(error), "plain fields") from None
    if len(rows) != len(lines):
        raise InvalidValue("quoting", str(path), "a field over several lines", "one row a line")
    return rows, text.endswith("\n")


def _table(path: Path, columns: tuple[str, ...], rows: list[list[str]], lines_before: int, *, whole: bool) -> Table:
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            torn = " (it is torn)" if i == len(rows) - 1 and not whole else ""
            raise InvalidValue(
                "fields",
                f"line {i + lines_before + 1} of {path}",
                len(row),
                f"{len(columns)}: {', '.join(columns)}{torn}",
            )
    return Table(path, columns, tuple(map(tuple, rows)), lines_before, whole)


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
