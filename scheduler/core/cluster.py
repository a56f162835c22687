"""The fleet: nodes and their GPUs as arrays, and the cells that they nest into.

Nodes are numbered in the order in which they joined and never renumbered, so an index in the journal's lifetime means
one node; the GPUs of a node are contiguous: node `n` has GPUs `first_gpu[n] .. first_gpu[n + 1] - 1`. A cell is (level,
number): GPU cells are numbered by GPU, NODE cells by node, NVLINK_DOMAIN and higher in order of first appearance. A
*pool* is all cells of one grade in one site. Health, owners and occupants are not here: they change, the fleet only
grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.ids import Name
from scheduler.core.models import Model

IntArray = npt.NDArray[np.int64]


class Level(IntEnum):
    """A unit of topology that a lot can ask for whole. Cells nest: a higher level holds whole lower ones."""

    GPU = 0
    NODE = 1
    NVLINK_DOMAIN = 2
    FABRIC_BLOCK = 3
    SITE = 4


class NodeSpec(Model):
    """One node as it joined the fleet. `grade` is the GPU class name that instruments ask for (`H100SXM`)."""

    name: Name
    grade: Name
    gpus: int = Field(ge=1, le=64)
    site: Name = "local"
    block: Name = "block-0"
    domain: Name = "domain-0"


@dataclass(frozen=True, eq=False)
class Fleet:
    """All nodes that ever joined, in order, with their topology as arrays (see the module)."""

    nodes: tuple[NodeSpec, ...] = ()

    @classmethod
    def of(cls, nodes: tuple[NodeSpec, ...]) -> Self:
        """A fleet of these nodes in this order. Raises Conflict where two share a name."""
        names = [node.name for node in nodes]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise Conflict(f"node names must differ, {twice[0]!r} was given twice")
        return cls(nodes)

    def joined(self, node: NodeSpec) -> Fleet:
        """The fleet with one more node at the end. Raises Conflict where the name is taken."""
        if node.name in self.index_of_node:
            raise Conflict(f"node {node.name!r} is already in the fleet")
        return Fleet((*self.nodes, node))

    @cached_property
    def index_of_node(self) -> dict[str, int]:
        """Node number by name."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def first_gpu(self) -> IntArray:
        """(n_nodes + 1) int64: the number of each node's first GPU, and the number of GPUs at the end."""
        counts = np.array([0, *(node.gpus for node in self.nodes)], dtype=np.int64)
        return np.cumsum(counts)

    @property
    def n_gpus(self) -> int:
        """How many GPUs the fleet has."""
        return int(self.first_gpu[-1])

    @cached_property
    def node_of_gpu(self) -> IntArray:
        """(n_gpus) int64: the node of each GPU."""
        return np.repeat(np.arange(len(self.nodes)), np.diff(self.first_gpu)).astype(np.int64)

    @cached_property
    def host_of_gpu(self) -> list[tuple[str, int]]:
        """By GPU: its node's name, and the number of that node's first GPU."""
        firsts = zip(self.nodes, self.first_gpu.tolist(), strict=False)
        return [host for node, first in firsts for host in ((node.name, first),) * node.gpus]

    @cached_property
    def pools(self) -> tuple[tuple[str, str], ...]:
        """(grade, site) of each pool, in order of first appearance."""
        return tuple(dict.fromkeys((node.grade, node.site) for node in self.nodes))

    @cached_property
    def pool_of_node(self) -> IntArray:
        """(n_nodes) int64: the pool of each node."""
        index = {pool: i for i, pool in enumerate(self.pools)}
        return np.array([index[node.grade, node.site] for node in self.nodes], dtype=np.int64)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The path of each NVLink domain, `site/block/domain`, in order of first appearance."""
        return tuple(dict.fromkeys(_domain_path(node) for node in self.nodes))

    @cached_property
    def domain_of_node(self) -> IntArray:
        """(n_nodes) int64: the NVLink domain of each node."""
        index = {path: i for i, path in enumerate(self.domains)}
        return np.array([index[_domain_path(node)] for node in self.nodes], dtype=np.int64)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The path of each fabric block, `site/block`, in order of first appearance."""
        return tuple(dict.fromkeys(f"{node.site}/{node.block}" for node in self.nodes))

    @cached_property
    def block_of_node(self) -> IntArray:
        """(n_nodes) int64: the fabric block of each node."""
        index = {path: i for i, path in enumerate(self.blocks)}
        return np.array([index[f"{node.site}/{node.block}"] for node in self.nodes], dtype=np.int64)

    @cached_property
    def gpus_of_name(self) -> dict[str, range]:
        """The numbers of a node's GPUs, by its name."""
        firsts = self.first_gpu.tolist()
        return {node.name: range(firsts[i], firsts[i + 1]) for i, node in enumerate(self.nodes)}

    def gpus_of_node(self, node: int) -> range:
        """The numbers of a node's GPUs."""
        return range(int(self.first_gpu[node]), int(self.first_gpu[node + 1]))

    def gpus_of_cell(self, level: Level, number: int) -> IntArray:
        """The numbers of all GPUs of a cell, ascending."""
        match level:
            case Level.GPU:
                return np.array([number], dtype=np.int64)
            case Level.NODE:
                return np.arange(self.first_gpu[number], self.first_gpu[number + 1])
            case Level.NVLINK_DOMAIN:
                nodes = self.domain_of_node == number
            case Level.FABRIC_BLOCK:
                nodes = self.block_of_node == number
            case Level.SITE:
                sites = tuple(dict.fromkeys(node.site for node in self.nodes))
                nodes = np.array([node.site == sites[number] for node in self.nodes])
        return np.flatnonzero(nodes[self.node_of_gpu]).astype(np.int64)

    def cell_name(self, level: Level, number: int) -> str:
        """The stable name of a cell, for the journal and for people."""
        match level:
            case Level.GPU:
                node = int(self.node_of_gpu[number])
                return f"{self.nodes[node].name}:{number - int(self.first_gpu[node])}"
            case Level.NODE:
                return self.nodes[number].name
            case Level.NVLINK_DOMAIN:
                return self.domains[number]
            case Level.FABRIC_BLOCK:
                return self.blocks[number]
            case Level.SITE:
                return tuple(dict.fromkeys(node.site for node in self.nodes))[number]

    def cell_number(self, level: Level, name: str) -> int:
        """The number of a cell by its name. Raises UnknownName."""
        match level:
            case Level.GPU:
                node_name, _, k = name.rpartition(":")
                node = self.index_of_node.get(node_name)
                if node is None or k not in map(str, range(self.nodes[node].gpus)):
                    raise UnknownName("GPU", name)
                return int(self.first_gpu[node]) + int(k)
            case Level.NODE:
                return _found("node", name, tuple(self.index_of_node))
            case Level.NVLINK_DOMAIN:
                return _found("NVLink domain", name, self.domains)
            case Level.FABRIC_BLOCK:
                return _found("fabric block", name, self.blocks)
            case Level.SITE:
                return _found("site", name, tuple(dict.fromkeys(node.site for node in self.nodes)))


def _domain_path(node: NodeSpec) -> str:
    return f"{node.site}/{node.block}/{node.domain}"


def _found(what: str, name: str, known: tuple[str, ...]) -> int:
    try:
        return known.index(name)
    except ValueError:
        raise UnknownName(what, name, known) from None
