"""Calendars of our own: lots cut out of a perfect packing, so that an assignment without a move exists."""

from __future__ import annotations

import random
from typing import NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.holdings import Demand


class Shape(NamedTuple):
    """How many of each cell the next larger one holds."""

    blocks: int
    domains: int
    nodes: int
    gpus: int


def carved(shape: Shape, hours: int, sold_percent: int, seed: int) -> list[Demand]:
    """One position for each lot. Each cell's time is cut into windows; in each it is sold whole or its parts are."""
    chance = random.Random(seed)
    lots: list[tuple[Level, int, int]] = []

    def cut(level: Level, start: int, end: int) -> None:
        while start < end:
            until = min(end, start + chance.choice((1, 2, 4, 7, 24, 48, 168, 720)))
            if level == Level.GPU or chance.random() < SOLD_WHOLE[level]:
                lots.append((level, start, until))
            else:
                for _ in range((0, shape.gpus, shape.nodes, shape.domains)[level]):
                    cut(Level(level - 1), start, until)
            start = until

    for _ in range(shape.blocks):
        cut(Level.FABRIC_BLOCK, 0, hours)
    kept = [lot for lot in lots if chance.randrange(100) < sold_percent]
    return [Demand(f"p{k}", level, 1, start, end, 0) for k, (level, start, end) in enumerate(kept)]


SOLD_WHOLE = {Level.NODE: 0.4, Level.NVLINK_DOMAIN: 0.15, Level.FABRIC_BLOCK: 0.05}
