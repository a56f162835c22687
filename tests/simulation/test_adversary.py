"""Nobody can make an owner wait for what it is owed, whatever he submits, buys, sells, drains or breaks."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.workloads import StopCause
from tests.simulation.adversary import BOARDS, BOUND, MOVES, OWNER, Board, Game, Move, placed_inside
from tests.simulation.owed import is_owed, lots_of

OFTEN = (*MOVES, *["own"] * 5, *["ask"] * 4, "buy", *["gain"] * 2, "wait", "wait")
numbers = st.integers(0, 76)
moves = st.tuples(st.sampled_from(OFTEN), numbers, numbers, numbers)


def drawn(dice: Random, length: int) -> list[Move]:
    return [(dice.choice(OFTEN), dice.randrange(77), dice.randrange(77), dice.randrange(77)) for _ in range(length)]


def play(board: Board, first: Move, rest: list[Move], *, bound: Level | None = None) -> Game:
    """The whole game, in which the owner has something from the start."""
    game = Game(board, bound=bound)
    for move in (first, *rest):
        game.play(move)
    game.stage.close()
    return game


@settings(max_examples=50)
@given(st.sampled_from(BOARDS), st.sampled_from(BOUND), numbers, numbers, st.lists(moves, min_size=5, max_size=35))
def test_nobody_makes_an_owner_wait(board: Board, bound: Level | None, level: int, lots: int, rest: list[Move]) -> None:
    """The search climbs: towards games in which the owner gets much, and others are stopped for it often."""
    game = play(board, ("gain", level, lots, 0), rest, bound=bound)
    target(float(game.owed), label="placed for the owner")
    target(float(game.seen.count(StopCause.RECLAIMED)), label="reclaimed")
    target(float(game.seen.count(StopCause.CONSOLIDATED)), label="moved")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("TENOR_GAMES", "12"))))
def test_nobody_makes_an_owner_wait_in_a_long_game(seed: int) -> None:
    """`TENOR_GAMES=1000` plays so many; each is a game of its own, whatever the others are."""
    dice = Random(seed)
    play(BOARDS[seed % len(BOARDS)], ("gain", seed, seed // 3, 0), drawn(dice, 90), bound=BOUND[seed // 4 % 3])


PEACEFUL = ("own", "ask", "ask", "ask", "gain", "buy", "buy", "wait", "wait")
"""Moves that break, sell and take back nothing."""


@settings(max_examples=40)
@given(st.sampled_from(BOARDS), st.lists(st.tuples(st.sampled_from(PEACEFUL), numbers, numbers, numbers), max_size=40))
def test_nothing_is_bought_from_under_what_cannot_be_preempted(board: Board, rest: list[Move]) -> None:
    game = play(board, ("buy", 0, 0, 0), rest)
    assert StopCause.WINDOW_ENDED not in game.seen
    target(float(len(game.stage.scheduler.state.gangs.firm)), label="cannot be preempted")


def test_the_games_come_to_every_resort() -> None:
    owed, seen, kinds = 0, set[str](), set[str]()
    for seed in range(40, 58):
        game = play(
            BOARDS[seed % len(BOARDS)], ("gain", seed, 1, 0), drawn(Random(seed), 40), bound=BOUND[1 + seed % 2]
        )
        owed += game.owed
        seen |= set(game.seen)
        kinds |= game.kinds
    assert owed > 60
    assert {StopCause.RECLAIMED, StopCause.CONSOLIDATED, StopCause.DRAINED, StopCause.CANCELLED} <= seen
    assert kinds == KINDS


KINDS = {
    "elastic",
    "elastic, at its least",
    "share",
    "inside a domain",
    "inside a block",
    "not preemptible",
    "in a hurry",
}


def test_the_oracle_bites() -> None:
    """A gang that was not looked at yet is owed; what is beyond the count, or beyond the shape of the lots, is not."""
    game = Game(Board(4, (4,), 2, (1, 2, 4)))
    game.buy(OWNER, 0, 1, 0)  # two nodes
    state = game.stage.scheduler.state
    assert lots_of(state, OWNER) == (((4,),), ((4,),))
    asked = (
        ({"gpus_per_worker": 4, "workers": 2}, True),
        ({"gpus_per_worker": 4, "workers": 3}, False),
        ({"gpus_per_worker": 4, "workers": 2, "topology": Level.NVLINK_DOMAIN, "topology_required": True}, False),
        ({"gpus_per_worker": 2, "workers": 2, "topology": Level.NVLINK_DOMAIN, "topology_required": True}, True),
    )
    for spec, owed in asked:
        game.submit(OWNER, spec, 1_000, None)
        gang = state.gangs.get(state.gangs.ids[-1])
        assert is_owed(state, gang) is owed, spec
        if owed:
            with pytest.raises(AssertionError, match="is owed and waits"):
                game.check()
        game.stage.scheduler.cancel(gang.id)
    game.submit(OWNER, {"gpus_per_worker": 4, "workers": 2}, 1_000, None)
    game.stage.rounds()
    game.check()
    assert placed_inside(game) == 1
    game.stage.close()
