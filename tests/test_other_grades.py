"""Delivery in other grades, from the listing to the audit: what stands in is paid by its worth, and proven."""

from __future__ import annotations

from pathlib import Path

from scheduler.core.instruments import Deliverable
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.audit import audit
from scheduler.exchange.bundles import write
from tests.scenarios.stage import SIGNER, Stage
from tests.scenarios.words import run

PLAY = (
    "fleet 2 nodes of 8 H100",
    "fleet 1 nodes of 8 H200",
    "acme buys 2 nodes also=H200:120% as=either",
    "bolt buys 1 nodes grade=H200 firmness=nonfirm as=loose",
    "acme submits train 8",
    "after 10m",
    "node-0 fails",
    "after 10m",
)


def records_of(stage: Stage, position: str) -> list[MeterRecord]:
    return [record for record in stage.metered() if record.position == position]


def test_what_stands_in_is_paid_by_its_worth_and_its_shortage_is_audited(tmp_path: Path) -> None:
    """A firm lot of H100 takes the H200 node of a lower class when its own fails: the buyer has it at 1.2 times."""
    stage = Stage()
    for line in PLAY:
        list(run(stage, line))
    [terms] = [each for each in stage.scheduler.state.instruments.values() if each.symbol == "either.LOT"]
    assert terms.deliverables[1] == Deliverable(grade="H200", conversion_ppm=1_200_000)
    records = records_of(stage, "either")
    assert all(record.delivered_gpu_ms == record.contracted_gpu_ms for record in records)
    gpu_ms = 8 * terms.interval_ms
    assert [record.par_gpu_ms for record in records] == [2 * gpu_ms] * 2 + [gpu_ms + gpu_ms * 12 // 10] * 2
    assert {record.delivered_gpu_ms for record in records_of(stage, "loose")[2:]} == {0}
    listed = list(stage.scheduler.state.instruments.values())
    write(stage.journal, "scenario", tmp_path / "bundle", listed, {}, [SIGNER.verifier.encode()])
    report = audit(tmp_path / "bundle")
    assert report.ok, report.first_wrong
    assert next(check.examined for check in report.checks if check.name == "shortages") == 2
    stage.close()
