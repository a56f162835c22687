"""How fast metered delivery reaches an exchange for good: made into leaves, signed, sent, checked, durable on both
sides, acknowledged; what proofs of it and an audit cost; and how long it takes to close an interval of a large fleet.

The exchange is a process of its own over a file with `synchronous=FULL`; this process is the cluster, its journal
durable too. What counts is the path `from the record on`: closed intervals are made into leaves and committed while
they are published. The baseline is the same with one record a message, which is what batches are for.

`python -m tests.benchmarks.delivery --records 10000000 --out FILE` watches the memory over more records.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.instruments import InstrumentTerms
from scheduler.delivery import LogWriter
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.leaves import decode, encode_record
from scheduler.exchange.publisher import BATCH_LEAVES, Publisher
from scheduler.exchange.tls import Tls
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from tests.benchmarks import delivery_evidence, interval_close
from tests.benchmarks.delivered import POSITIONS, bench_terms, interval_leaves
from tests.benchmarks.harness import Figure, Result, Settings, cpu_s, machine, resident_mib, timed
from tests.benchmarks.plots import remembered
from tests.exchange.processes import ExchangeProcess
from tests.exchange.trust import Trust
from tests.exchange.world import metered

STREAMS = 8
STREAM = "bench"
RECORDS = 1_000_000
"""Over which the memory is watched, unless told otherwise."""
TENTHS = 10
PATIENCE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Market:
    """An instrument and who holds it, as the exchange knows them."""

    exchange: ExchangeProcess
    terms: InstrumentTerms
    positions: Sequence[str]
    tls: Tls | None = None

    @contextmanager
    def cluster(self, journal: Path, number: int = 0, of: int = 1, batch: int = BATCH_LEAVES) -> Iterator[Cluster]:
        """One of so many clusters that share the positions, publishing."""
        with Journal.open(journal) as opened:
            signer = SignerKey.generate(f"tenor.test/bench-{number}")
            log = LogWriter(STREAM if of == 1 else f"{STREAM}-{number}", signer)
            mine = self.positions[number * len(self.positions) // of : (number + 1) * len(self.positions) // of]
            publisher = Publisher(
                self.exchange.address, opened, log.stream, signer, 1, batch_leaves=batch, tls=self.tls
            )
            yield Cluster(opened, log, publisher, self.terms, mine)
            publisher.stop()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A journal, its log's writer and its publisher."""

    journal: Journal
    log: LogWriter
    publisher: Publisher
    terms: InstrumentTerms
    positions: Sequence[str]

    def write(self, records: int) -> int:
        """So many records, or fewer, by whole intervals, each made into leaves and committed with its certificate; how
        many.
        """
        for index in range(records // len(self.positions)):
            leaves = interval_leaves(self.positions, self.terms, index)
            self.log.commit(self.journal, (), leaves, {})
            self.publisher.wake()
        return records // len(self.positions) * len(self.positions)

    def wait(self) -> None:
        """Returns once the exchange has everything."""
        size = self.log.size(self.journal)
        assert self.publisher.wait_acknowledged(size, PATIENCE_S), self.publisher.status()
        assert self.publisher.status().rejected == 0


def run(settings: Settings, records: int = RECORDS) -> Result:
    """Records a second by path, memory over `records`, proofs and an audit, the close of an interval, and encoding and
    decoding alone.
    """
    few, most = (5_000, 10_000) if settings.quick else (100_000, records)
    kept, live = _long(settings.scratch / "long", most)
    eight = _streams(settings.scratch / "eight", few)
    filled = _prefilled(settings.scratch / "filled", "from the journal on", few)
    rows = [
        live,
        eight,
        filled,
        _prefilled(settings.scratch / "single", "one record a message (baseline)", few // 100, batch=1),
        _prefilled(settings.scratch / "secured", "from the journal on, over mutual TLS", few, secured=True),
        *kept,
    ]
    proven = delivery_evidence.measured(settings.scratch / "evidence", 10_000 if settings.quick else 1_000_000)
    closed_s = _closed(settings.scratch / "close", 2 if settings.quick else 5)
    first, last = kept[0], kept[-1]
    growth = sum(int(last[side] or 0) - int(first[side] or 0) for side in ("exchange_mib", "cluster_mib"))
    figures: dict[str, Figure] = {
        "records_per_s_one_stream": live["records_a_s"],
        "records_per_s_eight_streams": eight["records_a_s"],
        "records_per_s_from_journal": filled["records_a_s"],
        "close_s_100k_gpus": closed_s,
        "rss_growth_mib": growth,
        "rss_growth_records": most,
        **proven,
    }
    line = (
        f"{live['records_a_s']} records/s from the record to the acknowledgement, one stream, and "
        f"{eight['records_a_s']}, {STREAMS} streams; memory of both sides {growth:+} MiB over {most} records"
    )
    rows += [{"path": name, "figure": figure} for name, figure in proven.items()] + _codec()
    return Result(rows, line, {"svg": remembered(rows)}, figures)


# -- paths -------------------------------------------------------------------------------------------------------------


@contextmanager
def _market(folder: Path, *, secured: bool = False) -> Iterator[Market]:
    """An exchange that has sold POSITIONS positions."""
    folder.mkdir()
    trust = Trust(folder / "certs") if secured else None
    cluster, venue = (None, None) if trust is None else (trust.of(f"cluster/{STREAM}"), trust.of("exchange/venue"))
    identity = () if venue is None else ("--identity", str(venue.identity), "--authority", str(venue.authority))
    terms = bench_terms()
    with ExchangeProcess(folder / "exchange.db", *identity) as exchange:
        with ExchangeClient(exchange.address, tls=venue) as client:
            client.list_instrument(terms)
            positions = [client.trade("acme", terms.id, 3).position for _ in range(POSITIONS)]
        yield Market(exchange, terms, positions, cluster)


class _Watch:
    """Time and processor time of both sides, from its making on."""

    def __init__(self, exchange: ExchangeProcess) -> None:
        self._exchange = exchange
        self._begun_s = time.perf_counter()
        self._before = cpu_s(exchange.pid), cpu_s()

    def row(self, path: str, records: int) -> dict[str, Figure]:
        """What it saw over so many records."""
        seconds = time.perf_counter() - self._begun_s
        theirs, ours = cpu_s(self._exchange.pid) - self._before[0], cpu_s() - self._before[1]
        return {
            "path": path,
            "records": records,
            "seconds": round(seconds, 3),
            "records_a_s": round(records / seconds),
            "exchange_cpu_us": round(theirs / records * 1e6, 1),
            "cluster_cpu_us": round(ours / records * 1e6, 1),
            "exchange_mib": resident_mib(self._exchange.pid),
            "cluster_mib": resident_mib(),
        }


def _long(folder: Path, records: int) -> tuple[list[dict[str, Figure]], dict[str, Figure]]:
    """One stream from the record on: the memory of both sides once each tenth was acknowledged, and the whole."""
    kept: list[dict[str, Figure]] = []
    with _market(folder) as market, market.cluster(folder / "journal.db") as cluster:
        writer = threading.Thread(target=cluster.write, args=(records,))
        watch = _Watch(market.exchange)
        cluster.publisher.start()
        writer.start()
        for tenth in range(1, TENTHS + 1):
            assert cluster.publisher.wait_acknowledged(tenth * records // TENTHS, PATIENCE_S)
            memory = watch.row("memory", tenth * records // TENTHS)
            kept.append({name: memory[name] for name in ("path", "records", "exchange_mib", "cluster_mib")})
        writer.join()
        cluster.wait()
        return kept, watch.row("from the record on", records)


def _streams(folder: Path, records: int) -> dict[str, Figure]:
    """Several clusters, each with its journal and stream, into one exchange, from the record on."""
    with _market(folder) as market, ExitStack() as opened:
        clusters = [
            opened.enter_context(market.cluster(folder / f"journal-{number}.db", number, STREAMS))
            for number in range(STREAMS)
        ]
        each = records // STREAMS
        writers = [threading.Thread(target=cluster.write, args=(each,)) for cluster in clusters]
        watch = _Watch(market.exchange)
        for cluster, writer in zip(clusters, writers, strict=True):
            cluster.publisher.start()
            writer.start()
        for cluster, writer in zip(clusters, writers, strict=True):
            writer.join()
            cluster.wait()
        sent = sum(each // len(cluster.positions) * len(cluster.positions) for cluster in clusters)
        return watch.row(f"from the record on, {STREAMS} streams", sent)


def _prefilled(
    folder: Path, path: str, records: int, *, batch: int = BATCH_LEAVES, secured: bool = False
) -> dict[str, Figure]:
    """One stream whose leaves are in the journal already."""
    with (
        _market(folder, secured=secured) as market,
        market.cluster(folder / "journal.db", batch=batch) as cluster,
    ):
        written = cluster.write(max(records, POSITIONS))
        watch = _Watch(market.exchange)
        cluster.publisher.start()
        cluster.wait()
        return watch.row(path, written) | {"leaves_a_batch": batch}


# -- beside the paths --------------------------------------------------------------------------------------------------


def _closed(folder: Path, repeats: int) -> float:
    """Median seconds from the history of 100,000 GPUs and 2,000 positions to signed, durable leaves of an interval."""
    folder.mkdir()
    told = interval_close.history(*interval_close.SIZES[-1])
    log = LogWriter(STREAM, SignerKey.generate("tenor.test/bench"))
    with Journal.open(folder / "journal.db") as journal:

        def close(told: interval_close.Told) -> None:
            closing = told.meter.close(interval_close.INTERVAL, told.contracts, told.fleet)
            log.commit(journal, (), log.leaves_of(closing, interval_close.INTERVAL.end_ms), {})
            log.checkpoint(journal)

        return round(timed(close, lambda: told, repeats=repeats).median_s, 4)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The memory over more records: writes the figures and the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.delivery", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=10_000_000, help="default: %(default)s")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tenor-bench-delivery-") as scratch:
        kept, whole = _long(Path(scratch) / "long", asked.records)
    document = {"machine": machine(), "rows": [whole, *kept]}
    asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(whole))
    return 0


if __name__ == "__main__":
    sys.exit(main())
