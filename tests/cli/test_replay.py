"""`tenor replay` on small generated traces: progress on stderr, figures on stdout."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from scheduler.traces.generate import PHILLY_FROM, write_folder
from tests.cli.conftest import tenor

WANTED = {
    "events",
    "seconds",
    "violations",
    "avoidable_shortfall_gpu_ms",
    "utilisation_ppm",
    "wait_owned_max_ms",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("traces"), seed=1, tenants=3, nodes=4, days=2, jobs=30).root


def test_a_replay_ends_with_one_document(folder: Path, tmp_path: Path) -> None:
    arguments = ("replay", str(folder), "--from", PHILLY_FROM.isoformat(), "--days", "2", "--check", "--seed", "3")
    ended = tenor(*arguments, "--failures", "20", "-o", "json", home=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found.keys() >= WANTED
    assert (found["violations"], found["checked"], found["seed"]) == (0, True, 3)
    assert "gangs of" in ended.err


def test_a_replay_is_shown_to_people(folder: Path, tmp_path: Path) -> None:
    arguments = ("replay", str(folder), "--from", PHILLY_FROM.isoformat(), "--days", "1", "--failures", "0")
    ended = tenor(*arguments, "--load", "1.5", "--spares", "0", home=tmp_path)
    assert ended.code == 0, ended.err
    for word in ("utilisation", "avoidable shortfall", "inside entitlement", "statements, in all".upper()):
        assert word in ended.out


def test_days_that_the_traces_do_not_have_are_refused(folder: Path, tmp_path: Path) -> None:
    late = (PHILLY_FROM + timedelta(days=900)).isoformat()
    ended = tenor("replay", str(folder), "--from", late, home=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("tenor: ")
