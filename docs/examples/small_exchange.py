"""A small exchange: it has sold one position, takes in what a cluster delivers, and believes nothing.

A cluster dials in (`tenor up --exchange ADDRESS --stream east`), learns whose position it is to honour, and publishes
its log. Every checkpoint is verified and every root computed again, and what is owed is computed from the records
alone. A real exchange keeps all of it in a database, and answers only when that is durable.

    python small_exchange.py terms.json --listen 127.0.0.1:7001
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
from evidence import Checkpoint, leaf_hash, opened, root_of
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from scheduler.exchange.v1 import (
    delivery_pb2,
    delivery_pb2_grpc,
    instruments_pb2,
    positions_pb2,
    positions_pb2_grpc,
)

STREAM, POSITION, ACCOUNT, LOTS = "small", "pos-1", "acme", 1
CREDITS = 20_000
MS_PER_HOUR = 3_600_000
SELLER_CAUSES = range(1_000, 2_000)
"""The thousands of a cause say who bears it."""


def listed(terms: dict[str, Any]) -> instruments_pb2.Instrument:
    """The listing on the wire: the terms' canonical JSON, its hash, and the fields that repeat it."""
    encoded = json.dumps(terms, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return instruments_pb2.Instrument(
        symbol=terms["symbol"],
        version=terms["version"],
        terms=encoded,
        spec_hash=sha256(encoded).digest(),
        cell=instruments_pb2.Cell.Value(f"CELL_{terms['lot']['cell']}"),
        gpus_per_lot=terms["lot"]["gpus"],
        window_start_ms=terms["window"]["start_ms"],
        window_end_ms=terms["window"]["end_ms"],
    )


class Positions(positions_pb2_grpc.PositionServiceServicer):
    """Who owns what: here one position for the whole window, and nothing that changes."""

    def __init__(self, terms: dict[str, Any]) -> None:
        self.instrument = listed(terms)
        self.cursor = positions_pb2.Cursor(stream=STREAM, epoch=1, seq=0)
        start_ms = terms["window"]["start_ms"]
        self.position = positions_pb2.Position(
            id=POSITION,
            account=ACCOUNT,
            instrument=f"{terms['symbol']}@{terms['version']}",
            acquired_ms=start_ms,
            lots=[positions_pb2.LotStep(from_ms=start_ms, lots=LOTS)],
        )

    def ListInstruments(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name on the wire
        """All that is listed."""
        del request, context
        return positions_pb2.ListInstrumentsResponse(instruments=[self.instrument])

    def GetSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        """All positions, as of a cursor."""
        del request, context
        return positions_pb2.GetSnapshotResponse(
            cursor=self.cursor, positions=[self.position], instruments=[self.instrument]
        )

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Events after the caller's cursor; while there are none, a heartbeat with the cursor of the next one."""
        del request
        over = threading.Event()
        context.add_callback(over.set)
        following = positions_pb2.Cursor(stream=STREAM, epoch=1, seq=self.cursor.seq + 1)
        while not over.is_set():
            yield positions_pb2.WatchResponse(heartbeat=positions_pb2.Heartbeat(next=following))
            over.wait(1.0)


@dataclass
class Log:
    """One cluster's log, as far as it came. `latest`: the last version of each interval's record."""

    vkey: str
    leaves: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    latest: dict[int, delivery_pb2.MeterRecord] = field(default_factory=dict)

    def take(self, leaf: bytes) -> None:
        """A leaf; corrections supersede what came before."""
        self.leaves.append(leaf)
        self.hashes.append(leaf_hash(leaf))
        record = delivery_pb2.LogEntry.FromString(leaf).record
        if (
            record.position == POSITION
            and record.version > self.latest.get(record.start_ms, record.__class__()).version
        ):
            self.latest[record.start_ms] = record


class Deliveries(delivery_pb2_grpc.DeliveryServiceServicer):
    """What is delivered, and what is owed for it."""

    def __init__(self, terms: dict[str, Any]) -> None:
        self.terms = terms
        self.logs: dict[str, Log] = {}

    def Publish(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """Answers the opening with how many leaves are here, and each batch once they are."""
        opening = next(requests).open
        log = self.logs.setdefault(opening.stream, Log(opening.vkey))
        if log.vkey != opening.vkey:  # a change of keys would be a leaf of the log
            refuse(
                context, grpc.StatusCode.PERMISSION_DENIED, "UNAUTHORISED", f"{opening.stream} is signed by {log.vkey}"
            )
        yield delivery_pb2.PublishResponse(acknowledged=len(log.leaves), credits=CREDITS)
        for request in requests:
            batch = request.batch
            for index, leaf in enumerate(batch.leaves, batch.first_index):
                if index == len(log.leaves):
                    log.take(leaf)
                elif log.leaves[index] != leaf:
                    refuse(
                        context, grpc.StatusCode.FAILED_PRECONDITION, "EQUIVOCATION", f"leaf {index} was another one"
                    )
            self._verify(log, opened(batch.checkpoint, log.vkey), context)
            yield delivery_pb2.PublishResponse(acknowledged=len(log.leaves), credits=CREDITS)

    def _verify(self, log: Log, stated: Checkpoint, context: Any) -> None:
        """A checkpoint may be over more than was sent yet; once all of it is here, the root must be the same."""
        if stated.size != len(log.leaves):
            return
        if root_of(log.hashes) != stated.root:
            refuse(
                context, grpc.StatusCode.FAILED_PRECONDITION, "EQUIVOCATION", f"{stated.size} leaves have another root"
            )
        owed = owed_micro(self.terms, list(log.latest.values()))
        print(
            f"{stated.origin}: {stated.size} leaves verified, owed for {POSITION}: {owed} millionths of a "
            f"{self.terms['currency']}",
            flush=True,
        )


def refuse(context: Any, code: grpc.StatusCode, reason: str, message: str) -> None:
    """Ends the call for good: a cluster that is told a reason stops, one that is told a bare code tries again."""
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="tenor.dev"))
    context.abort_with_status(rpc_status.to_status(status))


def owed_micro(terms: dict[str, Any], records: list[delivery_pb2.MeterRecord]) -> int:
    """What firm capacity comes to that is paid used or not, with damages that have no cap; in millionths.

    The rules in full, for all terms, are the docstring of `scheduler.core.settlement`, and GetStatement of the
    reference exchange gives a statement line by line.
    """
    price = terms["price_micro_per_gpu_hour"]
    rate = max(0, terms["damages"]["reference_price_micro_per_gpu_hour"] - price)
    par = sum(each.par_gpu_ms for each in records)
    derated = sum(each.derated_gpu_ms for each in records)
    lost = sum(loss.gpu_ms for each in records for loss in each.losses if loss.cause in SELLER_CAUSES)
    return (
        price * (par + derated) // MS_PER_HOUR  # each line is rounded towards zero once
        - price * derated // MS_PER_HOUR
        - rate * (lost - derated) // MS_PER_HOUR
    )


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("terms", type=Path, help="what `tenor instrument show --output json` gives")
    parser.add_argument("--listen", default="127.0.0.1:0", help="loopback, since there are no certificates")
    given = parser.parse_args()
    terms = json.loads(given.terms.read_text(encoding="utf-8"))["terms"]
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    positions_pb2_grpc.add_PositionServiceServicer_to_server(Positions(terms), server)
    delivery_pb2_grpc.add_DeliveryServiceServicer_to_server(Deliveries(terms), server)
    host = given.listen.rpartition(":")[0]
    port = server.add_insecure_port(given.listen)
    server.start()
    print(f"{host}:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
