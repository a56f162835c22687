"""Shortages as events: every class in its turn on failures, drains and oversold calendars, at several levels at once; a
certificate where facts are new, and an end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.shortage import certificate_of, verify
from scheduler.core.coverage.topology import topology_of
from scheduler.core.events import (
    DrainOrdered,
    Event,
    HealthChanged,
    InstrumentListed,
    NodeJoined,
    PositionChanged,
    ShortageDecided,
    ShortageOver,
)
from scheduler.core.instruments import Firm, NonFirm, Recallable, SystemFirm, UnitFirm, standard_terms
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.rounds import covering
from scheduler.core.state.dump import dump, load
from scheduler.core.state.state import State
from tests.core.state.folding import END, T

NOW = T + 20_000
FIRMNESS: tuple[Any, ...] = (
    Firm(),
    UnitFirm(pool="H100"),
    SystemFirm(),
    Recallable(notice_ms=0, max_events=9, max_quantity_gpu_ms=10**12),
    NonFirm(),
)
LEVELS = (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)


class Site:
    """Domains of two nodes of two GPUs, an instrument of each firmness and level, and a state that is folded."""

    def __init__(self, domains: int = 2, spares: tuple[str, ...] = ()) -> None:
        self.state, self.spares, self.events = State(), spares, list[Event]()
        self._seq = 0
        for number in range(2 * domains):
            node = NodeSpec(name=f"node-{number}", grade="H100", gpus=2, domain=f"d{number // 2}")
            self.apply([NodeJoined(at_ms=T, node=node)])
        for firmness, level in [(each, level) for each in FIRMNESS for level in LEVELS]:
            terms = standard_terms(
                symbol=f"{firmness.kind}.{level.name}",
                start_ms=T,
                end_ms=END,
                grade="H100",
                cell=level,
                gpus=(1, 2, 4)[level],
                metering_interval_s=10,
                firmness=firmness,
            )
            self.apply([InstrumentListed(at_ms=T, terms=terms)])

    def apply(self, events: Iterable[Event]) -> list[Event]:
        """Fold events as they come. Nothing may overlap at any step."""
        told = []
        for event in events:
            self.state.apply(event)
            told.append(event)
            assert check(self.state.fleet, self.state.calendar.holdings) == ()
        self.events += told
        return told

    def trade(self, position: str, firmness: int, level: Level, lots: int = 1) -> list[Event]:
        """The exchange tells of a trade, and coverage follows."""
        self._seq += 1
        event = PositionEvent(
            cursor=Cursor(stream="exchange", epoch=1, seq=self._seq),
            kind=PositionEventKind.TRADE,
            position=position,
            account="acme",
            instrument=f"{FIRMNESS[firmness].kind}.{level.name}@1",
            lots=lots,
            effective_ms=NOW,
            committed_ms=NOW,
        )
        self.apply([PositionChanged(at_ms=NOW, event=event)])
        told = self.apply(covering.after_position_event(self.state, event, NOW, self.spares))
        return told + self.look()

    def ill(self, node: str, gpus: tuple[int, ...] | None = None, cause: Cause | None = Cause.ECC) -> list[Event]:
        """GPUs fall ill, or are well again, and coverage follows."""
        event = HealthChanged(at_ms=NOW, node=node, gpus=gpus, cause=cause)
        self.apply([event])
        return self.apply(covering.after_health(self.state, event, NOW, self.spares))

    def look(self) -> list[Event]:
        """Somebody looks again."""
        return self.apply(covering.retry(self.state, NOW, self.spares))

    def cells(self, position: str) -> list[int]:
        """The cells that stand behind a position now."""
        return sorted(h.cell for h in self.state.calendar.of(position) if h.start_ms <= NOW)

    def broken(self) -> list[str]:
        """Each waiting lot of which a lower class holds a cell that it could use."""
        state, topology = self.state, topology_of(self.state.fleet)
        rank = {
            name: state.instruments[position.instrument].firmness_rank
            for name, position in state.book.positions.items()
        }
        now = [held for held in state.calendar.holdings if held.start_ms <= NOW]
        found = []
        for name, position in state.book.positions.items():
            terms = state.instruments[position.instrument]
            level, lots = terms.lot.cell, position.lots_at(NOW)
            well = [h for h in now if h.position == name and state.health.usable[self._gpus(level, h.cell)].all()]
            missing = lots - len(well)
            usable = 0
            for cell in range(topology.n_cells(level)):
                gpus = self._gpus(level, cell)
                holders = {h.position for h in now if set(gpus) & set(self._gpus(h.level, h.cell))}
                spare = any(state.fleet.nodes[state.fleet.node_of_gpu[gpu]].name in self.spares for gpu in gpus)
                if not state.health.usable[gpus].all() or (spare and state.refused.get(name) == Cause.OVERSOLD):
                    continue
                usable += all(rank[holder] > rank[name] for holder in holders) and bool(holders)
            whole = missing if state.refused.get(name) == Cause.OVERSOLD else 1
            if missing and usable >= whole:
                found.append(f"{name} waits for {missing} {level.name} cells, lower classes hold {usable}")
        return found

    def _gpus(self, level: Level, cell: int) -> list[int]:
        return [int(gpu) for gpu in self.state.fleet.gpus_of_cell(level, cell)]


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
    if how == "oversold":
        assert (site.cells("p3"), site.state.refused["p3"]) == ([], Cause.SHORTAGE_RULE)
    else:
        assert site.cells("p3") == held["p0"]


def test_unit_firm_and_system_firm_are_one_class_and_an_equal_class_is_not_disturbed() -> None:
    site = Site(domains=1)
    site.trade("unit", 1, Level.NODE)
    site.trade("system", 2, Level.NODE)
    held = site.cells("unit"), site.cells("system")
    (decided,) = site.ill(site.state.fleet.nodes[held[0][0]].name)
    assert isinstance(decided, ShortageDecided)
    assert (site.cells("unit"), site.cells("system")) == held


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
