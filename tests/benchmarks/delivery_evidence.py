"""What evidence costs once a log is long: a proof, the bundle, and `tenor audit` of it in a process of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from scheduler.delivery import LogWriter
from scheduler.exchange import bundles
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from tests.benchmarks.delivered import POSITIONS, bench_terms, interval_leaves
from tests.benchmarks.harness import Figure

_PROOFS = 500
_STREAM = "evidence"


def measured(folder: Path, records: int) -> dict[str, Figure]:
    """Milliseconds of a proof, and seconds and memory of an audit, over a log of so many records."""
    folder.mkdir()
    terms, log = bench_terms(), LogWriter(_STREAM, SignerKey.generate("tenor.test/evidence"))
    positions = [f"pos-{number + 1}" for number in range(POSITIONS)]
    with Journal.open(folder / "journal.db", durable=False) as journal:
        for index in range(records // len(positions)):
            log.commit(journal, (), interval_leaves(positions, terms, index), {})
        log.checkpoint(journal)
        proofs = _proofs(journal)
        begun = time.perf_counter()
        bundles.write(journal, _STREAM, folder / "bundle", [terms], {}, [log.signer.verifiers[-1].encode()])
        written_s = time.perf_counter() - begun
    return {**proofs, "bundle_s": round(written_s, 2), **_audited(folder / "bundle", records)}


def _proofs(journal: Journal) -> dict[str, Figure]:
    """Of random leaves and sizes, each checked against the root."""
    chance, size = random.Random(1), journal.log_size(_STREAM)
    root, asked = journal.root(_STREAM), [chance.randrange(1, size) for _ in range(_PROOFS)]

    def included(index: int) -> bool:
        ((_, leaf),) = journal.leaves(_STREAM, index, 1)
        return verify_inclusion(leaf_hash(leaf), index, size, journal.inclusion_proof(_STREAM, index, size), root)

    def continued(first: int) -> bool:
        proof = journal.consistency_proof(_STREAM, first, size)
        return verify_consistency(first, size, journal.root(_STREAM, first), root, proof)

    assert all(included(index) and continued(index) for index in asked)
    return {
        "proof_leaves": size,
        "inclusion_proof_ms": _each_ms(lambda index: journal.inclusion_proof(_STREAM, index, size), asked),
        "consistency_proof_ms": _each_ms(lambda first: journal.consistency_proof(_STREAM, first, size), asked),
    }


def _each_ms(prove: Callable[[int], object], asked: list[int]) -> float:
    begun = time.perf_counter()
    for index in asked:
        prove(index)
    return round((time.perf_counter() - begun) / len(asked) * 1e3, 4)


def _audited(bundle: Path, records: int) -> dict[str, Figure]:
    """`tenor audit` of the bundle: it must pass."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "scheduler.cli", "audit", str(bundle), "--output", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        report = json.load(said)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    assert (process.returncode, report["records"]) == (0, records), report
    return {
        "audit_records": records,
        "audit_s": round(seconds, 2),
        "audit_cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "audit_records_per_s": round(records / seconds),
        "audit_peak_mib": used.ru_maxrss // 2**10,
    }
