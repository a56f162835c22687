"""Checks what an exchange holds of a position against the leaves that the cluster wrote, trusting neither.

    python check_delivery.py 127.0.0.1:7001 build/bundle pos-1

The leaves come from a bundle (plain files); checkpoint, inclusion proofs and the statement come from the exchange. The
log's key is the bundle's; whose it is you must know from elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from evidence import is_included, leaf_hash, opened, root_of

from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc


def leaves_in(bundle: Path) -> Iterator[bytes]:
    """The leaves of a bundle, in order: C2SP tlog-tiles, entry bundles of 256, each entry behind its length in two
    bytes.
    """
    for path in sorted((bundle / "tile/entries").rglob("*"), key=lambda each: each.relative_to(bundle).as_posix()):
        packed, at = path.read_bytes() if path.is_file() else b"", 0
        while at < len(packed):
            end = at + 2 + int.from_bytes(packed[at : at + 2], "big")
            yield packed[at + 2 : end]
            at = end


def main() -> None:
    """Exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exchange", help="HOST:PORT")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("position")
    given = parser.parse_args()
    vkey = (given.bundle / "vkey").read_text(encoding="utf-8").splitlines()[-1]
    with grpc.insecure_channel(given.exchange) as channel:
        check(channel, given.bundle, vkey, given.position)


def check(channel: grpc.Channel, bundle: Path, vkey: str, position: str) -> None:
    """Raises SystemExit with the first thing that is wrong."""
    evidence, delivery = delivery_pb2_grpc.EvidenceServiceStub(channel), delivery_pb2_grpc.DeliveryServiceStub(channel)
    stream = vkey.split("+", maxsplit=1)[0].rpartition("/")[2]
    note = evidence.GetCheckpoint(delivery_pb2.GetCheckpointRequest(stream=stream)).checkpoint
    checkpoint = opened(note, vkey)
    print(f"the checkpoint over {checkpoint.size} leaves of {checkpoint.origin} is signed by the log's key")

    latest: dict[int, tuple[delivery_pb2.MeterRecord, bytes]] = {}
    for index, leaf in enumerate(leaves_in(bundle)):
        record = delivery_pb2.LogEntry.FromString(leaf).record
        if record.position != position or index >= checkpoint.size:
            continue
        asked = delivery_pb2.GetProofRequest(stream=stream, index=index, size=checkpoint.size)
        if not is_included(leaf, index, checkpoint, list(evidence.GetInclusionProof(asked).hashes)):
            raise SystemExit(f"leaf {index} is not under the exchange's checkpoint")
        if record.start_ms not in latest or record.version > latest[record.start_ms][0].version:
            latest[record.start_ms] = (record, leaf_hash(leaf))
    print(f"{len(latest)} intervals of {position}: every record is under that checkpoint")

    answer = delivery.GetStatement(delivery_pb2.GetStatementRequest(position=position))
    agree(json.loads(answer.statement), [latest[start_ms] for start_ms in sorted(latest)])


def agree(statement: dict[str, Any], used: list[tuple[delivery_pb2.MeterRecord, bytes]]) -> None:
    """The statement is over these records and no others, and their sums are its sums."""
    if root_of([hashed for _, hashed in used]).hex() != statement["records_root"]:
        raise SystemExit("the statement is over other records")
    records = [record for record, _ in used]
    sums = {name: sum(getattr(each, name) for each in records) for name in ("contracted_gpu_ms", "par_gpu_ms")}
    wrong = [name for name, value in sums.items() if statement[name] != value]
    derated = sum(each.derated_gpu_ms for each in records)
    capacity = statement["lines"][0]
    amount = capacity["price_micro_per_gpu_hour"] * (sums["par_gpu_ms"] + derated) // 3_600_000
    if wrong or capacity["amount_micro"] != amount:
        raise SystemExit(f"the statement says otherwise than its records: {wrong or 'capacity'}")
    print(f"the statement is theirs: {statement['amount_micro']} millionths of a {statement['currency']} are owed")


if __name__ == "__main__":
    main()
