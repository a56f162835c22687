"""A stretch of made-up work through the production score: what arrives and leaves when, and what a score made of it.

Everything is drawn from a seed. A trial sees an inventory of empty nodes and a mix, never what really comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from functools import cache

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.kinds import Mix
from scheduler.core.placement.scores.logarithms import ONE, ln
from scheduler.core.placement.scores.pool import IntArray, PoolState
from scheduler.core.placement.scores.table import Score
from scheduler.core.quantities import ONE_PPM, apportion, share_ppm
from scheduler.core.splitmix import UInt64s, stream

STAYS = 10
"""A trial lasts this many mean stays where they are as short as the fleet takes to fill ..."""
LEAST_FLEETS_PPM = 1_300_000
"""... and at least until this much of the fleet's GPUs has arrived, where they are longer."""
WARM_UP_PPM = 400_000
"""The part of a trial that is not measured, and at least what fills the fleet once."""
US_PER_MS = 1_000
_QUANTILES = 1_024
_MILLIONTHS = 1_000_000


@unique
class Draw(IntEnum):
    """What a draw decides; a number is never used again for another."""

    KIND = 101
    GAP = 102
    STAY = 103


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Workers that arrive, in order.

    kinds:    (n_workers) int64, the kind of each in its mix
    events:   (n_events) int64, a worker's number: it arrives; -1 - number: it leaves
    at_us:    (n_events) int64, when, ascending
    from_us, until_us: what is measured
    """

    kinds: IntArray
    events: IntArray
    at_us: IntArray
    from_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a score made of a stretch of work: GPU-time that was not allocated, and demand that found no place."""

    unallocated_ppm: int
    refused_ppm: int


def drawn(mix: Mix, seed: int, demand_milli: int) -> IntArray:
    """Kinds drawn from a mix by their counts until they ask for so many milli-GPU: (n) int64.

    Raises InvalidValue for a mix that asks for no GPU.
    """
    if mix.demand_milli == 0:
        raise InvalidValue("mix", "a rehearsal", "no demand for GPUs", "kinds that ask for some")
    bounds = np.cumsum(mix.weights)
    asked = mix.asks[:, 0] * mix.asks[:, 1]
    count = 64 + 2 * demand_milli * mix.count // mix.demand_milli
    while True:
        uniform = (stream(seed, Draw.KIND, count) >> np.uint64(32)).astype(np.int64)
        kinds: IntArray = np.searchsorted(bounds, uniform * bounds[-1] >> 32, side="right").astype(np.int64)
        arrived = np.cumsum(asked[kinds])
        if arrived[-1] >= demand_milli:
            return kinds[: int(np.searchsorted(arrived, demand_milli)) + 1]
        count *= 2


