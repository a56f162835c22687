"""The exchange has devices compute: honest clusters pass, each way to cheat is found and named, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.core.device_probes import Answer, Declined, DeviceProbe, Outcome, ProbeCall
from scheduler.core.devices import DevicePledge, device_hash
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.merkle import leaf_hash, root
from scheduler.core.probe_work import seed_of
from scheduler.exchange.leaves import encode_pledge
from scheduler.exchange.probe_client import ProbeClient
from scheduler.exchange.probe_leaves import encode_probe
from scheduler.exchange.reference.venue import VenueRules
from scheduler.execution.nonce_worker import NonceWorker
from scheduler.ledger.keys import SignerKey, VerifierKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint
from tests.exchange.world import START_MS, Embedded, ManualClock, embedded

RULES = VenueRules(probe_every_ms=1_000)
STREAM = "cluster"
KEY = SignerKey(f"tenor.test/{STREAM}", bytes(32))
DEVICES = tuple(device_hash(f"GPU-{number}") for number in range(3))
PLEDGES = tuple(
    encode_pledge(DevicePledge(device=each, grade="LOGICAL", site="s", cell=f"s/{each[:8]}", from_ms=1), 1)
    for each in DEVICES
)


@dataclass
class Prover:
    """A cluster as the exchange sees it: a log, and calls."""

    exchange: Embedded
    client: ProbeClient
    log: tuple[bytes, ...] = ()

    @property
    def clock(self) -> ManualClock:
        """The exchange's."""
        return self.exchange.clock

    def publish(self, *leaves: bytes) -> list[str]:
        """More leaves of the log; which of them were rejected, and why."""
        self.log += leaves
        session, _ = self.exchange.server.intake.open(STREAM, 1, KEY.verifier.encode())
        hashes = [leaf_hash(leaf) for leaf in self.log]
        note = sign_checkpoint(Checkpoint(KEY.name, len(hashes), root(hashes)), KEY)
        receipt = self.exchange.server.intake.take(session, 0, self.log, note, ())
        return [f"{why.reason}: {why.detail}" for _, why in receipt.rejections]

    def called(self) -> ProbeCall:
        """The next call, once its time has come."""
        self.client.next(STREAM)
        self.clock.now_ms += 2_000
        call, _ = self.client.next(STREAM)
        assert call is not None
        return call

    def computed(self, call: ProbeCall, device: str = "") -> Answer:
        """The nonce, and the answer of the device, or of another one."""
        nonce = self.client.reveal(STREAM, call.id)
        seed = seed_of(nonce, bytes.fromhex(device or call.device), call.size, call.products)
        worker = NonceWorker(None, call.size)
        worker.ready()
        return Answer.of(worker.table(seed, call.products), call.size)

    def answered(self, call: ProbeCall, answer: Answer) -> DeviceProbe:
        """What is found of an answer."""
        rows = self.client.answer(STREAM, call.id, answer.root)
        return self.client.open_rows(STREAM, call.id, answer.opened(rows))

    def found(self) -> DeviceProbe:
        """The last finding, as the exchange lists it."""
        return self.client.listed()[-1].found


@pytest.fixture
def prover(tmp_path: Path) -> Iterator[Prover]:
    with embedded(tmp_path / "exchange.db", RULES) as exchange, ProbeClient(exchange.server.address) as client:
        exchange.clock.now_ms = START_MS
        made = Prover(exchange, client)
        assert made.publish(*PLEDGES) == []
        yield made


def test_an_honest_device_passes_and_the_log_tells_of_it_once(prover: Prover) -> None:
    call = prover.called()
    assert call.device in DEVICES
    assert prover.client.next(STREAM)[0] == call  # the same, until it is over
    answer = prover.computed(call)
    prover.clock.now_ms += call.limit_ms
    found = prover.answered(call, answer)
    assert (found.outcome, found.reason, found.answered_ms - found.revealed_ms) == (Outcome.PASSED, "", call.limit_ms)
    key = VerifierKey.parse(found.exchange)
    assert key.verify_bytes(found.signed_bytes, bytes.fromhex(found.signature))
    assert prover.client.next(STREAM)[1] == (found,)
    assert prover.publish(encode_probe(found, 5)) == []
    assert prover.client.next(STREAM)[1] == ()
    assert [(each.stream, each.logged) for each in prover.client.listed()] == [(STREAM, True)]
    assert prover.publish(encode_probe(found, 6)) == ["UNKNOWN_PROBE: probe probe-1 was told of by leaf 3 already"]


def test_calls_come_at_drawn_times_about_devices_that_are_drawn(prover: Prover) -> None:
    seen, gaps = set[str](), list[int]()
    prover.client.next(STREAM)
    last_ms = prover.clock.now_ms
    while len(gaps) < 12:
        prover.clock.now_ms += 20
        call, _ = prover.client.next(STREAM)
        if call is not None:
            gaps.append(call.called_ms - last_ms)
            last_ms = call.called_ms
            seen.add(call.device)
            prover.client.decline(STREAM, call.id, Declined.BUSY)
    assert all(500 <= gap <= 1_520 for gap in gaps)
    assert len(set(gaps)) > 4
    assert len(seen) > 1
    assert prover.client.next("another")[0] is None  # which has pledged nothing


def test_an_answer_before_its_nonce_is_found_out(prover: Prover) -> None:
    call = prover.called()
    assert prover.client.answer(STREAM, call.id, bytes(32)) == ()
    found = prover.found()
    assert (found.outcome, found.reason) == (Outcome.WRONG, "answered before its nonce was revealed")
    with pytest.raises(UnknownName):
        prover.client.reveal(STREAM, call.id)


