"""What may be sold and what backs what is, asked by the real client of a real scheduler, over gRPC."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scheduler.api.client import Client
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import Refused
from scheduler.core.events import CoverageAssigned
from scheduler.core.holdings import Holding
from scheduler.execution.simulated import GpuFault
from tests.api.world import DAY_MS, HOUR_MS, START_MS, SYMBOL, World


def test_what_may_be_sold_is_told_with_its_bounds(world: World, client: Client) -> None:
    """Four nodes in two domains, three sold: after the loss of a domain three lots do not fit on two nodes."""
    found = client.deliverable(f"{SYMBOL}@1")
    assert (found.proven_lots, found.planned_lots, found.at_most_lots, found.survives) == (0, 0, 0, False)
    assert (found.from_ms, found.to_ms, found.domain, found.losses) == (
        START_MS,
        START_MS + DAY_MS,
        "nvlink_domain",
        1,
    )
    (row,) = found.intervals
    assert (row.cells, row.healthy, row.sold, row.free, row.lost, row.accredited) == (4, 4, 3, 1, 2, 2)
    assert client.deliverable(f"{SYMBOL}@1", losses=1, domain="node").survives
    without = client.deliverable(f"{SYMBOL}@1", losses=0)
    assert (without.proven_lots, without.planned_lots, without.at_most_lots) == (1, 1, 1)
    assert client.deliverable(f"{SYMBOL}@1", losses=0, bounds_only=True).planned_lots is None
    world.trade("p-cobalt", "cobalt", 1)
    assert client.deliverable(f"{SYMBOL}@1", losses=0).planned_lots == 0
    world.trade("p-more", "cobalt", 2)
    assert client.deliverable(f"{SYMBOL}@1", losses=0).uncovered_lots == 2


def test_what_may_be_sold_is_asked_of_a_part_of_the_window(client: Client) -> None:
    part = client.deliverable(f"{SYMBOL}@1", START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, losses=0)
    assert (part.from_ms, part.to_ms, part.proven_lots) == (START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, 1)
    for asked, says in (
        ({"instrument": "NONE@1"}, "instrument was 'NONE@1', expected one of LOGICAL.8N.LOCAL.BASE@1"),
        ({"losses": -1}, "losses of LOGICAL.8N.LOCAL.BASE@1 was -1, expected 0..1000"),
        ({"domain": "gpu"}, "level of failure domains of LOGICAL.8N.LOCAL.BASE@1 was 'gpu'"),
        ({"domain": "rack"}, "was 'rack', expected one of gpu, node"),
        ({"from_ms": START_MS + DAY_MS}, "window of what may be sold of LOGICAL.8N.LOCAL.BASE@1 was"),
    ):
        arguments: dict[str, Any] = {"instrument": f"{SYMBOL}@1", **asked}
        with pytest.raises(Refused, match=re.escape(says)):
            client.deliverable(**arguments)


def test_a_pool_that_the_fleet_has_not_is_named(world: World, client: Client) -> None:
    world.instrument("OTHER", grade="B200")
    with pytest.raises(Refused, match="pool of OTHER@1 was 'B200 at local', expected one of LOGICAL at local"):
        client.deliverable("OTHER@1")


def test_backing_shows_cells_health_and_what_would_stand_in(world: World, client: Client) -> None:
    world.executor.inject(GpuFault("node-0", (0,), world.now_ms, Cause.ECC))
    world.rounds()
    found = client.backing("p-acme", losses=1, domain="node")
    assert (found.instrument, found.subject, found.cell) == (f"{SYMBOL}@1", "p-acme", "node")
    (position,) = found.positions
    assert (position.lots, position.gpus, position.ill) == (2, 16, ())
    assert [stretch.cells for stretch in position.stretches] == [("node-1", "node-3")]
    assert (found.spares, found.unsold_cells, found.margin, found.survives) == ((), 0, -1, False)
    whole = client.backing(f"{SYMBOL}@1")
    assert [each.position for each in whole.positions] == ["p-acme", "p-borealis"]
    with pytest.raises(Refused, match=r"position or instrument was 'p-9', expected one of LOGICAL\.8N\.LOCAL"):
        client.backing("p-9")
    with pytest.raises(Refused, match="window of the backing of p-acme was"):
        client.backing("p-acme", START_MS + DAY_MS)


def test_backing_tells_of_planned_handovers(world: World, client: Client) -> None:
    """Two lots of halves of a later day leave no node free for a whole day but by a move at noon."""
    holdings = [
        Holding(position="p-borealis", level=Level.NODE, cell=2, start_ms=START_MS, end_ms=START_MS + HOUR_MS),
        Holding(position="p-borealis", level=Level.NODE, cell=3, start_ms=START_MS + HOUR_MS, end_ms=START_MS + DAY_MS),
    ]
    event = CoverageAssigned(
        at_ms=START_MS, from_ms=START_MS, why="planned", positions=("p-borealis",), holdings=tuple(holdings)
    )
    world.scheduler.adopt([event], ())
    (handover,) = client.backing("p-borealis").handovers
    assert (handover.at_ms, handover.leaves, handover.enters) == (START_MS + HOUR_MS, ("node-2",), ("node-3",))
