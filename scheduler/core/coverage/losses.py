"""What the loss of failure domains takes from a pool, and what is left of it: the N-k condition, as in power grids.

Domains fail whole (a rack, a switch, a power feed), not as independent coins, and only the lots that are hit move. They
find cells if, at each level, the free whole cells are at least what waits already plus the *losses* of the domains. A
domain's loss at a level is its cells that are free or inside a lot of that level or higher; above the domain's own
level, a cell is lost once. Which domains fail is unknown, so the k largest losses of each level count. Why that is
enough: lots may be moved from the highest level down, each into any free cell; a lot takes at most as many lower cells
as the largest of its cells holds. Where all cells of a level are alike it is also needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.standing import Mask, PoolCells, Standing
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.errors import InvalidValue

DEFAULT_DOMAIN = Level.NVLINK_DOMAIN
"""What fails as one where nobody says otherwise: what shares a switch and mostly a rack and its power."""
DEFAULT_LOSSES = 1


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """A pool in a window before the loss of any `losses` domains of `domain`. Tuples are by level."""

    standing: Standing
    domain: Level
    losses: int
    taken: tuple[IntArray, ...]
    """What each domain of the pool would take; above `domain`, what the loss of each cell would."""
    waiting: tuple[int, ...]
    """Cells that lots without a whole cell wait for."""

    def lost(self, level: Level) -> int:
        """The cells of a level that the worst loss takes."""
        return largest(self.taken[level], self.losses)

    def free(self, level: Level) -> int:
        """Whole, usable cells that cover nobody throughout."""
        return int(self.standing.free[level].sum())

    def margin(self, level: Level) -> int:
        """Free cells beyond what waits and what the worst loss takes; below 0: so many are missing."""
        return self.free(level) - self.waiting[level] - self.lost(level)

    @property
    def survives(self) -> bool:
        """Whether everything sold is honoured after the loss."""
        return all(self.margin(level) >= 0 for level in LEVELS)


def outlook(
    fleet: Fleet,
    pool: int,
    standing: Standing,
    *,
    losses: int = DEFAULT_LOSSES,
    domain: Level = DEFAULT_DOMAIN,
    uncovered: IntArray | None = None,
    offered: Level | None = None,
) -> Outlook:
    """The pool before the loss of domains. Raises InvalidValue for fewer than 0 losses or a domain below a node.

    `uncovered` (n_levels) int64: lots that are sold and stand on no cell at all. `offered`: the level of lots that are
    to be sold on free cells, which then may weigh more than those did.
    """
    if losses < 0:
        raise InvalidValue("losses", "what may be sold", losses, "0 or more")
    if domain < Level.NODE:
        raise InvalidValue("level", "what may be sold", domain.name, "NODE or higher: a failure takes a node at least")
    cells = standing.cells
    waiting = [0] * len(LEVELS)
    for outer in LEVELS:
        lots = standing.short(outer) + (0 if uncovered is None else int(uncovered[outer]))
        for inner in LEVELS[: outer + 1]:
            waiting[inner] += lots * cells.most_inside[outer][inner]
    first_of_domain, domain_of_rank = _domains(fleet, pool, domain)
    taken = tuple(
        _taken_below(standing, level, domain, first_of_domain, domain_of_rank, offered)
        if level <= domain
        else _taken_above(standing, level, offered)
        for level in LEVELS
    )
    return Outlook(standing, domain, losses, taken, tuple(waiting))


def largest(values: IntArray, count: int) -> int:
    """The sum of the `count` largest values."""
    if count <= 0:
        return 0
    if count >= len(values):
        return int(values.sum())
    return int(np.partition(values, len(values) - count)[len(values) - count :].sum())


def domain_places(fleet: Fleet, pool: int, cells: PoolCells, level: Level, domain: Level) -> IntArray:
    """(cells of the level) int64: the entry of `Outlook.taken` that each cell counts in."""
    if level > domain:
        return np.arange(len(cells.cells[level]))
    return np.asarray(_domains(fleet, pool, domain)[1][cells.first[level]])


def domain_gpus(fleet: Fleet, pool: int, usable: Mask, domain: Level) -> IntArray:
    """(domains) int64: the usable GPUs of the pool in each of its failure domains. `usable`: by the fleet's numbers."""
    first, of_rank = _domains(fleet, pool, domain)
    ranks = np.flatnonzero((of_rank >= 0) & usable[topology_of(fleet).gpu_at])
    return np.bincount(of_rank[ranks], minlength=len(first)).astype(np.int64)


