"""The publisher: every leaf arrives once, within the credits, through restarts; what cannot go on stops visibly."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.reference.intake import Intake, Receipt, Session
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from tests.exchange.world import SIGNER, STREAM, Embedded, delivered, embedded, metered, trade_all, write_log

WAIT_S = 20.0


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal.open(":memory:") as opened:
        yield opened


def publisher(exchange: Embedded, journal: Journal, epoch: int = 1, signer: SignerKey = SIGNER) -> Publisher:
    return Publisher(exchange.server.address, journal, STREAM, signer, epoch, chance=random.Random(1))


def assert_same_log(exchange: Embedded, journal: Journal) -> None:
    assert exchange.client.checkpoint(STREAM)[0] == journal.log_size(STREAM)
    assert exchange.server.intake.root(STREAM) == journal.root(STREAM)


def taken_on(sender: Publisher) -> None:
    """Waits until the exchange has answered to its opening."""
    with sender._guard:
        assert sender._guard.wait_for(lambda: sender._state is PublishState.PUBLISHING, WAIT_S), sender.status()


def ended(sender: Publisher) -> str:
    """Why the publisher will not go on."""
    assert not sender.wait_acknowledged(10**9, WAIT_S)
    status = sender.status()
    assert status.state is PublishState.REFUSED
    return status.detail


def test_everything_in_the_log_arrives_and_is_acknowledged(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        status = sender.status()
        assert (status.state, status.outbox, status.rejected) == (PublishState.PUBLISHING, 0, 0)
        write_log(journal, [b"later", b"and later"])
        sender.wake()
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        assert [(it.index, it.reason) for it in sender.status().rejections] == [
            (len(delivered()), "MALFORMED"),
            (len(delivered()) + 1, "MALFORMED"),
        ]
    assert journal.acknowledged(STREAM) == journal.log_size(STREAM)
    assert sender.status().state is PublishState.STOPPED
    assert_same_log(exchange, journal)


def test_leaves_without_a_checkpoint_get_one_before_they_are_sent(exchange: Embedded, journal: Journal) -> None:
    journal.commit((), leaves=delivered(), stream=STREAM)
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
    assert journal.checkpoint(STREAM) == exchange.client.checkpoint(STREAM)


def test_no_more_is_on_the_way_than_the_exchange_grants(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(journal, [b"leaf %d" % index for index in range(300)])
    taken: list[int] = []
    take = Intake.take

    def counted(
        intake: Intake, session: Session, first: int, leaves: Sequence[bytes], note: bytes, proof: Sequence[bytes]
    ) -> Receipt:
        taken.append(len(leaves))
        assert first == sum(taken[:-1])
        return take(intake, session, first, leaves, note, proof)

    monkeypatch.setattr(Intake, "take", counted)
    with (
        embedded(tmp_path / "exchange.db", most_on_the_way=40) as exchange,
        publisher(exchange, journal) as sender,
    ):
        assert sender.wait_acknowledged(300, WAIT_S)
    assert max(taken) == 40
    assert sum(taken) == 300


def test_long_leaves_travel_in_short_batches(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, [bytes([index]) * 65_000 for index in range(200)])
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(200, WAIT_S)
    assert_same_log(exchange, journal)


def test_the_exchange_may_go_and_come_back(tmp_path: Path, journal: Journal) -> None:
    write_log(journal, delivered())
    with embedded(tmp_path / "exchange.db") as first:
        trade_all(first.client)
        address = first.server.address
        with publisher(first, journal) as sender:
            assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
            first.server.stop()
            write_log(journal, [encode_record(metered("pos-1", 3, 0, version=2, supersedes=1), 9)])
            assert not sender.wait_acknowledged(journal.log_size(STREAM), 0.5)
            status = sender.status()
            assert (status.state, status.outbox) == (PublishState.CONNECTING, 1)
            assert "UNAVAILABLE" in status.detail
            with embedded(tmp_path / "exchange.db", listen=address) as second:
                assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
                assert_same_log(second, journal)


def test_an_exchange_that_lost_its_end_gets_it_again(tmp_path: Path, journal: Journal) -> None:
    write_log(journal, delivered())
    journal.acknowledge(STREAM, 30)
    with embedded(tmp_path / "exchange.db") as exchange, publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        assert_same_log(exchange, journal)


def test_another_log_under_the_same_name_is_equivocation(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
    with Journal.open(":memory:") as other:
        write_log(other, [b"another leaf %d" % index for index in range(journal.log_size(STREAM))])
        write_log(other, [b"and one more"])
        with publisher(exchange, other) as sender:
            assert "the witness cosigned the root" in ended(sender)
    assert_same_log(exchange, journal)


def test_a_shorter_log_than_was_acknowledged_stops_the_publisher(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
    with Journal.open(":memory:") as shorter:
        write_log(shorter, delivered()[:10])
        with publisher(exchange, shorter) as sender:
            assert "acknowledged, the log holds 10" in ended(sender)


def test_a_newer_publisher_fences_the_older(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal, epoch=1) as older:
        assert older.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        with publisher(exchange, journal, epoch=2) as newer:
            taken_on(newer)  # what the older one had acknowledged says nothing of it
            write_log(journal, [b"later"])
            assert newer.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
            assert ended(older).startswith("FENCED")
    assert older.status().state is PublishState.REFUSED
    assert_same_log(exchange, journal)


def test_another_key_is_refused(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
    with publisher(exchange, journal, signer=SignerKey(SIGNER.name, bytes(32))) as stranger:
        assert ended(stranger).startswith("UNAUTHORISED")


def test_a_log_that_grows_while_it_is_sent_arrives_whole(exchange: Embedded, journal: Journal) -> None:
    def grow() -> None:
        for number in range(100):
            journal.commit((), leaves=[b"%d of %d" % (index, number) for index in range(20)], stream=STREAM)

    writer = threading.Thread(target=grow)
    with publisher(exchange, journal) as sender:
        writer.start()
        writer.join()
        assert sender.wait_acknowledged(2_000, WAIT_S)
    assert_same_log(exchange, journal)


def test_it_stops_at_once_whatever_it_is_doing(exchange: Embedded, journal: Journal) -> None:
    write_log(journal, delivered())
    with publisher(exchange, journal) as sender:
        assert sender.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        begun = time.monotonic()
    address = exchange.server.address
    exchange.server.stop()
    with Publisher(address, journal, STREAM, SIGNER, 1) as lost:
        lost.wait_acknowledged(10**9, 0.3)
    assert lost.status().state is PublishState.STOPPED
    assert time.monotonic() - begun < 5
