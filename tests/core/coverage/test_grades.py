"""Positions whose terms name several grades: new ones against an exact solver, what is lost against all ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import highspy
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.floors import Look
from scheduler.core.coverage.grades import cover_grades
from scheduler.core.coverage.replace import Covering, replace_failed
from scheduler.core.coverage.shortage import verify
from scheduler.core.coverage.topology import topology_of
from scheduler.core.coverage.waterfall import Rank
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import cells_at, faults

NOW, END = 5, 9
GRADES = ("H100", "H200", "B200")
POOLS = ((0,), (1,), (0, 1), (1, 0), (0, 2), (2, 1, 0), (0, 1, 2))
"""Where a position may stand, as drawn."""


@st.composite
def fleets(draw: st.DrawFn, most: int = 3) -> Fleet:
    """Up to `most` nodes of two GPUs of each of three grades, the first two of which there always are."""
    counts = [draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.integers(0, most))]
    nodes = [(grade, k) for grade, count in zip(GRADES, counts, strict=True) for k in range(count)]
    return Fleet.of(tuple(NodeSpec(name=f"{grade}-{k}", grade=grade, gpus=2, domain=f"d{k}") for grade, k in nodes))


def pools_in(fleet: Fleet, pools: Sequence[int]) -> tuple[int, ...]:
    """Those that there are."""
    return tuple(pool for pool in pools if pool < len(fleet.pools))


def held_at_random(draw: Any, fleet: Fleet, level: Level) -> list[Holding]:
    """Positions of one lot each, in force on drawn cells until the end."""
    cells = topology_of(fleet).n_cells(level)
    return [
        Holding(position=f"old-{cell}", level=level, cell=cell, start_ms=0, end_ms=END)
        for cell in sorted(draw(st.sets(st.integers(0, cells - 1), max_size=cells)))
    ]


def asked(fleet: Fleet, name: str, level: Level, lots: int, pools: Sequence[int]) -> tuple[Demand, dict[str, Any]]:
    first, *further = pools_in(fleet, pools)
    return Demand(name, level, lots, NOW, END, first), {name: tuple(further)} if further else {}


def most_there(fleet: Fleet, held: Sequence[Holding], level: Level, pools: Sequence[int]) -> list[int]:
    """The most lots of the level that find cells beside what is held, in the first pool, in the first two, and so on,
    by integer programming.
    """
    found = []
    for known in range(1, len(pools) + 1):
        solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.silent()
        taken = {int(gpu) for each in held for gpu in fleet.gpus_of_cell(each.level, each.cell)}
        by_gpu: dict[int, list[Any]] = {}
        chosen = []
        topology = topology_of(fleet)
        for cell in range(topology.n_cells(level)):
            gpus = fleet.gpus_of_cell(level, cell).tolist()
            if topology.pool[level][cell] in pools[:known] and not taken & set(gpus):
                chosen.append(solver.addBinary())
                for gpu in gpus:
                    by_gpu.setdefault(gpu, []).append(chosen[-1])
        for sharers in by_gpu.values():
            solver.addConstr(sum(sharers) <= 1)
        if chosen:
            solver.maximize(sum(chosen))
        found.append(round(solver.getObjectiveValue()) if chosen else 0)
    return found


@settings(max_examples=40)
@given(fleets(), st.sampled_from((Level.GPU, Level.NODE)), st.sampled_from(POOLS), st.integers(1, 9), st.data())
def test_a_position_is_covered_where_its_pools_have_cells_and_as_far_as_can_be_in_the_first(
    fleet: Fleet, level: Level, pools: tuple[int, ...], lots: int, data: st.DataObject
) -> None:
    pools = pools_in(fleet, pools)
    held = held_at_random(data.draw, fleet, data.draw(st.sampled_from((Level.GPU, Level.NODE))))
    demand, further = asked(fleet, "new", level, lots, pools)
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    made = cover_grades(fleet, [demand], held, NOW, [Look(usable)], further)
    most = most_there(fleet, held, level, pools)
    assert bool(made.refused) is (most[-1] < lots)
    if made.refused:
        assert made == Covering((), (), (("new", lots),))
        return
    assert made.positions == ("new",)
    assert faults(fleet, [*held, *made.holdings]) == []
    in_pool = [int(topology_of(fleet).pool[each.level][each.cell]) for each in made.holdings]
    assert [sum(pool in pools[:known] for pool in in_pool) for known in range(1, len(pools) + 1)] == [
        min(lots, reached) for reached in most
    ]


@settings(max_examples=25)
@given(fleets(), st.data())
def test_trades_one_by_one_leave_every_position_whole_in_its_pools_or_refused(
    fleet: Fleet, data: st.DataObject
) -> None:
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    topology = topology_of(fleet)
    holdings: list[Holding] = []
    accepted: dict[str, tuple[Demand, tuple[int, ...]]] = {}
    for k in range(data.draw(st.integers(1, 6))):
        level, lots = data.draw(st.sampled_from((Level.GPU, Level.NODE))), data.draw(st.integers(1, 3))
        start, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
        pools = pools_in(fleet, data.draw(st.sampled_from(POOLS)))
        demand = Demand(f"p{k}", level, lots, start, start + length, pools[0])
        further = {demand.position: pools[1:]} if pools[1:] else {}
        made = cover_grades(fleet, [demand], holdings, 0, [Look(usable)], further)
        holdings = [held for held in holdings if held.position not in made.positions] + list(made.holdings)
        if not made.refused:
            accepted[demand.position] = demand, pools
        for each, theirs in accepted.values():
            held = [h for h in holdings if h.position == each.position]
            assert all(topology.pool[h.level][h.cell] in theirs and h.level == each.level for h in held)
            for at_ms in range(10):
                due = each.lots if each.start_ms <= at_ms < each.end_ms else 0
                assert cells_at(fleet, held, each.position, at_ms) == due
        assert {held.position for held in holdings} <= accepted.keys()
        assert faults(fleet, holdings) == []


def test_lots_are_not_parted_between_grades() -> None:
    fleet = Fleet.of(tuple(NodeSpec(name=grade, grade=grade, gpus=3, domain=grade) for grade in GRADES[:2]))
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    demand, further = asked(fleet, "pairs", Level.GPU, 4, (0, 1))
    made = cover_grades(fleet, [demand], (), NOW, [Look(usable)], further, cells_per_lot={"pairs": 2})
    assert sorted(fleet.nodes[int(fleet.node_of_gpu[held.cell])].grade for held in made.holdings) == [
        "H100",
        "H100",
        "H200",
        "H200",
    ]
    whole = cover_grades(fleet, [demand], (), NOW, [Look(usable)], further, cells_per_lot={"pairs": 4})
    assert whole.refused == (("pairs", 4),)


# -- what is lost ------------------------------------------------------------------------------------------------------


def most_served(waiting: Sequence[Sequence[int]], room: dict[int, int]) -> int:
    """The most lots that find room, each in one of its pools, by trying all ways."""
    best = 0
    for way in product(*[(*pools, None) for pools in waiting]):
        used = [pool for pool in way if pool is not None]
        if all(used.count(pool) <= room[pool] for pool in used):
            best = max(best, len(used))
    return best


class Loss:
    """Nearly every cell of a level is held, by positions with drawn pools and classes, and some GPUs fell ill."""

    def __init__(self, draw: Any, fleet: Fleet, classes: int) -> None:
        self.fleet, self.topology = fleet, topology_of(fleet)
        self.level = draw(st.sampled_from((Level.GPU, Level.NODE)))
        cells = range(self.topology.n_cells(self.level))
        free = draw(st.sets(st.sampled_from(cells), max_size=3))
        names = draw(st.permutations([f"p{k}" for k in cells]))
        self.held = [
            Holding(position=names[cell], level=self.level, cell=cell, start_ms=0, end_ms=END)
            for cell in cells
            if cell not in free
        ]
        self.pools: dict[str, tuple[int, ...]] = {}
        for each in self.held:
            drawn = pools_in(fleet, draw(st.sampled_from(POOLS)))
            self.pools[each.position] = drawn if self.pool(each.cell) in drawn else (self.pool(each.cell),)
        self.ranks = {each.position: Rank(draw(st.integers(0, classes - 1)), 0) for each in self.held}
        self.usable = np.ones(fleet.n_gpus, dtype=np.bool_)
        self.usable[draw(st.lists(st.integers(0, fleet.n_gpus - 1), min_size=1, max_size=4))] = False
        self.healthy = self.topology.whole_and_usable(self.level, self.usable)
        self.made = replace_failed(fleet, self.held, self.usable, NOW, position_rank=self.ranks, pools=self.pools)
        kept = [each for each in self.held if each.position not in self.made.positions]
        self.after = [*kept, *self.made.holdings]

    def pool(self, cell: int) -> int:
        """The pool of a cell."""
        return int(self.topology.pool[self.level][cell])

    def check(self) -> None:
        """Everybody stands in pools of its own; every certificate is the rule's, and of a pool of each that claims."""
        assert faults(self.fleet, self.after) == []
        assert all(self.pool(each.cell) in self.pools[each.position] for each in self.after)
        for certificate in self.made.certificates:
            pool = [f"{grade}@{site}" for grade, site in self.fleet.pools].index(verify(certificate).pool)
            assert all(pool in self.pools[claim.position] for claim in certificate.claims)


