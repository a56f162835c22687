"""The track record: sums over the latest versions, by month, instrument, pool and seller, from audited logs alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.__main__ import main
from scheduler.cli.disclosure import pool_row
from scheduler.core.causes import Bearer, Cause
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.metering.states import State
from scheduler.exchange.disclosure import disclosed
from scheduler.exchange.leaves import PoolLeaf, decode, encode_pool
from tests.exchange.evidence import GPUS, Evidence, later, pledges, record_at, settling, told
from tests.exchange.frauds.signatures import seller
from tests.exchange.world import END_MS, INTERVAL_MS, INTERVALS, SIGNER, START_MS

LOTS_GPU_MS = 8 * INTERVAL_MS * INTERVALS
SLOW: dict[str, Any] = {"measured_mean_ppm": 800_000, "measured_min_ppm": 800_000, "suite": "matmul.v1"}


def test_what_was_promised_and_delivered_by_instrument_and_month(tmp_path: Path) -> None:
    (found,) = disclosed([Evidence().write(tmp_path / "bundle")]).instruments
    lost = 6 * 1_000 * INTERVALS
    assert (found.seller, found.instrument, found.month) == (SIGNER.name, "H100.BASE@1", "2027-01")
    assert (found.positions, found.records) == (3, 3 * INTERVALS)
    assert (found.contracted_gpu_ms, found.delivered_gpu_ms) == (6 * LOTS_GPU_MS, 6 * LOTS_GPU_MS - lost)
    assert found.delivered_ppm == 987_500
    assert sum(gpu_ms for _, gpu_ms in found.states) == found.contracted_gpu_ms
    assert dict(found.states)[State.OUT_FORCED] == lost
    assert found.shortfall_by_cause == (("NODE_LOST", lost),)
    assert found.shortfall_by_bearer == ((Bearer.SELLER, lost),)
    assert (found.estimated_gpu_ms, found.corrections, found.corrections_after_final) == (5, 1, 0)
    assert (found.floors_measured, found.floors_met) == (0, 0)


def test_a_record_counts_as_it_was_corrected_and_floors_as_they_were_measured(tmp_path: Path) -> None:
    def first(record: MeterRecord) -> MeterRecord:
        return record_at("pos-3", 0, **SLOW | {"measured_mean_ppm": 990_000, "measured_min_ppm": 980_000})(record)

    derated: dict[str, Any] = {
        "used_gpu_ms": 78_500,
        "derated_gpu_ms": 500,
        "losses": ((Cause.NODE_LOST, 2_000), (Cause.UNDER_PERFORMANCE, 500)),
        "par_gpu_ms": 157_500,
    }
    leaves = told(first, more=[later("pos-2", 3, **derated | SLOW)])
    report = disclosed([Evidence(leaves=leaves, settled={}).write(tmp_path / "bundle")])
    assert report.reports[0].ok, report.reports[0].first_wrong
    (found,) = report.instruments
    assert dict(found.shortfall_by_cause)["UNDER_PERFORMANCE"] == 500
    assert dict(found.states)[State.DERATED] == 500
    assert (found.floors_measured, found.floors_met) == (2, 1)
    assert (found.corrections, found.corrections_after_final) == (2, 0)


def test_corrections_after_final_are_told_apart(tmp_path: Path) -> None:
    report = disclosed([Evidence(leaves=told(more=settling()), settled={}).write(tmp_path / "bundle")])
    assert report.reports[0].ok, report.reports[0].first_wrong
    (found,) = report.instruments
    assert (found.corrections, found.corrections_after_final) == (3, 1)
    assert (found.disputes, found.disputes_accepted, found.disputes_expired) == (3, 1, 1)


def test_what_was_sold_against_what_stood_behind_it(tmp_path: Path) -> None:
    (found,) = disclosed([Evidence().write(tmp_path / "bundle")]).pools
    assert (found.pool, found.month, found.certificates, found.shortages) == ("local/H100SXM", "2027-01", INTERVALS, 1)
    whole = GPUS * INTERVAL_MS * INTERVALS
    assert (found.total_gpu_ms, found.pledged_gpu_ms) == (whole, whole)
    assert found.sold_gpu_ms == found.covered_gpu_ms == 6 * LOTS_GPU_MS


def test_where_intervals_of_several_lengths_are_mixed_each_instant_counts_once(tmp_path: Path) -> None:
    """The log has certificates of 10 s; the same pool is certified by the minute as well, but for its last minute."""
    (plain,) = disclosed([Evidence().write(tmp_path / "plain")]).pools
    pools = {pool.start_ms: pool for pool in map(pool_of, told()) if pool is not None}
    minute = [pools[START_MS + number * INTERVAL_MS] for number in range(6)]
    sums = {
        name: sum(getattr(each, name) for each in minute) for name in PoolRecord.model_fields if name.endswith("_ms")
    }
    edges = {"start_ms": START_MS, "end_ms": START_MS + 6 * INTERVAL_MS}
    longer = encode_pool(PoolRecord.model_validate(dict(minute[0]) | sums | edges), END_MS + 3_000)
    report = disclosed([Evidence(leaves=told(more=[longer]), settled={}).write(tmp_path / "mixed")])
    assert report.reports[0].ok, report.reports[0].first_wrong
    (mixed,) = report.pools
    assert mixed == replace(plain, certificates=INTERVALS - 5)


def pool_of(leaf: bytes) -> PoolRecord | None:
    decoded = decode(leaf)
    return decoded.pool if isinstance(decoded, PoolLeaf) else None


def test_what_is_accredited_and_how_fast_owners_were_bound_is_added_up(tmp_path: Path) -> None:
    def said(pool: PoolRecord) -> PoolRecord:
        more = {"accredited_gpus": 0, "pledged_gpus": GPUS, "binds": (1, 0, 2, 0, 0, 0, 1), "slowest_bind_ms": 301_000}
        return PoolRecord.model_validate(dict(pool) | more)

    report = disclosed([Evidence(leaves=told(of_pool=said), settled={}).write(tmp_path / "bundle")])
    assert report.reports[0].ok, report.reports[0].first_wrong
    (found,) = report.pools
    assert (found.accredited_gpu_ms, found.slowest_bind_ms) == (0, 301_000)
    assert found.binds == (INTERVALS, 0, 2 * INTERVALS, 0, 0, 0, INTERVALS)
    assert pool_row(found)[-1] == f"{3 * INTERVALS} of {4 * INTERVALS} in 30 s, slowest 301.0 s"


def test_of_one_log_the_longest_bundle_counts_and_sellers_stand_apart(tmp_path: Path) -> None:
    longer = Evidence().write(tmp_path / "longer")
    shorter = Evidence(leaves=told()[:-9], settled={}).write(tmp_path / "shorter")
    other = seller([*pledges("borealis"), *told()[len(pledges()) :]]).write(tmp_path / "other")
    found = disclosed([shorter, longer, other, shorter])
    assert [each.seller for each in found.instruments] == [SIGNER.name, "tenor.test/cluster-2"]
    assert found.instruments[0] == disclosed([longer]).instruments[0]


def test_the_command_writes_a_page_and_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, page = Evidence().write(tmp_path / "bundle"), tmp_path / "record.html"
    assert main(["disclosure", str(bundle), "--html", str(page), "-o", "json"]) == 0
    told_json = capsys.readouterr()
    document = json.loads(told_json.out)
    assert document["instruments"][0]["delivered_ppm"] == 987_500
    assert document["audits"] == [{"bundle": str(bundle), "origin": SIGNER.name, "ok": True}]
    assert "the audit passes" in told_json.err
    written = page.read_text(encoding="utf-8")
    assert written.startswith("<!doctype html>")
    for shown in ("H100.BASE@1", "98.7500 %", "node lost 0.020 GPU-h", "seller 0.020 GPU-h", "local/H100SXM", "passes"):
        assert shown in written
    assert "http" not in written.replace("<!doctype html>", "")
    assert main(["disclosure", str(bundle)]) == 0
    assert "98.7500 %" in capsys.readouterr().out


def test_a_log_that_fails_its_audit_is_shown_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaves = told(record_at("pos-1", 2, losses=()))
    bundle, page = Evidence(leaves=leaves, settled={}).write(tmp_path / "bundle"), tmp_path / "record.html"
    assert main(["disclosure", str(bundle), "--html", str(page)]) == 4
    assert "THE AUDIT FAILS: identities: leaf" in capsys.readouterr().err
    assert "FAILS" in page.read_text(encoding="utf-8")
    assert main(["disclosure", str(bundle), "--html", str(tmp_path / "no" / "folder.html")]) == 2
