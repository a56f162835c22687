"""The real composition with certificates at every end: trade, work, delivery, another key of the log, and a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.api.client import Client
from scheduler.core.errors import Unauthorised, UnknownName
from scheduler.core.instruments import standard_terms
from scheduler.exchange.client import ExchangeClient
from scheduler.key_changes import prepare
from scheduler.ledger.keyring import NEXT_FILE
from scheduler.ledger.notes import open_checkpoint
from tests.chaos.composition import Composition, now_ms, wait_until
from tests.exchange.processes import ExchangeProcess
from tests.exchange.trust import Trust

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

STREAM = "east"
INTERVAL_MS = 10_000


def test_everybody_is_known_by_a_certificate_and_the_logs_key_changes_across_a_crash(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    venue, cluster = trust.of("exchange/venue"), trust.of(f"cluster/{STREAM}")
    serving = ("--identity", str(venue.identity), "--authority", str(venue.authority))
    with (
        ExchangeProcess(tmp_path / "exchange.db", *serving) as exchange,
        ExchangeClient(exchange.address, tls=venue) as operator,
        Composition(
            tmp_path / "up",
            TENOR_NODES="1",
            TENOR_GPUS_PER_NODE="2",
            TENOR_EXCHANGE=exchange.address,
            TENOR_IDENTITY=str(cluster.identity),
            TENOR_AUTHORITY=str(cluster.authority),
            TENOR_STREAM=STREAM,
            TENOR_KEY_OVERLAP_MS="0",
        ) as up,
    ):
        start_ms = now_ms() // INTERVAL_MS * INTERVAL_MS
        terms = standard_terms(
            symbol="L", start_ms=start_ms, end_ms=start_ms + 360 * INTERVAL_MS, grade="LOGICAL", metering_interval_s=10
        )
        operator.list_instrument(terms)
        position = operator.trade("acme", terms.id, 2).position
        up.start()
        address = up.wait_ready()
        with Client(address, tls=trust.of("account/acme")) as acme, Client(address, tls=trust.of("admin/x")) as admin:
            wait_until(
                lambda: position in [each.id for each in admin.positions()], 30, "the cluster hears of the trade"
            )
            assert [each.id for each in acme.positions()] == [position]
            assert acme.submit(["true"], account="acme", gpus_per_worker=2).wait(30).status == "succeeded"
            with pytest.raises(Unauthorised, match="account/acme may not ask this"):
                acme.status()
            wait_until(lambda: leaves(operator) >= 1, 30, "the first records are at the exchange")
            assert admin.status().outbox_leaves == 0

        key = prepare(up.home, f"tenor.local/{STREAM}")
        wait_until(lambda: not (up.home / NEXT_FILE).exists(), 30, "the next key is taken up")
        up.kill()
        up.start()
        up.wait_ready()
        before = leaves(operator)
        wait_until(lambda: leaves(operator) > before, 40, "records go on after the crash")
        note = operator.checkpoint(STREAM)[1]
        assert open_checkpoint(note, [key.verifier]).size == leaves(operator)
        assert f"the log's key is {key.verifier.encode()} now" in up.log.read_text()
        assert up.stop() == 0


def leaves(operator: ExchangeClient) -> int:
    """How many leaves of the log the exchange has."""
    try:
        return operator.checkpoint(STREAM)[0]
    except UnknownName:  # there is none yet
        return 0
