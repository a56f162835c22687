"""The fleet: cells of every level partition it, names and numbers are each other's inverse, nothing is renumbered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.errors import Conflict, UnknownName

places = st.sampled_from(["a", "b", "c"])
specs = st.lists(st.tuples(places, places, places, places, st.integers(1, 4)), min_size=1, max_size=9)
fleets = specs.map(
    lambda rows: Fleet.of(
        tuple(
            NodeSpec(name=f"n-{i}", grade=grade, site=site, block=block, domain=domain, gpus=gpus)
            for i, (grade, site, block, domain, gpus) in enumerate(rows)
        )
    )
)
levels = st.sampled_from(list(Level))


def n_cells(fleet: Fleet, level: Level) -> int:
    """How many cells of a level there are, counted from the nodes alone."""
    nodes = fleet.nodes
    paths = [{f"{n.site}/{n.block}/{n.domain}" for n in nodes}, {f"{n.site}/{n.block}" for n in nodes}]
    counts = [sum(n.gpus for n in nodes), len(nodes), *(len(each) for each in paths), len({n.site for n in nodes})]
    return counts[level]


@given(fleets, levels)
def test_the_cells_of_a_level_partition_the_fleet(fleet: Fleet, level: Level) -> None:
    cells = [fleet.gpus_of_cell(level, number).tolist() for number in range(n_cells(fleet, level))]
    assert all(cell == sorted(cell) and cell for cell in cells)
    assert sorted(gpu for cell in cells for gpu in cell) == list(range(fleet.n_gpus))


@given(fleets, st.sampled_from(list(Level)[:-1]))
def test_cells_nest(fleet: Fleet, level: Level) -> None:
    above = [set(fleet.gpus_of_cell(Level(level + 1), k).tolist()) for k in range(n_cells(fleet, Level(level + 1)))]
    for number in range(n_cells(fleet, level)):
        cell = set(fleet.gpus_of_cell(level, number).tolist())
        assert sum(cell <= outer for outer in above) == 1


@given(fleets, levels)
def test_a_cells_name_gives_its_number_back(fleet: Fleet, level: Level) -> None:
    names = [fleet.cell_name(level, number) for number in range(n_cells(fleet, level))]
    assert [fleet.cell_number(level, name) for name in names] == list(range(len(names)))
    assert len(set(names)) == len(names)


@given(fleets, levels, st.text("na0123:-/² ", max_size=8))
def test_what_names_no_cell_is_unknown(fleet: Fleet, level: Level, name: str) -> None:
    known = {fleet.cell_name(level, number) for number in range(n_cells(fleet, level))}
    if name in known:
        assert fleet.cell_name(level, fleet.cell_number(level, name)) == name
    else:
        with pytest.raises(UnknownName):
            fleet.cell_number(level, name)


@pytest.mark.parametrize(
    "name", ["n-0", "n-0:", "n-0:2", "n-0:-1", "n-0:00", "n-0:+1", "n-0:²", "n-0:١", "n-1:0", ":0"]
)
def test_gpus_have_one_name_each(name: str) -> None:
    fleet = Fleet.of((NodeSpec(name="n-0", grade="H100", gpus=2),))
    with pytest.raises(UnknownName):
        fleet.cell_number(Level.GPU, name)


@given(fleets, levels)
def test_a_node_that_joins_renumbers_nothing(fleet: Fleet, level: Level) -> None:
    grown = fleet.joined(NodeSpec(name="new", grade="z", site="z", gpus=3))
    for number in range(n_cells(fleet, level)):
        assert grown.cell_name(level, number) == fleet.cell_name(level, number)
        assert grown.gpus_of_cell(level, number).tolist() == fleet.gpus_of_cell(level, number).tolist()
    assert grown.nodes[:-1] == fleet.nodes
    assert grown.pools[: len(fleet.pools)] == fleet.pools
    assert grown.pool_of_node[:-1].tolist() == fleet.pool_of_node.tolist()
    assert list(grown.gpus_of_node(len(fleet.nodes))) == list(range(fleet.n_gpus, fleet.n_gpus + 3))


@given(fleets)
def test_arrays_say_what_the_nodes_say(fleet: Fleet) -> None:
    gpus = [i for i, node in enumerate(fleet.nodes) for _ in range(node.gpus)]
    assert fleet.node_of_gpu.tolist() == gpus
    assert fleet.n_gpus == len(gpus) == int(fleet.first_gpu[-1])
    assert [fleet.pools[pool] for pool in fleet.pool_of_node] == [(n.grade, n.site) for n in fleet.nodes]
    assert [fleet.blocks[block] for block in fleet.block_of_node] == [f"{n.site}/{n.block}" for n in fleet.nodes]
    paths = [f"{n.site}/{n.block}/{n.domain}" for n in fleet.nodes]
    assert [fleet.domains[domain] for domain in fleet.domain_of_node] == paths
    for array in (fleet.first_gpu, fleet.node_of_gpu, fleet.pool_of_node, fleet.domain_of_node, fleet.block_of_node):
        assert array.dtype == np.int64


def test_an_empty_fleet_is_a_fleet() -> None:
    fleet = Fleet()
    assert (fleet.n_gpus, fleet.pools, fleet.node_of_gpu.tolist(), fleet.first_gpu.tolist()) == (0, (), [], [0])
    for level in Level:
        with pytest.raises(UnknownName):
            fleet.cell_number(level, "a:0")


def test_names_must_differ() -> None:
    node = NodeSpec(name="n", grade="H100", gpus=8)
    with pytest.raises(Conflict, match="'n' was given twice"):
        Fleet.of((node, node))
    fleet = Fleet.of((node,))
    with pytest.raises(Conflict, match="'n' is already in the fleet"):
        fleet.joined(node)
    assert fleet.nodes == (node,)


@pytest.mark.parametrize("wrong", [{"gpus": 0}, {"gpus": 65}, {"name": "a b"}, {"site": "a/b"}, {"domain": ""}])
def test_a_node_is_checked_where_it_comes_in(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NodeSpec.model_validate({"name": "n", "grade": "H100", "gpus": 8, **wrong})
