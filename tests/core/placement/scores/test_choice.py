"""One worker's place: lawful, the cheapest there is, the first of equals; the same bytes compiled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.choice import choose
from scheduler.core.placement.scores.kinds import Mix
from scheduler.core.placement.scores.pool import Ask, BoolArray, PoolState
from scheduler.core.placement.scores.table import SCORES, Score, score
from tests.benchmarks.plain_fgd import published_score
from tests.core.placement.scores.pools import HARD_VALUES, SERVERS, WORK, asks, mixes, pools, scores

Place = tuple[int, tuple[int, ...]]


@st.composite
def allowed_in(draw: st.DrawFn, state: PoolState) -> BoolArray:
    bits = draw(st.lists(st.booleans(), min_size=state.free_milli.size, max_size=state.free_milli.size))
    return np.array(bits, dtype=np.bool_).reshape(state.free_milli.shape)


def places(state: PoolState, ask: Ask, allowed: BoolArray) -> list[Place]:
    """Every place that is lawful, by node, then device: the plain meaning of what a kernel scans."""
    found: list[Place] = []
    for n in range(len(state)):
        enough = state.cpu_milli[n] >= ask.cpu_milli and state.memory_mib[n] >= ask.memory_mib and allowed[n].any()
        if not enough or (ask.devices and not ask.models >> int(state.model[n]) & 1):
            continue
        fitting = np.flatnonzero((state.free_milli[n] >= ask.milli) & allowed[n]).tolist()
        if ask.devices == 0:
            found.append((n, ()))
        elif ask.devices == 1:
            found += [(n, (d,)) for d in fitting]
        elif len(fitting) >= ask.devices:
            found.append((n, tuple(fitting[: ask.devices])))
    return found


def after(state: PoolState, ask: Ask, place: Place) -> PoolState:
    """The pool with a worker on it."""
    n, devices = place
    left = state.copy()
    left.free_milli[n, list(devices)] -= ask.milli
    left.cpu_milli[n] -= ask.cpu_milli
    left.memory_mib[n] -= ask.memory_mib
    return left


def cost(state: PoolState, ask: Ask, place: Place, used: Score) -> tuple[int, int]:
    """A place's cost and tie, worked out on whole copies of the pool."""
    n, devices = place
    left = after(state, ask, place)
    worth = [
        scan.standing(p.free_milli[n], int(p.cpu_milli[n]), int(p.memory_mib[n]), int(p.model[n]), used.known)
        for p in (state, left)
    ]
    idle = int(left.free_milli[n].sum())
    price = int(used.known.prices[state.model[n]])
    tie = 0 if used.name in {"first-fit", "residual-values"} else idle * 1_024
    if tie and len(devices) == 1:
        tie += int(left.free_milli[n, devices[0]])
    return scan.change_cost(worth[1] - worth[0], idle, ask.total_milli, price, used.known), tie


@given(st.data(), pools(), asks(), scores())
def test_a_choice_is_the_cheapest_lawful_place_and_the_first_of_equals(
    data: st.DataObject, state: PoolState, ask: Ask, used: Score
) -> None:
    allowed = data.draw(allowed_in(state))
    before = state.copy()
    lawful = places(state, ask, allowed)
    chosen = choose(state, ask, used, allowed, compiled=False)
    # `min` gives the first of equals, and places come by node, then device.
    assert chosen == min(lawful, key=lambda place: cost(state, ask, place, used), default=None)
    assert (state.free_milli == before.free_milli).all()


@given(st.data(), pools(), asks(), scores())
def test_no_device_is_ever_overfilled(data: st.DataObject, state: PoolState, ask: Ask, used: Score) -> None:
    chosen = choose(state, ask, used, data.draw(allowed_in(state)), compiled=False)
    if chosen is not None:
        left = after(state, ask, chosen)
        assert len(set(chosen[1])) == ask.devices
        assert min(left.free_milli.min(), left.cpu_milli.min(), left.memory_mib.min()) >= 0


@given(st.data(), pools(), asks(), scores())
def test_compiled_chooses_the_same(data: st.DataObject, state: PoolState, ask: Ask, used: Score) -> None:
    allowed = data.draw(allowed_in(state))
    assert choose(state, ask, used, allowed, compiled=True) == choose(state, ask, used, allowed, compiled=False)


@given(pools(), asks(), mixes)
def test_fgd_takes_a_place_that_scores_best_as_published(state: PoolState, ask: Ask, mix: Mix) -> None:
    used = score("fgd", mix, {0: 6, 1: 18})
    lawful = places(state, ask, np.ones(state.free_milli.shape, dtype=np.bool_))
    chosen = choose(state, ask, used, compiled=False)
    published = {place: published_score(state, after(state, ask, place), place[0], mix) for place in lawful}
    assert (chosen is None) == (not lawful)
    if chosen is not None:
        best = [place for place in lawful if published[place] == max(published.values())]
        idle = {place: int(after(state, ask, place).free_milli[place[0]].sum()) for place in best}
        assert chosen in best
        assert idle[chosen] == min(idle.values())


def test_restrictions_may_be_of_nodes_of_devices_or_bits() -> None:
    used = score("best-fit", WORK, {0: 18, 1: 20})
    worker = Ask(1, 470, 8_000, 30_000)
    nodes = np.array([False, False, True, False, True, False])
    devices = np.repeat(nodes[:, None], 8, axis=1)
    assert choose(SERVERS, worker, used) == (0, (0,))
    assert choose(SERVERS, worker, used, nodes) == (2, (0,))
    assert choose(SERVERS, worker, used, devices) == (2, (0,))
    assert choose(SERVERS, worker, used, np.where(nodes, 0b100, 0)) == (2, (2,))
    assert choose(SERVERS, worker, used, nodes & False) is None


def test_each_score_has_its_own_mind() -> None:
    """A shared GPU with 530 free on a node with little CPU, a fresh one of two GPUs, and an empty server of eight."""
    state = SERVERS.copy()
    state.free_milli[1, :3] = 0
    state.free_milli[1, 3] = 530
    state.cpu_milli[1] = 9_000
    worker = Ask(1, 470, 8_000, 30_000)
    found = {name: choose(state, worker, score(name, WORK, {0: 18, 1: 20}, HARD_VALUES)) for name in SCORES}
    assert found["first-fit"] == (0, (0,))
    assert {found["best-fit"], found["fgd"], found["residual-values"]} == {(1, (3,))}


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(UnknownName, match="score"):
        score("worst-fit", WORK, {})
    with pytest.raises(InvalidValue, match="rehearsal"):
        score("residual-values", WORK, {})


@pytest.mark.parametrize(("devices", "milli"), [(0, 500), (1, 0), (1, 1_001), (2, 500), (-1, 0), (63, 1_000)])
def test_an_ask_is_a_share_of_one_device_or_whole_ones(devices: int, milli: int) -> None:
    with pytest.raises(InvalidValue):
        Ask(devices, milli)


def test_a_pool_has_one_entry_a_node() -> None:
    with pytest.raises(InvalidValue, match="cpu_milli"):
        PoolState(SERVERS.free_milli, SERVERS.cpu_milli[:2], SERVERS.memory_mib, SERVERS.model)
    with pytest.raises(InvalidValue, match="model"):
        PoolState(SERVERS.free_milli, SERVERS.cpu_milli, SERVERS.memory_mib, SERVERS.model + 62)
