"""Meter records as rows: every version in the order of the log, every field, and where its leaf is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scheduler.core.merkle import leaf_hash
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.leaves import RecordLeaf, decode, position_of
from scheduler.exports.tables import Column, Kind, Row

_TEXT = {"position", "instrument", "status", "suite", "quality"}


def _kind(name: str) -> Kind:
    if name == "losses":
        return Kind.LOSSES
    return Kind.TEXT if name in _TEXT else Kind.INTEGER


FIELDS = tuple(MeterRecord.model_fields)
COLUMNS = (
    Column("leaf_index", Kind.INTEGER),
    Column("leaf_hash"),
    Column("written_ms", Kind.INTEGER),
    *(Column(name, _kind(name)) for name in FIELDS),
)


def rows(leaves: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
    """A row for each leaf that is a record. Raises Refused for what is no leaf."""
    for index, leaf in leaves:
        if not position_of(leaf):
            continue
        decoded = decode(leaf)
        if isinstance(decoded, RecordLeaf):
            record = decoded.record.__dict__
            yield (index, leaf_hash(leaf).hex(), decoded.written_ms, *(_plain(record[name]) for name in FIELDS))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, str) else value
