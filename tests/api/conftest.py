"""A market on virtual time behind a real server, and a real client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.api.client import Client
from tests.api.world import World, market


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = market(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with world.served() as server, Client(server.address) as connected:
        yield connected
