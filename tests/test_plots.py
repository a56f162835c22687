"""Pictures of benchmarks: the same rows give the same bytes, and what was measured can be read in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.harness import Row
from tests.benchmarks.plots import PICTURES, main

ROWS: dict[str, list[Row]] = {
    "round": [
        {"gpus": gpus, "method": method, "cpu_s": gpus / 1e6, "event_cpu_p50_ms": 1.0, "event_cpu_p99_ms": 9.0}
        for gpus in (1_000, 10_000)
        for method in ("ours", "scanning (baseline)")
    ],
    "openb": [
        {"pod_list": f"openb_pod_list_{name}", "policy": policy, "unallocated_pct_at_100": 4.5}
        for name in ("default", "cpu100")
        for policy in ("tenor", "fgd", "bound")
    ],
    "churn": [
        {"pod_list": "openb_pod_list_default", "policy": policy, "load": load, "unallocated_pct": 6.1}
        for load in (0.95, 1.0)
        for policy in ("tenor", "first-fit")
    ],
    "calendars": [
        {"calendar": "carved_90", "method": "tenor", "unplaced_lots": 0},
        {"calendar": "carved_90", "method": "first fit", "unplaced_lots": 40},
        {"change": "one trade"},
    ],
    "delivery": [
        {"path": "from the record on", "policy": "exchange", "records_a_s": 40_000, "exchange_cpu_us": 15.0},
        {"path": "memory", "policy": "cluster", "records": 100_000, "exchange_mib": 95, "cluster_mib": 80},
        {"path": "memory", "policy": "cluster", "records": 200_000, "exchange_mib": 95, "cluster_mib": 80},
    ],
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_rows_give_the_same_bytes(name: str) -> None:
    rows: Sequence[Row] = ROWS[name]
    drawn = PICTURES[name](rows)
    assert drawn == PICTURES[name](list(rows))
    assert drawn.startswith(b"<?xml")
    assert b"<dc:date>" not in drawn
    for row in rows:
        assert str(row.get("method", row.get("policy", "tenor"))).encode() in drawn


def test_documents_of_a_folder_become_pictures_in_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in {"openb": ROWS["openb"], "startup": []}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert main([str(tmp_path), str(tmp_path / "images")]) == 0
    assert capsys.readouterr().out == "openb\n"
    assert (tmp_path / "images" / "openb.svg").read_bytes() == PICTURES["openb"](ROWS["openb"])
    assert not (tmp_path / "images" / "startup.svg").exists()
