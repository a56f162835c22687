"""Calendars of our own kinds, seeds and fan-outs, none of which anything was tuned to: beside the exact optimum where
that can be had, beside first fit elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.core.cluster import Fleet
from scheduler.core.coverage.assign import Plan, plan
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.packing import BY_LEVEL_AND_START, BY_START
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand
from tests.core.coverage.carving import (
    Inside,
    Shape,
    carved_from,
    counted_in,
    even,
    fleet_of,
    in_two,
    in_windows,
    uneven,
)
from tests.core.coverage.exact import most_gpu_ms

Kind = Callable[[tuple[Inside, ...], int, int, int], list[Demand]]


def windows(blocks: tuple[Inside, ...], hours: int, sold: int, seed: int) -> list[Demand]:
    return carved_from(blocks, hours, sold, seed, in_windows)


def halves(blocks: tuple[Inside, ...], hours: int, sold: int, seed: int) -> list[Demand]:
    return carved_from(blocks, hours, sold, seed, in_two)


def gpu_hours(fleet: Fleet, made: Plan) -> tuple[int, int]:
    """(left out, asked for); a lot counts as the smallest cell of its level."""
    topology = topology_of(fleet)
    sizes = [int((topology.end_gpu[level] - topology.first_gpu[level]).min()) for level in range(4)]
    size = [sizes[d.level] * (d.end_ms - d.start_ms) for d in made.demands]
    left = sum(each * int(lots) for each, lots in zip(size, made.left, strict=True))
    return left, sum(each * d.lots for each, d in zip(size, made.demands, strict=True))


@pytest.mark.parametrize(
    ("kind", "hours", "sold", "seed", "ppm"),
    [
        (windows, 30, 100, 0, 0),
        (windows, 30, 100, 1, 0),
        (halves, 60, 100, 0, 0),
        (halves, 60, 100, 1, 6_000),
        (halves, 60, 90, 1, 0),
        (counted_in, 40, 90, 0, 0),
        (counted_in, 40, 90, 1, 0),
    ],
)
def test_two_dozen_gpus_come_to_the_optimum(kind: Kind, hours: int, sold: int, seed: int, ppm: int) -> None:
    """`ppm`: how far from the optimum it is seen to stay, of the GPU-hours asked for."""
    blocks = even(Shape(1, 2, 3, 4))
    fleet, demands = fleet_of(blocks), kind(blocks, hours, sold, seed)
    made = plan(fleet, demands)
    left, asked = gpu_hours(fleet, made)
    assert 0 <= most_gpu_ms(fleet, demands) - (asked - left) <= asked * ppm // 1_000_000


SHAPES = (even(Shape(2, 4, 4, 8)), even(Shape(2, 3, 9, 8)), even(Shape(3, 5, 3, 4)), uneven(7, 3))


@pytest.mark.slow
@pytest.mark.parametrize("blocks", SHAPES, ids=("2x4x4x8", "2x3x9x8", "3x5x3x4", "uneven"))
@pytest.mark.parametrize(("kind", "hours"), [(windows, 200), (halves, 2_000), (counted_in, 350)])
def test_no_more_is_given_up_than_by_first_fit_on_any_kind_and_shape(
    blocks: tuple[Inside, ...], kind: Kind, hours: int
) -> None:
    """Or no more than the hundredth that fewer lots left out may cost."""
    fleet, demands = fleet_of(blocks), kind(blocks, hours, 95, 0)
    made = plan(fleet, demands)
    assert check(fleet, columns_of(made.assignment().holdings)) == ()
    left, asked = gpu_hours(fleet, made)
    for order in (BY_START, BY_LEVEL_AND_START):
        first_fit = gpu_hours(fleet, plan(fleet, demands, orders=(order,), rounds=0))[0]
        assert left <= max(first_fit, asked // 100)