def test_an_answer_that_is_late_is_found_out(prover: Prover) -> None:
    call = prover.called()
    answer = prover.computed(call)
    prover.clock.now_ms += call.limit_ms + 1
    assert prover.client.answer(STREAM, call.id, answer.root) == ()
    found = prover.found()
    assert (found.outcome, found.reason) == (Outcome.LATE, "answered after 5001 ms, expected at most 5000")


def test_the_answer_of_another_device_is_found_out(prover: Prover) -> None:
    call = prover.called()
    other = next(each for each in DEVICES if each != call.device)
    found = prover.answered(call, prover.computed(call, other))
    assert (found.outcome, found.reason) == (Outcome.WRONG, f"the answer is that of device {other[:16]}")


def test_an_answer_that_is_replayed_is_found_out(prover: Prover) -> None:
    first = prover.called()
    answer = prover.computed(first)
    assert prover.answered(first, answer).outcome is Outcome.PASSED
    second = prover.called()
    prover.client.reveal(STREAM, second.id)
    found = prover.answered(second, answer)
    assert (found.outcome, found.reason) == (Outcome.WRONG, "the answer is that of probe-1 again")


def test_an_answer_that_was_made_up_is_found_out(prover: Prover) -> None:
    call = prover.called()
    prover.client.reveal(STREAM, call.id)
    made_up = Answer.of(bytes(2 * call.size**2), call.size)
    found = prover.answered(call, made_up)
    assert found.outcome is Outcome.WRONG
    assert found.reason.endswith("is not what this device computes from this nonce")


def test_the_nonce_starts_the_time_once_and_an_answer_is_committed_to_once(prover: Prover) -> None:
    call = prover.called()
    answer = prover.computed(call)
    prover.clock.now_ms += 400
    again = prover.client.reveal(STREAM, call.id)
    assert len(again) == 32
    rows = prover.client.answer(STREAM, call.id, answer.root)
    assert prover.client.answer(STREAM, call.id, answer.root) == rows  # as when the first reply was lost
    with pytest.raises(Conflict, match="answered with another root before"):
        prover.client.answer(STREAM, call.id, bytes(32))
    with pytest.raises(Conflict, match="its nonce is of no use"):
        prover.client.reveal(STREAM, call.id)
    with pytest.raises(Conflict, match="cannot be declined"):
        prover.client.decline(STREAM, call.id, Declined.BUSY)
    other = [(row + 1) % call.size for row in rows]
    with pytest.raises(InvalidValue, match="rows of probe"):
        prover.client.open_rows(STREAM, call.id, answer.opened(other))
    found = prover.client.open_rows(STREAM, call.id, answer.opened(rows))
    assert (found.outcome, found.answered_ms - found.revealed_ms) == (Outcome.PASSED, 400)


@pytest.mark.parametrize("step", ["called", "revealed", "answered"])
def test_a_cluster_that_says_nothing_more_is_silent(prover: Prover, step: str) -> None:
    call = prover.called()
    if step != "called":
        answer = prover.computed(call)
        if step == "answered":
            prover.client.answer(STREAM, call.id, answer.root)
    prover.clock.now_ms += 1_000_000
    _, (found,) = prover.client.next(STREAM)
    assert (found.outcome, found.reason) == (Outcome.SILENT, f"nothing came after it was {step}")


def test_a_log_may_tell_only_what_was_found(prover: Prover) -> None:
    call = prover.called()
    found = prover.client.decline(STREAM, call.id, Declined.GAVE_WAY)
    assert (found.outcome, found.reason) == (Outcome.DECLINED, "gave_way")
    better = found.model_copy(update={"outcome": Outcome.PASSED, "reason": ""})
    other = found.model_copy(update={"id": "probe-77"})
    assert prover.publish(encode_probe(better, 5), encode_probe(other, 5), encode_probe(found, 5)) == [
        "UNKNOWN_PROBE: probe probe-1 was not found here like that",
        "UNKNOWN_PROBE: probe probe-77 was not found here like that",
    ]


def test_a_call_outlives_the_exchange_and_its_nonce_with_it(tmp_path: Path) -> None:
    db = tmp_path / "exchange.db"
    with embedded(db, RULES) as exchange, ProbeClient(exchange.server.address) as client:
        exchange.clock.now_ms = START_MS
        before = Prover(exchange, client)
        before.publish(*PLEDGES)
        call = before.called()
        answer = before.computed(call)
    with embedded(db, RULES) as exchange, ProbeClient(exchange.server.address) as client:
        exchange.clock.now_ms = before.clock.now_ms + 1
        after = Prover(exchange, client, before.log)
        assert after.answered(call, answer).outcome is Outcome.PASSED


def test_what_is_no_request_is_refused_by_name(prover: Prover) -> None:
    call = prover.called()
    with pytest.raises(InvalidValue, match="root of probe probe-1 was '3 bytes', expected 32 bytes"):
        prover.client.answer(STREAM, call.id, b"abc")
    with pytest.raises(InvalidValue, match="after of a list was"):
        prover.client.listed(2**63)
    with pytest.raises(InvalidValue, match="after of a list was"):
        prover.exchange.client.disputes(2**63)
    with pytest.raises(UnknownName, match="probe-9"):
        prover.client.reveal(STREAM, "probe-9")
    with pytest.raises(UnknownName):
        prover.client.reveal("another", call.id)
