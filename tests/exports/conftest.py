"""The bundle and the home of one small market, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.bundling import bundle_home
from scheduler.ledger.keyring import FIRST_FILE
from tests.api.world import MINUTE_MS, World
from tests.exchange.evidence import Evidence


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three positions, a correction, a shortage and pledges."""
    return Evidence().write(tmp_path_factory.mktemp("evidence") / "bundle")


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two positions metered for ten minutes of a day, by a scheduler that holds the journal."""
    folder = tmp_path_factory.mktemp("home")
    world = World(folder)
    world.signer.save(folder / FIRST_FILE)
    world.instrument(metering_interval_s=60)
    world.trade("p-acme", "acme", 2)
    world.trade("p-borealis", "borealis", 1)
    world.submit("acme")
    world.pass_ms(10 * MINUTE_MS)
    yield folder
    world.close()


@pytest.fixture(scope="package")
def bundle_of_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "home"
    bundle_home(home, folder)
    return folder
