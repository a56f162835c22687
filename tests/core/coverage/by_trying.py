"""What may be sold at an instant, found by trying: every placement of the new lots, every loss, every reassignment.

Cells are sets of GPUs as bits of an integer. Only for fleets of a dozen GPUs. A lot stands on cells of its own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.holdings import Holding


def bits(fleet: Fleet, level: Level, cell: int) -> int:
    """The GPUs of a cell."""
    return sum(1 << int(gpu) for gpu in fleet.gpus_of_cell(level, cell))


def cells(fleet: Fleet, pool: int, level: Level) -> tuple[int, ...]:
    """The cells of a level that lie wholly in the pool."""
    topology = topology_of(fleet)
    return tuple(
        bits(fleet, level, cell) for cell in range(topology.n_cells(level)) if topology.pool[level][cell] == pool
    )


@cache
def _fit(needed: tuple[tuple[int, int], ...], free: int, by_level: tuple[tuple[int, ...], ...]) -> bool:
    """Whether lots of these (level, GPUs) find cells of their own among the free GPUs."""
    if not needed:
        return True
    (level, size), *rest = needed
    return any(
        cell & free == cell and cell.bit_count() == size and _fit(tuple(rest), free & ~cell, by_level)
        for cell in by_level[level]
    )


def survives(
    lots: Sequence[tuple[int, int]], free: int, domains: Sequence[int], k: int, by_level: tuple[tuple[int, ...], ...]
) -> bool:
    """Whether after the loss of any k domains all (level, GPUs) lots that are hit find other cells."""
    for lost in combinations(domains, min(k, len(domains))):
        gone = 0
        for domain in lost:
            gone |= domain
        hit = [(level, gpus) for level, gpus in lots if gpus & gone]
        left = free
        for _, gpus in hit:
            left |= gpus
        needed = tuple(sorted(((level, gpus.bit_count()) for level, gpus in hit), reverse=True))
        if not _fit(needed, left & ~gone, by_level):
            return False
    return True


def most_by_trying(
    fleet: Fleet, pool: int, holdings: Sequence[Holding], level: Level, domain: Level, k: int, size: int | None = None
) -> int:
    """The most lots that may be sold, of `size` GPUs (None: of any); -1 where even what is sold is not safe."""
    by_level = tuple(cells(fleet, pool, each) for each in LEVELS)
    everything = sum(1 << int(gpu) for gpu in range(fleet.n_gpus) if fleet.pool_of_node[fleet.node_of_gpu[gpu]] == pool)
    lots = [(int(held.level), bits(fleet, held.level, held.cell)) for held in holdings]
    free = everything
    for _, gpus in lots:
        free &= ~gpus
    topology = topology_of(fleet)
    domains = [part for cell in range(topology.n_cells(domain)) if (part := bits(fleet, domain, cell) & everything)]
    most = -1
    candidates = [cell for cell in by_level[level] if cell & free == cell and size in (None, cell.bit_count())]
    for n in range(len(candidates) + 1):
        found = False
        for chosen in combinations(candidates, n):
            taken = sum(chosen)
            sold = [*lots, *((int(level), cell) for cell in chosen)]
            if survives(sold, free & ~taken, domains, k, by_level):
                found = True
                break
        if not found:
            return most
        most = n
    return most


def survives_over_time(fleet: Fleet, holdings: Sequence[Holding], domain: Level, k: int) -> bool:
    """Whether after the loss of any k domains at any instant all lots that are hit, then or later, find cells for the
    rest of their windows, while all others stay where they are. Of one pool, all cells usable.
    """
    topology = topology_of(fleet)
    by_level = tuple(cells(fleet, 0, each) for each in LEVELS)
    lots = [(int(h.level), bits(fleet, h.level, h.cell), h.start_ms, h.end_ms) for h in holdings]
    domains = [bits(fleet, domain, cell) for cell in range(topology.n_cells(domain))]
    for at_ms in sorted({start_ms for _, _, start_ms, _ in lots}):
        ahead = [
            (level, gpus, max(at_ms, start_ms), end_ms) for level, gpus, start_ms, end_ms in lots if end_ms > at_ms
        ]
        for lost in combinations(domains, min(k, len(domains))):
            gone = sum(lost)
            stay = [(gpus, start_ms, end_ms) for _, gpus, start_ms, end_ms in ahead if not gpus & gone]
            hit = sorted(
                ((lv, gpus.bit_count(), s, e) for lv, gpus, s, e in ahead if gpus & gone),
                key=lambda each: (-each[0], each[1:]),
            )
            if not _placed(hit, stay, gone, by_level):
                return False
    return True


def _placed(
    needed: Sequence[tuple[int, int, int, int]],
    taken: list[tuple[int, int, int]],
    gone: int,
    by_level: tuple[tuple[int, ...], ...],
) -> bool:
    """Whether (level, size, start, end) lots find cells beside (GPUs, start, end) that are taken."""
    if not needed:
        return True
    (level, size, start_ms, end_ms), *rest = needed
    for cell in by_level[level]:
        if (
            cell.bit_count() != size
            or cell & gone
            or any(cell & gpus and s < end_ms and e > start_ms for gpus, s, e in taken)
        ):
            continue
        if _placed(rest, [*taken, (cell, start_ms, end_ms)], gone, by_level):
            return True
    return False
