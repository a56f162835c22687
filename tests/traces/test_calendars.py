"""The fleet that a calendar's name says."""

from __future__ import annotations

import pytest

from scheduler.core.errors import InvalidValue
from scheduler.traces.calendars import FleetShape, fleet_shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("1024_any_90", FleetShape(8, 4, 4, 8)),
        ("100352_20000_97", FleetShape(196, 8, 8, 8)),
        ("16_tiny", FleetShape(2, 1, 1, 8)),
        ("64_few", FleetShape(2, 2, 2, 8)),
        ("3x8x9x8_nines", FleetShape(3, 8, 9, 8)),
    ],
)
def test_the_name_says_the_fleet(name: str, shape: FleetShape) -> None:
    assert fleet_shape(name) == shape


@pytest.mark.parametrize("name", ["1023_odd", "x_90", "8x8_two", "0_none", "", "3x8x9x0_none", "-8_less"])
def test_a_name_that_says_no_fleet_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue, match="a calendar"):
        fleet_shape(name)
