"""Room for what cannot be preempted: for whom busy nodes are traded for idle ones, and that they do not trade back."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from scheduler.core.cluster import Level
from scheduler.core.coverage.exchange import whole_of
from scheduler.core.events import CancelAsked, CellsSwapped, Event
from scheduler.core.rounds import covering
from scheduler.core.rounds.making_room import make_room
from scheduler.core.state.dump import dump, load
from scheduler.core.state.state import State
from tests.benchmarks.crowd import crowd_of
from tests.benchmarks.live import Live
from tests.core.state.folding import T, assigned, folded, held, placed, submitted, traded

NOW = T + 20_000
FIRM: dict[str, Any] = {"preemptible": False, "max_runtime_ms": 100_000}
SWAP = CellsSwapped(at_ms=NOW, level=Level.NODE, left=1, right=0)


def site(*more: Event) -> State:
    """Two nodes: acme's is filled by its own preemptible work, bolt's is idle."""
    return folded(
        traded(1, "a"),
        traded(2, "b", account="bolt"),
        assigned(held("a", 0), held("b", 1)),
        submitted("busy"),
        placed("busy", 0),
        *more,
    )


def test_a_busy_node_is_traded_for_an_idle_one_and_not_back_until_nobody_waits() -> None:
    state = site(submitted("serve", **FIRM))
    assert make_room(state, NOW) == [SWAP]
    assert make_room(load(dump(state)), NOW) == [SWAP]
    state.apply(SWAP)
    assert make_room(state, NOW) == []
    assert covering.follow(state, NOW) == []
    state.apply(CancelAsked(at_ms=NOW, gang="serve"))
    assert covering.follow(state, NOW) == [SWAP.model_copy(update={"left": 0, "right": 1})]


@pytest.mark.parametrize(
    "asked",
    [
        {"preemptible": True, "max_runtime_ms": 100_000},
        {**FIRM, "gpus": 1, "workers": 4, "min_workers": 2},
        {**FIRM, "gpus": 1, "gpu_milli": 500},
        {**FIRM, "gpus": 2, "workers": 2, "topology": Level.NVLINK_DOMAIN, "topology_required": True},
        {**FIRM, "gpus": 4, "workers": 2},
        {**FIRM, "grade": "A100"},
        {**FIRM, "account": "bolt"},
        {**FIRM, "account": "core"},
    ],
)
def test_nothing_is_traded_for_others(asked: dict[str, Any]) -> None:
    assert make_room(site(submitted("serve", **asked)), NOW) == []


def test_what_an_account_owns_holds_so_many_of_its_kind() -> None:
    alone = site(submitted("first", gpus=2, **FIRM), submitted("serve", gpus=4, **FIRM))
    assert make_room(alone, NOW) == [SWAP]
    beside = folded(
        traded(1, "a"),
        traded(2, "b", account="bolt"),
        assigned(held("a", 0), held("b", 1)),
        submitted("first", **FIRM),
        placed("first", 0),
        submitted("serve", gpus=1, **FIRM),
    )
    assert make_room(beside, NOW) == []


def test_unsold_cells_borrowed_by_what_cannot_be_preempted_keep_no_owners_name() -> None:
    """With it the account would stand on its own cells with more such work than it owns to its end."""

    def borrowing(*, preemptible: bool, inside: bool = False) -> State:
        placement = placed("guest", 1).model_copy(update={"inside": inside})
        wished = FIRM | {"preemptible": preemptible}
        return folded(traded(1, "a"), assigned(held("a", 0)), submitted("guest", **wished), placement)

    assert covering.follow(borrowing(preemptible=True), NOW) == [SWAP]
    assert covering.follow(borrowing(preemptible=False), NOW) == []


def test_what_is_kept_for_it_is_what_the_state_says() -> None:
    live = Live(crowd_of(1_000, seed=3).snapshot, 3)
    for _ in range(60):
        live.round()
        state = live.state
        gangs = state.gangs
        heads = [line[0] for lines in gangs.queue.values() for shape, line in lines.items() if not shape.preemptible]
        assert gangs.firm_heads == sorted((gang.queued_ms - gang.head_start_ms, gang.order) for gang in heads)
        assert gangs.firm == {number for number, gang in gangs.placed.items() if not gang.shape.preemptible}
        assert sorted(chain(*gangs.firm_of.values())) == sorted(gangs.firm)
        assert all(gangs.by_number(number).account == name for name, own in gangs.firm_of.items() for number in own)
        owner = state.calendar.owner_account
        for account in (-1, *state.accounts.values()):
            assert state.calendar.gpus_of(account).tolist() == np.flatnonzero(owner == account).tolist()
        anew = whole_of(state.fleet, owner, state.calendar.until_ms)
        assert [column.tolist() for column in state.calendar.whole(state.fleet)] == [each.tolist() for each in anew]
        live.settle()
        live.happen()
    assert live.swaps
