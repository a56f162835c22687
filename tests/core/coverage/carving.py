"""Calendars of our own, of any shape and seed. Those that are *carved* are cut out of a perfect packing, so that an
assignment without a move exists; those that are *counted* fit by count at every instant, and one may not exist.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.holdings import Demand


class Shape(NamedTuple):
    """How many of each cell the next larger one holds."""

    blocks: int
    domains: int
    nodes: int
    gpus: int


Inside = tuple["Inside", ...]
"""A cell by the cells in it; a GPU has none."""
Lot = tuple[Level, int, int]
Cut = Callable[[random.Random, Level, int, int], list[int]]
"""The instants at which a cell's time is cut, in `[start, end)`, both ends included."""

SOLD_WHOLE = {Level.GPU: 1.0, Level.NODE: 0.4, Level.NVLINK_DOMAIN: 0.15, Level.FABRIC_BLOCK: 0.05}
LENGTHS = (1, 2, 4, 7, 24, 48, 168, 720)


def even(shape: Shape) -> tuple[Inside, ...]:
    """Blocks, all alike."""
    node: Inside = ((),) * shape.gpus
    return (((node,) * shape.nodes,) * shape.domains,) * shape.blocks


def uneven(seed: int, blocks: int, gpus: int = 8) -> tuple[Inside, ...]:
    """Blocks of 2 to 4 domains of 2 to 5 nodes."""
    chance = random.Random(seed)
    node: Inside = ((),) * gpus
    return tuple(tuple((node,) * chance.randint(2, 5) for _ in range(chance.randint(2, 4))) for _ in range(blocks))


def fleet_of(blocks: tuple[Inside, ...]) -> Fleet:
    """A fleet of these blocks."""
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{b}-{d}-{n}", grade="H100", gpus=len(node), block=f"b{b}", domain=f"d{d}")
            for b, block in enumerate(blocks)
            for d, domain in enumerate(block)
            for n, node in enumerate(domain)
        )
    )


def in_windows(chance: random.Random, level: Level, start: int, end: int) -> list[int]:
    """Windows of usual lengths one after the other, at every level alike."""
    cuts = [start]
    while cuts[-1] < end:
        cuts.append(min(end, cuts[-1] + chance.choice(LENGTHS)))
    return cuts


def in_two(chance: random.Random, level: Level, start: int, end: int) -> list[int]:
    """Anywhere, once or not at all: few long lots and many short ones, at instants that others seldom share."""
    if end - start > 1 and chance.random() < (0.6 if level == Level.GPU else 0.8):
        length = round((end - start) ** chance.random())
        return [start, min(end - 1, start + max(1, length)), end]
    return [start, end]


def carved_from(blocks: tuple[Inside, ...], hours: int, sold_percent: int, seed: int, cut: Cut) -> list[Demand]:
    """Each cell's time is cut, and each part of it sold whole or by the cells inside. Equal lots are one position."""
    chance = random.Random(seed)
    lots: list[Lot] = []

    def sell(cell: Inside, level: Level, start: int, end: int) -> None:
        cuts = cut(chance, level, start, end)
        for since, until in pairwise(cuts):
            if chance.random() < SOLD_WHOLE[level]:
                lots.append((level, since, until))
            else:
                for inner in cell:
                    sell(inner, Level(level - 1), since, until)

    for block in blocks:
        sell(block, Level.FABRIC_BLOCK, 0, hours)
    return gathered(lot for lot in lots if chance.randrange(100) < sold_percent)


def carved(shape: Shape, hours: int, sold_percent: int, seed: int) -> list[Demand]:
    """Of cells that are all alike, in windows of usual lengths; one position for each lot."""
    made = carved_from(even(shape), hours, sold_percent, seed, in_windows)
    ones = (demand._replace(lots=1) for demand in made for _ in range(demand.lots))
    return [demand._replace(position=f"p{k}") for k, demand in enumerate(ones)]


def counted_in(blocks: tuple[Inside, ...], hours: int, sold_percent: int, seed: int) -> list[Demand]:
    """Random lots, taken while they fit by count at every instant, until so much is sold or nothing fits any more."""
    chance = random.Random(seed)
    sizes = [1, *(min(map(gpus_in, cells_at(blocks, level))) for level in (Level.NODE, Level.NVLINK_DOMAIN))]
    sizes.append(min(map(gpus_in, blocks)))
    left = np.array([[len(cells_at(blocks, level))] * hours for level in Level if level <= Level.FABRIC_BLOCK])
    most = int(left[0].sum()) * sold_percent // 100
    lots: list[Lot] = []
    sold = failed = 0
    while sold < most and failed < 2_000:
        level = chance.choice((Level.GPU, Level.GPU, Level.NODE, Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
        start = chance.randrange(hours)
        end = min(hours, start + max(1, round(hours ** chance.random())))
        need = np.array([sizes[level] // sizes[below] for below in range(level + 1)])
        window = left[: level + 1, start:end]
        if (window >= need[:, None]).all():
            window -= need[:, None]
            lots.append((level, start, end))
            sold, failed = sold + sizes[level] * (end - start), 0
        else:
            failed += 1
    return gathered(lots)


def cells_at(blocks: tuple[Inside, ...], level: Level) -> list[Inside]:
    """All cells of a level."""
    cells = list(blocks)
    for _ in range(Level.FABRIC_BLOCK - level):
        cells = [inner for cell in cells for inner in cell]
    return cells


def gpus_in(cell: Inside) -> int:
    """The GPUs of a cell."""
    return sum(map(gpus_in, cell)) if cell else 1


def gathered(lots: Iterable[Lot]) -> list[Demand]:
    """One position for all lots of a level and window."""
    counts = Counter(lots)
    return [
        Demand(f"p{k}", level, count, start, end, 0)
        for k, ((level, start, end), count) in enumerate(sorted(counts.items()))
    ]
