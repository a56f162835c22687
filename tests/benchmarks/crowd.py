"""A large fleet in the middle of its life, made by seed: lots of every kind, own and lent work, and a long queue.

Per 100,000 GPUs: 12,500 nodes of eight in NVLink domains of four and blocks of 64 nodes, one pool; 2,000 accounts of
very unequal size; 15 % of the nodes are unsold, 8 % are shared by several owners, the rest is owned whole; half of the
ownership ends within a month. 60 % of the GPUs are busy, a sixth of them with borrowed work. 20,000 gangs wait: 1 to 64
GPUs, a third of the large ones with a wish of topology, a tenth not preemptible, a quarter never checkpointing. In a
*crowded* one 97 % of the GPUs are busy, half of them with borrowed work, so that owners must reclaim.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from random import Random

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.placement.snapshot import Queue, Snapshot
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.core.workloads import Gang, GangSpec, GangStatus, Piece, Shape, shape_of

NOW_MS = 100 * MS_PER_DAY
FOREVER_MS = 2**63 - 1
NODE_GPUS = 8
SIZES = ((1, 1, 30), (1, 2, 12), (1, 4, 15), (1, 8, 22), (2, 8, 10), (4, 8, 7), (8, 8, 4))
"""(workers, GPUs of each, how often in a hundred)"""
RUNTIMES_MS = tuple(MS_PER_HOUR * hours // 4 for hours in (1, 2, 4, 8, 16, 48, 96, 288))


@dataclass(frozen=True, slots=True)
class Crowd:
    """What was made: a snapshot, and how many gangs wait in it."""

    snapshot: Snapshot
    waiting: int


def crowd_of(gpus: int, seed: int = 1, *, crowded: bool = False) -> Crowd:
    """A fleet of about so many GPUs with its accounts, its running work and its queue; crowded: nearly full."""
    made = _Maker(gpus // NODE_GPUS, max(8, gpus // 50), gpus // 5, Random(seed))
    made.crowded = crowded
    made.own()
    made.run()
    queue = made.wait()
    n_nodes = made.n_nodes
    snapshot = Snapshot(
        now_ms=NOW_MS,
        fleet=made.fleet,
        accounts=tuple(made.accounts),
        usable=made.usable,
        owner=made.owner,
        until_ms=made.until_ms,
        occupant=made.occupant,
        claimant=np.full(n_nodes * NODE_GPUS, -1, dtype=np.int64),
        placed=made.placed,
        queue=queue,
    )
    return Crowd(snapshot, made.n_waiting)


class _Maker:
    def __init__(self, n_nodes: int, n_accounts: int, n_waiting: int, dice: Random) -> None:
        self.n_nodes, self.n_waiting, self.dice = n_nodes, n_waiting, dice
        self.accounts = [f"a{i:06}" for i in range(n_accounts)]
        self.shares = list(accumulate(1_000_000 // (10 + i % 500) for i in range(n_accounts)))
        self.fleet = Fleet.of(
            tuple(
                NodeSpec(
                    name=f"n{i:06}",
                    grade="H100",
                    gpus=NODE_GPUS,
                    site="s",
                    block=f"b{i // 64}",
                    domain=f"d{i // 4 % 16}",
                )
                for i in range(n_nodes)
            )
        )
        n_gpus = n_nodes * NODE_GPUS
        self.usable = np.ones(n_gpus, dtype=np.bool_)
        self.owner = np.full(n_gpus, -1, dtype=np.int32)
        self.until_ms = np.full(n_gpus, FOREVER_MS, dtype=np.int64)
        self.occupant = np.full(n_gpus, -1, dtype=np.int64)
        self.placed: dict[int, Gang] = {}
        self.crowded = False
        self.number = 0

    def account(self) -> int:
        """An account, large ones more often."""
        return self.dice.choices(range(len(self.accounts)), cum_weights=self.shares)[0]

    def own(self) -> None:
        """Who owns what, until when, and what is broken."""
        dice, node = self.dice, 0
        while node < self.n_nodes:
            low, high = node * NODE_GPUS, node * NODE_GPUS + NODE_GPUS
            kind = dice.randrange(100)
            nodes = 1
            if kind < 8:
                for gpu in range(low, high, 2):
                    self.owner[gpu : gpu + 2] = self.account() if dice.random() < 0.8 else -1
            elif kind >= 23:
                nodes = dice.choice((1, 1, 2, 4))
                self.owner[low : low + nodes * NODE_GPUS] = self.account()
            if dice.random() < 0.5:
                self.until_ms[low : low + nodes * NODE_GPUS] = NOW_MS + dice.randrange(1, 31) * MS_PER_DAY
            if dice.random() < 0.01:
                self.usable[low : high if dice.random() < 0.5 else low + 1] = False
            node += nodes

    def run(self) -> None:
        """Own and borrowed work on six GPUs in ten."""
        dice, node = self.dice, 0
        while node < self.n_nodes:
            mood = dice.randrange(72 if self.crowded else 100)
            nodes = 1
            if mood < 12:  # one gang over whole nodes
                nodes = min(dice.choice((1, 2, 4)), self.n_nodes - node)
                self._runs(node, nodes, NODE_GPUS, borrowed=mood < (6 if self.crowded else 3))
            elif mood < 72:
                at = node * NODE_GPUS
                while at % NODE_GPUS or at == node * NODE_GPUS:
                    size = min(dice.choice((1, 2, 4, 8)), NODE_GPUS - at % NODE_GPUS)
                    if dice.random() < (0.97 if self.crowded else 0.8):
                        self._runs(node, 1, size, borrowed=dice.random() < (0.5 if self.crowded else 0.16), first=at)
                    at += size
            node += nodes

    def _runs(self, node: int, workers: int, size: int, *, borrowed: bool, first: int | None = None) -> None:
        low = node * NODE_GPUS if first is None else first
        gpus = tuple(range(low, low + workers * size))
        if not self.usable[list(gpus)].all():
            return
        owner = int(self.owner[low])
        account = self.account() if borrowed or owner < 0 else owner
        spec = self._spec(account, workers, size, preemptible=True)
        pieces = tuple(
            Piece(
                node=self.fleet.nodes[node + at].name,
                gpus=tuple(gpu % NODE_GPUS for gpu in gpus[at * size : at * size + size]),
            )
            for at in range(workers)
        )
        started_ms = NOW_MS - self.dice.randrange(20 * MS_PER_HOUR)
        self.placed[self.number] = Gang(
            id=f"g{self.number}",
            number=self.number,
            spec=spec,
            shape=shape_of(spec),
            submitted_ms=started_ms,
            queued_ms=started_ms,
            status=GangStatus.RUNNING,
            attempt=1,
            pieces=pieces,
            gpu_numbers=gpus,
            placed_ms=started_ms,
            started_ms=started_ms,
        )
        self.occupant[low : low + workers * size] = self.number
        self.number += 1

    def wait(self) -> Queue:
        """The queue."""
        dice = self.dice
        queue: dict[str, dict[Shape, list[Gang]]] = {}
        ages_ms = sorted(dice.randrange(2 * MS_PER_DAY) for _ in range(self.n_waiting))
        weights = list(accumulate(weight for _, _, weight in SIZES))
        for age_ms in reversed(ages_ms):
            workers, size, _ = dice.choices(SIZES, cum_weights=weights)[0]
            spec = self._spec(self.account(), workers, size, preemptible=dice.random() < 0.9)
            gang = Gang(
                id=f"g{self.number}",
                number=self.number,
                spec=spec,
                shape=shape_of(spec),
                submitted_ms=NOW_MS - age_ms,
                queued_ms=NOW_MS - age_ms,
            )
            self.number += 1
            queue.setdefault(gang.account, {}).setdefault(gang.shape, []).append(gang)
        for shapes in queue.values():
            for gangs in shapes.values():
                gangs.sort(key=lambda gang: gang.order)
        return queue

    def _spec(self, account: int, workers: int, size: int, *, preemptible: bool) -> GangSpec:
        dice = self.dice
        wish = None
        if workers > 1 and dice.random() < 0.33:
            wish = Level.NVLINK_DOMAIN if workers <= 4 and dice.random() < 0.5 else Level.FABRIC_BLOCK
        return GangSpec(
            account=self.accounts[account],
            name="g",
            command=("run",),
            workers=workers,
            gpus_per_worker=size,
            topology=wish,
            topology_required=wish is not None and dice.random() < 0.5,
            priority=dice.choice((0, 0, 0, 1)),
            preemptible=preemptible,
            max_runtime_ms=dice.choice(RUNTIMES_MS),
            grace_ms=dice.choice((0, 60_000, 300_000)),
            checkpoint_ms=dice.choice((0, 600_000, 600_000, 1_800_000)),
        )
