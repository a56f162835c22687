"""Long seeded runs of crowded worlds, dense enough that every resort is reached, the last ones included."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Policy, Stop
from scheduler.core.workloads import GangSpec, GangStatus, StopCause
from tests.core.placement.world import FOR_EVER_MS, HOUR_MS, World, fleet_of, spec_of

ACCOUNTS = ("a", "b", "c")
SIZES = ((1, 2, 4, 8), (1, 2, 3, 4, 6, 8), (1, 3, 5, 7))
MINUTE_MS = 60_000
NEWS = ("submit",) * 6 + ("end", "cancel") * 2 + ("start", "gone") * 3 + ("later", "lose", "repair", "handover")


class Run:
    """A world with its own dice: how it is owned, what is asked of it, and what happens next."""

    def __init__(self, seed: int, *, wishful: bool = False, shares: bool = True) -> None:
        self.dice = Random(seed)
        self.shares = shares
        self.wishful = wishful
        dice = self.dice
        gpus = [dice.choice((8, 8, 8, 4, 3)) if seed % 3 == 0 else 8 for _ in range(dice.randint(2, 8))]
        grades = [dice.choice(("A100", "H100")) if seed % 4 == 0 else "A100" for _ in gpus]
        names = ACCOUNTS if seed % 2 else (*ACCOUNTS, None)
        owners: list[str | None] = []
        for count in gpus:
            whole = dice.random() < 0.5
            owners += [dice.choice(names)] * count if whole else [dice.choice(names) for _ in range(count)]
        self.world = World(fleet_of(gpus, grades), owners, ACCOUNTS)
        self.world.until_ms[:] = np.repeat([dice.choice((FOR_EVER_MS, 3 * HOUR_MS)) for _ in gpus], gpus)
        self.policy = Policy(reckless_idle_ppm=dice.choice((0, 50_000)), consolidate=False)
        if wishful:
            self.policy = Policy(
                reckless_idle_ppm=self.policy.reckless_idle_ppm,
                consolidate=dice.random() < 0.5,
                grow_after_ms=dice.choice((0, 2 * MINUTE_MS)),
                grow_gain_ppm=dice.choice((200_000, 10_000_000)),
                protect_after_ms=dice.choice((0, 5 * MINUTE_MS, 10 * HOUR_MS)),
            )
        self.sizes = SIZES[seed % len(SIZES)]
        self.odd_percent = dice.choice((0, 10, 40))
        self.seen: Counter[str] = Counter()

    def spec(self) -> GangSpec:
        """What somebody asks for next."""
        dice = self.dice
        plain = dice.randrange(100) >= self.odd_percent
        topology = None if plain else dice.choice((None, *Level))
        account = dice.choice(ACCOUNTS)
        size: dict[str, Any] = {"workers": dice.choice((1, 1, 1, 1, 2, 3)), "size": dice.choice(self.sizes)}
        if self.wishful:
            size, topology = self._wishes(topology)
        return spec_of(
            account,
            **size,
            grade=None if plain else dice.choice((None, "A100", "H100")),
            topology=topology,
            topology_required=topology is not None and dice.random() < 0.5,
            priority=0 if plain else dice.choice((0, 1)),
            preemptible=plain or dice.random() < 0.5,
            checkpoint_ms=dice.choice((0, 10 * MINUTE_MS)),
            max_runtime_ms=dice.choice((30 * MINUTE_MS, 5 * HOUR_MS)),
        )

    def _wishes(self, topology: Level | None) -> tuple[dict[str, Any], Level | None]:
        """A share of a GPU, an elastic gang, workers apart, a minimum run time, a deadline."""
        dice = self.dice
        if dice.random() < 0.3 and self.shares:
            return {"gpu_milli": dice.choice((100, 250, 500, 700, 999))}, None
        workers = dice.choice((1, 2, 3, 4, 6))
        spread = dice.choice((None, None, *Level))
        if spread is not None and topology is not None and spread >= topology:
            topology = None
        given: dict[str, Any] = {
            "workers": workers,
            "size": dice.choice((1, 1, *self.sizes)),
            "min_workers": dice.choice((None, 1, dice.randint(1, workers))),
            "spread": spread,
            "spread_required": spread is not None and dice.random() < 0.5,
            "min_runtime_ms": dice.choice((0, 0, 5 * MINUTE_MS, 5 * HOUR_MS)),
            "deadline_ms": dice.choice((None, self.world.now_ms + dice.choice((HOUR_MS, 9 * HOUR_MS)))),
        }
        return given, topology

    def happen(self) -> None:
        """One piece of news."""
        dice, world = self.dice, self.world
        placed = world.in_status(GangStatus.BINDING, GangStatus.RUNNING)
        stopping = world.in_status(GangStatus.STOPPING)
        node = dice.randrange(len(world.fleet.nodes))
        gpus = list(world.fleet.gpus_of_node(node))
        news = dice.choice(NEWS)
        waiting = world.in_status(GangStatus.WAITING)
        if news == "submit":
            world.submit(self.spec())
        elif news == "cancel" and waiting:
            world.end(dice.choice(waiting))
        elif news == "end" and placed:
            world.end(dice.choice(placed))
        elif news == "gone" and stopping:
            world.gone(dice.choice(stopping))
        elif news == "start":
            world.start()
        elif news == "later":
            world.now_ms += dice.choice((MINUTE_MS, 7 * MINUTE_MS))
        elif news == "lose" and dice.random() < 0.3:
            world.now_ms += 1  # what was placed at this instant was placed on a node that was well
            world.lose_node(node)
        elif news == "repair":
            world.usable[gpus] = True
        elif news == "handover":
            world.now_ms += 1
            world.hand_over(node, dice.randint(-1, len(ACCOUNTS) - 1))

    def round(self) -> int:
        """Plan, apply, check every law; how many actions it took."""
        made = plan(self.world.snapshot(), self.policy)
        self.world.apply(made)
        assert violations(self.world.snapshot()) == ()
        for action in made.actions:
            if isinstance(action, Stop):
                self.seen[action.cause] += 1
            if isinstance(action, Place):
                self.seen["inside" if action.inside else "borrowed"] += 1
        return len(made.actions)

    def come_to_rest(self) -> bool:
        """Whether, without news, everything stops moving."""
        for _ in range(60):
            for number in self.world.in_status(GangStatus.STOPPING):
                self.world.gone(number)
            self.world.start()
            self.world.now_ms += MINUTE_MS if self.wishful else 0
            if not self.round() and not self.world.in_status(GangStatus.STOPPING, GangStatus.BINDING):
                return True
        return False


@pytest.mark.parametrize("seed", range(24, 34))
def test_laws_hold_in_a_long_run_that_comes_to_rest(seed: int) -> None:
    run = Run(seed)
    for _ in range(run.dice.randint(3, 20)):
        run.world.submit(run.spec())
    for _ in range(250):
        run.round()
        run.happen()
    assert run.come_to_rest()


@pytest.mark.parametrize("seed", range(100, 112))
def test_laws_hold_whatever_gangs_wish(seed: int) -> None:
    run = Run(seed, wishful=True)
    for _ in range(run.dice.randint(3, 20)):
        run.world.submit(run.spec())
    for _ in range(250):
        run.round()
        run.happen()
    assert run.come_to_rest()


def test_the_runs_reach_every_resort() -> None:
    """With consolidation off, CONSOLIDATED stops come from the last resorts alone."""
    seen: Counter[str] = Counter()
    for seed in range(40, 52):
        run = Run(seed)
        for _ in range(200):
            run.round()
            run.happen()
        seen += run.seen
    assert seen[StopCause.RECLAIMED] > 50
    assert seen[StopCause.CONSOLIDATED] > 5
    assert min(seen["inside"], seen["borrowed"]) > 100
