"""A dispute from end to end: opened at the exchange, heard and answered by the cluster, settled alike by all three."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.adjustments import adjustment, first_payment
from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.instruments import Damages, SettlementTimes
from scheduler.core.metering.disputes import DisputeState
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position, PositionEventKind
from scheduler.core.settlement import PARTS_PER_MICRO, Statement
from scheduler.core.state.dump import dump
from scheduler.delivery import statement
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.dispute_listener import DisputeListener
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.ledger.bundle import read_bundle
from tests.exchange.world import Embedded, embedded
from tests.simulation.site import SIGNER, START_MS, STREAM, Site, gang, listing, nodes

WAIT_S = 20
TERMS = listing(
    length_ms=60_000,
    settlement=SettlementTimes(initial_after_s=30, final_after_s=60, dispute_s=120, answer_s=60),
    damages=Damages(reference_price_micro_per_gpu_hour=9_000_000),
)
LOST = ((Cause.NODE_LOST, 30_000),)


@dataclass
class Market:
    """A site on virtual time that delivers to a real exchange, one position of which is traded there."""

    site: Site
    exchange: Embedded
    sizes: list[int] = field(default_factory=list)
    """How long the log was, whenever it was published."""

    def until(self, at_ms: int) -> None:
        """Both clocks go on, and everything is published."""
        self.site.until(at_ms)
        self.exchange.clock.now_ms = self.site.now_ms
        self.publish()

    def publish(self) -> None:
        """The exchange has all leaves, and settles by each of them."""
        journal = self.site.journal
        with Publisher(self.exchange.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
            assert publisher.status().rejections == ()
        self.sizes.append(journal.log_size(STREAM))

    def listened(self, until: Callable[[], bool]) -> None:
        """The cluster asks the exchange for disputes until something is so."""
        settled, scheduler = self.site.scheduler.state.settled, self.site.scheduler
        scheduler.woken.clear()
        address = self.exchange.server.address
        with DisputeListener(address, scheduler, STREAM, lambda: settled.heard_seq, pause_s=0.05):
            while not until():
                assert scheduler.woken.wait(WAIT_S)
                scheduler.woken.clear()

    @property
    def position(self) -> Position:
        """The one that was traded."""
        return self.site.scheduler.state.book.positions["pos-1"]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with embedded(tmp_path / "exchange.db") as exchange:
        exchange.clock.now_ms = START_MS
        exchange.client.list_instrument(TERMS)
        event = exchange.client.trade("acme", TERMS.id, 1, effective_ms=START_MS)
        site = Site(nodes(2))
        site.round()
        site.listed(TERMS)
        site.told(event)
        site.submit(gang("acme"))
        yield Market(site, exchange)


def disputed(market: Market, start_ms: int = 20_000, losses: Any = LOST, **given: Any) -> str:
    opened = market.exchange.client.open_dispute("pos-1", START_MS + start_ms, losses, **given)
    market.listened(lambda: opened.dispute.id in market.site.scheduler.state.settled.disputes)
    market.publish()
    return opened.dispute.id


def stated(market: Market, as_of: int = 0) -> Statement:
    """The statement, which the cluster, the exchange and whoever has the leaves make byte for byte alike."""
    site = market.site
    ours = statement(site.journal, STREAM, site.scheduler.state, "pos-1", as_of)
    theirs, _ = market.exchange.client.statement("pos-1", as_of=as_of)
    size = as_of or site.journal.log_size(STREAM)
    anybodys = statement_of(TERMS, market.position, versions_of(site.journal.leaves(STREAM, 0, size), "pos-1"))
    assert canonical_bytes(ours) == theirs == canonical_bytes(anybodys)
    return ours


def test_a_dispute_is_answered_by_a_correction_and_every_version_set_is_settled_alike_by_all(
    market: Market, tmp_path: Path
) -> None:
    market.until(70_000)
    first = stated(market)
    name = disputed(market, reason="it was gone for half of it", evidence=bytes(32))
    assert (stated(market).records_disputed, stated(market).amount_micro) == (1, first.amount_micro)
    market.until(121_000)  # all but the disputed one are final
    assert stated(market).records_unsettled == 1
    answer = market.site.scheduler.answer_dispute(name, accept=True, reason="so it was")
    market.until(122_000)
    assert market.site.scheduler.answer_dispute(name, accept=True, reason="so it was") == answer
    (held,) = market.exchange.client.disputes()
    assert (held.state, held.answer, held.corrected) == (DisputeState.ACCEPTED, "so it was", 2)
    market.until(130_000)
    last = stated(market)
    assert (last.records_unsettled, last.records_disputed, dict(last.losses)) == (0, 0, dict(LOST))

    chain = [stated(market, size) for size in market.sizes]
    paid, carried = first_payment(chain[0]).amount_micro, first_payment(chain[0]).remainder
    for before, after in pairwise(chain):
        changed = adjustment(before, after, carried)
        paid, carried = paid + changed.amount_micro, changed.remainder
    assert len({each.versions_root for each in chain}) == 3
    assert paid * PARTS_PER_MICRO + carried == last.amount_micro * PARTS_PER_MICRO + last.remainder
    assert stated(market, market.sizes[0]) == first

    vkeys = [SIGNER.verifier.encode()]
    made = {"pos-1": canonical_bytes(last)}
    bundles.write(market.site.journal, STREAM, tmp_path / "bundle", [TERMS], made, vkeys)
    assert audit(tmp_path / "bundle").ok, audit(tmp_path / "bundle").first_wrong
    versions = versions_of(enumerate(read_bundle(tmp_path / "bundle").leaves()), "pos-1")
    assert canonical_bytes(statement_of(TERMS, market.position, versions)) == made["pos-1"]
    assert market.site.refolded() == dump(market.site.scheduler.state)


def test_a_dispute_after_final_corrects_what_was_final_and_facts_learnt_late_do_not_undo_it(market: Market) -> None:
    market.until(130_000)
    assert stated(market).records_unsettled == 0
    name = disputed(market, 50_000)
    assert stated(market).records_unsettled == 1
    market.site.scheduler.answer_dispute(name, accept=True, reason="", losses=((Cause.ECC, 8_000),))
    market.until(131_000)
    after = stated(market)
    assert (after.records_unsettled, dict(after.losses)) == (0, {Cause.ECC: 8_000})
    market.site.seq = 1
    kind = PositionEventKind.EXPIRY  # it had ended a second before, the exchange tells now
    market.site.told(market.site.event(kind, "pos-1", "acme", lots=0, at_ms=59_000, instrument=TERMS.id))
    assert any("settled and cannot be corrected" in alert for alert in market.site.scheduler.alerts)
    assert dict(stated(market).losses) == {Cause.ECC: 8_000}


def test_what_is_rejected_or_not_answered_stands(market: Market) -> None:
    market.until(70_000)
    before = stated(market)
    rejected, expired = disputed(market, 20_000), disputed(market, 30_000)
    market.site.scheduler.answer_dispute(rejected, accept=False, reason="seen by two readings")
    market.until(135_000)
    states = {each.dispute.id: (each.state, each.answer) for each in market.exchange.client.disputes()}
    assert states[rejected] == (DisputeState.REJECTED, "seen by two readings")
    assert states[expired][0] is DisputeState.EXPIRED
    after = stated(market)
    assert (after.records_unsettled, after.lines) == (0, before.lines)
    with pytest.raises(Conflict, match="is rejected already"):
        market.site.scheduler.answer_dispute(rejected, accept=True, reason="after all")


def test_what_cannot_be_disputed_is_refused_and_the_same_request_gives_the_same_dispute(market: Market) -> None:
    market.until(70_000)
    client = market.exchange.client
    at_ms = START_MS + 20_000
    with pytest.raises(UnknownName, match="position"):
        client.open_dispute("pos-9", at_ms, LOST)
    with pytest.raises(InvalidValue, match="the start of an interval that has a record"):
        client.open_dispute("pos-1", at_ms + 1, LOST)
    with pytest.raises(InvalidValue, match="others than the record has"):
        client.open_dispute("pos-1", at_ms, ())
    with pytest.raises(InvalidValue, match="at most 80000, as contracted"):
        client.open_dispute("pos-1", at_ms, ((Cause.ECC, 80_001),))
    with pytest.raises(InvalidValue, match="each cause once"):
        client.open_dispute("pos-1", at_ms, (LOST[0], LOST[0]))
    with pytest.raises(Conflict, match=r"version of pos-1 at \d+ was 2, expected 1"):
        client.open_dispute("pos-1", at_ms, LOST, version=2)
    first = client.open_dispute("pos-1", at_ms, LOST, request_id="one")
    assert client.open_dispute("pos-1", at_ms, LOST, request_id="one") == first
    with pytest.raises(Conflict, match="with another content"):
        client.open_dispute("pos-1", at_ms, LOST, request_id="one", reason="other")
    with pytest.raises(Conflict, match="is disputed already"):
        client.open_dispute("pos-1", at_ms, LOST, request_id="two")
    market.exchange.clock.now_ms = START_MS + 240_001
    with pytest.raises(InvalidValue, match="one that settled no later than"):
        client.open_dispute("pos-1", START_MS + 40_000, LOST)
    assert [each.dispute.id for each in client.disputes()] == ["dispute-1"]
    assert client.disputes(1) == client.disputes(stream="other") == client.disputes(account="bolt") == ()


def test_a_dispute_is_heard_once_however_often_it_is_told(market: Market) -> None:
    market.until(70_000)
    disputed(market)
    (held,) = market.exchange.client.disputes()
    size = market.site.journal.log_size(STREAM)
    market.site.scheduler.learn_dispute(held.seq, held.dispute)
    assert market.site.journal.log_size(STREAM) == size
    with pytest.raises(UnknownName, match="dispute"):
        market.site.scheduler.answer_dispute("dispute-7", accept=False, reason="no")
