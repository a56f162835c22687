"""Holdings: which cell stands behind which position, and when. The calendar of promises is a set of them.

Law: at any instant no GPU lies in the cells of two holdings.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, model_validator

from scheduler.core.cluster import Level
from scheduler.core.ids import Name
from scheduler.core.models import Model


class Demand(NamedTuple):
    """So many lots, each one whole cell of `level`, for `position` in `[start_ms, end_ms)`, inside one pool."""

    position: str
    level: Level
    lots: int
    start_ms: int
    end_ms: int
    pool: int
    """Index into `Fleet.pools`."""


class Holding(Model):
    """`cell` (its number at `level` in the fleet) stands behind the position in `[start_ms, end_ms)`."""

    position: Name
    level: Level
    cell: int = Field(ge=0)
    start_ms: int
    end_ms: int

    @model_validator(mode="after")
    def _not_empty(self) -> Holding:
        if self.start_ms >= self.end_ms:
            raise ValueError(f"end_ms was {self.end_ms}, expected an instant after start_ms {self.start_ms}")
        return self
