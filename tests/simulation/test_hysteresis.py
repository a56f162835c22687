"""What runs goes on running: without news nobody is stopped, and nobody is stopped and served in circles.

The scheduler may weigh lost work against use, and lost work changes while time passes; a pair of gangs that take each
other's place for ever would look busy and do nothing. Here gangs work for ever, lots are for good and nothing breaks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.events import GangStopAsked
from scheduler.core.placement.snapshot import Policy
from scheduler.core.workloads import GangSpec, StopCause
from scheduler.execution.simulated import Work
from tests.scenarios.stage import WEEK_MS, Stage

HOUR_MS = 3_600_000
ACCOUNTS = ("acme", "bolt", "core", "dune")
LEVELS = (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)


class Crowd:
    """More work than there is room for, on a fleet of which most is sold."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        nodes = [NodeSpec(name=f"node-{i}", grade="H100", gpus=8, domain=f"domain-{i // 2}") for i in range(6)]
        self.stage = Stage(nodes=nodes)
        policy = Policy(reckless_idle_ppm=self.dice.choice((0, 50_000)), consolidate=self.dice.random() < 0.8)
        self.stage.settings = replace(self.stage.settings, policy=policy)
        self.stops: list[tuple[int, GangStopAsked]] = []
        self.stage.scheduler.listeners.append(self._hear)
        self.names = 0

    def _hear(self, event: object) -> None:
        if isinstance(event, GangStopAsked) and event.cause is not StopCause.CANCELLED:
            self.stops.append((self.stage.now_ms, event))

    def news(self) -> None:
        """Somebody buys, submits or cancels; some time passes."""
        dice, stage = self.dice, self.stage
        self.names += 1
        kind = dice.choice(("buy", "submit", "submit", "submit", "submit", "cancel"))
        if kind == "buy":
            wished = {"position": f"p-{self.names}", "until_ms": 50 * WEEK_MS}
            stage.buy(dice.choice(ACCOUNTS[:3]), dice.choice((1, 1, 2)), dice.choice(LEVELS), wished)
        elif kind == "submit":
            stage.submit(self._spec(), Work(10**12, 600_000, 0, 0, dice.choice((None, 0, 2_000))))
        else:
            running = sorted(stage.scheduler.state.gangs.placed)
            if running:
                stage.scheduler.cancel(stage.scheduler.state.gangs.by_number(dice.choice(running)).id)
        stage.pass_ms(dice.choice((1, 10_000, 20 * 60_000, 2 * HOUR_MS)))

    def _spec(self) -> GangSpec:
        dice = self.dice
        topology: Any = dice.choice((None, None, None, Level.NODE, Level.NVLINK_DOMAIN))
        return GangSpec(
            account=dice.choice(ACCOUNTS),
            name=f"gang-{self.names}",
            command=("run",),
            workers=dice.choice((1, 1, 1, 2, 3)),
            gpus_per_worker=dice.choice((1, 2, 3, 4, 6, 8)),
            topology=topology,
            topology_required=topology is not None and dice.random() < 0.5,
            checkpoint_ms=dice.choice((0, 600_000, 1_800_000)),
            grace_ms=dice.choice((0, 10_000, 300_000)),
            restart_ms=dice.choice((0, 60_000)),
            priority=dice.choice((0, 0, 3)),
        )

    def quiet(self, hours: int) -> None:
        """Nothing happens, and rounds go on."""
        for _ in range(4 * hours):
            self.stage.pass_ms(HOUR_MS // 4)


@pytest.mark.parametrize("seed", range(3))
def test_without_news_everything_comes_to_rest_and_stays_there(seed: int) -> None:
    crowd = Crowd(seed)
    for _ in range(40):
        crowd.news()
    crowd.quiet(1)
    rested = len(crowd.stops)
    crowd.quiet(24)
    assert crowd.stops[rested:] == []
    crowd.stage.close()


@pytest.mark.slow
def test_between_two_pieces_of_news_nobody_is_stopped_twice() -> None:
    """Each stop answers news; a gang that was stopped for another and came back is not stopped again by the same."""
    stopped = 0
    for seed in range(20, 25):
        crowd = Crowd(seed)
        for _ in range(60):
            before = len(crowd.stops)
            crowd.news()
            crowd.stage.pass_ms(700_000)  # whoever was told to stop is gone, whoever came back is placed
            told = Counter(event.gang for _, event in crowd.stops[before:])
            stopped += len(told)
            assert max(told.values(), default=0) <= 1, told
        crowd.stage.close()
    assert stopped > 12
