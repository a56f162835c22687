"""Nodes that fail: the same seed, the same faults; each node goes and comes back in turn, inside the span."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import NodeSpec
from scheduler.core.intervals import Interval
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.execution.simulated import NodeDown, NodeUp
from scheduler.replay.faults import node_failures

spans = st.builds(lambda start, length: Interval(start, start + length), st.integers(0, 10**12), st.integers(1, 10**11))
seeds = st.integers(0, 2**32)


def nodes(count: int) -> tuple[NodeSpec, ...]:
    return tuple(NodeSpec(name=f"node-{i}", grade="H100", gpus=8) for i in range(count))


@settings(max_examples=60)
@given(seeds, spans, st.integers(0, 5), st.integers(1, 60), st.integers(1, 48))
def test_each_node_goes_and_comes_back_in_turn_inside_the_span(
    seed: int, span: Interval, count: int, mean_days: int, repair_hours: int
) -> None:
    fleet = nodes(count)
    faults = node_failures(fleet, span, seed, mean_days_between=mean_days, repair_hours=repair_hours)
    assert faults == node_failures(fleet, span, seed, mean_days_between=mean_days, repair_hours=repair_hours)
    assert list(faults) == sorted(faults, key=lambda fault: (fault.at_ms, fault.node))
    assert all(span.contains(fault.at_ms) for fault in faults)
    for node in fleet:
        mine = [fault for fault in faults if fault.node == node.name]
        assert [type(fault) for fault in mine] == [NodeDown, NodeUp] * (len(mine) // 2) + [NodeDown] * (len(mine) % 2)
        for down, up in zip(mine[::2], mine[1::2], strict=False):
            assert up.at_ms - down.at_ms > MS_PER_HOUR  # a repair takes an hour at the least
    assert {fault.node for fault in faults} <= {node.name for node in fleet}


def test_another_seed_is_another_history_and_no_rate_is_none() -> None:
    span = Interval(0, 365 * MS_PER_DAY)
    histories = {node_failures(nodes(4), span, seed) for seed in range(8)}
    assert len(histories) == 8
    assert node_failures(nodes(4), span, 0, mean_days_between=0) == ()


def test_failures_and_repairs_come_at_about_their_rates() -> None:
    years = 200
    span = Interval(0, years * 365 * MS_PER_DAY)
    faults = node_failures(nodes(1), span, 7, mean_days_between=10, repair_hours=6)
    down = [fault.at_ms for fault in faults if isinstance(fault, NodeDown)]
    up = [fault.at_ms for fault in faults if isinstance(fault, NodeUp)]
    assert 0.9 < len(down) / (years * 365 / 10.25) < 1.1
    repairs_ms = [back - gone for gone, back in zip(down, up, strict=False)]
    assert 0.9 < sum(repairs_ms) / len(repairs_ms) / (6 * MS_PER_HOUR) < 1.1
