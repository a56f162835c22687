"""One served market for all tests of the command line: jobs in several states, logs, twenty metered minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.core.models import canonical_bytes
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.execution.logs import log_path
from scheduler.execution.simulated import Work
from tests.api.world import HOUR_MS, MINUTE_MS, World, market

TENOR = str(Path(sys.executable).parent / "tenor")


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


def tenor(*arguments: str, home: Path, **environment: str) -> Ended:
    """Run the command as a person would, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TENOR_")}
    done = subprocess.run(
        [TENOR, *arguments],
        env={**kept, "TENOR_HOME": str(home), "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def statement(world: World, position: str) -> bytes:
    owned = world.scheduler.state.book.positions[position]
    terms = world.scheduler.state.instruments[owned.instrument]
    return canonical_bytes(statement_of(terms, owned, versions_of(world.journal.leaves("local"), position)))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = market(tmp_path_factory.mktemp("market"))
    made.works |= {"long": Work(10 * HOUR_MS, stop_ms=1_000), "bad": Work(MINUTE_MS, exit_code=3)}
    first = made.submit("acme", "long", max_runtime_ms=None)
    made.submit("cobalt", "long", gpus=16, workers=2)
    made.submit("acme", "bad", gpus=1)
    made.submit("acme", "fast", grade="H100SXM")
    path = log_path(made.log_dir, first.id, 1, 0)
    path.parent.mkdir(parents=True)
    path.write_text("step 1\nstep 2\n", encoding="utf-8")
    made.pass_ms(20 * MINUTE_MS)
    for position in ("p-acme", "p-borealis"):
        made.statements[position] = statement(made, position)
    yield made
    made.close()


@pytest.fixture(scope="session")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder in which the command finds the served market."""
    folder = tmp_path_factory.mktemp("home")
    with world.served(folder / "api.address"):
        yield folder


@pytest.fixture(scope="session")
def run(home: Path) -> Run:
    """The command against the served market."""
    return lambda *arguments, **environment: tenor(*arguments, home=home, **environment)
