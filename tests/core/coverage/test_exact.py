"""Against the exact optimum: generated small calendars, nearly full, on even and uneven nests of cells."""

from __future__ import annotations

import random

import pytest

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import admit, assign
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand
from tests.core.coverage.carving import Shape, carved
from tests.core.coverage.drawn import faults, fleet_of
from tests.core.coverage.exact import most_gpu_ms

EVEN = (Shape(1, 2, 2, 2), Shape(1, 1, 3, 2), Shape(2, 1, 2, 2), Shape(1, 3, 1, 3))


def gpu_ms(fleet: Fleet, demands: list[Demand]) -> int:
    topology = topology_of(fleet)
    sizes = [int(topology.end_gpu[level][0] - topology.first_gpu[level][0]) for level in Level]
    return sum(d.lots * sizes[d.level] * (d.end_ms - d.start_ms) for d in demands)


def gap_ppm(fleet: Fleet, demands: list[Demand]) -> int:
    """How far what is placed falls behind the optimum."""
    made = assign(fleet, demands)
    assert faults(fleet, made.holdings) == []
    got = gpu_ms(fleet, demands) - gpu_ms(fleet, list(made.unplaced))
    best = most_gpu_ms(fleet, demands)
    assert got <= best
    return (best - got) * 1_000_000 // best if best else 0


def counted(shape: Shape, seed: int) -> list[Demand]:
    """Random lots, taken while they fit by count at every instant: an assignment without a move may not exist."""
    chance = random.Random(seed)
    fleet = fleet_of(*shape)
    taken: list[Demand] = []
    for k in range(30):
        level = chance.choice((Level.GPU, Level.GPU, Level.NODE, Level.NVLINK_DOMAIN))
        start = chance.randrange(10)
        lot = Demand(f"p{k}", level, 1, start, start + chance.randrange(1, 7), 0)
        if not admit(fleet, [*taken, lot]):
            taken.append(lot)
    return taken


@pytest.mark.parametrize("shape", EVEN, ids=str)
def test_calendars_cut_from_a_perfect_packing_are_placed_whole(shape: Shape) -> None:
    left = [len(assign(fleet_of(*shape), carved(shape, 12, 100, seed)).unplaced) for seed in range(20)]
    assert left == [0] * 20


@pytest.mark.parametrize("shape", EVEN, ids=str)
def test_calendars_that_fit_by_count_come_within_a_hair_of_the_optimum(shape: Shape) -> None:
    gaps = [gap_ppm(fleet_of(*shape), counted(shape, seed)) for seed in range(30)]
    assert sum(gap == 0 for gap in gaps) >= 28
    assert max(gaps) <= 50_000


def test_uneven_nests_come_within_a_hair_of_the_optimum() -> None:
    fleet = Fleet.of(
        tuple(NodeSpec(name=f"n{k}", grade="H100", gpus=2, block=f"b{k // 4}", domain=f"d{k // 3}") for k in range(5))
    )
    gaps = []
    for seed in range(20):
        chance = random.Random(seed)
        demands = []
        for k in range(10):
            start = chance.randrange(6)
            level = chance.choice((Level.GPU, Level.NODE))
            demands.append(Demand(f"p{k}", level, 1, start, start + chance.randrange(1, 5), 0))
        gaps.append(gap_ppm(fleet, demands))
    assert max(gaps) == 0
