"""Meter records as tables: every field of every version, exact, the same bytes every time, in each format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.causes import Cause
from scheduler.core.errors import Damaged, InvalidValue
from scheduler.core.merkle import leaf_hash
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.leaves import RecordLeaf, decode, encode_record
from scheduler.exports import records
from scheduler.exports.files import writing
from scheduler.exports.forms import TableForm
from scheduler.exports.source import opened
from scheduler.exports.tables import write_table
from scheduler.ledger.bundle import read_bundle
from tests.exchange.samples import record


def exported(form: TableForm, bundle: Path | None, home: Path) -> bytes:
    file = io.BytesIO()
    with opened(bundle, home) as source:
        write_table(form, records.COLUMNS, records.rows(source.leaves(0)), file)
    return file.getvalue()


def recorded(bundle: Path) -> list[tuple[int, bytes, RecordLeaf]]:
    """What the log holds, read by itself."""
    leaves = enumerate(read_bundle(bundle).leaves())
    decoded = [(index, leaf, decode(leaf)) for index, leaf in leaves]
    return [(index, leaf, each) for index, leaf, each in decoded if isinstance(each, RecordLeaf)]


def read_back(plain: dict[str, object]) -> MeterRecord:
    """The record of a row that was read as JSON."""
    losses = [[each["cause"], each["gpu_ms"]] for each in plain["losses"]]  # type: ignore[attr-defined]
    fields = {name: plain[name] for name in MeterRecord.model_fields} | {"losses": losses}
    return MeterRecord.model_validate_json(json.dumps(fields))


def test_json_lines_read_back_to_every_record(bundle: Path) -> None:
    lines = exported(TableForm.JSONL, bundle, bundle).decode().splitlines()
    expected = recorded(bundle)
    assert len(lines) == len(expected) == 37
    for line, (index, leaf, decoded) in zip(lines, expected, strict=True):
        plain = json.loads(line)
        assert (plain["leaf_index"], plain["leaf_hash"]) == (index, leaf_hash(leaf).hex())
        assert (plain["written_ms"], read_back(plain)) == (decoded.written_ms, decoded.record)


def test_csv_holds_the_same(bundle: Path) -> None:
    written = exported(TableForm.CSV, bundle, bundle)
    assert written == exported(TableForm.CSV, bundle, bundle)
    rows = list(csv.DictReader(io.StringIO(written.decode())))
    lines = [json.loads(line) for line in exported(TableForm.JSONL, bundle, bundle).decode().splitlines()]
    assert [column.name for column in records.COLUMNS] == list(rows[0])
    for row, plain in zip(rows, lines, strict=True):
        assert json.loads(row.pop("losses")) == plain.pop("losses")
        assert row == {name: "" if value is None else str(value) for name, value in plain.items()}
    assert {row["version"] for row in rows} == {"1", "2"}


def test_a_home_that_runs_gives_the_bytes_of_its_bundle(home: Path, bundle_of_home: Path) -> None:
    of_home = exported(TableForm.JSONL, None, home)
    assert of_home == exported(TableForm.JSONL, bundle_of_home, home)
    assert len(of_home.splitlines()) == 20


def test_parquet_holds_the_same(bundle: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra `parquet`)")
    written = exported(TableForm.PARQUET, bundle, bundle)
    assert written == exported(TableForm.PARQUET, bundle, bundle)
    table = parquet.read_table(io.BytesIO(written))
    assert table.to_pylist() == [json.loads(each) for each in exported(TableForm.JSONL, bundle, bundle).splitlines()]
    assert str(table.schema.field("contracted_gpu_ms").type) == "int64"


def test_large_integers_stay_exact() -> None:
    most = 2**62 + 1
    lost: dict[str, Any] = {"out_forced_gpu_ms": most, "losses": ((Cause.ECC, most),)}
    sent = record(contracted_gpu_ms=most, used_gpu_ms=0, par_gpu_ms=0, **lost)
    file = io.BytesIO()
    write_table(TableForm.JSONL, records.COLUMNS, records.rows([(7, encode_record(sent, 5))]), file)
    assert json.loads(file.getvalue())["contracted_gpu_ms"] == most
    assert f'"losses":[{{"cause":1002,"gpu_ms":{most}}}]'.encode() in file.getvalue()


def test_a_damaged_log_leaves_no_file(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in bundle.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(bundle)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(bundle)).write_bytes(path.read_bytes())
    entries = copy / "tile/entries/000"
    entries.write_bytes(entries.read_bytes()[:-1] + b"X")
    (tmp_path / "out.csv").write_text("before", encoding="utf-8")
    with pytest.raises(Damaged), opened(copy, copy) as source, writing(tmp_path / "out.csv") as file:
        write_table(TableForm.CSV, records.COLUMNS, records.rows(source.leaves(0)), file)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "out.csv"}


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="expected a folder that exists"), writing(tmp_path / "none" / "x.csv"):
        pass
