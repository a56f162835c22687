"""Who makes way for what cannot be preempted: nodes trade owners where less is lost, by law, and it comes to rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.events import CellsSwapped
from scheduler.core.placement.laws import violations
from scheduler.core.placement.moving import WORTH_MS
from scheduler.core.placement.snapshot import Place, Plan, Stop
from scheduler.core.rounds.making_room import make_room
from scheduler.core.state.state import State
from scheduler.core.workloads import stop_price_ms
from tests.benchmarks.live import Live, state_of
from tests.core.placement.world import HOUR_MS, World, fleet_of, spec_of

GPUS = 4


class Guest(NamedTuple):
    """Work on a node's next GPUs."""

    account: str
    gpus: int = GPUS
    hours: int = 10
    saves: bool = False
    """Whether it wrote a checkpoint a minute ago."""
    firm: bool = False


class Node(NamedTuple):
    """A whole node: its owner, and what runs there."""

    owner: str | None
    guests: Sequence[Guest] = ()
    well: bool = True
    """Whether all of it is; else its last GPU is not."""


def world_of(nodes: Sequence[Node], asked: Sequence[tuple[str, int, int]]) -> World:
    """The nodes with their work, and what waits: (account, workers, GPUs of each), none of which may be preempted."""
    owners = [node.owner for node in nodes for _ in range(GPUS)]
    world = World(fleet_of([GPUS] * len(nodes)), owners, accounts="abcd")
    world.now_ms = 1_000 * HOUR_MS
    for number, node in enumerate(nodes):
        at = number * GPUS
        for guest in node.guests:
            lawful = not guest.firm or guest.account == node.owner
            if lawful and at + guest.gpus <= (number + 1) * GPUS - (not node.well):
                spec = spec_of(
                    guest.account,
                    1,
                    guest.gpus,
                    checkpoint_ms=HOUR_MS if guest.saves else 0,
                    preemptible=not guest.firm,
                    max_runtime_ms=100 * HOUR_MS,
                )
                world.running(spec, range(at, at + guest.gpus), world.now_ms - guest.hours * HOUR_MS - 60_000)
                at += guest.gpus
        if not node.well:
            world.usable[number * GPUS + GPUS - 1] = False
    for account, workers, size in asked:
        world.submit(spec_of(account, workers, size, preemptible=False))
    return world


def swaps_of(nodes: Sequence[Node], *asked: tuple[str, int, int]) -> list[tuple[int, int]]:
    """The nodes that trade, the one that comes first."""
    world = world_of(nodes, asked or [("a", 1, GPUS)])
    return [(each.left, each.right) for each in make_room(state_of(world.snapshot()), world.now_ms)]


DEEP, SAVED = Guest("d"), Guest("d", saves=True)
OWN, OTHERS = Node("a", [DEEP]), Node("b", [SAVED])


def test_the_least_loss_makes_way_wherever_it_is() -> None:
    assert swaps_of([OWN, OTHERS]) == [(1, 0)]
    assert swaps_of([OWN, Node(None, [SAVED])]) == [(1, 0)]
    assert swaps_of([OWN, Node("b", [Guest("d", hours=2)]), OTHERS, OTHERS]) == [(2, 0)]


def test_the_node_goes_on_which_others_would_lose_most() -> None:
    own = [Node("a", [Guest("a")]), Node("a", [DEEP]), Node("a", [Guest("d", hours=20)])]
    assert swaps_of([*own, OTHERS]) == [(3, 2)]


