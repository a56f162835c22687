"""To which pool is a gang offered that may use several? Decided by counts alone, before any pool is planned.

A line (account, shape) that may use several pools is dealt out, gang by gang in the published order, in two steps:

1. *inside*: where the account's count has room for it, first where most room is left once the account's gangs that
   have no other pool are served, so that it does not take what only they could use;
2. *borrowing*: the rest, where most GPUs are free that nobody was offered before it.

An elastic gang is taken for as few GPUs as will do; a share that nothing else holds goes where its account shares a
device. Cells decide in the pool's own plan whether an offer is taken; what is refused is offered to the next pool,
until every pool with room by count has refused it as it stands (`Tried`). So at the end no gang waits that is inside
its entitlement in any pool: each pool's own plan has seen it. Exact packing over pools would be bin packing; the greedy
rule is right whenever counts suffice, and the repeated offers make up for cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.core.placement.lines import Key
from scheduler.core.placement.pools import Division
from scheduler.core.placement.snapshot import Queue
from scheduler.core.workloads import Gang


@dataclass(slots=True)
class PoolRoom:
    """What counts say of one pool. `headroom` is by account name: what it may still use; missing is 0. `sharing`: the
    accounts that share devices there, which others of theirs may join.
    """

    free: int
    headroom: Mapping[str, int]
    sharing: frozenset[str] = frozenset()


@dataclass(slots=True)
class Tried:
    """Which lines each pool has refused, as it stood at which version; a pool that changed may be asked again."""

    refused: dict[tuple[Key, int], int] = field(default_factory=dict)

    def holds(self, line: Key, pool: int, version: int) -> bool:
        """Whether the pool, as it stands now, has refused the line."""
        return self.refused.get((line, pool)) == version


Offers = dict[int, list[Gang]]
"""By pool: the gangs that it is offered, in the order of their lines."""


def wandering_lines(queue: Queue, division: Division) -> dict[Key, Sequence[Gang]]:
    """The waiting lines that may use several pools, in the order of their heads."""
    if len(division.parts) < 2:
        return {}
    found = [
        (gangs[0].order, (account, shape), gangs)
        for account in sorted(queue)
        for shape, gangs in queue[account].items()
        if gangs and len(division.pools_for(shape.grade)) > 1
    ]
    return {line: gangs for _, line, gangs in sorted(found, key=lambda entry: entry[0])}


def offers(
    lines: Mapping[Key, Sequence[Gang]],
    queue: Queue,
    division: Division,
    rooms: Sequence[PoolRoom],
    versions: Sequence[int],
    tried: Tried,
) -> Offers:
    """What to offer to which pool now; nothing where every pool with room has refused.

    `lines`: as `wandering_lines` gives them; `rooms` and `versions`: by pool.
    """
    headroom: dict[tuple[str, int], int] = {}
    spare: dict[tuple[str, int], int] = {}
    for account in sorted({account for account, _ in lines}):
        settled = _settled(account, queue, division)
        for pool, room in enumerate(rooms):
            headroom[account, pool] = room.headroom.get(account, 0)
            spare[account, pool] = headroom[account, pool] - settled.get(pool, 0)
    free = [room.free for room in rooms]
    dealt: Offers = {}
    for line, gangs in lines.items():
        pools = [pool for pool in division.pools_for(line[1].grade) if not tried.holds(line, pool, versions[pool])]
        at = 0
        for pool, number in _dealt(line, len(gangs), pools, headroom, spare, free):
            dealt.setdefault(pool, []).extend(gangs[at : at + number])
            at += number
        joined = next((pool for pool in pools if line[1].is_share and line[0] in rooms[pool].sharing), None)
        if joined is not None and at < len(gangs):
            dealt.setdefault(joined, []).extend(gangs[at:])
    return dealt


def _dealt(
    line: Key,
    gangs: int,
    pools: Sequence[int],
    headroom: dict[tuple[str, int], int],
    spare: dict[tuple[str, int], int],
    free: list[int],
) -> Iterator[tuple[int, int]]:
    """(pool, how many of the line's next gangs); takes what it deals from the three tables."""
    account, size = line[0], line[1].least_gpus
    while gangs:
        inside = [pool for pool in pools if headroom[account, pool] >= size]
        if not inside:
            break
        pool = max(inside, key=lambda pool: (spare[account, pool], -pool))
        most = max(1, min(spare[account, pool], headroom[account, pool]) // size)
        number = min(gangs, most)
        headroom[account, pool] -= number * size
        spare[account, pool] -= number * size
        free[pool] = max(0, free[pool] - number * size)
        gangs -= number
        yield pool, number
    while gangs:
        open_pools = [pool for pool in pools if free[pool] >= size]
        if not open_pools:
            return
        pool = max(open_pools, key=lambda pool: (free[pool], -pool))
        number = min(gangs, free[pool] // size)
        free[pool] -= number * size
        gangs -= number
        yield pool, number


def _settled(account: str, queue: Queue, division: Division) -> dict[int, int]:
    """GPUs that the account's waiting gangs with one pool alone ask of it, by pool."""
    asked: dict[int, int] = {}
    for shape, gangs in queue.get(account, {}).items():
        pools = division.pools_for(shape.grade)
        if len(pools) == 1:
            asked[pools[0]] = asked.get(pools[0], 0) + shape.gpus * len(gangs)
    return asked
