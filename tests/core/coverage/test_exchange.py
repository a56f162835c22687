"""Idle cells for busy ones: who waits gets its room, nobody who cannot move is moved under, and it comes to rest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.exchange import Asked, Ground, idle_for_busy, room, whole_of
from scheduler.core.coverage.neighbours import Neighbours
from scheduler.core.coverage.ownership import owner_at, swap_cells, tied_cells
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Holding
from tests.core.coverage.drawn import fleet_of, workers_of_single_gpus

GPUS = 4
NOW, SOON, LATE = 0, 5, 9


class Node(NamedTuple):
    """A whole node: its owner and until when, how many of its GPUs are held, and what else is so."""

    owner: int
    until_ms: int = LATE
    held: int = 0
    fixed: bool = False
    well: bool = True
    untied: bool = True


def ground_of(nodes: list[Node]) -> Ground:
    """The nodes as arrays; work holds a node's first GPUs."""
    held = np.concatenate([np.arange(GPUS) < node.held for node in nodes])
    each = [node for node in nodes for _ in range(GPUS)]
    well = np.array([node.well for node in each])
    owner = np.array([node.owner for node in each], dtype=np.int32)
    until_ms = np.array([node.until_ms for node in each], dtype=np.int64)
    return Ground(
        owner=owner,
        until_ms=until_ms,
        whole=whole_of(fleet_of(nodes=len(nodes), gpus=GPUS), owner, until_ms),
        fixed=held & np.array([node.fixed for node in each]),
        free=np.flatnonzero(~held & well),
        usable=well,
        untied=lambda _: np.array([node.untied for node in nodes]),
        levels=(Level.NODE,),
        neighbours=nobodys,
    )


def nobodys() -> Neighbours:
    """Where whole nodes are all that may trade, nobody is asked."""
    raise AssertionError("asked for single GPUs")


NAMES = {"a": 0, "b": 1, "c": 2}


def ground_under(
    fleet: Fleet, holdings: Sequence[Holding], busy: Sequence[int], ill: Sequence[int] = (), fixed: Sequence[int] = ()
) -> Ground:
    """What holdings make of the fleet, with somebody's work on the busy GPUs."""
    owner, until_ms = owner_at(fleet, holdings, NOW, NAMES)
    columns, gpus = columns_of(holdings), np.arange(fleet.n_gpus)
    return Ground(
        owner=owner,
        until_ms=until_ms,
        whole=whole_of(fleet, owner, until_ms),
        fixed=np.isin(gpus, fixed),
        free=np.flatnonzero(~np.isin(gpus, [*busy, *ill, *fixed])),
        usable=~np.isin(gpus, ill),
        untied=lambda level: ~tied_cells(topology_of(fleet), columns, level, NOW),
        levels={holding.level for holding in holdings},
        neighbours=lambda: Neighbours(fleet, columns, NOW, NAMES),
    )


def held(position: str, level: Level, *cells: int) -> list[Holding]:
    return [Holding(position=position, level=level, cell=cell, start_ms=NOW, end_ms=LATE) for cell in cells]


def swapped(nodes: list[Node], left: int, right: int) -> list[Node]:
    """Two nodes trade owners and what is ahead of them; work stays."""
    after = list(nodes)
    for here, there in ((left, right), (right, left)):
        after[here] = nodes[here]._replace(owner=nodes[there].owner, until_ms=nodes[there].until_ms)
    return after


def traded(nodes: list[Node], *asked: Asked) -> tuple[tuple[int, int], ...]:
    """The nodes that trade places, the idle one first."""
    fleet = fleet_of(nodes=len(nodes), gpus=GPUS)
    return tuple((left, right) for _, left, right in idle_for_busy(fleet, ground_of(nodes), asked))


WHOLE = Asked(account=0, pool=0, parts=1, size=GPUS, end_ms=SOON)
FULL, IDLE = Node(0, held=GPUS), Node(1)


def test_a_busy_node_is_traded_for_an_idle_one() -> None:
    assert traded([FULL, IDLE], WHOLE) == ((1, 0),)


def test_the_fullest_node_goes_and_the_tightest_comes() -> None:
    pair = WHOLE._replace(size=2)
    assert traded([Node(0, held=3), FULL, IDLE, Node(1, held=2)], pair) == ((3, 1),)


def test_nothing_is_traded_where_there_is_room_or_where_trading_makes_none() -> None:
    assert traded([FULL, IDLE, Node(0)], WHOLE) == ()
    assert traded([FULL, IDLE, Node(-1)], WHOLE) == ()
    assert traded([FULL, Node(1, held=1)], WHOLE) == ()
    assert traded([FULL, IDLE], WHOLE._replace(parts=2)) == ()


