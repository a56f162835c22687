"""The harness reports what was measured: it skips aloud, fails aloud, and leaves no stale figure behind."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.harness import Missing, Settings, cpu_s, machine, peak_mib, resident_mib, timed
from tests.benchmarks.table import BENCHMARKS


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Three benchmarks in modules of their own: one that measures, one without its input, one that breaks."""
    bodies = {
        "measures": 'return Result([{"count": 2, "quick": settings.quick}], "two counted", figures={"most": 2})',
        "lacks": 'settings.traces_folder("helios")',
        "breaks": 'raise RuntimeError("broken")',
    }
    for name, body in bodies.items():
        source = f"""
            from tests.benchmarks.harness import Result

            def run(settings):
                {body}
        """
        (tmp_path / f"bench_{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"bench_{name}", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {name: (f"bench_{name}", f"a benchmark that {name}") for name in bodies}


def test_a_benchmark_writes_its_rows_with_the_machine_and_prints_its_line(
    table: dict[str, tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "measures", "--quick", "--out", str(tmp_path / "out")], table) == 0
    document = json.loads((tmp_path / "out" / "measures.json").read_text(encoding="utf-8"))
    assert document["name"] == "measures"
    assert document["rows"] == [{"count": 2, "quick": True}]
    assert document["most"] == 2
    assert {"cpus", "cpu_model", "memory_mib", "python"} <= set(document["machine"])
    assert document["date"].endswith("+00:00")
    assert capsys.readouterr().out == "measures: two counted\n"


def test_a_missing_input_is_skipped_and_says_so(
    table: dict[str, tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "lacks", "--out", str(tmp_path)], table) == 0
    assert "lacks: skipped: no folder of traces given" in capsys.readouterr().out
    assert main(["--only", "lacks", "--out", str(tmp_path), "--traces", str(tmp_path)], table) == 0
    assert f"lacks: skipped: {tmp_path} holds no folder helios/" in capsys.readouterr().out


def test_a_broken_benchmark_fails_the_run_and_spares_the_others(
    table: dict[str, tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "breaks.json").write_text('{"rows": ["of an earlier run"]}', encoding="utf-8")
    assert main(["--out", str(tmp_path)], table) == 1
    seen = capsys.readouterr()
    assert "measures: two counted" in seen.out
    assert "breaks: FAILED" in seen.out
    assert "RuntimeError: broken" in seen.err
    assert not (tmp_path / "breaks.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "benchmark was 'nothing', expected one of measures, lacks, breaks"),
        (["--traces", "no/such/folder"], "traces was 'no/such/folder', expected a folder"),
    ],
)
def test_wrong_arguments_are_refused(
    table: dict[str, tuple[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")], table) == 2
    assert message in capsys.readouterr().err


def test_only_the_work_is_timed_on_something_fresh_each_time() -> None:
    prepared: list[list[int]] = []

    def prepare() -> list[int]:
        prepared.append([])
        return prepared[-1]

    timing = timed(lambda fresh: fresh.append(len(prepared)), prepare, repeats=3, warm_ups=2)
    assert prepared == [[1], [2], [3], [4], [5]]
    assert len(timing.runs) == 3
    assert 0 <= timing.least_s <= timing.median_s <= timing.most_s


def test_memory_and_machine_are_read() -> None:
    assert 0 < resident_mib() == pytest.approx(resident_mib(os.getpid()), abs=64)
    assert peak_mib() >= resident_mib() // 2
    assert 0 < cpu_s() == pytest.approx(cpu_s(os.getpid()), abs=1)
    described = machine()
    assert isinstance(described["cpus"], int)
    assert described["cpus"] >= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_of_the_table_has_a_module(name: str) -> None:
    module, what = BENCHMARKS[name]
    assert module == f"tests.benchmarks.{name}"
    assert (Path(__file__).parent / "benchmarks" / f"{name}.py").is_file()
    assert what


def test_a_folder_of_traces_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "helios").mkdir()
    settings = Settings(traces=tmp_path, quick=True, scratch=tmp_path)
    assert settings.traces_folder("helios") == tmp_path / "helios"
    with pytest.raises(Missing, match="philly"):
        settings.traces_folder("philly")
