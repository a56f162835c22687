"""Which node is probed when: each once, then in turn, never a busy or an ill one, never two at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.execution.simulated import GpuFault, Work
from scheduler.probing import IdleProbe, idle_nodes
from tests.simulation.site import START_MS, MortalExecutor, Site, gang, nodes


class Listening(MortalExecutor):
    """Execution that remembers which nodes it was asked to probe."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.executor.inner, site.fate, lambda: site.now_ms)
        self.probed: list[tuple[int, str]] = []
        self.clock_ms: Callable[[], int] = lambda: site.now_ms - START_MS

    def probe(self, node: str) -> None:
        """See Executor."""
        self.probed.append((self.clock_ms(), node))
        super().probe(node)


def probing(site: Site, every_ms: int) -> tuple[Listening, IdleProbe]:
    listening = Listening(site)
    return listening, IdleProbe(listening, every_ms)


def looked(site: Site, probe: IdleProbe, until_ms: int, step_ms: int) -> None:
    """Look every so often until an instant, as the loop does."""
    while site.now_ms < START_MS + until_ms:
        probe.maybe(site.scheduler, site.now_ms)
        site.now_ms += step_ms
        site.round()


def fleet(count: int, **given_site: object) -> Site:
    site = Site(nodes(count), **given_site)  # type: ignore[arg-type]
    site.round()
    return site


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 8).map(lambda k: k * 1_000), st.sampled_from([100, 250]))
def test_each_node_is_probed_in_turn_and_none_again_before_its_time(count: int, every_ms: int, step_ms: int) -> None:
    site = fleet(count)
    listening, probe = probing(site, every_ms)
    looked(site, probe, 3 * every_ms + step_ms, step_ms)
    names = [name for _, name in listening.probed]
    assert names[:count] == [f"node-{k}" for k in range(count)]
    assert names == [f"node-{k % count}" for k in range(len(names))]
    for node in set(names):
        mine = [at_ms for at_ms, name in listening.probed if name == node]
        assert len(mine) >= 2
        assert all(later - earlier >= every_ms for earlier, later in pairwise(mine))
    instants = [at_ms for at_ms, _ in listening.probed]
    assert all(later - earlier >= every_ms // count for earlier, later in pairwise(instants))


def test_a_busy_node_is_never_disturbed_and_is_probed_once_it_is_idle() -> None:
    site = fleet(2, work=lambda _: Work(10_000))
    site.submit(gang("acme", 1))
    site.round()
    assert idle_nodes(site.scheduler.state) == ["node-1"]
    listening, probe = probing(site, 2_000)
    looked(site, probe, 9_000, 500)
    assert [name for _, name in listening.probed] == ["node-1"] * 5
    assert all(later[0] - earlier[0] >= 2_000 for earlier, later in pairwise(listening.probed))
    looked(site, probe, 15_000, 500)
    first = next(at_ms for at_ms, name in listening.probed if name == "node-0")
    assert first >= 10_000


def test_an_ill_node_is_not_probed() -> None:
    site = fleet(2, faults=[GpuFault("node-0", (3,), START_MS + 1_000, Cause.ECC)])
    site.until(2_000)
    assert idle_nodes(site.scheduler.state) == ["node-1"]


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_is_probed_where_probing_is_off_or_nothing_is_there(count: int) -> None:
    site = fleet(count)
    for every_ms in (0, 1_000) if count == 0 else (0,):
        listening, probe = probing(site, every_ms)
        looked(site, probe, 3_000, 500)
        assert listening.probed == []


def test_a_reading_comes_back_as_a_measurement() -> None:
    site = fleet(1)
    site.executor.inner.probe("node-0")
    site.round()
    assert site.kinds().count("performance_measured") == 1
