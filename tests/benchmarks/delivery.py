"""How fast metered delivery reaches an exchange for good: signed, sent, checked, durable on both sides, acknowledged.

The exchange is a process of its own over a file with `synchronous=FULL`; this process is the cluster, its journal
durable too. The baseline is the same with one record a message, which is what batches are for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.cluster import Level
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.leaves import decode, encode_record
from scheduler.exchange.publisher import BATCH_LEAVES, Publisher
from scheduler.exchange.tls import Tls
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from tests.benchmarks.harness import Figure, Result, Settings, resident_mib, timed
from tests.exchange.processes import ExchangeProcess
from tests.exchange.trust import Trust
from tests.exchange.world import metered

POSITIONS = 200
STREAM = "bench"
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One run: records, seconds, and the memory of both sides at its end and at its half."""

    records: int
    seconds: float
    exchange_mib: int
    exchange_half_mib: int
    cluster_mib: int


def run(settings: Settings) -> Result:
    """Records a second end to end in batches, the same over mutual TLS, one record a message (baseline), and encoding
    and decoding alone.
    """
    records = 5_000 if settings.quick else 100_000
    rows: list[dict[str, Figure]] = []
    trust = Trust(settings.scratch / "certs")
    for number, (name, batch, count, secured) in enumerate(
        (
            ("batches", BATCH_LEAVES, records, None),
            ("one record a message (baseline)", 1, records // 100, None),
            ("batches over mutual TLS", BATCH_LEAVES, records, trust),
        )
    ):
        sent = _sent(settings.scratch / f"run-{number}", count, batch, secured)
        rows.append(
            {
                "path": name,
                "leaves_a_batch": batch,
                "records": sent.records,
                "seconds": round(sent.seconds, 3),
                "records_a_s": round(sent.records / sent.seconds),
                "exchange_mib": sent.exchange_mib,
                "exchange_half_mib": sent.exchange_half_mib,
                "cluster_mib": sent.cluster_mib,
            }
        )
    rows += _codec()
    ends = rows[0]
    line = (
        f"{ends['records_a_s']} records/s signed, durable and acknowledged over gRPC "
        f"(one record a message: {rows[1]['records_a_s']}); exchange {ends['exchange_mib']} MiB"
    )
    return Result(rows, line)


def _sent(folder: Path, count: int, batch: int, trust: Trust | None) -> Sent:
    folder.mkdir()
    cluster, venue = (None, None) if trust is None else (trust.of(f"cluster/{STREAM}"), trust.of("exchange/venue"))
    identity = () if venue is None else ("--identity", str(venue.identity), "--authority", str(venue.authority))
    with (
        ExchangeProcess(folder / "exchange.db", *identity) as exchange,
        _filled(folder / "journal.db", exchange, count, venue) as journal,
    ):
        signer = SignerKey.generate("tenor.test/bench")
        publisher = Publisher(exchange.address, journal, STREAM, signer, 1, batch_leaves=batch, tls=cluster)
        begun = time.perf_counter()
        with publisher:
            assert publisher.wait_acknowledged(count // 2, PATIENCE_S), publisher.status()
            half_mib = resident_mib(exchange.pid)
            assert publisher.wait_acknowledged(count, PATIENCE_S), publisher.status()
            seconds = time.perf_counter() - begun
            assert publisher.status().rejected == 0
            return Sent(count, seconds, resident_mib(exchange.pid), half_mib, resident_mib())


@contextmanager
def _filled(path: Path, exchange: ExchangeProcess, count: int, tls: Tls | None) -> Iterator[Journal]:
    """A journal with so many records of positions that the exchange knows, interval by interval."""
    terms = _terms()
    with ExchangeClient(exchange.address, tls=tls) as client:
        client.list_instrument(terms)
        positions = [client.trade("acme", terms.id, 3).position for _ in range(POSITIONS)]
    with Journal.open(path) as journal:
        for first in range(0, count, POSITIONS):
            batch = range(first, min(first + POSITIONS, count))
            records = [_record(positions[index % POSITIONS], terms, index // POSITIONS) for index in batch]
            journal.commit((), leaves=[encode_record(each, each.end_ms) for each in records], stream=STREAM)
        yield journal


def _terms() -> InstrumentTerms:
    """A month of nodes of 8 GPUs, metered every 10 s, from the next hour on."""
    hour_ms = 3_600_000
    start_ms = (time.time_ns() // 1_000_000 // hour_ms + 1) * hour_ms
    return standard_terms(
        symbol="BENCH.BASE",
        start_ms=start_ms,
        end_ms=start_ms + 30 * 24 * hour_ms,
        cell=Level.NODE,
        gpus=8,
        metering_interval_s=10,
    )


def _record(position: str, terms: InstrumentTerms, index: int) -> MeterRecord:
    start_ms = terms.window.start_ms + index * terms.interval_ms
    return metered(
        position, 3, 0, instrument=terms.id, start_ms=start_ms, end_ms=start_ms + terms.interval_ms, suite="matmul.v1"
    )


def _codec() -> list[dict[str, Figure]]:
    """Encoding and decoding alone, a record at a time."""
    record = metered("pos-1", 3, 0)
    leaf = encode_record(record, 1)
    count = 5_000
    rows: list[dict[str, Figure]] = []
    for name, work in (
        ("encode a record", lambda _: [encode_record(record, 1) for _ in range(count)]),
        ("decode a record", lambda _: [decode(leaf) for _ in range(count)]),
    ):
        timing = timed(work, lambda: None, repeats=3)
        rows.append({"path": name, "records": count, "records_a_s": round(count / timing.least_s), **timing.row()})
    return rows