def work(mix: Mix, seed: int, capacity_milli: int, offered_ppm: int) -> Work:
    """Poisson arrivals with exponential stays, whose demand on the mean occupies `offered_ppm` of the capacity.

    Where the kinds have no stays, nothing leaves. See `STAYS`, `LEAST_FLEETS_PPM` and `WARM_UP_PPM` for its length.
    """
    fleets_ppm = min(offered_ppm, ONE_PPM * ONE_PPM // max(1, offered_ppm)) * STAYS
    lasting = mix.demand_milli_ms == 0
    fleets_ppm = (
        LEAST_FLEETS_PPM if lasting else max(LEAST_FLEETS_PPM, fleets_ppm) if offered_ppm >= ONE_PPM else fleets_ppm
    )
    kinds = drawn(mix, seed, capacity_milli * max(1, fleets_ppm) // ONE_PPM)
    n = len(kinds)
    gap_us = (
        1_000 if lasting else mix.demand_milli_ms * US_PER_MS * ONE_PPM // (mix.count * offered_ppm * capacity_milli)
    )
    arrive_us = np.cumsum(exponential(stream(seed, Draw.GAP, n), np.full(n, max(1, gap_us), dtype=np.int64)))
    warm_up_ppm = max(WARM_UP_PPM, min(ONE_PPM, ONE_PPM * ONE_PPM // max(1, fleets_ppm)))
    until_us = int(arrive_us[-1]) + 1
    from_us = until_us * min(warm_up_ppm, 900_000) // ONE_PPM
    workers = np.arange(n, dtype=np.int64)
    if lasting:
        return Work(kinds, workers, arrive_us, from_us, until_us)
    stays_us = np.array([kind.stay_ms * US_PER_MS for kind in mix.kinds], dtype=np.int64)
    leave_us = arrive_us + np.maximum(1, exponential(stream(seed, Draw.STAY, n), stays_us[kinds]))
    at_us = np.concatenate([arrive_us, leave_us])
    order = np.argsort(at_us, kind="stable")
    order = order[at_us[order] < until_us]
    return Work(kinds, np.concatenate([workers, -1 - workers])[order], at_us[order], from_us, until_us)


def exponential(draws: UInt64s, mean: IntArray) -> IntArray:
    """Exponential lengths with these means, from uniform 64-bit draws: (n) int64."""
    quantile = _quantiles()[(draws >> np.uint64(54)).astype(np.int64)]
    return mean // _MILLIONTHS * quantile + mean % _MILLIONTHS * quantile // _MILLIONTHS


@cache
def _quantiles() -> IntArray:
    """(1024) int64: the exponential distribution's middle quantiles, in millionths of its mean."""
    middles = range(1, 2 * _QUANTILES, 2)
    return np.array([-ln(middle, 2 * _QUANTILES) * _MILLIONTHS // ONE for middle in middles], dtype=np.int64)


def placed(pool: PoolState, mix: Mix, done: Work, score: Score, *, compiled: bool = True) -> IntArray:
    """The node of each worker, -1 where it was refused: (n_workers) int64. `pool` stays as it is."""
    after = pool.copy()
    node_of = np.full(len(done.kinds), -1, dtype=np.int64)
    way = scan.play.compiled if compiled else scan.play
    way(
        after.free_milli,
        after.cpu_milli,
        after.memory_mib,
        after.model,
        mix.asks,
        done.kinds,
        done.events,
        score.known,
        scan.fresh_costs(len(mix.kinds), len(pool)),
        node_of,
        np.zeros(len(done.kinds), dtype=np.int64),
        np.zeros((0, 5), dtype=np.int64),
    )
    return node_of


def outcome(pool: PoolState, mix: Mix, done: Work, node_of: IntArray) -> Outcome:
    """What was made of the measured part of the work."""
    asked = (mix.asks[:, 0] * mix.asks[:, 1])[done.kinds]
    worker = np.where(done.events >= 0, done.events, -1 - done.events)
    arrives = done.events >= 0
    change = np.where(node_of[worker] < 0, 0, np.where(arrives, asked[worker], -asked[worker]))
    allocated = np.cumsum(change)
    edges = np.clip(np.append(done.at_us, done.until_us), done.from_us, done.until_us)
    held = sum(int(milli) * int(length) for milli, length in zip(allocated, np.diff(edges), strict=True) if length)
    whole = pool.total_milli * (done.until_us - done.from_us)
    measured = worker[arrives & (done.at_us >= done.from_us)]
    refused = int(asked[measured][node_of[measured] < 0].sum())
    return Outcome(ONE_PPM - share_ppm(held, whole), share_ppm(refused, int(asked[measured].sum())))


def sampled(pool: PoolState, at_most: int) -> PoolState:
    """At most so many of the nodes, equal ones in proportion to their number: a large fleet's mix fills it alike."""
    if len(pool) <= at_most:
        return pool
    groups: dict[tuple[int, ...], list[int]] = {}
    columns = (pool.model, pool.cpu_milli, pool.memory_mib)
    for n in range(len(pool)):
        key = (*(int(column[n]) for column in columns), *pool.free_milli[n].tolist())
        groups.setdefault(key, []).append(n)
    shares = apportion(at_most, [len(nodes) for nodes in groups.values()])
    taken = [n for nodes, share in zip(groups.values(), shares, strict=True) for n in nodes[:share]]
    return pool.take(np.array(sorted(taken), dtype=np.int64))
