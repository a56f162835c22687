"""Planned handovers through the service: a lot that only they place is sold where buyers accept them, and is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.api.client import Client
from scheduler.core.cluster import Level
from scheduler.core.rounds.selling import Risk, may_be_sold, offer_of, sales_view
from scheduler.core.state.state import State
from scheduler.execution.simulated import Work
from tests.api.world import HOUR_MS, MINUTE_MS, START_MS, World, nodes

LOTS = (
    ("dune", Level.NODE, 1, 2),
    ("acme", Level.GPU, 1, 3),
    ("bolt", Level.GPU, 1, 4),
    ("core", Level.GPU, 2, 4),
)
"""(account, level, hours from, until): with a node for eden from hour 3 to 4 they fit by number at every instant, and
on two nodes of two GPUs no assignment without a move exists.
"""


def sold(folder: Path, *, handovers: bool) -> World:
    """All lots but eden's, which is listed."""
    world = World(folder, nodes(2, 2))
    for account, level, from_h, until_h in (*LOTS, ("eden", Level.NODE, 3, 4)):
        start_ms, end_ms, gpus = START_MS + from_h * HOUR_MS, START_MS + until_h * HOUR_MS, 1 + (level == Level.NODE)
        world.instrument(account.upper(), start_ms=start_ms, end_ms=end_ms, cell=level, gpus=gpus, handovers=handovers)
        if account != "eden":
            world.trade(f"{account}-1", account, 1, f"{account.upper()}@1")
    world.rounds()
    return world


def may_be_planned(state: State) -> int | None:
    terms = state.instruments["EDEN@1"]
    view = sales_view(state, START_MS, ())
    return may_be_sold(view, terms, offer_of(view, terms, risk=Risk(losses=0)), plan=True).planned


@pytest.mark.parametrize("handovers", [False, True])
def test_what_may_be_sold_is_what_a_trade_is_granted(handovers: bool, tmp_path: Path) -> None:  # noqa: FBT001
    world = sold(tmp_path, handovers=handovers)
    assert may_be_planned(world.scheduler.state) == int(handovers)
    world.trade("eden-1", "eden", 1, "EDEN@1")
    assert ("eden-1" not in world.scheduler.state.refused) == handovers
    world.close()


def test_work_is_told_of_a_handover_runs_on_and_leaves_when_the_new_owner_asks(tmp_path: Path) -> None:
    world = sold(tmp_path, handovers=True)
    world.trade("eden-1", "eden", 1, "EDEN@1")
    world.works |= {"train": Work(150 * MINUTE_MS), "own": Work(HOUR_MS), "whole": Work(30 * MINUTE_MS)}
    world.pass_ms(2 * HOUR_MS)
    train = world.submit("bolt", "train", gpus=1, grace_ms=20_000, max_runtime_ms=None)
    told = (
        "By a planned handover bolt has GPU node-1:1 instead of GPU node-0:1 from 15:00:00 UTC (in 1 h) on",
        "It may go on then, until the new owner asks for its GPUs: it would get 20 s of grace",
    )
    assert [sentence for sentence in told if sentence not in world.why(train)] == []
    with world.served() as server, Client(server.address) as tenor:
        (handover,) = tenor.backing("bolt-1").handovers
    assert (handover.at_ms, handover.cell) == (START_MS + 3 * HOUR_MS, "gpu")
    world.pass_ms(HOUR_MS)
    assert world.why(train).startswith("gang-1 (train, bolt) has run for 1 h on 1 GPU (node-0:1).")
    assert "handover" not in world.why(train)
    world.submit("core", "own", gpus=1)
    whole = world.submit("eden", "whole", gpus=2)
    world.pass_ms(MINUTE_MS)
    gangs = world.scheduler.state.gangs
    assert {piece.node for piece in gangs.get(whole.id).pieces} == {"node-0"}
    started_ms = gangs.get(whole.id).started_ms
    assert started_ms is not None
    assert started_ms <= START_MS + 3 * HOUR_MS + 20_000
    assert {piece.node for piece in gangs.get(train.id).pieces} == {"node-1"}
    assert gangs.get(train.id).inside
    world.close()