def test_what_may_not_trade_stays() -> None:
    for spoiled in (IDLE._replace(well=False), IDLE._replace(untied=False), IDLE._replace(owner=-1, until_ms=NOW)):
        assert traded([FULL, spoiled], WHOLE) == ()
    never = (
        FULL._replace(fixed=True),
        FULL._replace(untied=False),
        FULL._replace(well=False),
        FULL._replace(until_ms=NOW),
    )
    for spoiled in never:
        assert traded([spoiled, IDLE], WHOLE) == ()
    kept = Node(1, held=1, fixed=True)
    assert traded([FULL, kept], WHOLE._replace(size=1)) == ()


def test_nobody_gives_away_what_its_own_wait_for() -> None:
    assert traded([FULL, IDLE], WHOLE, WHOLE._replace(account=1)) == ()
    other = Node(1, held=GPUS)
    assert traded([FULL, other, Node(2), Node(2)], WHOLE, WHOLE._replace(account=1)) == ((2, 0), (3, 1))


def test_whole_domains_and_blocks_are_traded_where_they_are_what_is_owned() -> None:
    fleet = fleet_of(blocks=2, domains=2, nodes=2)
    one = Asked(account=0, pool=0, parts=1, size=2, end_ms=SOON)
    above = Holding(position="c", level=Level.SITE, cell=0, start_ms=LATE, end_ms=LATE + 1)
    for level, gpus in ((Level.NVLINK_DOMAIN, 4), (Level.FABRIC_BLOCK, 8)):
        holdings = [*held("a", level, 0), *held("b", level, 1)]
        busy = [gpu for gpu in range(fleet.n_gpus) if not gpus <= gpu < 2 * gpus]
        assert idle_for_busy(fleet, ground_under(fleet, holdings, busy), [one]) == ((level, 1, 0),)
        for spoiled in (
            ground_under(fleet, holdings, busy, ill=[gpus]),
            ground_under(fleet, holdings, busy, fixed=[0]),
            ground_under(fleet, holdings, range(16)),
            ground_under(fleet, [*holdings, above], busy),
        ):
            assert idle_for_busy(fleet, spoiled, [one]) == ()


def test_single_gpus_are_traded_inside_a_node_before_two_trade() -> None:
    fleet = fleet_of(nodes=2, gpus=4)
    pair = Asked(account=0, pool=0, parts=1, size=2, end_ms=SOON)
    beside = [*held("a", Level.GPU, 0, 1), *held("b", Level.GPU, 2, 3)]
    inside = ((Level.GPU, 2, 0), (Level.GPU, 3, 1))
    assert idle_for_busy(fleet, ground_under(fleet, beside, [0, 1, 4, 5, 6, 7]), [pair]) == inside
    above = Holding(position="c", level=Level.NODE, cell=0, start_ms=LATE, end_ms=LATE + 1)
    assert idle_for_busy(fleet, ground_under(fleet, [*beside, above], [0, 1, 4, 5, 6, 7]), [pair]) == ()
    away = [*held("a", Level.GPU, 0, 1), *held("b", Level.GPU, 6, 7)]
    between = ((Level.GPU, 6, 0), (Level.GPU, 7, 1))
    assert idle_for_busy(fleet, ground_under(fleet, away, range(6)), [pair]) == between
    # b would lose the only node on which it has three beside each other.
    three = [*held("a", Level.GPU, 0, 1), *held("b", Level.GPU, 5, 6, 7)]
    assert idle_for_busy(fleet, ground_under(fleet, three, range(6)), [pair]) == ()
    # Nothing is traded that makes room for a part of what waits, nor what a does not keep for as long.
    two = pair._replace(parts=2)
    assert idle_for_busy(fleet, ground_under(fleet, beside, [0, 1, 4, 5, 6, 7]), [two]) == ()
    longer = pair._replace(end_ms=LATE + 1)
    assert idle_for_busy(fleet, ground_under(fleet, beside, [0, 1, 4, 5, 6, 7]), [longer]) == ()
    # What a has free there counts: one more is enough.
    some = [*held("a", Level.GPU, 0, 1), *held("b", Level.GPU, 2)]
    assert idle_for_busy(fleet, ground_under(fleet, some, [1, 3, 4, 5, 6, 7]), [pair]) == ((Level.GPU, 2, 1),)


LOTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 11)), max_size=12, unique_by=lambda lot: lot[1])


