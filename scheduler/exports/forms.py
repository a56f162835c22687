"""How exports are written; by itself, since the command line names the forms before it needs what writes them."""

from __future__ import annotations

from enum import StrEnum


class TableForm(StrEnum):
    """How a table is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class EventForm(StrEnum):
    """How events are written: one JSON document a line, or all of them in one JSON array."""

    JSONL = "jsonl"
    BATCH = "batch"
