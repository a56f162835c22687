"""Where traces are looked for, and what a missing one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.traces.folder import DATASETS, TracesMissing, find_traces


def test_the_argument_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    given.mkdir()
    named.mkdir()
    monkeypatch.setenv("TENOR_TRACES", str(named))
    assert find_traces(given).root == given
    assert find_traces().root == named


def test_a_named_folder_that_is_absent_is_refused_rather_than_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENOR_TRACES", str(tmp_path / "absent"))
    with pytest.raises(TracesMissing, match=r"absent, as TENOR_TRACES says, does not exist; .*HeliosData"):
        find_traces()
    with pytest.raises(TracesMissing, match=r"other, as given, does not exist"):
        find_traces(tmp_path / "other")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("x")
    with pytest.raises(TracesMissing, match="is not a folder"):
        find_traces(file)


@pytest.mark.parametrize(
    ("relative", "dataset"),
    [
        ("helios/venus_cluster_gpu_number.csv", "helios"),
        ("philly/jobs.csv", "philly"),
        ("openb/openb_pod_list_default.csv", "openb"),
        ("gavel/simulation_throughputs.json", "gavel"),
        ("calendars/1024_carved_90.csv", "calendars"),
    ],
)
def test_a_missing_file_says_which_where_and_how_to_get_it(tmp_path: Path, relative: str, dataset: str) -> None:
    with pytest.raises(TracesMissing) as caught:
        find_traces(tmp_path).require(relative)
    message = str(caught.value)
    assert relative in message
    assert str(tmp_path) in message
    assert DATASETS[dataset] in message
