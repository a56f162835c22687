"""Rows as CSV, JSON lines or Parquet: the same values in each, integers and decimals exact.

CSV is RFC 4180, but for plain line feeds; nothing stands for what is null. JSON lines hold integers as numbers,
decimals as text, since a reader's floats would round them. Parquet is written by pyarrow, where it is installed (extra
`parquet`), in row groups, so that memory does not grow with the table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any, BinaryIO

from scheduler.core.errors import InvalidValue
from scheduler.exports.forms import TableForm

ROWS_AT_ONCE = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Sequence[Any]


class Kind(StrEnum):
    """What a column holds. INSTANT: UTC milliseconds, written as ISO 8601; LOSSES: (cause, gpu_ms) pairs."""

    INTEGER = "integer"
    TEXT = "text"
    DECIMAL = "decimal"
    INSTANT = "instant"
    LOSSES = "losses"


@dataclass(frozen=True, slots=True)
class Column:
    """A name and a kind; any may be null."""

    name: str
    kind: Kind = Kind.TEXT


def write_table(form: TableForm, columns: Sequence[Column], rows: Iterable[Row], file: BinaryIO) -> None:
    """Writes all rows. Raises InvalidValue for Parquet where pyarrow is not installed."""
    _WRITERS[form](columns, rows, file)


def instant(at_ms: int) -> str:
    """`2027-01-01T00:00:00Z`, with milliseconds where there are some."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    rest = f".{at.microsecond // 1_000:03d}" if at.microsecond else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{rest}Z"


def _write_csv(columns: Sequence[Column], rows: Iterable[Row], file: BinaryIO) -> None:
    shown = [_CSV.get(column.kind, _same) for column in columns]
    remaining = iter(rows)
    chunk: list[Row] = [[column.name for column in columns]]
    plain = True
    while chunk:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerows(chunk if plain else (_each(shown, row) for row in chunk))
        file.write(text.getvalue().encode())
        chunk, plain = list(islice(remaining, ROWS_AT_ONCE)), False


def _write_jsonl(columns: Sequence[Column], rows: Iterable[Row], file: BinaryIO) -> None:
    names, shown = [column.name for column in columns], [_JSON.get(column.kind, _same) for column in columns]
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        file.write("".join(f"{line(dict(zip(names, _each(shown, row), strict=True)))}\n" for row in chunk).encode())


def line(plain: Any) -> str:
    """JSON on one line, fields in their order."""
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _write_parquet(columns: Sequence[Column], rows: Iterable[Row], file: BinaryIO) -> None:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional, and slow to import
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        expected = "csv or jsonl, or pyarrow installed (the extra `parquet`)"
        raise InvalidValue("format", "an export", TableForm.PARQUET.value, expected) from error
    pair = pa.struct([pa.field("cause", pa.int32()), pa.field("gpu_ms", pa.int64())])
    types = {
        Kind.INTEGER: pa.int64(),
        Kind.TEXT: pa.string(),
        Kind.DECIMAL: pa.decimal128(38, 9),
        Kind.INSTANT: pa.timestamp("ms", tz="UTC"),
        Kind.LOSSES: pa.list_(pair),
    }
    schema = pa.schema([pa.field(column.name, types[column.kind]) for column in columns])
    shown = [_losses if column.kind is Kind.LOSSES else _same for column in columns]
    remaining = iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while chunk := list(islice(remaining, ROWS_AT_ONCE)):
            by_column = zip(*(_each(shown, row) for row in chunk), strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(by_column, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _each(shown: Sequence[Callable[[Any], Any]], row: Row) -> Iterator[Any]:
    return (None if value is None else show(value) for show, value in zip(shown, row, strict=True))


def _same(value: Any) -> Any:
    return value


def _decimal(value: Decimal) -> str:
    return f"{value:f}"


def _losses(value: Iterable[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"cause": int(cause), "gpu_ms": gpu_ms} for cause, gpu_ms in value]


_CSV: dict[Kind, Callable[[Any], Any]] = {
    Kind.DECIMAL: _decimal,
    Kind.INSTANT: instant,
    Kind.LOSSES: lambda value: line(_losses(value)),
}
_JSON: dict[Kind, Callable[[Any], Any]] = {Kind.DECIMAL: _decimal, Kind.INSTANT: instant, Kind.LOSSES: _losses}
_WRITERS: dict[TableForm, Callable[[Sequence[Column], Iterable[Row], BinaryIO], None]] = {
    TableForm.CSV: _write_csv,
    TableForm.JSONL: _write_jsonl,
    TableForm.PARQUET: _write_parquet,
}
