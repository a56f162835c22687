"""From traces on disk to one document: deterministic, adding up, and saying what it cannot do."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.errors import Conflict
from scheduler.core.quantities import MS_PER_DAY
from scheduler.execution.simulated import NodeDown
from scheduler.ledger.journal import Journal
from scheduler.recovery import fold
from scheduler.replay.run import ReplaySettings, run, script_of
from scheduler.traces.generate import PHILLY_FROM, generate, write_folder

TIMED = {"seconds", "events_per_s"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of small traces."""
    path = tmp_path_factory.mktemp("traces")
    write_folder(path, 3, 4, 5, 2, 60)
    return path


def settings(folder: Path, **given: Any) -> ReplaySettings:
    return ReplaySettings(**{"from_date": PHILLY_FROM, "days": 2, "traces": folder, "failures_days": 2, **given})


def test_a_document_adds_up_and_repeats(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "journal.db"
    shown = run(settings(folder, check=True, journal=path), told.append)
    assert (shown["violations"], shown["violations_shown"]) == (0, [])
    assert shown["contracted_gpu_ms"] == sum(shown["states_gpu_ms"].values()) > 0
    losses = shown["shortfall_by_cause_gpu_ms"]
    assert sum(losses.values()) == sum(shown["shortfall_by_bearer_gpu_ms"].values())
    assert shown["statement_totals"]["contracted_gpu_ms"] == shown["contracted_gpu_ms"]
    assert shown["gpus"] == 8 * shown["nodes"] == 8 * 6
    assert shown["wait_owned_mean_ms"] <= shown["wait_owned_p99_ms"] <= shown["wait_owned_max_ms"]
    assert f"{shown['gangs']} gangs of" in told[0]
    with Journal.open(path, create=False) as journal:
        assert journal.head[0] == shown["events"]
        assert fold(journal).state.gangs.waiting_count == shown["waiting_at_end"]
    again = run(settings(folder, check=True))
    assert {name: again[name] for name in again if name not in TIMED} == {
        name: shown[name] for name in shown if name not in TIMED
    }


def test_a_journal_that_is_there_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    path.write_bytes(b"mine")
    with pytest.raises(Conflict, match="exists already"):
        run(settings(folder, journal=path))
    assert path.read_bytes() == b"mine"


def test_a_script_sells_the_trace_and_keeps_the_last_nodes_as_spares() -> None:
    trace = generate(3, 4, 5, 2, 60)
    script = script_of(trace, ReplaySettings(from_date=date(2017, 10, 2), days=2, spares=2, failures_days=1, seed=4))
    assert [node.name for node in script.nodes][-2:] == list(script.spares)
    assert len(script.nodes) == trace.nodes + 2
    assert script.end_ms - script.start_ms == 2 * MS_PER_DAY
    assert any(isinstance(fault, NodeDown) for fault in script.faults)
    assert all(script.start_ms <= fault.at_ms < script.end_ms for fault in script.faults)
    calm = script_of(trace, ReplaySettings(from_date=date(2017, 10, 2), spares=0, failures_days=0))
    assert (calm.faults, calm.spares) == ((), ())
