"""Nodes that fail and come back, by a seeded rate: a pure function of (seed, nodes, span), so that a replay repeats
exactly.

Each node fails on average every `mean_days_between` days of operation and is repaired after about `repair_hours`. Draws
are geometric over hours, by integer hashes; no global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scheduler.core.cluster import NodeSpec
from scheduler.core.intervals import Interval
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.execution.simulated import Fault, NodeDown, NodeUp

DEFAULT_MEAN_DAYS = 90
DEFAULT_REPAIR_HOURS = 6


def node_failures(
    nodes: Sequence[NodeSpec],
    span: Interval,
    seed: int,
    *,
    mean_days_between: int = DEFAULT_MEAN_DAYS,
    repair_hours: int = DEFAULT_REPAIR_HOURS,
) -> tuple[Fault, ...]:
    """Failures and returns inside the span, by instant, then node; none where `mean_days_between` is 0."""
    if mean_days_between == 0:
        return ()
    generator = np.random.Generator(np.random.PCG64(seed))
    found = [fault for node in nodes for fault in _of_node(node.name, span, generator, mean_days_between, repair_hours)]
    return tuple(sorted(found, key=lambda fault: (fault.at_ms, fault.node)))


def _of_node(
    name: str, span: Interval, generator: np.random.Generator, mean_days_between: int, repair_hours: int
) -> Iterator[Fault]:
    at_ms = span.start_ms + _gap_ms(generator, mean_days_between * MS_PER_DAY)
    while at_ms < span.end_ms:
        yield NodeDown(name, at_ms)
        at_ms += MS_PER_HOUR + _gap_ms(generator, max(1, (repair_hours - 1) * MS_PER_HOUR))
        if at_ms >= span.end_ms:
            return
        yield NodeUp(name, at_ms)
        at_ms += _gap_ms(generator, mean_days_between * MS_PER_DAY)


def _gap_ms(generator: np.random.Generator, mean_ms: int) -> int:
    return int(generator.geometric(1.0 / mean_ms))
