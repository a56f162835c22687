"""Which of several layouts is the plan, where none places all."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.cluster import Level
from scheduler.core.coverage.assign import all_usable
from scheduler.core.coverage.board import board_of
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.packing import Groups, Layout
from scheduler.core.coverage.planning import _worthiest
from scheduler.core.holdings import Demand
from tests.core.coverage.drawn import fleet_of

HOURS = (1, 8, 13)
"""The windows of three groups of GPU lots; what one of their lots is, in GPU-hours."""


@pytest.mark.parametrize(
    ("asked", "left_out", "best"),
    [
        # Of 1,000 GPU-hours 1 % is 10: eight in one lot rather than six in six lots, but not thirteen in one.
        ((1_000, 0, 0), ((6, 0, 0), (0, 1, 0)), 1),
        ((1_000, 0, 0), ((6, 0, 0), (0, 0, 1)), 0),
        # Of 100 it is 1, which none keeps to: twice the least that must be may go, no more.
        ((100, 0, 0), ((6, 0, 0), (0, 1, 0)), 1),
        ((100, 0, 0), ((7, 0, 0), (0, 0, 1)), 1),
        ((100, 0, 0), ((6, 0, 0), (0, 0, 1)), 0),
        # As many lots: the one that gives up fewer hours.
        ((100, 0, 0), ((0, 1, 0), (1, 0, 0)), 1),
    ],
)
def test_the_fewest_lots_are_left_out_that_give_up_little_or_twice_what_must_be(
    asked: tuple[int, int, int], left_out: tuple[tuple[int, int, int], ...], best: int
) -> None:
    fleet = fleet_of()
    demands = [Demand("p", Level.GPU, 1, 0, hours, 0) for hours in HOURS]
    board = board_of(fleet, 0, demands, columns_of(()), all_usable(fleet))
    none = np.zeros(0, dtype=np.int64)
    given = np.array([most + sum(each[g] for each in left_out) for g, most in enumerate(asked)])
    groups = Groups(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.arange(1, 4), given, none, none)
    layouts = [
        Layout(board.fresh(), np.array([(g, 0, given[g] - each[g]) for g in range(3)], dtype=np.int64))
        for each in left_out
    ]
    assert _worthiest(board, groups, layouts)[0] is layouts[best]
