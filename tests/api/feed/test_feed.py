"""The feed as a subscriber sees it: cursors, credits, heartbeats, replays, snapshots, proofs and typed refusals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import grpc
import pytest

from scheduler.api.feed.log import FeedLog
from scheduler.api.feed.services import MOST_STREAMS
from scheduler.api.feed.subscription import MOST_CREDITS
from scheduler.core.errors import Conflict, InvalidValue, TenorError, UnknownName
from scheduler.core.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from scheduler.core.positions import Cursor
from scheduler.exchange.errors import CursorCompacted, Exhausted, error_of
from scheduler.exchange.feed_client import FeedAlive, FeedBatch, FeedClient
from scheduler.exchange.following import Follower
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, feed_pb2_grpc
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import cosign, open_checkpoint, open_note
from tests.api.feed.world import EPOCH, FedLog
from tests.exchange.sender import leaf_of
from tests.exchange.world import SIGNER, STREAM

WITNESS = SignerKey("auditor.test/one", bytes(range(32, 64)))


def at(seq: int, epoch: int = EPOCH, stream: str = STREAM) -> Cursor:
    return Cursor(stream=stream, epoch=epoch, seq=seq)


def test_a_subscription_tells_what_is_there_then_what_comes(log: FedLog) -> None:
    log.grow(3)
    with log.served() as server, FeedClient(server.address) as client:
        subscription = client.subscribe(None)
        told = iter(subscription)
        first = next(told)
        assert isinstance(first, FeedBatch)
        assert (first.first_seq, first.last, list(first.leaves)) == (1, at(3), log.leaves)
        quiet = next(told)
        assert isinstance(quiet, FeedAlive)
        assert quiet.next == at(4)
        assert open_checkpoint(quiet.checkpoint, [SIGNER.verifier]).root == log.journal.root(STREAM)
        log.grow(2)
        server.wake()
        came = next(each for each in told if isinstance(each, FeedBatch))
        assert (came.first_seq, came.leaves) == (4, (leaf_of(3), leaf_of(4)))
        subscription.cancel()


def test_nothing_is_told_that_no_checkpoint_covers(log: FedLog) -> None:
    log.grow(2)
    log.journal.commit((), leaves=[leaf_of(2)], stream=STREAM)
    with log.served() as server, FeedClient(server.address) as client:
        assert [batch.last.seq for batch in client.replay(None)] == [2]
        with pytest.raises(InvalidValue, match="size of stream"):
            client.inclusion_proof(STREAM, 2, 3)


def test_no_statement_is_made_of_leaves_that_nobody_signed(log: FedLog) -> None:
    log.journal.commit((), leaves=[leaf_of(0)], stream=STREAM)
    missing = pytest.raises(InvalidValue, match="checkpoint of stream cluster-1 was 'missing'")
    with log.served() as server, FeedClient(server.address) as client, missing:
        client.statement("acme")


def test_no_more_leaves_come_than_were_granted(log: FedLog) -> None:
    log.grow(10)
    with log.served() as server, FeedClient(server.address) as client:
        subscription = client.subscribe(None, 4)
        told = iter(subscription)
        batch, *beats = islice(told, 4)
        assert isinstance(batch, FeedBatch)
        assert batch.last.seq == 4
        assert [beat.next.seq for beat in beats if isinstance(beat, FeedAlive)] == [5, 5, 5]  # alive, and waiting
        subscription.grant(5)
        more = next(each for each in told if isinstance(each, FeedBatch))
        assert (more.first_seq, more.last.seq) == (5, 9)
        subscription.cancel()


@pytest.mark.parametrize("granted", [0, MOST_CREDITS + 1])
def test_credits_that_make_no_sense_are_refused(log: FedLog, granted: int) -> None:
    with log.served() as server, FeedClient(server.address) as client, pytest.raises(InvalidValue, match="credits"):
        next(iter(client.subscribe(None, granted)))


def test_a_grant_beyond_the_limit_ends_the_subscription(log: FedLog) -> None:
    with log.served() as server, FeedClient(server.address) as client:
        subscription = client.subscribe(None, MOST_CREDITS)
        told = iter(subscription)
        next(told)
        subscription.grant(1)
        with pytest.raises(
            InvalidValue, match=f"credits of a subscription was 1, expected 1 or more, and at most {MOST_CREDITS}"
        ):
            list(told)


def test_a_subscription_begins_with_its_opening(log: FedLog) -> None:
    grant = feed_pb2.SubscribeRequest(grant=feed_pb2.SubscribeGrant(credits=1))
    with log.served() as server, grpc.insecure_channel(server.address) as channel:
        stub = feed_pb2_grpc.DeliveryFeedStub(channel)
        for requests in ([grant], [feed_pb2.SubscribeRequest()], []):
            with pytest.raises(grpc.RpcError) as failed:
                list(stub.Subscribe(iter(requests), timeout=5))
            error = error_of(failed.value)
            assert isinstance(error, InvalidValue)
            assert "open first, then grants" in str(error)


@pytest.mark.parametrize(
    ("cursor", "kind", "said"),
    [
        (at(3, stream="other"), UnknownName, "stream was 'other', expected one of cluster-1"),
        (at(3, epoch=EPOCH - 1), CursorCompacted, "seq of stream cluster-1 epoch 7 was 4, expected 3"),
        (at(1), CursorCompacted, "seq of stream cluster-1 epoch 7 was 2, expected 3"),
        (None, CursorCompacted, "seq of stream cluster-1 epoch 7 was 1, expected 3"),
        (at(6), Conflict, "the cursor cluster-1/7/6 is ahead of the log, which is at 7/5"),
        (at(1, epoch=EPOCH + 1), Conflict, "the cursor cluster-1/8/1 is ahead of the log"),
    ],
)
def test_cursors_that_cannot_be_continued_are_refused_by_class(
    log: FedLog, cursor: Cursor | None, kind: type[TenorError], said: str
) -> None:
    log.grow(5)
    with log.served(keep_leaves=3) as server, FeedClient(server.address) as client:
        asks: tuple[Callable[[], object], ...] = (
            lambda: next(iter(client.subscribe(cursor))),
            lambda: list(client.replay(cursor)),
        )
        for ask in asks:
            with pytest.raises(kind) as refused:
                ask()
            assert type(refused.value) is kind
            assert said in str(refused.value)
        assert client.head().oldest == at(3)
        assert [batch.last.seq for batch in client.replay(at(2))] == [5]


def test_a_subscriber_that_falls_behind_what_is_kept_is_told(log: FedLog) -> None:
    log.grow(4)
    with log.served(keep_leaves=4) as server, FeedClient(server.address) as client:
        subscription = client.subscribe(None, 1)
        told = iter(subscription)
        assert isinstance(next(told), FeedBatch)
        log.grow(4)
        subscription.grant(1)
        with pytest.raises(CursorCompacted):
            list(told)


def test_a_replay_is_a_range_and_ends(log: FedLog) -> None:
    log.grow(1_200)
    with log.served() as server, FeedClient(server.address) as client:
        batches = list(client.replay(at(100), 1_100))
        assert [leaf for batch in batches for leaf in batch.leaves] == log.leaves[100:1_100]
        assert len(batches) == 2
        assert list(client.replay(at(1_200))) == []
        for to_seq in (50, 1_201):
            with pytest.raises(InvalidValue, match="to_seq of a replay"):
                list(client.replay(at(100), to_seq))


def test_a_snapshot_has_every_leaf_in_force_and_the_hashes_of_the_others(log: FedLog) -> None:
    log.grow(80)  # records of three positions and twelve intervals: later rounds are later versions of the same
    with log.served() as server, FeedClient(server.address) as client:
        head, sent = client.snapshot()
        leaves = list(sent)
    assert head.cursor == at(80)
    assert [each.seq for each in leaves] == list(range(1, 81))
    hashes = [leaf_hash(each.leaf) if each.leaf else each.hash for each in leaves]
    assert root(hashes) == head.edge.root() == open_checkpoint(head.checkpoint, [SIGNER.verifier]).root
    assert [bool(each.leaf) for each in leaves] == [index + 36 >= 80 for index in range(80)]


def test_what_a_snapshot_knows_of_the_log_already_changes_none_of_another_size(log: FedLog) -> None:
    log.grow(200)
    with Journal.beside(log.path) as journal:
        known, most = FeedLog(journal, STREAM, EPOCH), 0
        for size in (80, 150, 80, 37, 200, 120):
            fresh = FeedLog(journal, STREAM, EPOCH)
            told = list(known.in_force(size))
            assert told == list(fresh.in_force(size))
            assert [bool(leaf.leaf) for page in told for leaf in page] == [place + 36 >= size for place in range(size)]
            most = max(most, size)
            assert sum(map(len, known._reissued.values())) == max(0, most - 36), "each leaf was looked at once"


def test_the_log_is_proven_and_cosigned_at_its_own_cluster(log: FedLog) -> None:
    log.grow(9)
    with log.served() as server, FeedClient(server.address) as client:
        size, note = client.checkpoint(STREAM)
        stated = open_checkpoint(note, [SIGNER.verifier])
        assert size == stated.size == 9
        proof = client.inclusion_proof(STREAM, 4, 9)
        assert verify_inclusion(leaf_hash(leaf_of(4)), 4, 9, proof, stated.root)
        grown = client.consistency_proof(STREAM, 5, 9)
        assert verify_consistency(5, 9, log.journal.root(STREAM, 5), stated.root, grown)
        merged = client.add_cosignature(STREAM, cosign(note, WITNESS, 1_700_000_000), WITNESS.witness.encode())
        assert len(open_note(merged, [SIGNER.verifier, WITNESS.witness]).verified) == 2
        assert client.witnesses(STREAM) == (WITNESS.witness.encode(),)
        other = SignerKey("auditor.test/two", bytes(range(64, 96)))
        both = client.add_cosignature(STREAM, cosign(note, other, 1_700_000_000), other.witness.encode())
        assert len(open_note(both, [WITNESS.witness, other.witness]).verified) == 2
        assert client.checkpoint(STREAM)[1] == both == client.head().cosigned
        log.grow(1)
        client.add_cosignature(
            STREAM, cosign(client.checkpoint(STREAM)[1], other, 1_700_000_001), other.witness.encode()
        )
        with pytest.raises(Conflict, match="had 9 leaves, expected 10, which is cosigned already"):
            client.add_cosignature(STREAM, cosign(note, WITNESS, 1_700_000_002), WITNESS.witness.encode())
        for ask in (
            lambda: client.checkpoint("other"),
            lambda: client.inclusion_proof("other", 0, 1),
            lambda: client.consistency_proof("other", 0, 1),
            lambda: client.add_cosignature("other", note, WITNESS.witness.encode()),
        ):
            with pytest.raises(UnknownName, match="stream was 'other'"):
                ask()


def test_an_empty_log_is_followed_from_its_beginning(log: FedLog) -> None:
    with log.served() as server, FeedClient(server.address) as client:
        head = client.head()
        assert (head.cursor, head.checkpoint) == (at(0), b"")
        with pytest.raises(InvalidValue, match="checkpoint of stream cluster-1 was 'missing'"):
            client.checkpoint(STREAM)
        follower = Follower(None)
        follower.learn(head)
        subscription = client.subscribe(follower.cursor)
        told = iter(subscription)
        quiet = next(told)
        assert isinstance(quiet, FeedAlive)
        assert follower.beat(quiet)
        log.grow(1)
        batch = next(each for each in told if isinstance(each, FeedBatch))
        follower.take(batch)
        assert follower.cursor == at(1)
        subscription.cancel()


def test_subscriptions_are_limited_and_say_so(log: FedLog) -> None:
    with log.served() as server, FeedClient(server.address) as client:
        opened = [client.subscribe(None) for _ in range(MOST_STREAMS)]
        told = [iter(each) for each in opened]
        for each in told:
            next(each)
        with pytest.raises(Exhausted, match="subscriptions are open"):
            next(iter(client.subscribe(None)))
        for subscription in opened:
            subscription.cancel()


def test_a_statement_names_the_position_that_is_not_there(log: FedLog) -> None:
    log.grow(1)
    with log.served() as server, FeedClient(server.address) as client:
        with pytest.raises(UnknownName, match="position was 'nobody'"):
            client.statement("nobody")
        with pytest.raises(InvalidValue, match="until_ms"):
            client.statement("nobody", -1)


def test_leaves_of_a_batch_end_where_its_bytes_do(log: FedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.api.feed.log.BATCH_BYTES", 3 * len(leaf_of(0)))
    log.grow(10)
    with log.served() as server, FeedClient(server.address) as client:
        assert [len(batch.leaves) for batch in client.replay(None)] == [3, 3, 3, 1]


def test_the_raw_batch_is_the_one_that_clusters_publish(log: FedLog) -> None:
    log.grow(2)
    with log.served() as server, grpc.insecure_channel(server.address) as channel:
        (answer,) = feed_pb2_grpc.DeliveryFeedStub(channel).Replay(feed_pb2.ReplayRequest(), timeout=5)
    assert isinstance(answer.batch.batch, delivery_pb2.Batch)
    assert (answer.batch.batch.first_index, answer.batch.last.seq) == (0, 2)
