"""A holding lasts, names a cell, and comes back from its bytes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from scheduler.core.cluster import Level
from scheduler.core.holdings import Holding


@pytest.mark.parametrize(("start_ms", "end_ms"), [(5, 5), (6, 5)])
def test_a_holding_that_never_is_is_refused(start_ms: int, end_ms: int) -> None:
    with pytest.raises(ValidationError, match=f"end_ms was {end_ms}, expected an instant after start_ms {start_ms}"):
        Holding(position="p", level=Level.NODE, cell=0, start_ms=start_ms, end_ms=end_ms)


@pytest.mark.parametrize("wrong", [{"cell": -1}, {"position": "a b"}, {"level": 7}, {"gpus": 1}])
def test_a_holding_is_of_a_cell(wrong: dict[str, object]) -> None:
    fields = {"position": "p", "level": Level.NODE, "cell": 0, "start_ms": 0, "end_ms": 1, **wrong}
    with pytest.raises(ValidationError):
        Holding.model_validate(fields)


@pytest.mark.parametrize("level", Level)
def test_a_holding_comes_back_from_its_bytes(level: Level) -> None:
    held = Holding(position="p", level=level, cell=3, start_ms=-1, end_ms=1)
    assert Holding.model_validate_json(held.model_dump_json()) == held
