"""Rehearsals beside the loop: asked in their time, taken when done, kept in the journal, used in the next round."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from scheduler.core.events import ScoreChosen
from scheduler.core.placement.preference import ranks
from scheduler.core.placement.scores.table import SCORES
from scheduler.core.state.observed import preferences_in_use
from scheduler.execution.simulated import Work
from scheduler.planners.rehearsals import Rehearsals
from scheduler.rehearsing import Rehearsing
from tests.simulation.site import Site, gang, nodes

WITHIN_S = 180.0
EVERY_MS = 60_000


@pytest.fixture
def here() -> Iterator[Rehearsals]:
    """Rehearsals without Ray."""
    rehearsals = Rehearsals(None)
    yield rehearsals
    rehearsals.close()


def busy_site() -> Site:
    site = Site(nodes(2), work=lambda _: Work(600_000))
    site.round()
    for size in (1, 1, 2, 4):
        site.submit(gang("acme", size))
    site.round()
    return site


def rehearsed(site: Site, rehearsing: Rehearsing) -> None:
    """Look until the rehearsal under way was taken."""
    told, deadline = rehearsing.last, time.monotonic() + WITHIN_S
    while rehearsing.last == told:
        assert time.monotonic() < deadline, f"no answer within {WITHIN_S:g} s"
        rehearsing.maybe(site.scheduler, site.now_ms)
        time.sleep(0.05)


@pytest.mark.slow
def test_what_a_rehearsal_finds_is_an_event_and_orders_nodes_from_then_on(here: Rehearsals) -> None:
    site = busy_site()
    heard: list[ScoreChosen] = []
    site.scheduler.listeners.append(lambda event: heard.append(event) if isinstance(event, ScoreChosen) else None)
    rehearsing = Rehearsing(here, EVERY_MS, site.now_ms)
    rehearsing.maybe(site.scheduler, site.now_ms)
    assert [here.running] == [False], "before its time"
    site.now_ms += EVERY_MS
    rehearsing.maybe(site.scheduler, site.now_ms)
    assert here.running
    rehearsed(site, rehearsing)
    assert [event.score in SCORES for event in heard] == [True]
    assert site.scheduler.state.score == heard[0]
    told = preferences_in_use(site.scheduler.state)
    assert [grade for grade, _ in told] == [site.scheduler.state.fleet.nodes[0].grade]
    assert ranks(told[0][1], 8).shape == (9, 9)
    site.submit(gang("acme", 1))
    site.round()
    assert len(site.scheduler.state.gangs.placed) == 5
    assert not site.scheduler.choose_score(heard[0]), "the same choice again is no news"


def test_a_rehearsal_that_is_lost_says_why_and_is_asked_again(
    here: Rehearsals, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = busy_site()
    rehearsing = Rehearsing(here, EVERY_MS, site.now_ms)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        site.now_ms += EVERY_MS
        rehearsing.maybe(site.scheduler, site.now_ms)
    rehearsed(site, rehearsing)
    assert rehearsing.last == "the rehearsal's process ended with 1: it said nothing"
    assert site.scheduler.state.score is None
    site.now_ms += EVERY_MS
    rehearsing.maybe(site.scheduler, site.now_ms)
    assert here.running


def test_without_work_there_is_nothing_to_rehearse(here: Rehearsals) -> None:
    site = Site(nodes(1))
    site.round()
    rehearsing = Rehearsing(here, EVERY_MS, site.now_ms)
    site.now_ms += EVERY_MS
    rehearsing.maybe(site.scheduler, site.now_ms)
    assert not here.running


def test_never_means_never(here: Rehearsals) -> None:
    site = busy_site()
    rehearsing = Rehearsing(here, 0, site.now_ms)
    site.now_ms += 100 * EVERY_MS
    rehearsing.maybe(site.scheduler, site.now_ms)
    assert not here.running
