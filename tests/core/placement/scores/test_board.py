"""A board chooses as `choose` does, whatever it was asked and told before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.placement.scores.board import Board
from scheduler.core.placement.scores.choice import Place, choose
from scheduler.core.placement.scores.pool import Ask, PoolState
from scheduler.core.placement.scores.table import Score
from tests.core.placement.scores.pools import asks, pools, scores


@pytest.mark.parametrize("compiled", [False, True])
@given(data=st.data(), state=pools(), used=scores(), kinds=st.lists(asks(), min_size=1, max_size=3))
def test_a_board_chooses_as_if_it_kept_nothing(
    *, compiled: bool, data: st.DataObject, state: PoolState, used: Score, kinds: list[Ask]
) -> None:
    board = Board(state, used, compiled=compiled)
    there: list[tuple[Place, Ask]] = []
    everywhere = np.full(len(state), -1, dtype=np.int64)
    for _ in range(6):
        ask = data.draw(st.sampled_from(kinds))
        lane = data.draw(st.sampled_from(["acme", "bolt"]))
        allowed = data.draw(st.sampled_from([everywhere, everywhere * (np.arange(len(state)) % 2)]))
        chosen = board.choose(ask, allowed, lane)
        assert chosen == choose(board.state, ask, used, allowed, compiled=False)
        if chosen is not None:
            board.take(chosen, ask)
            there.append((chosen, ask))
        if there and data.draw(st.sampled_from("yn")) == "y":
            board.give_back(*there.pop(0))
    for place, ask in there:
        board.give_back(place, ask)
    assert (board.state.free_milli == state.free_milli).all()
    assert (board.state.cpu_milli == state.cpu_milli).all()
