"""Tests are shared out among workers so that what must not run beside its like does not, and nothing is made twice."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.sources import ROOT, ours
from tests.workers import LONG, MACHINE_CODE, TOGETHER, WHOLE_SYSTEMS, place_of, unit_of

pytest_plugins = ["pytester"]

FILES = {
    "tests/chaos/test_kills.py": "whole systems",
    "tests/test_installation.py": "whole systems",
    "tests/api/test_a.py": "tests/api/test_a.py",
    "tests/api/test_b.py": "tests/api/test_b.py",
    "tests/cli/test_certs.py": "tests/cli/test_certs.py",
}
"""Files of a made-up suite, and the unit of each."""
N_TESTS = 4
WRITES = """
import os
import pytest

@pytest.mark.parametrize("number", range({n}))
def test_it(number):
    with open(os.environ["RAN"], "a") as ran:
        ran.write(os.environ["PYTEST_XDIST_WORKER"] + " " + {path!r} + "\\n")
"""


def test_what_is_named_is_there() -> None:
    for path in (*WHOLE_SYSTEMS, *MACHINE_CODE, *(unit for unit in LONG if unit.startswith("tests/"))):
        assert (ROOT / path).is_file(), path
    assert set(TOGETHER.values()) <= set(LONG), "what runs as one is long"
    assert len(set(LONG)) == len(LONG)


def test_whatever_starts_ray_or_an_installation_is_a_whole_system() -> None:
    starts = ("pytest.mark.ray", "pytest.mark.installation")
    found = {str(path) for path in ours(".py") if path.parts[0] == "tests" and path.name.startswith("test_")}
    found.discard("tests/test_workers.py")
    marked = {path for path in found if any(mark in (ROOT / path).read_text() for mark in starts)}
    assert marked == set(WHOLE_SYSTEMS)


def test_a_unit_is_a_file_or_what_it_belongs_to() -> None:
    assert unit_of("tests/api/test_why.py::test_a[x::y]") == "tests/api/test_why.py"
    assert unit_of("tests/test_installation.py::test_a") == "whole systems"
    assert place_of("whole systems") == 0
    assert place_of("tests/api/test_why.py") == len(LONG)


def test_workers_run_whole_units_and_begin_with_the_longest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real plugin over a made-up suite: no version of pytest or xdist may part what is together."""
    ran = pytester.path / "ran"
    monkeypatch.setenv("RAN", str(ran))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest((ROOT / "tests/conftest.py").read_text())
    for path in FILES:
        written = pytester.path / path
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(WRITES.format(n=N_TESTS, path=path))
    done = pytester.runpytest_subprocess("-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=N_TESTS * len(FILES))
    lines = [line.split() for line in ran.read_text().splitlines()]
    workers_of: dict[str, set[str]] = defaultdict(set)
    for worker, path in lines:
        workers_of[FILES[path]].add(worker)
    assert {unit: len(workers) for unit, workers in workers_of.items()} == dict.fromkeys(FILES.values(), 1)
    firsts = {worker: next(FILES[path] for each, path in lines if each == worker) for worker in ("gw0", "gw1")}
    assert set(firsts.values()) == {"whole systems", "tests/cli/test_certs.py"}
