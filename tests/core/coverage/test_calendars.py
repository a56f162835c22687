"""Published years of lots on fleets of a thousand GPUs: what is 90 % sold is placed whole, the rest with handovers."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.ownership import check
from scheduler.traces.calendars import fleet_shape
from tests.benchmarks.calendars import demands_of, fleet_of

MOST_GPUS = 2_000


@pytest.mark.slow
def test_a_year_of_lots_is_placed_with_handovers_only_where_it_is_nearly_full(traces: Path) -> None:
    paths = sorted((traces / "calendars").glob("*_90.csv"))
    shapes = {path: fleet_shape(path.stem) for path in paths}
    small = [path for path, shape in shapes.items() if fleet_of(shape).n_gpus <= MOST_GPUS]
    if not small:
        pytest.skip(f"{traces / 'calendars'} holds no calendar that is 90 % sold on at most {MOST_GPUS} GPUs")
    for path in small:
        fleet = fleet_of(shapes[path])
        made = assign(fleet, demands_of(path), handovers=True)
        assert check(fleet, made.holdings) == ()
        assert (made.unplaced, made.handovers) == ((), ()), path.stem