@given(LOTS, st.lists(st.integers(0, 11)), st.lists(st.integers(0, 11), max_size=2), st.integers(1, 3))
def test_single_gpus_trade_lawfully(lots: list[tuple[str, int]], busy: list[int], fixed: list[int], size: int) -> None:
    fleet = fleet_of(nodes=3, gpus=4)
    asked = Asked(account=0, pool=0, parts=1, size=size, end_ms=SOON)
    holdings: Sequence[Holding] = [each for name, gpu in lots for each in held(name, Level.GPU, gpu)]
    ground = ground_under(fleet, holdings, busy, fixed=fixed)
    before = workers_of_single_gpus(fleet, holdings, NOW, NAMES)
    for level, left, right in idle_for_busy(fleet, ground, [asked]):
        theirs, mine = fleet.gpus_of_cell(level, left), fleet.gpus_of_cell(level, right)
        assert (ground.owner[mine] == 0).all()
        assert (ground.owner[theirs] > 0).all()
        assert not ground.fixed[[*theirs, *mine]].any()
        assert level == Level.NODE or (left in ground.free and right not in ground.free)
        holdings = swap_cells(fleet, holdings, level, left, right, NOW)
    if holdings and ground.owner.tolist() != owner_at(fleet, holdings, NOW, NAMES)[0].tolist():
        assert room(fleet, ground_under(fleet, holdings, busy, fixed=fixed), asked).sum() >= 1
    after = workers_of_single_gpus(fleet, holdings, NOW, NAMES)
    assert all(after[key] >= count for key, count in before.items())


def by_looking_at_every_node(fleet: Fleet, ground: Ground, waiting: list[Asked]) -> list[tuple[Level, int, int]]:
    """The same swaps, slowly."""
    spans = [range(low, high) for low, high in pairwise(fleet.first_gpu.tolist())]
    free = [len(set(span) & set(ground.free.tolist())) for span in spans]
    spent, swaps = {asked.account: False for asked in waiting}, list[tuple[Level, int, int]]()

    def owned_by(node: int, account: int) -> bool:
        return all(ground.owner[gpu] == account for gpu in spans[node])

    def may_trade(node: int) -> bool:
        well = all(ground.usable[gpu] and not ground.fixed[gpu] for gpu in spans[node])
        return (
            well and bool(ground.untied(Level.NODE)[node]) and node not in {each for swap in swaps for each in swap[1:]}
        )

    for asked in waiting:
        nodes = [node for node in range(len(spans)) if fleet.pool_of_node[node] == asked.pool]
        missing = asked.parts - int(room(fleet, ground, asked).sum())
        mine = [node for node in nodes if owned_by(node, asked.account) and may_trade(node)]
        mine = [node for node in mine if all(ground.until_ms[gpu] >= asked.end_ms for gpu in spans[node])]
        mine.sort(key=lambda node: (free[node], node))
        others = set(ground.owner.tolist()) - {-1} - {each.account for each in waiting}
        theirs = [node for node in nodes if may_trade(node) and any(owned_by(node, other) for other in others)]
        found: list[tuple[Level, int, int]] = []
        for left in sorted(theirs, key=lambda node: (free[node], node)):
            right = next((right for right in mine if len(spans[right]) == len(spans[left])), None)
            gain = 0 if right is None else free[left] // asked.size - free[right] // asked.size
            if missing > 0 and right is not None and gain > 0:
                found.append((Level.NODE, left, right))
                mine.remove(right)
                missing -= gain
        if found and missing <= 0 and not spent[asked.account]:
            spent[asked.account] = True
            swaps += found
    return swaps


NODES = st.builds(
    Node,
    owner=st.integers(-1, 2),
    until_ms=st.sampled_from((SOON - 1, LATE)),
    held=st.integers(0, GPUS),
    fixed=st.booleans(),
    well=st.sampled_from((True, True, False)),
    untied=st.sampled_from((True, True, False)),
)
ASKED = st.builds(
    Asked,
    account=st.integers(0, 2),
    pool=st.just(0),
    parts=st.integers(1, 2),
    size=st.sampled_from((1, 2, GPUS)),
    end_ms=st.just(SOON),
)


@given(
    st.lists(NODES, min_size=1, max_size=8),
    st.lists(ASKED, min_size=1, max_size=3, unique_by=lambda each: each.account),
)
def test_every_swap_is_lawful_and_it_comes_to_rest(nodes: list[Node], asked: list[Asked]) -> None:
    fleet: Fleet = fleet_of(nodes=len(nodes), gpus=GPUS)
    waiting = {each.account for each in asked}
    swaps = idle_for_busy(fleet, ground_of(nodes), asked)
    assert list(swaps) == by_looking_at_every_node(fleet, ground_of(nodes), asked)
    traded_nodes = [node for _, left, right in swaps for node in (left, right)]
    assert len(traded_nodes) == len(set(traded_nodes))
    after = nodes
    for level, left, right in swaps:
        assert level == Level.NODE
        assert nodes[right].owner in waiting
        assert nodes[left].owner >= 0
        assert nodes[left].owner not in waiting
        for node in (nodes[left], nodes[right]):
            assert node.well
            assert node.untied
            assert not (node.fixed and node.held)
        after = swapped(after, left, right)
    served = {nodes[right].owner for _, _, right in swaps}
    for each in asked:
        if each.account in served:
            assert room(fleet, ground_of(after), each).sum() >= each.parts
    again = idle_for_busy(fleet, ground_of(after), asked)
    assert not served & {after[right].owner for _, _, right in again}
