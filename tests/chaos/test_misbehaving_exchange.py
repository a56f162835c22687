"""The real composition at an exchange that loses and cuts, then contradicts itself: it follows, and then freezes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.instruments import standard_terms
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.reference.faults.control import FaultClient
from tests.chaos.composition import Composition, now_ms, wait_until
from tests.exchange.processes import ExchangeProcess

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

INTERVAL_MS = 10_000
LOSSES = ("drop:watch:0.3", "reorder:watch:0.2", "cut:heartbeats:0.1", "drop:acks:0.3")


def test_what_is_lost_is_made_up_for_and_a_lie_freezes_with_an_alert(tmp_path: Path) -> None:
    losing = [word for fault in LOSSES for word in ("--fault", fault)]
    with (
        ExchangeProcess(tmp_path / "exchange.db", "--heartbeat-ms", "100", "--faults", *losing) as exchange,
        ExchangeClient(exchange.address) as venue,
        FaultClient(exchange.address) as faults,
        Composition(tmp_path / "up", TENOR_NODES="1", TENOR_GPUS_PER_NODE="8", TENOR_EXCHANGE=exchange.address) as up,
    ):
        start_ms = now_ms() // INTERVAL_MS * INTERVAL_MS
        terms = standard_terms(
            symbol="L", start_ms=start_ms, end_ms=start_ms + 360 * INTERVAL_MS, grade="LOGICAL", metering_interval_s=10
        )
        venue.list_instrument(terms)
        up.start()
        up.wait_ready()
        with up.client() as client:

            def owned() -> dict[str, str]:
                return {each.id: each.account for each in client.positions()}

            bought = {venue.trade(f"account-{number}", terms.id, 1).position for number in range(6)}
            wait_until(lambda: owned().keys() == bought, 30, "everything that was bought is known")
            assert {each.fault for each in faults.list() if each.struck} & set(LOSSES[:2])
            wait_until(lambda: (link := client.status().exchange) and link.connected, 10, "the exchange is watched")
            before = owned()
            faults.clear()
            faults.set(["equivocate:watch:1x"])
            late = venue.trade("account-7", terms.id, 1).position
            alerts = wait_until(lambda: client.status().alerts, 10, "the lie is told of")
            assert any("positions are frozen: EQUIVOCATION" in alert for alert in alerts)
            assert {name: account for name, account in owned().items() if name != late} == before
        assert up.stop() == 0
