"""Delivery in another grade: not before its buyer agreed, then at its conversion; the log says so, and audits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.cli.__main__ import main
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.events import CoverageAssigned
from scheduler.core.holdings import Holding
from scheduler.core.instruments import Deliverable
from scheduler.core.metering.records import Quality
from scheduler.core.positions import Cursor, PositionEventKind
from scheduler.core.state.dump import dump
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.consents import ConsentLeaf, SubstituteConsent
from scheduler.exchange.leaves import decode
from tests.exchange.world import embedded, terms
from tests.simulation.site import SIGNER, START_MS, STREAM, Site, listing, lost

PAR = Deliverable(grade="H100")
A100 = Deliverable(grade="A100", conversion_ppm=450_000, needs_consent=True)
TERMS = listing(deliverables=(PAR, A100))
WHOLE_GPU_MS = 8 * 10_000


def stood_in() -> Site:
    """A position that an A100 node stands behind from the twelfth second on."""
    site = Site(
        [
            NodeSpec(name="n-0", grade="H100", gpus=8, domain="d-0"),
            NodeSpec(name="n-1", grade="A100", gpus=8, domain="d-1"),
        ]
    )
    site.round()
    site.listed(TERMS)
    site.trade("held", "acme")
    site.until(12_000)
    here = Holding(position="held", level=Level.NODE, cell=1, start_ms=site.now_ms, end_ms=TERMS.window.end_ms)
    moved = CoverageAssigned(
        at_ms=site.now_ms, from_ms=site.now_ms, why="replaced", positions=("held",), holdings=(here,)
    )
    site.doing(lambda scheduler: scheduler.adopt([moved], []))
    return site


def consents(site: Site) -> list[SubstituteConsent]:
    return [leaf.said for leaf in map(decode, site.leaves()) if isinstance(leaf, ConsentLeaf)]


def test_a_substitute_counts_from_the_consent_on_at_its_conversion_and_the_log_audits(tmp_path: Path) -> None:
    site = stood_in()
    site.until(25_000)
    site.told(site.event(PositionEventKind.CONSENT, "held", "acme", lots=0, grades=("A100",)))
    agreed_ms = site.now_ms
    site.told(site.event(PositionEventKind.SPLIT, "rest", "acme", source="held", at_ms=60_000))
    site.until(52_000)
    at_par, before, during, after = site.records("held")[:4]
    assert (at_par.quality, at_par.par_gpu_ms) == (Quality.MEASURED, WHOLE_GPU_MS)
    assert before.par_gpu_ms == WHOLE_GPU_MS - lost(before, Cause.WRONG_GRADE) == 8 * 2_000
    delivered_gpu_ms = 8 * (START_MS + 30_000 - agreed_ms)
    assert lost(during, Cause.WRONG_GRADE) == WHOLE_GPU_MS - delivered_gpu_ms
    assert (during.quality, during.par_gpu_ms) == (Quality.SUBSTITUTED, delivered_gpu_ms * 45 // 100)
    assert (after.quality, after.losses, after.par_gpu_ms) == (Quality.SUBSTITUTED, (), WHOLE_GPU_MS * 45 // 100)
    said = SubstituteConsent("held", TERMS.id, ("A100",), agreed_ms)
    assert consents(site) == [said, SubstituteConsent("rest", TERMS.id, ("A100",), agreed_ms)]
    assert site.refolded() == dump(site.scheduler.state)
    bundles.write(site.journal, STREAM, tmp_path / "bundle", [TERMS], {}, [SIGNER.verifier.encode()])
    assert audit(tmp_path / "bundle").ok, audit(tmp_path / "bundle").first_wrong


def test_a_consent_that_comes_late_with_a_snapshot_corrects_what_was_metered() -> None:
    site = stood_in()
    site.until(45_000)
    (held,) = site.scheduler.state.book.snapshot()
    told = type(held).model_validate(dict(held) | {"consents": (("A100", START_MS + 26_000),)})
    for seq in (site.seq + 1, site.seq + 2):  # the second time it is known
        site.scheduler.learn_positions(Cursor(stream="exchange", epoch=1, seq=seq), [told])
    corrected = [record for record in site.records("held") if record.version == 2]
    assert [(record.start_ms - START_MS, lost(record, Cause.WRONG_GRADE)) for record in corrected] == [
        (20_000, 8 * 6_000),
        (30_000, 0),
    ]
    assert consents(site) == [SubstituteConsent("held", TERMS.id, ("A100",), START_MS + 26_000)]


def test_an_owner_agrees_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with embedded(tmp_path / "exchange.db") as exchange:
        exchange.client.list_instrument(terms("SUB", deliverables=(*terms("SUB").deliverables, A100)))
        exchange.client.trade("acme", "SUB@1", 2)
        asked = ["exchange", "trade", "consent", "pos-1", "A100", "--exchange", exchange.server.address]
        assert main(asked) == 0
        assert capsys.readouterr() == ("pos-1\n", "consent 2: A100 for SUB@1 of acme\n")
        assert main([*asked[:4], "H200", *asked[5:]]) != 0
        assert "grades of the consent of pos-1 was 'H200', expected some of A100" in capsys.readouterr().err
