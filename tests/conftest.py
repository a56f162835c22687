"""What every test shares: how Hypothesis runs, which worker runs what, and where published traces lie.

By default Hypothesis draws the same examples each time, so that a verdict belongs to the code and not to the day;
`HYPOTHESIS_PROFILE=explore` draws new ones, ten times as many. There is no deadline: two cores may be shared.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from tests import workers

settings.register_profile("gate", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("gate"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background of a shell; all that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> workers.ByFile | None:
    """Several workers share out the files as `tests/workers.py` says, with `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # the order is ours, below
    return workers.ByFile(config, log)  # without it every unit is told of on the terminal


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with the longest units; one process alone keeps the order of the files."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: workers.place_of(workers.unit_of(item.nodeid)))


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of published traces; the test is skipped, saying so, where there is none."""
    named = os.environ.get("TENOR_TRACES", "")
    if not named or not Path(named).is_dir():
        pytest.skip(f"no folder of published traces: TENOR_TRACES is {named!r}")
    return Path(named)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
