"""The collector of garbage waits while a round is decided, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from scheduler.collecting import collections_wait
from scheduler.core.events import Event
from tests.simulation.site import Site, gang, nodes


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Whatever a test leaves, the next finds the collector on."""
    yield
    gc.enable()


def test_no_cycle_is_collected_inside_and_all_are_afterwards_whatever_happens() -> None:
    with collections_wait():
        assert not gc.isenabled()
        with collections_wait():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="cheese"), collections_wait():
        raise ValueError("cheese")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with collections_wait():
        pass
    assert not gc.isenabled()


def test_it_waits_while_gangs_are_placed_and_is_back_when_the_round_is_over() -> None:
    site = Site(nodes(1))
    seen: dict[str, bool] = {}

    def heard(event: Event) -> None:
        seen[event.kind] = gc.isenabled()

    site.scheduler.listeners.append(heard)
    site.round()
    site.submit(gang("acme"))
    site.round()
    assert (seen["node_joined"], seen["gang_placed"]) == (True, False)
    assert gc.isenabled()