def test_each_part_of_a_gang_has_its_trade() -> None:
    assert swaps_of([OWN, OWN, OTHERS, OTHERS], ("a", 2, GPUS)) == [(2, 0), (3, 1)]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([Node("a", [Guest("d", hours=1, saves=True)]), OTHERS], "what it costs at home is not dear"),
        ([OWN, Node("b", [Guest("d")])], "that costs as much"),
        ([OWN, Node("b", [Guest("b", saves=True)])], "b is within its count, and finds no room elsewhere"),
        ([OWN, Node("b", [Guest("d", 2, saves=True), Guest("b", 2, firm=True)])], "b's cannot move"),
        ([OWN, Node("b", [SAVED], well=False)], "the node is ill"),
        ([Node("a", [Guest("d", 3), Guest("a", 1, firm=True)]), OTHERS], "a's own cannot move"),
        ([Node("a", [Guest("a")]), Node("a", [Guest("a")]), OTHERS], "a's count is full"),
    ],
)
def test_nothing_is_traded_without_reason(nodes: list[Node], why: str) -> None:
    assert swaps_of(nodes) == [], why


def test_work_within_its_count_moves_where_it_fits() -> None:
    """A gang of two of b fits on the third node; what costs least is to end d's beside it."""
    others = Node("b", [Guest("d", 2, saves=True), Guest("b", 2, saves=True)])
    assert swaps_of([OWN, others, Node("c", [Guest("c", 2)])]) == [(1, 0)]
    assert swaps_of([OWN, others, Node("c", [Guest("c", 3)])]) == []


def test_nobody_gives_away_what_its_own_wait_for() -> None:
    busy = Node("b", [DEEP])
    assert swaps_of([OWN, OTHERS, busy], ("a", 1, GPUS), ("b", 1, GPUS)) == []


GUESTS = st.builds(
    Guest,
    account=st.sampled_from("abcd"),
    gpus=st.sampled_from((1, 2, GPUS)),
    hours=st.sampled_from((0, 1, 30)),
    saves=st.booleans(),
    firm=st.booleans(),
)
NODES = st.builds(
    Node,
    owner=st.sampled_from(("a", "b", "c", None)),
    guests=st.lists(GUESTS, max_size=3),
    well=st.sampled_from((True, True, True, False)),
)
ASKED = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.sampled_from((2, GPUS))), min_size=1, max_size=2
)


def lost_ms(plan: Plan, state: State) -> int:
    return sum(stop_price_ms(each.gang, state.now_ms) for each in plan.actions if isinstance(each, Stop))


def places(plan: Plan) -> set[int]:
    return {each.gang.number for each in plan.actions if isinstance(each, Place)}


@given(st.lists(NODES, min_size=2, max_size=6), ASKED)
def test_every_trade_is_lawful_saves_work_and_it_comes_to_rest(
    nodes: list[Node], asked: list[tuple[str, int, int]]
) -> None:
    snapshot = world_of(nodes, asked).snapshot()
    firm = {number for shapes in snapshot.queue.values() for gangs in shapes.values() for number in [gangs[0].number]}
    live, still = Live(snapshot, 0), Live(snapshot, 0)
    swaps = make_room(live.state, live.now_ms)
    instead = still.planner.plan(still.state.snapshot(still.now_ms), still.state.take_touched())
    traded: set[int] = set()
    for swap in swaps:
        assert swap.level == Level.NODE
        for node in (swap.left, swap.right):
            assert nodes[node].well
            assert node not in traded
            traded.add(node)
        assert nodes[swap.left].owner not in {account for account, _, _ in asked}
        live.state.apply(swap)
    assert [each for each in make_room(live.state, live.now_ms) if nodes_of(each) & traded] == []
    made = live.round()
    assert violations(live.state.snapshot(live.now_ms)) == ()
    if swaps and lost_ms(made, live.state) >= lost_ms(instead, live.state):
        assert places(made) & firm > places(instead) & firm


def nodes_of(swap: CellsSwapped) -> set[int]:
    return {swap.left, swap.right}


def test_a_trade_saves_what_makes_a_loss_dear() -> None:
    """Half an hour of each GPU, and not a moment less."""
    hours = 2 * WORTH_MS // HOUR_MS
    assert swaps_of([Node("a", [Guest("d", hours=hours)]), OTHERS]) == [(1, 0)]
