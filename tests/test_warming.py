"""Machine code made beside the loop: only where it pays, never waited for, and all of what large fleets need."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from scheduler.core import kernels
from scheduler.core.kernels import WORTH_COMPILING_STEPS, worth_compiling
from scheduler.warming import Warming

pytestmark = pytest.mark.skipif(kernels.numba is None, reason="without numba there is no machine code")

WITHIN_S = 60.0
FIRST_PLANS = """
import gc, json, sys
from scheduler import warming
from scheduler.core import kernels
from scheduler.core.placement.plan import plan
from tests.benchmarks.crowd import crowd_of
from tests.benchmarks.live import Live

def known():
    made = [each for each in gc.get_objects() if isinstance(each, kernels.Kernel) and "compiled" in each.__dict__]
    return {(each.plain.__module__, each.__name__, str(types)) for each in made for types in each.compiled.signatures}

warming.warm()
before = known()
for crowded in (False, True):
    plan(crowd_of(800, crowded=crowded).snapshot)
live = Live(crowd_of(800).snapshot, 1)
for _ in range(60):
    live.happen()
    live.round()
    live.settle()
json.dump([len(before), sorted(known() - before)], sys.stdout)
"""


@pytest.fixture
def told() -> Iterator[tuple[Warming, list[str]]]:
    """What is made, and what it says."""
    lines: list[str] = []
    warming = Warming(lines.append)
    yield warming, lines
    warming.close()
    assert worth_compiling(WORTH_COMPILING_STEPS)


def until_over(warming: Warming, lines: list[str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while len(lines) < 2:
        assert time.monotonic() < deadline, f"it was not over within {WITHIN_S:g} s: {lines}"
        warming.maybe()


def test_nothing_is_made_before_something_is_large_enough(told: tuple[Warming, list[str]]) -> None:
    warming, lines = told
    assert not worth_compiling(WORTH_COMPILING_STEPS - 1)
    warming.maybe()
    assert lines == []


def test_machine_code_is_used_once_it_is_there(
    told: tuple[Warming, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    warming, lines = told
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert not worth_compiling(WORTH_COMPILING_STEPS)
    warming.maybe()
    assert not worth_compiling(WORTH_COMPILING_STEPS), "it is being made"
    until_over(warming, lines)
    assert worth_compiling(WORTH_COMPILING_STEPS)
    assert lines[1].startswith("machine code is there after ")
    warming.maybe()
    assert len(lines) == 2


def test_where_none_can_be_made_plain_python_serves_on(
    told: tuple[Warming, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    warming, lines = told
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert not worth_compiling(WORTH_COMPILING_STEPS)
    until_over(warming, lines)
    assert lines[1] == "no machine code could be made, plain Python serves on: its process said nothing (1)"
    assert not worth_compiling(WORTH_COMPILING_STEPS)


def test_what_is_being_made_when_all_is_stopped_is_given_up(told: tuple[Warming, list[str]]) -> None:
    warming, _ = told
    assert not worth_compiling(WORTH_COMPILING_STEPS)
    warming.maybe()
    process = warming._process
    assert process is not None
    assert process.poll() is None
    warming.close()
    assert process.poll() is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_plans_of_a_large_fleet_find_all_their_machine_code_made() -> None:
    """A process of its own, since it takes whatever size for large."""
    done = subprocess.run([sys.executable, "-c", FIRST_PLANS], check=True, stdout=subprocess.PIPE, text=True)
    kernels_made, missing = json.loads(done.stdout)
    assert missing == []
    assert kernels_made > 10, "counted are those that Python calls, with all that they call"
