"""The fleet pool by pool: each pool's nodes numbered by themselves, so that it can be planned alone and elsewhere.

A gang never leaves its pool and counts are kept by pool, so a round falls apart into one for each pool but for the
gangs that may use several (`scheduler.core.placement.offers`). Laws: a part keeps the fleet's order of nodes, domains
and blocks, so that every tie falls as in the whole; each node is in exactly one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.snapshot import Action, Place
from scheduler.core.workloads import MOVED, Gang, GangStatus


@dataclass(frozen=True, eq=False)
class PoolFleet(Fleet):
    """The nodes of one pool; its domains and blocks are in the whole fleet's order, not in that of its own nodes."""

    domain_order: tuple[str, ...] = ()
    block_order: tuple[str, ...] = ()

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """See Fleet; in the whole fleet's order."""
        return self.domain_order

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """See Fleet; in the whole fleet's order."""
        return self.block_order


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One pool of the fleet."""

    pool: int
    fleet: PoolFleet
    nodes: IntArray
    """(n_nodes of the part) int64: the fleet's number of each node, ascending."""
    gpus: IntArray
    """(n_gpus of the part) int64: the fleet's number of each GPU, ascending."""


@dataclass(frozen=True, eq=False)
class Division:
    """The fleet in parts."""

    fleet: Fleet
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, fleet: Fleet) -> Division:
        """One part for each pool, in order."""
        return cls(fleet, tuple(_part(fleet, pool) for pool in range(len(fleet.pools))))

    @cached_property
    def pool_of_gpu(self) -> IntArray:
        """(n_gpus) int64: the pool of each GPU."""
        pools: IntArray = self.fleet.pool_of_node[self.fleet.node_of_gpu]
        return pools

    @cached_property
    def number_in_part(self) -> IntArray:
        """(n_gpus) int64: the number of each GPU in its own part."""
        numbers = np.zeros(self.fleet.n_gpus, dtype=np.int64)
        for part in self.parts:
            numbers[part.gpus] = np.arange(len(part.gpus))
        return numbers

    @cached_property
    def _pools_of_grade(self) -> dict[str | None, tuple[int, ...]]:
        found: dict[str | None, tuple[int, ...]] = {None: tuple(range(len(self.parts)))}
        for pool, (grade, _) in enumerate(self.fleet.pools):
            found[grade] = (*found.get(grade, ()), pool)
        return found

    def pools_for(self, grade: str | None) -> tuple[int, ...]:
        """The pools that a gang asking for this grade may use, in order."""
        return self._pools_of_grade.get(grade, ())

    def pool_of(self, gang: Gang) -> int:
        """The pool in which a placed gang stands."""
        return int(self.pool_of_gpu[gang.gpu_numbers[0]])

    def place(self, gang: Gang, gpus: tuple[int, ...], inside: bool, waits_for: tuple[str, ...]) -> Place:  # noqa: FBT001
        """A placement that a part's plan made on these of the fleet's GPUs, as the whole plan says it: with the workers
        that an elastic gang gets.
        """
        shape, host_of_gpu = gang.shape, self.fleet.host_of_gpu
        if shape.workers == 1:  # as most have, and fewer will not do
            return Place(gang, gpus, (host_of_gpu[gpus[0]],), inside, waits_for)
        hosts = tuple([host_of_gpu[gpu] for gpu in gpus[:: shape.gpus_per_worker]])
        placed = gang.changed(shape=shape.sized(len(hosts))) if shape.is_elastic else gang
        return Place(placed, gpus, hosts, inside, waits_for)


def counts(gang: Gang) -> bool:
    """Whether a placed gang's GPUs are part of what its account uses (`scheduler.core.placement.inside`)."""
    return gang.status is not GangStatus.STOPPING or gang.stop_cause in MOVED


def merged(by_pool: Iterable[Sequence[Action]]) -> tuple[Action, ...]:
    """The actions of all pools' plans, by pool: no action of one pool touches another's GPUs or gangs."""
    return tuple(action for actions in by_pool for action in actions)


def _part(fleet: Fleet, pool: int) -> Part:
    nodes: IntArray = np.flatnonzero(fleet.pool_of_node == pool).astype(np.int64)
    in_pool: npt.NDArray[np.bool_] = fleet.pool_of_node[fleet.node_of_gpu] == pool
    part = PoolFleet(
        tuple(fleet.nodes[node] for node in nodes.tolist()),
        tuple(fleet.domains[domain] for domain in np.unique(fleet.domain_of_node[nodes]).tolist()),
        tuple(fleet.blocks[block] for block in np.unique(fleet.block_of_node[nodes]).tolist()),
    )
    return Part(pool, part, nodes, np.flatnonzero(in_pool).astype(np.int64))
