"""One market for the whole session, and a log of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.feed.world import FedLog
from tests.api.world import MINUTE_MS, World, market


@pytest.fixture(scope="session")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Twenty minutes are metered; tests leave it as it is."""
    made = market(tmp_path_factory.mktemp("feed-market"))
    made.pass_ms(20 * MINUTE_MS)
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path, sold: World) -> Iterator[FedLog]:
    made = FedLog(tmp_path, sold.scheduler)
    yield made
    made.journal.close()
