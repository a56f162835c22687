"""Planning one pool: which ways are tried, in which order, and what is the best of them.

The first order keeps most domains whole and mostly places all, so the others are tried only where lots remain. Then
guided ejection and mending take turns, the weight of a lot changing from turn to turn: what stays put under one weight
gives way under the next. It ends as soon as nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.core.coverage.board import Board
from scheduler.core.coverage.mending import mended
from scheduler.core.coverage.packing import ORDERS, Groups, Layout, Order, filled, gpu_ms, repaired, weight_of
from scheduler.core.quantities import ONE_PPM, ceil_div, floor_div

ROUNDS = 5_000
"""Rounds of ejection for each turn, where lots are left."""
FIRST_ROOT = 3
"""The weight with which the first order is repaired before the others are looked at: most often that is enough."""
ROUNDS_PER_LOT = 40
"""Rounds for each lot at most, over all turns: a small calendar is settled, or hopeless, soon."""
ROUND_LOTS = 100_000_000
"""Rounds × lots at most, so that the largest calendars stay quick."""


class Try(NamedTuple):
    """An order to begin with, and turn by turn the root of its GPU-milliseconds that a lot weighs."""

    order: int
    roots: tuple[int, ...]


TRIES = (Try(1, (2, 3, 4, 2, 3, 4)), Try(0, (2, 3, 4, 2, 3, 4)), Try(1, (4, 3, 2)))
GIVEN_UP_PPM = 10_000
"""Fewer lots are left out by leaving out larger ones; they may add up to so much of the GPU-milliseconds asked for, or
to GIVEN_UP_TIMES what must be left out at the least: else a calendar a little too full for the one would suddenly be
planned by GPU-milliseconds alone, and give up thousands of small lots for them."""
GIVEN_UP_TIMES = 2
TURN_LOTS = 10_000
"""Turns × lots where a plan is wanted within a second: thousands of lots that do not fit get one or two turns."""


def planned(
    board: Board,
    groups: Groups,
    rounds: int = ROUNDS,
    orders: Sequence[Order] = ORDERS,
    *,
    turn_lots: int | None = None,
) -> tuple[Layout, ...]:
    """The layouts worth looking at, best first (see `_worthiest`). The first that leaves nothing ends the search.
    `turn_lots`: turns × lots at most, though always one turn; None: all of `TRIES`.
    """
    n_lots = int(groups.lots.sum())
    turns = 1 + sum(len(trial.roots) for trial in TRIES)
    rounds = min(rounds, ceil_div(ROUNDS_PER_LOT * n_lots, turns), ROUND_LOTS // max(1, n_lots))
    if turn_lots is not None:
        turns = min(turns, floor_div(turn_lots, max(1, n_lots)))
    filling = [filled(board, groups, orders[0])]
    found = [filling[0]]
    if rounds >= filling[0].short(groups).sum():  # else there are too few to do much
        found.append(mended(board, repaired(board, filling[0], groups, rounds, FIRST_ROOT), groups))
    for order in orders[1:]:
        if not found[-1].short(groups).any():
            return (found[-1],)
        filling.append(filled(board, groups, order))
        found.append(filling[-1])
    for trial in TRIES if rounds else ():
        layout = filling[min(trial.order, len(filling) - 1)]
        if rounds < layout.short(groups).sum():
            continue
        for root in trial.roots:
            if not found[-1].short(groups).any():
                return (found[-1],)
            turns -= 1
            if turns <= 0:
                return _worthiest(board, groups, found)
            layout = mended(board, repaired(board, layout, groups, rounds, root), groups)
            found.append(layout)
    return _worthiest(board, groups, found)


def _worthiest(board: Board, groups: Groups, found: Sequence[Layout]) -> tuple[Layout, ...]:
    """First the layout that leaves out the fewest lots, of those that give up little (GIVEN_UP_PPM, GIVEN_UP_TIMES);
    then others on which handovers may be fewer: the least weight left out; the fewest GPU-milliseconds; the fewest lots
    of those that give up the least or less than GIVEN_UP_PPM; and the first, unrepaired, which keeps equal cells alike:
    pieces grow together best on it.
    """
    size, weight = gpu_ms(board, groups), weight_of(board, groups)
    short = [layout.short(groups) for layout in found]
    lots = [int(each.sum()) for each in short]
    given_up = [int((each * size).sum()) for each in short]
    heft = [int((each * weight).sum()) for each in short]
    little = floor_div(int((groups.lots * size).sum()) * GIVEN_UP_PPM, ONE_PPM)
    numbers = range(len(found))

    def fewest(most: int) -> int:
        return min((k for k in numbers if given_up[k] <= most), key=lambda k: (lots[k], given_up[k], k))

    least = min(given_up)
    lightest = min(numbers, key=lambda k: (heft[k], k))
    smallest = min(numbers, key=lambda k: (given_up[k], k))
    chosen = (fewest(max(GIVEN_UP_TIMES * least, little)), lightest, smallest, fewest(max(least, little)), 0)
    return tuple(found[k] for k in dict.fromkeys(chosen))
