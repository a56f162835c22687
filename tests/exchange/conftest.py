"""The exchange that most tests here talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exchange.world import Embedded, embedded, trade_all


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Embedded]:
    """A running exchange with its instrument listed and three positions bought."""
    with embedded(tmp_path / "exchange.db") as running:
        trade_all(running.client)
        yield running
