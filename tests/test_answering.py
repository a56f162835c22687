"""Device probes from end to end: the exchange calls, an idle device computes, the log tells it, the audit believes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scheduler.answering import ProbeAnswering, failed_probes, place_of
from scheduler.core.device_probes import DeviceProbe, Outcome, ProbedRow
from scheduler.core.devices import DeviceIdentity, device_hash
from scheduler.core.errors import TenorError
from scheduler.core.events import DevicesSeen, Event
from scheduler.core.state.dump import dump, load
from scheduler.delivery import LogWriter
from scheduler.exchange import bundles
from scheduler.exchange.audit import audit
from scheduler.exchange.probe_client import ProbeClient
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.reference.venue import VenueRules
from scheduler.execution.nonce_worker import NonceWorker
from scheduler.execution.protocol import ProbeProgress, ProbeStep, ProbeTask
from scheduler.pledging import pledge
from tests.exchange.world import Embedded, embedded
from tests.simulation.site import SIGNER, START_MS, STREAM, Site, gang, nodes

WAIT_S = 20
INVENTORY = {"node-0": [f"GPU-{gpu}" for gpu in range(8)]}


@dataclass
class HereRunner:
    """A ProbeRunner in this process, by the worker that runs on nodes. `meanwhile` happens before it computes."""

    meanwhile: Callable[[], None] = lambda: None
    fails: bool = False
    abandoned: list[str] = field(default_factory=list)
    _known: dict[str, tuple[ProbeTask, NonceWorker, ProbeProgress]] = field(default_factory=dict)

    def prepare_probe(self, task: ProbeTask) -> None:
        """See ProbeRunner."""
        worker = NonceWorker(None, task.size)
        step = ProbeStep.FAILED if self.fails else ProbeStep.READY
        self._known[task.probe] = (task, worker, ProbeProgress(task.probe, step, worker.ready()))

    def solve_probe(self, probe: str, seed: bytes) -> None:
        """See ProbeRunner."""
        self.meanwhile()
        task, worker, _ = self._known[probe]
        table = base64.b64encode(worker.table(seed, task.products)).decode()
        self._known[probe] = (task, worker, ProbeProgress(probe, ProbeStep.COMPUTED, "numpy", table))

    def abandon_probe(self, probe: str) -> None:
        """See ProbeRunner."""
        self.abandoned.append(probe)
        self._known.pop(probe, None)

    def probe_progress(self, probe: str) -> ProbeProgress:
        """See ProbeRunner."""
        return self._known[probe][2]


@dataclass
class Probed:
    """A site on virtual time, whose first node's devices are pledged, and the exchange that probes them."""

    site: Site
    exchange: Embedded
    runner: HereRunner
    client: ProbeClient

    def publish(self) -> None:
        """The exchange has all leaves, and settles by each of them."""
        journal = self.site.journal
        with Publisher(self.exchange.server.address, journal, STREAM, SIGNER, 1) as publisher:
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
            assert publisher.status().rejections == ()

    def answering(self) -> ProbeAnswering:
        """Whoever answers in the cluster."""
        return ProbeAnswering(
            *(self.exchange.server.address, self.site.scheduler, self.runner, STREAM, INVENTORY),
            lambda: self.site.now_ms,
        )

    def turn(self) -> None:
        """The next call comes, and is dealt with."""
        self.client.next(STREAM)
        self.exchange.clock.now_ms += 2_000
        self.answering().turn(self.client)
        self.site.round()

    def found(self) -> list[DeviceProbe]:
        """What the exchange found, in order."""
        return [each.found for each in self.client.listed()]


@pytest.fixture
def probed(tmp_path: Path) -> Iterator[Probed]:
    with embedded(tmp_path / "exchange.db", VenueRules(probe_every_ms=1_000)) as exchange:
        exchange.clock.now_ms = START_MS
        site = Site([each.model_copy(update={"grade": "LOGICAL"}) for each in nodes(2)])
        site.round()
        fleet, log = site.scheduler.state.fleet, LogWriter(STREAM, SIGNER)
        assert pledge(site.journal, log, INVENTORY, fleet, {}, site.now_ms) == 8
        with ProbeClient(exchange.server.address) as client:
            made = Probed(site, exchange, HereRunner(), client)
            made.publish()
            yield made


