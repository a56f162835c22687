"""Shortages as events: every class in its turn on failures, drains and oversold calendars, at several levels at once; a
certificate where facts are new, and an end.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import certificate_of, verify
from scheduler.core.events import (
    DrainOrdered,
    Event,
    HealthChanged,
    PositionChanged,
    ShortageDecided,
    ShortageOver,
)
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.rounds import covering
from scheduler.core.state.dump import dump, load
from tests.core.rounds.site import LEVELS, NOW, Site


def kinds(events: Iterable[Event]) -> list[str]:
    return [event.kind for event in events]


def test_a_lasting_shortage_is_certified_once_and_its_end_is_told() -> None:
    site = Site(domains=1)
    site.trade("a", 0, Level.NODE, 2)
    assert kinds(site.ill("node-0")) == ["shortage_decided"]
    for _ in range(3):
        assert site.look() == []
    assert kinds(site.ill("node-1")) == ["shortage_decided"], "other facts: two lots wait"
    assert site.look() == []
    again = load(dump(site.state))
    assert (again.shortages, dump(again)) == (site.state.shortages, dump(site.state))
    # One node comes back: other facts again. The other one too: it is over.
    assert kinds(site.ill("node-1", cause=None)) == ["shortage_decided"]
    (over,) = site.ill("node-0", cause=None)
    decided = [certificate_of(event.certificate) for event in site.events if isinstance(event, ShortageDecided)]
    assert [certificate.awarded for certificate in decided] == [{"a": 0}, {"a": 0}, {"a": 0}]
    assert [sum(claim.lots for claim in certificate.claims) for certificate in decided] == [1, 2, 1]
    assert over == ShortageOver(
        at_ms=NOW, pool="H100@local", level=Level.NODE, firmness_class=0, certificate=decided[-1].digest
    )
    assert site.state.shortages == {}


@pytest.mark.parametrize("how", ["failure", "drain", "oversold"])
@pytest.mark.parametrize("level", [Level.NODE, Level.GPU])
def test_each_class_takes_from_the_lowest_that_holds_a_cell(how: str, level: Level) -> None:
    """Four classes with a node each, and no other: FIRM goes first, and NON_FIRM pays."""
    site = Site()
    for number, firmness in enumerate((0, 1, 3, 4)):
        site.trade(f"p{number}", firmness, level, 1 if level == Level.NODE else 2)
    held = {name: site.cells(name) for name in ("p0", "p1", "p2", "p3")}
    ill = site.state.fleet.nodes[held["p0"][0] if level == Level.NODE else held["p0"][0] // 2].name
    if how == "failure":
        site.ill(ill)
    elif how == "drain":
        order = DrainOrdered(at_ms=NOW, node=ill, by_ms=NOW + 1_000)
        site.apply(covering.after_drain(site.state, order, ()))
    else:
        site.trade("more", 0, level, 1 if level == Level.NODE else 2)
    assert site.cells("p1") == held["p1"]
    assert site.cells("p2") == held["p2"]
    winner = "more" if how == "oversold" else "p0"
    assert site.cells(winner) == held["p3"]
    assert site.broken() == []
    if how == "drain":  # what is drained is well until then
        assert site.cells("p3") == held["p0"]
        return
    lost = 2 if level == Level.GPU else 1
    assert len(held["p3"]) - len(site.cells("p3")) == lost
    assert site.state.refused["p3"] == Cause.SHORTAGE_RULE


def test_unit_firm_and_system_firm_are_one_class_and_an_equal_class_is_not_disturbed() -> None:
    site = Site(domains=1)
    site.trade("unit", 1, Level.NODE)
    site.trade("system", 2, Level.NODE)
    held = site.cells("unit"), site.cells("system")
    (decided,) = site.ill(site.state.fleet.nodes[held[0][0]].name)
    assert isinstance(decided, ShortageDecided)
    assert (site.cells("unit"), site.cells("system")) == held


def test_of_one_class_the_largest_lots_are_served_first() -> None:
    """A GPU and a node are lost at once, and one node is left: the lot of a node gets it, though the other is older."""
    site = Site(domains=2)
    site.trade("small", 0, Level.GPU)
    site.trade("large", 0, Level.NODE)
    site.trade("other", 0, Level.NODE)
    ill = {int(site.state.fleet.node_of_gpu[site.cells("small")[0]]), *site.cells("large")}
    for node in ill:
        site.apply([HealthChanged(at_ms=NOW, node=site.state.fleet.nodes[node].name, gpus=None, cause=Cause.ECC)])
    site.look()
    left = {*range(4)} - ill - {*site.cells("other")}
    assert ({*site.cells("large")}, len(left)) == (left, 1)
    assert int(site.state.fleet.node_of_gpu[site.cells("small")[0]]) in ill


def test_a_displaced_domain_waits_as_short_by_the_rule_and_is_whole_again() -> None:
    site = Site(domains=2)
    site.trade("low", 4, Level.NVLINK_DOMAIN)
    site.trade("firm", 0, Level.NODE, 2)
    assert {*site.cells("firm")} == {2, 3}
    told = site.ill("node-2")
    assert kinds(told).count("shortage_decided") == 2
    assert site.state.refused == {"low": Cause.SHORTAGE_RULE}
    assert site.cells("low") == []
    assert site.look() == []
    told = site.ill("node-2", cause=None)
    assert site.look() == []
    # The firm lot stays where it went, and nobody of the first class waits; the domain has no two nodes of its own.
    assert site.cells("low") == []
    site.trade("gone", 4, Level.GPU)
    end = PositionEvent(
        cursor=Cursor(stream="exchange", epoch=1, seq=4),
        kind=PositionEventKind.EXPIRY,
        position="firm",
        account="acme",
        instrument="FIRM.NODE@1",
        lots=0,
        effective_ms=NOW,
        committed_ms=NOW,
    )
    site.apply([PositionChanged(at_ms=NOW, event=end)])
    told = site.apply(covering.after_position_event(site.state, end, NOW, ()))
    assert "shortage_over" in kinds(told)
    assert len(site.cells("low")) == 1
    assert (site.state.refused, site.state.shortages) == ({}, {})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_lower_class_holds_a_cell_that_an_unmet_higher_one_could_use(data: st.DataObject) -> None:
    """Positions of every class and level come and nodes and GPUs fail, drain and recover, in any order."""
    site = Site(domains=data.draw(st.integers(1, 3)), spares=data.draw(st.sampled_from([(), ("node-1",)])))
    names = [node.name for node in site.state.fleet.nodes]
    for step in range(data.draw(st.integers(3, 9))):
        match data.draw(st.sampled_from(["trade", "trade", "ill", "ill", "well", "drain"])):
            case "trade":
                level = data.draw(st.sampled_from(LEVELS))
                site.trade(f"p{step}", data.draw(st.integers(0, 4)), level, data.draw(st.integers(1, 2)))
            case "ill":
                site.ill(data.draw(st.sampled_from(names)), data.draw(st.sampled_from([None, (0,), (1,)])))
            case "well":
                site.ill(data.draw(st.sampled_from(names)), cause=None)
            case _:
                by_ms = data.draw(st.sampled_from([None, NOW + 1_000]))
                order = DrainOrdered(at_ms=NOW, node=data.draw(st.sampled_from(names)), by_ms=by_ms)
                if by_ms is not None or order.node in site.state.health.draining:
                    site.apply(covering.after_drain(site.state, order, site.spares))
        site.look()
        assert site.broken() == []
        assert [event for event in site.look() if event.kind.startswith("shortage")] == [], "the facts are the same"
    for event in site.events:
        if isinstance(event, ShortageDecided):
            verify(event.certificate)
    for name in names:
        order = DrainOrdered(at_ms=NOW, node=name, by_ms=None)
        if name in site.state.health.draining:
            site.apply(covering.after_drain(site.state, order, site.spares))
        site.ill(name, cause=None)
    site.look()
    waiting = {name for waits in site.state.shortages.values() for name, _ in waits.lots}
    assert waiting <= {name for name, cause in site.state.refused.items() if cause == Cause.SHORTAGE_RULE}