@settings(max_examples=60)
@given(fleets(2), st.data())
def test_lots_that_lose_their_cells_are_served_as_many_as_can_be_in_their_pools(
    fleet: Fleet, data: st.DataObject
) -> None:
    """Of one class and level: exact."""
    loss = Loss(data.draw, fleet, 1)
    loss.check()
    taken = {each.cell for each in loss.held}
    free = [loss.pool(cell) for cell in np.flatnonzero(loss.healthy).tolist() if cell not in taken]
    hit = [loss.pools[each.position] for each in loss.held if not loss.healthy[each.cell]]
    served = most_served(hit, {pool: free.count(pool) for pool in range(len(fleet.pools))})
    assert sum(lots for _, lots in loss.made.refused) == len(hit) - served


@settings(max_examples=60)
@given(fleets(2), st.data())
def test_no_lower_class_holds_what_an_unmet_higher_one_could_use_in_any_of_its_pools(
    fleet: Fleet, data: st.DataObject
) -> None:
    loss = Loss(data.draw, fleet, 3)
    loss.check()
    now = [each for each in loss.after if each.start_ms <= NOW]
    holder = {each.cell: loss.ranks[each.position].firmness_class for each in now}
    whole = {each.position for each in now if loss.healthy[each.cell]}
    for position in loss.ranks.keys() - whole:
        for cell in np.flatnonzero(loss.healthy).tolist():
            if loss.pool(cell) in loss.pools[position]:
                assert holder.get(cell, 4) <= loss.ranks[position].firmness_class, (position, cell)