@lru_cache(maxsize=32)
def _domains(fleet: Fleet, pool: int, domain: Level) -> tuple[IntArray, IntArray]:
    """(the first rank of each failure domain that the pool has a part in, each rank's domain; -1 outside the pool)."""
    topology = topology_of(fleet)
    in_pool = fleet.pool_of_node[fleet.node_of_gpu[topology.gpu_at]] == pool
    ranks = np.flatnonzero(in_pool)
    of_rank = np.full(fleet.n_gpus, -1, dtype=np.int64)
    if not len(ranks):
        return ranks, of_rank
    changes = np.diff(topology.cell_of_rank[domain][ranks], prepend=-1) != 0
    of_rank[ranks] = np.cumsum(changes) - 1
    return ranks[changes], of_rank


def _taken_below(
    standing: Standing,
    level: Level,
    domain: Level,
    first_of_domain: IntArray,
    domain_of_rank: IntArray,
    offered: Level | None,
) -> IntArray:
    """(domains) int64: at or below the domains' own level."""
    cells, n_domains = standing.cells, len(first_of_domain)
    taken = _counted(domain_of_rank, cells.first[level][standing.free[level]], n_domains)
    for held in LEVELS[level : domain + 1]:
        lots = standing.lots[held] & standing.healthy[held]
        taken += cells.most_inside[held][level] * _counted(domain_of_rank, cells.first[held][lots], n_domains)
    own = _counted(domain_of_rank, cells.first[level], n_domains)
    for held in LEVELS[domain + 1 :]:
        taken += _by_larger_lots(standing, level, held, first_of_domain, own)
    if offered is not None and offered > level:
        heavier = _heavier(standing, level, offered)
        if offered <= domain:
            np.add.at(taken, domain_of_rank[cells.first[offered]], heavier)
        else:
            outer = cells.at_rank[offered][first_of_domain]
            taken[outer >= 0] += heavier[outer[outer >= 0]]
    return taken


def _taken_above(standing: Standing, level: Level, offered: Level | None) -> IntArray:
    """(cells of the level) int64: above the domains' level."""
    cells = standing.cells
    taken = standing.free[level].astype(np.int64)
    own = np.ones(len(taken), dtype=np.int64)
    for held in LEVELS[level:]:
        taken += _by_larger_lots(standing, level, held, cells.first[level], own)
    if offered is not None and offered > level:
        outer = cells.outer(level, offered)
        taken[outer >= 0] += _heavier(standing, level, offered)[outer[outer >= 0]]
    return taken


def _by_larger_lots(standing: Standing, level: Level, held: Level, first: IntArray, own: IntArray) -> IntArray:
    """What the loss of each part (its first rank, its cells of the level) takes by a healthy lot that lies over it.

    The lot leaves with all that it holds, so what it had outside the lost part is free for others. Where lots of other
    levels share its cell at other times, they stay, and nothing is.
    """
    cells = standing.cells
    over = cells.at_rank[held][first]
    lots = standing.lots[held] & standing.healthy[held]
    if not lots.any():
        return np.zeros(len(first), dtype=np.int64)
    hit = (over >= 0) & lots[over]
    left = np.where(standing.pure[held][over[hit]], cells.inside[held][level][over[hit]] - own[hit], 0)
    taken = np.zeros(len(first), dtype=np.int64)
    taken[hit] = cells.most_inside[held][level] - left
    return taken


def _heavier(standing: Standing, level: Level, offered: Level) -> IntArray:
    """(offered cells) int64: how many more cells a lot on each free one may need elsewhere than lie in it."""
    cells = standing.cells
    more = cells.most_inside[offered][level] - cells.inside[offered][level]
    if not more.any():
        return more
    return np.where(standing.free[offered], more, 0)


def _counted(of_rank: IntArray, ranks: IntArray, n: int) -> IntArray:
    return np.bincount(of_rank[ranks], minlength=n).astype(np.int64)
