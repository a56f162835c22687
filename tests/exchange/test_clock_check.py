"""The clock against the exchange's: late heartbeats say nothing, a wrong clock makes what is read suspect."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.metering.records import Quality
from scheduler.core.state.dump import dump, load
from scheduler.exchange.clock_check import HEARTBEATS, ClockCheck
from tests.simulation.site import START_MS, Site, gang, listing, nodes


class Clock:
    """A clock that is wrong by so much, and what was learnt of it."""

    def __init__(self, error_ms: int) -> None:
        self.true_ms = START_MS
        self.error_ms = error_ms
        self.learnt: list[tuple[int, int]] = []
        self.check = ClockCheck(lambda *told: self.learnt.append(told), lambda: self.true_ms + self.error_ms)

    def heartbeats(self, delays_ms: list[int]) -> None:
        """One a second, heard so much later."""
        for delay_ms in delays_ms:
            self.true_ms += 1_000
            sent_ms = self.true_ms
            self.true_ms += delay_ms
            self.check.heard(sent_ms)


@given(st.integers(-10_000, 10_000), st.lists(st.integers(0, 5_000), min_size=HEARTBEATS - 1, max_size=HEARTBEATS - 1))
def test_the_least_of_a_few_differences_is_the_error(error_ms: int, delays_ms: list[int]) -> None:
    clock = Clock(error_ms)
    clock.heartbeats([*delays_ms, 0])
    ((told_ms, since_ms),) = clock.learnt
    assert told_ms == error_ms
    assert since_ms == START_MS + 1_000 + delays_ms[0] + error_ms


def test_it_is_told_when_it_becomes_wrong_and_when_it_is_right_again() -> None:
    clock = Clock(0)
    clock.heartbeats([0] * 3 * HEARTBEATS)
    clock.error_ms = 1_500
    clock.heartbeats([0] * 2 * HEARTBEATS)
    clock.error_ms = -900
    clock.heartbeats([0] * 2 * HEARTBEATS)
    assert [error_ms for error_ms, _ in clock.learnt] == [0, 1_500, -900]


def test_records_of_a_wrong_clock_are_suspect_and_those_after_it_are_not() -> None:
    site = Site(nodes(1))
    site.round()
    site.listed(listing())
    site.trade("p", "acme")
    site.submit(gang("acme"))
    site.until(12_000)
    site.doing(lambda scheduler: scheduler.learn_clock(-1_500, START_MS + 11_000))
    site.until(22_000)
    site.die_and_return()
    site.doing(lambda scheduler: scheduler.learn_clock(-1_600, START_MS + 22_000))
    site.until(32_000)
    site.executor.healthy = False
    site.until(34_000)
    site.executor.healthy = True
    site.until(42_000)
    site.doing(lambda scheduler: scheduler.learn_clock(20, START_MS + 41_000))
    site.until(61_000)
    told = [(record.quality, record.unknown_gpu_ms) for record in site.records("p")]
    assert [quality for quality, _ in told] == [
        Quality.MEASURED,
        *[Quality.SUSPECT] * 4,
        Quality.MEASURED,
    ]
    assert site.kinds().count("clock_checked") == 2
    assert site.refolded() == dump(site.scheduler.state) == dump(load(dump(site.scheduler.state)))
