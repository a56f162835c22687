"""FGD as it was published (Weng et al., ATC'23), in floats and plain loops: what the production score is compared with.

Written from the formulas alone, so that it shares neither code nor mistakes with the integer one.
"""

from __future__ import annotations

import math

from scheduler.core.placement.scores.kinds import Mix
from scheduler.core.placement.scores.pool import PoolState

COVERED = 0.95

Shape = tuple[int, int, int, int]


def popular(mix: Mix) -> list[tuple[Shape, float]]:
    """The most frequent shapes (devices, milli, CPU, models) that cover 95 % of the mix, with their shares of those."""
    counts: dict[Shape, int] = {}
    for kind in mix.kinds:
        shape = (kind.ask.devices, kind.ask.milli, kind.ask.cpu_milli, kind.ask.models)
        counts[shape] = counts.get(shape, 0) + kind.count
    kept: list[tuple[Shape, int]] = []
    for shape, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        if sum(n for _, n in kept) >= COVERED * sum(counts.values()):
            break
        kept.append((shape, count))
    whole = sum(count for _, count in kept)
    return [(shape, count / whole) for shape, count in kept]


def fragments(state: PoolState, node: int, shapes: list[tuple[Shape, float]]) -> float:
    """F of a node: the idle milli-GPU that a worker of the mix, on the mean, cannot use."""
    free = [int(milli) for milli in state.free_milli[node]]
    total = 0.0
    for (devices, milli, cpu, models), share in shapes:
        room = sum(left >= milli for left in free)
        fits = cpu <= state.cpu_milli[node] and models >> int(state.model[node]) & 1 and room >= devices > 0
        total += share * (sum(left for left in free if left < milli) if fits else sum(free))
    return total


def published_score(before: PoolState, after: PoolState, node: int, mix: Mix) -> int:
    """The integer score of a place: 100 times the sigmoid of how much less is fragmented, in GPUs, cut off."""
    shapes = popular(mix)
    gain = fragments(before, node, shapes) - fragments(after, node, shapes)
    return int(100 / (1 + math.exp(-gain / 1000)))
