"""Delivery under `kill -9` of either side at places that a seed chose; `python -m tests.chaos.delivery` plays more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.chaos.delivery import Deaths, survive

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

SEED = int(os.environ.get("TENOR_CHAOS_SEED", "20261124"))
KILLS, RECORDS = 8, 20_000


def test_eight_kills_of_either_side_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    deaths = Deaths.drawn(KILLS, RECORDS, SEED)
    sys.stdout.write(f"TENOR_CHAOS_SEED={SEED}: {deaths}\n")
    assert min(len(deaths.of_exchange), len(deaths.of_cluster)) >= 2
    survive(tmp_path, deaths, RECORDS, most_s=120)