def two_grades(nodes: int) -> Fleet:
    return Fleet.of(
        tuple(
            NodeSpec(name=f"{grade}-{k}", grade=grade, gpus=2, domain=f"{grade}-{k}")
            for grade in GRADES[:2]
            for k in range(nodes)
        )
    )


def on_node(position: str, node: int, level: Level = Level.NODE) -> Holding:
    """A node, or the first GPU of one."""
    return Holding(position=position, level=level, cell=node if level else 2 * node, start_ms=0, end_ms=END)


def test_who_may_go_elsewhere_makes_room_for_who_may_not() -> None:
    """Nodes 0 to 2 are of the first grade, one of them free; of the second one is, too. Two fall ill."""
    fleet = two_grades(3)
    held = [on_node("anywhere", 0), on_node("here", 1), on_node("other", 3), on_node("another", 4)]
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    usable[[0, 2]] = False
    ranks = {"anywhere": Rank(0, 1), "here": Rank(0, 2)}
    made = replace_failed(fleet, held, usable, NOW, position_rank=ranks, pools={"anywhere": (0, 1)})
    assert {each.position: each.cell for each in made.holdings if each.start_ms == NOW} == {"anywhere": 5, "here": 2}
    assert (made.refused, made.certificates) == ((), ())


def test_who_makes_way_does_not_get_cells_of_a_grade_that_is_none_of_its_own() -> None:
    """A node lot whose node has one ill GPU takes the node of another grade from two GPU lots: the GPU that is well in
    the node which it leaves is not for them.
    """
    fleet = two_grades(1)
    low = [Holding(position=f"low-{gpu}", level=Level.GPU, cell=gpu, start_ms=0, end_ms=END) for gpu in (2, 3)]
    usable = np.array([False, True, True, True])
    ranks = {"high": Rank(0, 0), "low-2": Rank(3, 0), "low-3": Rank(3, 0)}
    made = replace_failed(fleet, [on_node("high", 0), *low], usable, NOW, position_rank=ranks, pools={"high": (0, 1)})
    assert [(each.position, each.cell) for each in made.holdings] == [("high", 1)]
    assert made.uncovered == (("low-2", 1), ("low-3", 1))
    assert {certificate.pool for certificate in made.certificates} == {"H200@local"}
