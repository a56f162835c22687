"""The audit: a sound bundle passes, and every fraud and every damage is named by the check that is there for it."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.core.errors import InvalidValue
from scheduler.core.metering.records import MeterRecord, PoolRecord, RecordStatus
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position
from scheduler.exchange import bundles
from scheduler.exchange.audit import CHECKS, AuditReport, Verdict, audit
from scheduler.exchange.leaves import encode_record, encode_shortage
from scheduler.exchange.statements import RecordedLeaf, statement_of
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from tests.exchange.world import (
    INTERVAL_MS,
    LOTS,
    SIGNER,
    START_MS,
    STREAM,
    delivered,
    metered,
    shortage,
    terms,
    write_log,
)


def bundle(folder: Path, leaves: list[bytes], sound: list[bytes] | None = None) -> Path:
    """A bundle of these leaves, with the statements that `sound` ones would give."""
    recorded = [each for leaf in sound or delivered() if (each := RecordedLeaf.of(leaf)) is not None]
    statements = {}
    for number, (name, lots) in enumerate(LOTS.items()):
        position = Position(
            id=name, account=f"account-{number}", instrument="H100.BASE@1", acquired_ms=1, lots=((START_MS, lots),)
        )
        statements[name] = canonical_bytes(statement_of(terms(), position, recorded))
    with Journal.open(":memory:") as journal:
        write_log(journal, leaves)
        size = bundles.write(journal, STREAM, folder, [terms()], statements, [SIGNER.verifier.encode()])
        assert size == len(leaves)
    return folder


def failed(report: AuditReport) -> list[str]:
    return [check.name for check in report.checks if check.verdict is Verdict.FAILED]


def test_a_sound_bundle_passes_every_check(tmp_path: Path) -> None:
    report = audit(bundle(tmp_path / "bundle", delivered()))
    assert report.ok, report.first_wrong
    assert [check.name for check in report.checks] == list(CHECKS)
    assert (report.positions, report.records, report.size) == (3, 37, 50)
    assert (report.origin, report.first_wrong) == (SIGNER.name, None)
    assert all(check.examined for check in report.checks)


def test_only_a_key_that_is_trusted_counts(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", delivered())
    assert audit(folder, [SIGNER.verifier]).ok
    assert failed(audit(folder, [SignerKey("other", bytes(32)).verifier])) == ["checkpoint"]


def test_without_statements_the_records_must_still_give_them(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", delivered())
    shutil.rmtree(folder / "statements")
    assert audit(folder).ok


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="checkpoint"):
        audit(tmp_path)


def record_at(position: str, index: int, **changes: object) -> Callable[[MeterRecord], MeterRecord]:
    """Changes one record and leaves the others."""

    def change(record: MeterRecord) -> MeterRecord:
        if (record.position, record.start_ms) != (position, START_MS + index * INTERVAL_MS):
            return record
        return MeterRecord.model_validate(dict(record) | changes)

    return change


def pool_at(index: int, **changes: object) -> Callable[[PoolRecord], PoolRecord]:
    def change(pool: PoolRecord) -> PoolRecord:
        return PoolRecord.model_validate(dict(pool) | changes) if pool.start_ms == at_ms else pool

    at_ms = START_MS + index * INTERVAL_MS
    return change


LOTS_3 = 3 * 8 * INTERVAL_MS
MORE = metered("pos-1", 3, 0).used_gpu_ms + 3_000
WITHOUT_LOSS = {"used_gpu_ms": MORE, "out_forced_gpu_ms": 0, "losses": ()}

FRAUDS: dict[str, tuple[Callable[[], list[bytes]], str, str]] = {
    "more used than there was": (
        lambda: delivered(record_at("pos-1", 2, used_gpu_ms=LOTS_3)),
        "identities",
        "leaf 8, pos-1 [1800000020000, 1800000030000) version 1: the states add up to",
    ),
    "a loss without a cause": (lambda: delivered(record_at("pos-1", 2, losses=())), "identities", "the causes of"),
    "half a GPU contracted": (
        lambda: delivered(record_at("pos-2", 5, contracted_gpu_ms=160_001, used_gpu_ms=79_001)),
        "contracted",
        "expected a multiple of the lot's 8",
    ),
    "delivered at more than par": (
        lambda: delivered(record_at("pos-1", 1, par_gpu_ms=LOTS_3)),
        "contracted",
        "par_gpu_ms was 240000, expected at most 237000",
    ),
    "another instrument": (lambda: delivered(record_at("pos-1", 1, instrument="H200@1")), "intervals", "no terms of"),
    "a longer interval": (
        lambda: delivered(record_at("pos-1", 11, end_ms=START_MS + 13 * INTERVAL_MS)),
        "intervals",
        "is not 10000 ms",
    ),
    "an interval outside the window": (
        lambda: [*delivered(), encode_record(metered("pos-1", 3, 12), 1)],
        "intervals",
        "outside",
    ),
    "a bad interval left out": (
        lambda: delivered(lambda record: None if record.start_ms == START_MS + 50_000 else record),
        "tiling",
        "pos-1 has no record of [1800000050000, 1800000060000)",
    ),
    "a record replaced in silence": (
        lambda: [*delivered(), encode_record(metered("pos-2", 2, 3, **halved()), 1)],
        "versions",
        "leaf 50, pos-2 [1800000030000, 1800000040000) version 1: version was 1, expected 2",
    ),
    "a version left out": (
        lambda: delivered(lambda record: versioned(record, 3) if record.version == 2 else record),
        "versions",
        "version was 3, expected 2",
    ),
    "a pool with GPUs from nowhere": (lambda: delivered(of_pool=pool_at(1, total_gpu_ms=1)), "pools", "add up to"),
    "a pool that says it sold less": (lambda: delivered(of_pool=pool_at(1, sold_gpu_ms=1)), "pools", "sold_gpu_ms was"),
    "one GPU delivered to two positions": (
        lambda: delivered(of_pool=pool_at(1, covered_gpu_ms=80_000, unsold_idle_gpu_ms=560_000)),
        "pools",
        "GPU-ms were delivered",
    ),
    "an interval without certificates": (
        lambda: delivered(of_pool=lambda pool: None if pool.start_ms == START_MS else pool),
        "pools",
        "0 covered",
    ),
    "a shortage shared by another rule": (
        lambda: [*delivered(), encode_shortage(shortage().replace('"awarded":1', '"awarded":0'), 1)],
        "shortages",
        "leaf 50",
    ),
    "a shortage whose order was changed": (
        lambda: [*delivered(), tampered(claims=lambda claims: claims[::-1])],
        "shortages",
        "leaf 50: the shortage certificate",
    ),
    "a shortage of more cells": (
        lambda: [*delivered(), tampered(cells=lambda cells: cells + 1)],
        "shortages",
        "pos-1 got 1 of 2, expected 2 of 2",
    ),
    "a shortage with another digest": (
        lambda: [*delivered(), tampered(digest=lambda _: "0" * 64)],
        "shortages",
        "its digest was 0000",
    ),
    "a shortage in which a firm position is another class": (
        lambda: [*delivered(), of_other(firmness_class=2)],
        "shortages",
        "firmness_class of pos-1 was 2, expected 0",
    ),
    "a shortage of another pool": (
        lambda: [*delivered(), of_other(pool="A100@local")],
        "shortages",
        "pool of pos-1 was A100@local, expected H100SXM@local",
    ),
    "a shortage of another level": (
        lambda: [*delivered(), of_other(level=Level.GPU)],
        "shortages",
        "level of pos-1 was GPU, expected NODE",
    ),
    "a leaf of nonsense": (lambda: [*delivered(), b"nonsense"], "leaves", "leaf 50"),
    "an outage kept out of the log": (
        lambda: delivered(record_at("pos-3", 6, **less_lost())),
        "statements",
        "statements/pos-3.json: ",
    ),
}


def tampered(**changes: Callable[[Any], Any]) -> bytes:
    """The shortage of the world with some fields changed by somebody who left the rest as it was."""
    fields = json.loads(shortage())
    fields |= {name: change(fields[name]) for name, change in changes.items()}
    return encode_shortage(canonical_bytes(fields).decode(), 1)


def of_other(*, firmness_class: int = 0, pool: str = "H100SXM@local", level: Level = Level.NODE) -> bytes:
    """A shortage that follows the rule, of a position that is not like that."""
    claim = ShortClaim(position="pos-1", firmness_class=firmness_class, lots=1, acquired_ms=5)
    return encode_shortage(ration([claim], 0, pool=pool, level=level, start_ms=START_MS).body.decode(), 1)


def halved() -> dict[str, object]:
    return {"used_gpu_ms": 40_000, "out_forced_gpu_ms": 41_000, "losses": ((Cause.NODE_LOST, 41_000),)}


def less_lost() -> dict[str, object]:
    record = metered("pos-3", 1, 6)
    return {
        "used_gpu_ms": record.used_gpu_ms + record.out_forced_gpu_ms,
        "out_forced_gpu_ms": 0,
        "losses": (),
        "par_gpu_ms": record.par_gpu_ms + record.out_forced_gpu_ms,
    }


def versioned(record: MeterRecord, version: int) -> MeterRecord:
    changes = {"version": version, "supersedes": version - 1, "status": RecordStatus.CORRECTED}
    return MeterRecord.model_validate(dict(record) | changes)


@pytest.mark.parametrize("fraud", FRAUDS)
def test_a_fraud_is_named_by_the_check_that_is_there_for_it(tmp_path: Path, fraud: str) -> None:
    leaves, check, says = FRAUDS[fraud]
    report = audit(bundle(tmp_path / "bundle", leaves()))
    assert not report.ok
    assert check in failed(report)
    detail = next(each.detail for each in report.checks if each.name == check)
    assert says in detail


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def _statement(folder: Path) -> None:
    path = folder / "statements" / "pos-1.json"
    stated = json.loads(path.read_bytes())
    stated["amount_micro"] -= 1
    path.write_bytes(canonical_bytes(stated))


def _terms(folder: Path) -> None:
    path = folder / "terms" / "H100.BASE@1.json"
    path.write_bytes(path.read_bytes().replace(b'"price_micro_per_gpu_hour":2000000', b'"price_micro_per_gpu_hour":1'))


def _root(folder: Path) -> None:
    path = folder / "checkpoint"
    origin, size, _, *rest = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([origin, size, base64.b64encode(bytes(32)).decode(), *rest]), encoding="utf-8")


def _key(folder: Path) -> None:
    other = SignerKey("tenor.test/other", bytes(32)).verifier
    (folder / "vkey").write_text(other.encode() + "\n", encoding="utf-8")


def _signature(folder: Path) -> None:
    path = folder / "checkpoint"
    note = path.read_text(encoding="utf-8")
    path.write_text(note[:-10] + ("A" if note[-10] != "A" else "B") + note[-9:], encoding="utf-8")


def _spaces(folder: Path) -> None:
    path = folder / "statements" / "pos-1.json"
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a leaf changed": (lambda folder: flip(folder / "tile/entries/000.p/50"), "tree", "tile"),
    "a hash changed": (lambda folder: flip(folder / "tile/0/000.p/50"), "tree", "tile/0"),
    "a tile gone": (lambda folder: (folder / "tile/0/000.p/50").unlink(), "folder", "is missing"),
    "the signature changed": (_signature, "checkpoint", "signature"),
    "the root changed": (_root, "checkpoint", "signature"),
    "the key replaced": (_key, "checkpoint", "expected a signature"),
    "the price changed in the terms": (_terms, "statements", "spec_hash"),
    "the amount changed in a statement": (_statement, "statements", "amount_micro was"),
    "a statement in another form": (_spaces, "statements", "canonical"),
    "terms gone": (lambda folder: (folder / "terms/H100.BASE@1.json").unlink(), "intervals", "no terms of"),
    "terms of nonsense": (lambda folder: flip(folder / "terms/H100.BASE@1.json", 0), "terms", "terms/H100.BASE@1.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_changed_after_the_writing_is_named(tmp_path: Path, damage: str) -> None:
    change, check, says = DAMAGES[damage]
    folder = bundle(tmp_path / "bundle", delivered())
    change(folder)
    report = audit(folder)
    assert not report.ok
    assert check in failed(report)
    assert says in next(each.detail for each in report.checks if each.name == check)


def test_a_check_that_was_not_wholly_made_is_not_said_to_have_passed(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", delivered())
    flip(folder / "tile/0/000.p/50")
    verdicts = {check.name: check.verdict for check in audit(folder).checks}
    assert verdicts["tree"] is Verdict.FAILED
    assert verdicts["identities"] is Verdict.NOT_REACHED
