"""From the meter to an audited statement: what a real closing says passes the exchange and the audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.meter import Meter
from scheduler.core.metering.terms import Contract, MeteringTerms
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position
from scheduler.core.state.contracted import contracted_gpus
from scheduler.delivery import LogWriter
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.ledger.journal import Journal
from tests.exchange.world import INTERVAL_MS, INTERVALS, SIGNER, START_MS, STREAM, Embedded, embedded, terms

NODES = 6
MOVED_MS = START_MS + 7 * INTERVAL_MS + 3_210
WAIT_S = 20.0


def test_what_the_meter_says_is_settled_alike_by_all(tmp_path: Path) -> None:
    with embedded(tmp_path / "exchange.db") as exchange, Journal.open(":memory:") as journal:
        positions = traded(exchange)
        log = LogWriter(STREAM, SIGNER)
        for closing in closings(positions):
            log.commit(journal, (), log.leaves_of(closing, closing.interval.end_ms + 1_000), {})
        with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(log.size(journal), WAIT_S)
            assert publisher.status().rejections == ()
        statements = {each.id: exchange.client.statement(each.id)[0] for each in positions}
        for position in positions:
            ours = statement_of(terms(), position, versions_of(journal.leaves(STREAM), position.id))
            assert statements[position.id] == canonical_bytes(ours)
        vkeys = [SIGNER.verifier.encode()]
        bundles.write(journal, STREAM, tmp_path / "bundle", [terms()], statements, vkeys)
    report = audit(tmp_path / "bundle")
    assert report.ok, report.first_wrong
    assert report.positions == 3


def traded(exchange: Embedded) -> tuple[Position, ...]:
    """Three lots and two; one of the three is sold in the middle of an interval."""
    exchange.client.list_instrument(terms(), lots_listed=NODES)
    exchange.client.trade("acme", terms().id, 3)
    exchange.client.trade("borealis", terms().id, 2)
    exchange.client.transfer("pos-1", "cobalt", 1, effective_ms=MOVED_MS)
    return exchange.client.snapshot().positions


def closings(positions: tuple[Position, ...]) -> list[Closing]:
    """Six nodes: five covered, of which one falls ill, one is slow, and one is too slow; one is unsold."""
    fleet = Fleet.of(
        tuple(NodeSpec(name=f"n{i}", grade="H100SXM", gpus=8, domain="d0", site="local") for i in range(NODES))
    )
    meter = Meter()
    meter.grow(fleet.n_gpus)
    gpus = np.arange(fleet.n_gpus, dtype=np.int64)
    node = gpus // 8
    meter.set_owner(START_MS, gpus[node < 3], 0)
    meter.set_owner(START_MS, gpus[(node == 3) | (node == 4)], 1)
    meter.set_owner(MOVED_MS, gpus[node == 2], 2)
    meter.set_occupant(START_MS + 500, gpus[node == 0], 0)
    meter.set_occupant(START_MS + 900, gpus[node == 5], 1)
    meter.set_cause(START_MS + 21_111, gpus[8:9], Cause.ECC)
    meter.set_cause(START_MS + 43_210, gpus[8:9], 0)
    meter.set_ppm(START_MS + 5_000, gpus[node == 3], 777_777, "matmul.v1")
    meter.set_ppm(START_MS + 5_000, gpus[node == 4], 400_000, "matmul.v1")
    contracts = [contract(position, index, terms()) for index, position in enumerate(positions)]
    found = []
    for index in range(INTERVALS):
        interval = Interval(START_MS + index * INTERVAL_MS, START_MS + (index + 1) * INTERVAL_MS)
        due = [each for each in contracts if each.contracted_gpus.maximum(interval) > 0]
        found.append(meter.close(interval, due, fleet))
    return found


def contract(position: Position, index: int, instrument: InstrumentTerms) -> Contract:
    return Contract(
        index=index,
        position=position.id,
        instrument=position.instrument,
        terms=MeteringTerms.of(instrument),
        contracted_gpus=contracted_gpus(instrument, position),
        account=index,
    )
