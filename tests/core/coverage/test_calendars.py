"""Generated years of lots on nearly full fleets: no worse than the best known for each calendar."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.cluster import Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.ownership import check
from scheduler.core.holdings import Demand
from scheduler.core.quantities import MS_PER_HOUR
from scheduler.traces.calendars import load
from tests.core.coverage.drawn import fleet_of


@pytest.mark.parametrize(
    ("name", "most_unplaced"),
    [
        ("1024_carved_90", 0),
        ("1024_counted_90", 0),
        pytest.param("1024_carved_97", 27, marks=pytest.mark.slow),
        pytest.param("1024_counted_97", 119, marks=pytest.mark.slow),
    ],
)
def test_a_year_of_lots_leaves_no_more_unplaced_than_the_best_known(
    traces: Path, name: str, most_unplaced: int
) -> None:
    path = traces / "calendars" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = load(path)
    demands = [
        Demand(f"p{k}", Level(level), lots, start * MS_PER_HOUR, end * MS_PER_HOUR, 0)
        for k, (level, lots, start, end) in enumerate(
            zip(rows.level.tolist(), rows.lots.tolist(), rows.start_hour.tolist(), rows.end_hour.tolist(), strict=True)
        )
    ]
    fleet = fleet_of(blocks=8, domains=4, nodes=4, gpus=8)
    made = assign(fleet, demands)
    assert check(fleet, made.holdings) == ()
    assert sum(demand.lots for demand in made.unplaced) <= most_unplaced
