"""A small market that tests share: one instrument, three positions, and the log of their delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.records import MeterRecord, PoolRecord, RecordStatus
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.leaves import encode_pool, encode_record, encode_shortage
from scheduler.exchange.reference.faults.faults import Faults
from scheduler.exchange.reference.server import Server, ServerSettings, serve
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.reference.venue import VenueRules
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint

START_MS = 1_800_000_000_000
INTERVAL_MS = 10_000
INTERVALS = 12
END_MS = START_MS + INTERVALS * INTERVAL_MS
STREAM = "cluster-1"
SIGNER = SignerKey("tenor.test/cluster-1", bytes(range(32)))


def terms(symbol: str = "H100.BASE", **more: object) -> InstrumentTerms:
    """Two minutes of whole nodes of 8 GPUs, metered every 10 s."""
    return standard_terms(
        symbol=symbol,
        start_ms=START_MS,
        end_ms=END_MS,
        cell=Level.NODE,
        gpus=8,
        metering_interval_s=10,
        **more,  # type: ignore[arg-type]
    )


@dataclass(slots=True)
class ManualClock:
    """A clock that stands until it is set."""

    now_ms: int = START_MS - 60_000

    def __call__(self) -> int:
        """The instant it was set to."""
        return self.now_ms


@dataclass(slots=True)
class Embedded:
    """An exchange inside the test's process, with its clock and a client."""

    server: Server
    client: ExchangeClient
    clock: ManualClock = field(default_factory=ManualClock)


@contextmanager
def embedded(
    db: Path,
    rules: VenueRules | None = None,
    *,
    most_on_the_way: int = 20_000,
    listen: str = "127.0.0.1:0",
    faults: Faults | None = None,
) -> Iterator[Embedded]:
    """A running exchange over a file, stopped at the end."""
    clock = ManualClock()
    settings = ServerSettings(
        db=db,
        listen=listen,
        rules=rules or VenueRules(),
        pace=Pace(heartbeat_ms=50, credits=most_on_the_way),
        clock_ms=clock,
        durable=False,
        faults=faults,
        fault_control=faults is not None,
    )
    with serve(settings) as server, ExchangeClient(server.address, timeout_s=5) as client:
        yield Embedded(server, client, clock)


def metered(position: str, lots: int, index: int, **changes: object) -> MeterRecord:
    """The record of an interval: 1 GPU-second a lot lost with a node, half of the rest used."""
    contracted = lots * 8 * INTERVAL_MS
    lost = lots * 1_000
    content: dict[str, object] = {
        "position": position,
        "instrument": "H100.BASE@1",
        "start_ms": START_MS + index * INTERVAL_MS,
        "end_ms": START_MS + (index + 1) * INTERVAL_MS,
        "status": RecordStatus.FINAL,
        "contracted_gpu_ms": contracted,
        "used_gpu_ms": (contracted - lost) // 2,
        "available_unused_gpu_ms": contracted - lost - (contracted - lost) // 2,
        "out_forced_gpu_ms": lost,
        "losses": ((Cause.NODE_LOST, lost),),
        "par_gpu_ms": contracted - lost,
    }
    return MeterRecord.model_validate(content | changes)


def pooled(lots: int, index: int, **changes: object) -> PoolRecord:
    """The certificate of a pool of 64 GPUs of which so many lots are sold and covered."""
    sold = lots * 8 * INTERVAL_MS
    content: dict[str, object] = {
        "grade": "H100SXM",
        "site": "local",
        "start_ms": START_MS + index * INTERVAL_MS,
        "end_ms": START_MS + (index + 1) * INTERVAL_MS,
        "total_gpu_ms": 64 * INTERVAL_MS,
        "sold_gpu_ms": sold,
        "covered_gpu_ms": sold,
        "unsold_used_gpu_ms": 0,
        "unsold_idle_gpu_ms": 64 * INTERVAL_MS - sold,
        "unsold_unhealthy_gpu_ms": 0,
        "unknown_gpu_ms": 0,
    }
    return PoolRecord.model_validate(content | changes)


LOTS = {"pos-1": 3, "pos-2": 2, "pos-3": 1}


def delivered(
    of_record: Callable[[MeterRecord], MeterRecord | None] = lambda record: record,
    of_pool: Callable[[PoolRecord], PoolRecord | None] = lambda pool: pool,
) -> list[bytes]:
    """The leaves of the whole window for the three positions, with one correction and one shortage; each record and
    certificate as `of_record` and `of_pool` change it, left out where they give None.
    """
    leaves: list[bytes] = []
    for index in range(INTERVALS):
        written_ms = START_MS + (index + 1) * INTERVAL_MS + 1_000
        for position, lots in LOTS.items():
            record = of_record(metered(position, lots, index))
            if record is not None:
                leaves.append(encode_record(record, written_ms))
        pool = of_pool(pooled(sum(LOTS.values()), index))
        if pool is not None:
            leaves.append(encode_pool(pool, written_ms))
    corrected = metered("pos-1", 3, 4, version=2, supersedes=1, status=RecordStatus.CORRECTED, estimated_gpu_ms=5)
    last = of_record(corrected)
    if last is not None:
        leaves.append(encode_record(last, END_MS + 2_000))
    leaves.append(encode_shortage(shortage(), END_MS + 2_000))
    return leaves


def shortage() -> str:
    """The certificate of three lots sharing two cells, as canonical JSON."""
    claims = [
        ShortClaim(position="pos-1", firmness_class=0, lots=2, acquired_ms=5),
        ShortClaim(position="pos-2", firmness_class=0, lots=1, acquired_ms=7),
    ]
    return ration(claims, 2, pool="H100SXM@local", start_ms=START_MS).body.decode()


def trade_all(client: ExchangeClient) -> None:
    """Lists the instrument and buys the three positions."""
    client.list_instrument(terms(), lots_listed=8)
    for number, (position, lots) in enumerate(LOTS.items()):
        event = client.trade(f"account-{number}", "H100.BASE@1", lots, effective_ms=START_MS)
        assert event.position == position


def write_log(journal: Journal, leaves: list[bytes], stream: str = STREAM) -> None:
    """Commits the leaves and signs a checkpoint over them."""
    journal.commit((), leaves=leaves, stream=stream)
    sign_log(journal, stream)


def sign_log(journal: Journal, stream: str = STREAM) -> bytes:
    """Signs the log as it is and keeps the note."""
    size = journal.log_size(stream)
    note = sign_checkpoint(Checkpoint(SIGNER.name, size, journal.root(stream, size)), SIGNER)
    journal.save_checkpoint(stream, size, note)
    return note
