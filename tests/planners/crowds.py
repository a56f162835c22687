"""Crowded worlds of one or several pools, planned by a coordinator and by whoever else is to be compared with it."""

from __future__ import annotations

from collections import Counter
from random import Random

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.placement.laws import violations
from scheduler.core.placement.lines import Key
from scheduler.core.placement.snapshot import Place, Plan, Stop
from scheduler.core.workloads import GangSpec
from scheduler.planners.coordinator import Coordinator
from scheduler.planners.posts import Workers
from tests.core.placement.test_simulation import ACCOUNTS, Run
from tests.core.placement.world import World, spec_of

GRADES = ("A100", "H100")
SITES = ("east", "west")
PASSES = 40
"""More than the offers of any of these rounds take."""


def mixed_fleet(dice: Random, sites: tuple[str, ...] = SITES) -> Fleet:
    """Nodes of two grades at these sites in any order, so that the pools' nodes are interleaved and cells shared."""
    return Fleet.of(
        tuple(
            NodeSpec(
                name=f"node-{i}",
                grade=dice.choice(GRADES),
                gpus=dice.choice((8, 8, 8, 4)),
                site=dice.choice(sites),
                block=f"block-{i // 4}",
                domain=f"domain-{i // 2}",
            )
            for i in range(dice.randint(4, 10))
        )
    )


class Crowd(Run):
    """A seeded run whose rounds a coordinator plans. `wander`: whether gangs may use several pools."""

    def __init__(
        self, seed: int, *, pools: bool, wishful: bool = False, wander: bool = True, workers: Workers | None = None
    ) -> None:
        super().__init__(seed, wishful=wishful)
        dice = self.dice
        if pools:
            fleet = mixed_fleet(dice, SITES if wander else SITES[:1])
            names = (*ACCOUNTS, None)
            owners: list[str | None] = [dice.choice(names) for node in fleet.nodes for _ in range(node.gpus)]
            self.world = World(fleet, owners, ACCOUNTS)
        self.pools = pools
        self.wander = wander
        self.coordinator = Coordinator(workers)
        self.passes: Counter[int] = Counter()
        self.by = ""
        for _ in range(dice.randint(3, 20)):
            self.world.submit(self.spec())

    def spec(self) -> GangSpec:
        """What somebody asks for next; where there are several pools, often such as may use several."""
        spec = super().spec()
        if not self.wander:
            return GangSpec.model_validate({**dict(spec), "grade": self.dice.choice(GRADES)})
        if not self.pools or self.dice.random() < (0.8 if self.wishful else 0.5):
            return spec
        return spec_of(
            spec.account,
            workers=spec.workers,
            size=spec.gpus_per_worker,
            grade=self.dice.choice((None, *GRADES)),
            preemptible=spec.preemptible,
            max_runtime_ms=spec.max_runtime_ms,
        )

    def lines(self) -> dict[Key, list[int]]:
        """The numbers of the waiting gangs, by line."""
        queue = self.world.snapshot().queue
        return {(a, shape): [g.number for g in gangs] for a, shapes in queue.items() for shape, gangs in shapes.items()}

    def plans(self) -> list[Plan]:
        """The coordinator's plans of this instant, each applied, until it has nothing left to offer."""
        made: list[Plan] = []
        for number in range(PASSES):
            planned = self.coordinator.plan(self.world.snapshot(), self.policy, first=not number)
            self.world.apply(planned.plan)
            made.append(planned.plan)
            self.by = planned.by
            if not planned.unfinished:
                break
        else:
            raise AssertionError(f"offers did not end within {PASSES} plans")
        self.passes[len(made)] += 1
        for plan in made:
            self.seen += Counter("inside" if a.inside else "borrowed" for a in plan.actions if isinstance(a, Place))
            self.seen += Counter(str(a.cause) for a in plan.actions if isinstance(a, Stop))
        return made

    def round(self) -> int:
        """Plan, apply, check every law; how many actions it took."""
        made = self.plans()
        assert violations(self.world.snapshot()) == ()
        return sum(len(plan.actions) for plan in made)