def test_an_idle_device_passes_and_everybody_knows(probed: Probed, tmp_path: Path) -> None:
    probed.turn()
    (found,) = probed.found()
    assert failed_probes(probed.site.scheduler.state) == []
    assert (found.outcome, found.suite) == (Outcome.PASSED, "nonce-matmul-stand-in-v1")
    assert probed.runner.abandoned == [found.id]
    state = probed.site.scheduler.state
    assert state.health.probed == {found.device: found.model_copy(update={"rows": ()})}
    assert load(dump(state)).health.probed == state.health.probed
    probed.publish()
    assert [each.logged for each in probed.client.listed()] == [True]
    probed.answering().turn(probed.client)
    assert probed.site.kinds().count("device_probed") == 1
    journal, server = probed.site.journal, probed.exchange.server
    cosigned = server.intake.checkpoint(STREAM)[1]
    journal.save_cosigned(STREAM, journal.log_size(STREAM), cosigned, server.intake.witness)
    bundles.write(journal, STREAM, tmp_path / "bundle", [], {}, [SIGNER.verifier.encode()])
    report = audit(tmp_path / "bundle")
    assert report.ok, report.first_wrong
    assert next(check.examined for check in report.checks if check.name == "probes") == 1


def test_a_busy_device_is_not_disturbed(probed: Probed) -> None:
    probed.site.submit(gang("acme", 8, workers=2))
    probed.site.round()
    probed.turn()
    (found,) = probed.found()
    assert (found.outcome, found.reason) == (Outcome.DECLINED, "busy")
    assert probed.runner.abandoned == []


def test_a_device_gives_way_to_work_that_is_placed_meanwhile(probed: Probed) -> None:
    def work_comes() -> None:
        probed.site.submit(gang("acme", 8, workers=2))
        probed.site.round()

    probed.runner.meanwhile = work_comes
    probed.turn()
    (found,) = probed.found()
    assert (found.outcome, found.reason) == (Outcome.DECLINED, "gave_way")
    assert probed.runner.abandoned == [found.id]


def test_a_failure_is_told_of_by_the_log_and_an_alert(probed: Probed) -> None:
    def time_passes() -> None:
        probed.exchange.clock.now_ms += 5_001

    probed.runner.meanwhile = time_passes
    probed.turn()
    probed.exchange.clock.now_ms -= 5_001  # so that no other call is due
    probed.answering().turn(probed.client)  # which is told what was found
    (found,) = probed.found()
    named = f"{found.id} of device {found.device[:16]} was late: answered after 5001 ms, expected at most 5000"
    assert failed_probes(probed.site.scheduler.state) == [named]
    probed.publish()
    assert [each.logged for each in probed.client.listed()] == [True]


def test_a_device_that_cannot_be_made_to_compute_or_is_not_here_declines(probed: Probed) -> None:
    probed.runner.fails = True
    probed.turn()
    probed.site.doing(
        lambda scheduler: scheduler.adopt(
            [DevicesSeen(at_ms=probed.site.now_ms, node="node-0", source="nvml", devices=(None,) * 8)], ()
        )
    )
    probed.turn()
    assert [each.reason for each in probed.found()] == ["failed", "not_here"]


def test_what_a_crash_kept_from_the_log_is_told_of_again(probed: Probed) -> None:
    class Unlearnt(ProbeClient):
        def open_rows(self, stream: str, probe: str, rows: Sequence[ProbedRow]) -> DeviceProbe:
            super().open_rows(stream, probe, rows)
            raise TenorError("the cluster died here")

    probed.client.next(STREAM)
    probed.exchange.clock.now_ms += 2_000
    with Unlearnt(probed.exchange.server.address) as dying, pytest.raises(TenorError):
        probed.answering().turn(dying)
    assert probed.site.kinds().count("device_probed") == 0
    probed.answering().turn(probed.client)
    assert probed.site.kinds().count("device_probed") == 1
    probed.publish()
    assert [each.logged for each in probed.client.listed()] == [True]


def test_the_thread_asks_by_itself_and_says_why_it_does_not(probed: Probed) -> None:
    probed.client.next(STREAM)
    probed.exchange.clock.now_ms += 2_000
    heard = probed.site.scheduler.woken
    heard.clear()
    told: list[str] = []

    def listener(event: Event) -> None:
        told.append(event.kind)
        heard.set()

    probed.site.scheduler.listeners.append(listener)
    with probed.answering() as answering:
        assert heard.wait(WAIT_S)
    assert told == ["device_probed"]
    assert answering.detail == ""
    assert answering.node == ""
    answering.stop()


def test_where_a_device_is_nvml_says_before_the_inventory(probed: Probed) -> None:
    state = probed.site.scheduler.state
    assert place_of(device_hash("GPU-3"), state, INVENTORY) == ("node-0", 3)
    assert place_of(device_hash("GPU-9"), state, INVENTORY) is None
    seen = (None, DeviceIdentity(uuid="GPU-9"))
    state.apply(DevicesSeen(at_ms=probed.site.now_ms, node="node-0", source="nvml", devices=seen))
    assert place_of(device_hash("GPU-9"), state, INVENTORY) == ("node-0", 1)
    assert place_of(device_hash("GPU-3"), state, INVENTORY) is None
