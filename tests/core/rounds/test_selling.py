"""What may be sold, as the state has it: the planned number is what a trade is granted; what is owed comes first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.instruments import standard_terms
from scheduler.core.rounds.selling import Risk, SalesView, accreditation, may_be_sold, offer_of, sales_view
from scheduler.core.state.dump import dump, load
from tests.core.rounds.site import LEVELS, NOW, Site
from tests.core.state.folding import END, T

NO_LOSS = Risk(losses=0)


def view(site: Site) -> SalesView:
    return sales_view(site.state, NOW, site.spares)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_with_no_losses_the_planned_number_is_what_covering_grants(data: st.DataObject) -> None:
    """Positions of all levels come, from now or later on; then so many more are granted, and one more is not."""
    spares = data.draw(st.sampled_from([(), ("node-0",)]))
    site = Site(domains=data.draw(st.integers(1, 3)), spares=spares, handovers=data.draw(st.booleans()))
    for step in range(data.draw(st.integers(0, 5))):
        level, from_ms = data.draw(st.sampled_from(LEVELS)), NOW + data.draw(st.sampled_from([0, 0, 100_000, 300_000]))
        site.trade(f"p{step}", 0, level, data.draw(st.integers(1, 2)), from_ms, look=False)
    if site.state.refused:
        return
    level = data.draw(st.sampled_from(LEVELS))
    terms = site.state.instruments[f"FIRM.{level.name}@1"]
    from_ms = NOW + data.draw(st.sampled_from([0, 100_000, 250_000]))
    offer = offer_of(view(site), terms, from_ms, None, NO_LOSS)
    found = may_be_sold(view(site), terms, offer, plan=True)
    assert found.planned is not None
    assert found.proven <= found.planned <= found.at_most
    before = dump(site.state)
    for lots, granted in ((found.planned, True), (found.planned + 1, False)):
        site.state = load(before)
        if lots:
            site.trade("more", 0, level, lots, from_ms, look=False)
            assert ("more" not in site.state.refused) == granted


def test_what_is_owed_comes_first_and_is_named() -> None:
    site = Site(domains=2)
    site.trade("a", 0, Level.NODE, 3)
    terms = site.state.instruments["FIRM.GPU@1"]
    assert may_be_sold(view(site), terms, offer_of(view(site), terms, risk=NO_LOSS), plan=True).planned == 2
    site.trade("owed", 0, Level.NODE, 2)
    assert [(each.position, each.lots) for each in view(site).uncovered] == [("owed", 2)]
    found = may_be_sold(view(site), terms, offer_of(view(site), terms, risk=NO_LOSS), plan=True)
    assert (found.proven, found.planned, found.survives) == (0, 0, False)


def test_a_lot_on_an_ill_node_needs_another_before_more_is_sold() -> None:
    site = Site(domains=2)
    site.trade("a", 0, Level.NODE, 3)
    site.ill("node-0")
    site.ill("node-1")
    terms = site.state.instruments["FIRM.NODE@1"]
    assert not may_be_sold(view(site), terms, offer_of(view(site), terms, risk=NO_LOSS), plan=False).survives
    rows = accreditation(view(site), 0, (Level.NODE,), NOW, END, NO_LOSS)
    assert [(row.cells, row.healthy, row.sold, row.free, row.margin) for row in rows] == [(4, 2, 3, 0, -1)]


def test_spares_are_counted_for_the_loss_and_not_sold() -> None:
    node = Risk(losses=1, domain=Level.NODE)
    for spares, proven in ((), 3), (("node-3",), 3), (("node-2", "node-3"), 2):
        site = Site(domains=2, spares=spares)
        terms = site.state.instruments["FIRM.NODE@1"]
        assert may_be_sold(view(site), terms, offer_of(view(site), terms, risk=node), plan=True).planned == proven


def test_a_window_is_cut_to_what_is_asked_and_refused_where_it_holds_nothing() -> None:
    site = Site()
    terms = site.state.instruments["FIRM.NODE@1"]
    offer = offer_of(view(site), terms, NOW + 5, NOW + 9)
    assert [(each.start_ms, each.end_ms) for each in offer.stretches] == [(NOW + 5, NOW + 9)]
    assert offer_of(view(site), terms, T).stretches[0].start_ms == NOW
    with pytest.raises(InvalidValue, match="expected a part of"):
        offer_of(view(site), terms, NOW + 9, NOW + 9)
    elsewhere = standard_terms(symbol="X", start_ms=T, end_ms=END, grade="H100", site="mars", metering_interval_s=10)
    with pytest.raises(UnknownName, match="pool of X@1 was 'H100 at mars', expected one of H100 at local"):
        offer_of(view(site), elsewhere)


def test_an_answer_is_not_changed_by_what_happens_after_it_was_asked_for() -> None:
    site = Site()
    taken = view(site)
    terms = site.state.instruments["FIRM.NODE@1"]
    before = may_be_sold(taken, terms, offer_of(taken, terms, risk=NO_LOSS), plan=True)
    site.trade("a", 0, Level.NODE, 2)
    site.ill("node-3")
    assert may_be_sold(taken, terms, offer_of(taken, terms, risk=NO_LOSS), plan=True) == before
