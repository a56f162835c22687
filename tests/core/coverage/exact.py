"""The exact solver as an oracle: the most GPU-milliseconds that any assignment without a move can place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highspy

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.topology import topology_of
from scheduler.core.holdings import Demand


def most_gpu_ms(fleet: Fleet, demands: Sequence[Demand]) -> int:
    """By mixed-integer programming. A GPU lot counts on its node: on each node and at each instant its GPU lots, and
    its size for each larger lot over it, are at most its size.
    """
    topology = topology_of(fleet)
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.silent()
    taken: dict[tuple[int, int], list[Any]] = {}
    gained = []
    instants = sorted({d.start_ms for d in demands})
    for demand in demands:
        level = max(demand.level, Level.NODE)
        cells = [c for c in range(topology.n_cells(level)) if topology.pool[level][c] == demand.pool]
        for _ in range(demand.lots):
            here = [solver.addBinary() for _ in cells]
            if not here:
                continue
            solver.addConstr(sum(here) <= 1)
            for cell, chosen in zip(cells, here, strict=True):
                held = int(topology.end_gpu[level][cell] - topology.first_gpu[level][cell])
                gpus = 1 if demand.level == Level.GPU else held
                gained.append(gpus * (demand.end_ms - demand.start_ms) * chosen)
                for rank in range(int(topology.first_node[level][cell]), int(topology.end_node[level][cell])):
                    node = int(topology.node_at[rank])
                    size = 1 if demand.level == Level.GPU else fleet.nodes[node].gpus
                    for at in instants:
                        if demand.start_ms <= at < demand.end_ms:
                            taken.setdefault((node, at), []).append(size * chosen)
    for (node, _), parts in taken.items():
        solver.addConstr(sum(parts) <= fleet.nodes[node].gpus)
    if not gained:
        return 0
    solver.maximize(sum(gained))
    best: float = solver.getObjectiveValue()
    return round(best)
