"""What a shape wants of the fleet: so many equal parts, each inside one node, perhaps all inside one cell, or apart.

A gang that must stand in one node is one part of all its GPUs. A SITE wish is always kept, for a gang never leaves its
pool; a GPU wish can only be kept by a gang of one GPU; one worker is inside one domain and one block wherever it is.
Workers are on distinct GPUs whatever they wish, and never on distinct sites.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.workloads import Shape


class Want(NamedTuple):
    """`parts` times `size` GPUs, each part inside one node; all inside one cell of `level`, a domain or block; each in
    another cell of `apart`, a node, domain or block.
    """

    parts: int
    size: int
    level: Level | None
    apart: Level | None = None

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.parts * self.size


@lru_cache(maxsize=16_384)
def demand(shape: Shape) -> Want | None:
    """What the shape cannot do without. None: nothing can satisfy it."""
    return _want(shape, within=shape.topology_required, apart=shape.spread_required)


def least_demand(shape: Shape) -> Want | None:
    """The same with as few workers as will do."""
    return demand(shape.sized(shape.min_workers) if shape.is_elastic else shape)


@lru_cache(maxsize=16_384)
def wants(shape: Shape) -> tuple[Want, ...]:
    """What to try, best first: what is only preferred goes before doing without it, together before apart, and both
    before either. Empty: impossible.
    """
    least = demand(shape)
    if least is None:
        return ()
    required = (shape.topology_required, shape.spread_required)
    asks = ((True, True), (True, required[1]), (required[0], True), required)
    tried = (_want(shape, within=within, apart=apart) for within, apart in asks)
    return tuple(dict.fromkeys(want for want in tried if want is not None))


def _want(shape: Shape, *, within: bool, apart: bool) -> Want | None:
    """What it wants with and without its wishes for one cell and for distinct ones; None where that cannot be."""
    plain = Want(shape.workers, shape.gpus_per_worker, None)
    want: Want | None = plain
    if within:
        match shape.topology:
            case Level.GPU:
                want = Want(1, 1, None) if shape.gpus == 1 else None
            case Level.NODE:
                want = Want(1, shape.gpus, None)
            case Level.NVLINK_DOMAIN | Level.FABRIC_BLOCK if shape.workers > 1:
                want = plain._replace(level=Level(shape.topology))
            case _:
                pass
    if apart and want is not None and shape.workers > 1:
        match shape.spread:
            case Level.SITE:
                return None
            case Level.NODE | Level.NVLINK_DOMAIN | Level.FABRIC_BLOCK:
                return want._replace(apart=Level(shape.spread)) if want.parts == shape.workers else None
            case _:
                pass
    return want
