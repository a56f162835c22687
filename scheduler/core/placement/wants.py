"""What a shape wants of the fleet: so many equal parts, each inside one node, perhaps all inside one cell.

A gang that must stand in one node is one part of all its GPUs. A SITE wish is always kept, for a gang never leaves its
pool; a GPU wish can only be kept by a gang of one GPU; one worker is inside one domain and one block wherever it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.workloads import Shape


class Want(NamedTuple):
    """`parts` times `size` GPUs, each part inside one node; all inside one cell of `level`, a domain or block."""

    parts: int
    size: int
    level: Level | None

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.parts * self.size


@lru_cache(maxsize=4_096)
def demand(shape: Shape) -> Want | None:
    """What the shape cannot do without. None: nothing can satisfy it."""
    if shape.spread_required and shape.workers > 1 and shape.spread:
        return None  # only distinct GPUs are known to be kept
    if not shape.topology_required:
        return Want(shape.workers, shape.gpus_per_worker, None)
    return _within(shape)


@lru_cache(maxsize=4_096)
def wants(shape: Shape) -> tuple[Want, ...]:
    """What to try, best first: a topology that is only preferred goes before doing without it. Empty: impossible."""
    least = demand(shape)
    if least is None:
        return ()
    preferred = _within(shape)
    return (least,) if preferred is None or preferred == least else (preferred, least)


def _within(shape: Shape) -> Want | None:
    match shape.topology:
        case Level.GPU:
            return Want(1, 1, None) if shape.gpus == 1 else None
        case Level.NODE:
            return Want(1, shape.gpus, None)
        case Level.NVLINK_DOMAIN | Level.FABRIC_BLOCK if shape.workers > 1:
            return Want(shape.workers, shape.gpus_per_worker, Level(shape.topology))
        case _:
            return Want(shape.workers, shape.gpus_per_worker, None)
