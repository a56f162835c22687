"""A puller and its keeper against a real feed: every loss of either side, snapshots, slow readers, and lies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.errors import Conflict, Damaged, Equivocation, InvalidValue, SequenceGap, Unauthorised
from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.core.positions import Cursor
from scheduler.exchange.audit import Verdict, audit
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.feed_client import FeedBatch, FeedClient, FeedHead
from scheduler.exchange.following import Follower, Place, Taken
from scheduler.exchange.leaves import RecordLeaf, decode
from scheduler.exchange.mirroring import MirrorKeeper
from scheduler.exchange.puller import Puller, PullState
from scheduler.exchange.v1 import feed_pb2
from scheduler.ledger.bundle import read_bundle
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.mirror import Mirror
from tests.api.feed.world import FedLog
from tests.exchange.sender import leaf_of
from tests.exchange.world import SIGNER


class Memory:
    """A keeper: leaves by seq. It outlives its pullers, as a database would."""

    def __init__(self) -> None:
        self.leaves: dict[int, bytes] = {}
        self.at: Place | None = None
        self.calls: list[str] = []

    def place(self) -> Place | None:
        """How far it is."""
        return self.at

    def take(self, taken: Taken, head: FeedHead) -> None:
        """Keeps what follows."""
        assert not taken.reached or head.cursor.seq >= taken.place.range.size
        assert taken.first_seq == (self.at.range.size if self.at else 0) + 1
        self.calls.append("take")
        self.leaves.update(enumerate(taken.leaves, taken.first_seq))
        self.at = taken.place

    def restore(self, head: FeedHead, leaves: Iterator[tuple[int, bytes]]) -> None:
        """Keeps what is in force."""
        self.calls.append("restore")
        self.leaves = dict(leaves)
        self.at = Place(head.edge, head.cursor.epoch)


def newest(leaves: list[bytes]) -> dict[tuple[str, int], int]:
    """The newest version of each position's interval."""
    found: dict[tuple[str, int], int] = {}
    for leaf in leaves:
        decoded = decode(leaf)
        assert isinstance(decoded, RecordLeaf)
        key = (decoded.record.position, decoded.record.start_ms)
        found[key] = max(found.get(key, 0), decoded.record.version)
    return found


def test_a_puller_goes_on_across_restarts_of_both_sides(log: FedLog) -> None:
    log.grow(700)
    keeper = Memory()
    with log.served() as server:
        address = server.address
        with Puller(address, keeper) as puller:
            assert puller.wait(700, 10)
        log.grow(5)
        puller = Puller(address, keeper).start()
        assert puller.wait(705, 10)
    log.grow(5)  # the cluster is away: the puller dials until it is there again
    with log.served(listen=address):
        assert puller.wait(710, 20)
        puller.stop()
    assert puller.status().state is PullState.STOPPED
    assert [keeper.leaves[seq] for seq in range(1, 711)] == log.leaves
    assert "restore" not in keeper.calls


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 120), granted=st.integers(1, 40), more=st.integers(0, 60))
def test_a_snapshot_then_live_is_a_whole_replay_at_any_cut(log: FedLog, cut: int, granted: int, more: int) -> None:
    log.grow(max(1, cut - log.size))
    with log.served() as server:
        snapped, whole = Memory(), Memory()
        with Puller(server.address, snapped, most_replayed=0, granted=granted) as from_snapshot:
            assert from_snapshot.wait(log.size, 10)
            if more:
                log.grow(more)
                server.wake()
            assert from_snapshot.wait(log.size, 10)
        assert snapped.calls[0] == "restore"
        with Puller(server.address, whole, whole=True, granted=granted) as from_start:
            assert from_start.wait(log.size, 10)
    assert snapped.at == whole.at
    assert list(whole.leaves.values()) == log.leaves
    assert snapped.leaves.items() <= whole.leaves.items()
    assert newest(list(snapped.leaves.values())) == newest(log.leaves)


def told(log: FedLog) -> tuple[FeedHead, list[FeedBatch]]:
    """The head, and every leaf in a batch of its own."""
    with log.served() as server, FeedClient(server.address) as client:
        head = client.head()
        return head, [batch for seq in range(1, log.size + 1) for batch in client.replay(_at(head, seq - 1), seq)]


def _at(head: FeedHead, seq: int) -> Cursor:
    return Cursor(stream=head.cursor.stream, epoch=head.cursor.epoch, seq=seq)


@pytest.fixture
def small(log: FedLog) -> tuple[FeedHead, list[FeedBatch]]:
    """Twelve leaves, a batch each."""
    log.grow(12)
    return told(log)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 11), max_size=60))
def test_duplicates_and_reorderings_change_nothing(small: tuple[FeedHead, list[FeedBatch]], order: list[int]) -> None:
    head, batches = small
    follower = Follower(None, [SIGNER.verifier])
    taken: list[bytes] = []
    follower.learn(head)
    for index in [*order, *range(12)]:
        before = follower.place
        if index > before.range.size:
            with pytest.raises(SequenceGap, match=f"was {index + 1}, expected {before.range.size + 1}"):
                follower.take(batches[index])
            assert follower.place == before
            continue
        found = follower.take(batches[index])
        if found is not None:
            taken += found.leaves
    assert taken == [leaf_of(index) for index in range(12)]
    assert follower.place.range == head.edge


def test_leaves_that_are_not_the_checkpoint_s_are_an_equivocation(small: tuple[FeedHead, list[FeedBatch]]) -> None:
    head, (first, *_) = small
    follower = Follower(None)
    follower.learn(head)
    forged = FeedBatch(first.last, (leaf_of(5),), first.checkpoint, first.consistency)
    with pytest.raises(Equivocation, match="is not over the 1 leaves that were told"):
        follower.take(forged)
    assert follower.place.range == CompactRange()


def test_only_the_trusted_key_is_believed(small: tuple[FeedHead, list[FeedBatch]]) -> None:
    head, _ = small
    stranger = SignerKey(SIGNER.name, bytes(32))
    with pytest.raises(Unauthorised, match="expected a signature of"):
        Follower(None, [stranger.verifier]).learn(head)


def test_a_log_that_was_cut_or_begun_anew_is_told_apart(small: tuple[FeedHead, list[FeedBatch]]) -> None:
    head, _ = small
    longer = CompactRange().extend([leaf_hash(leaf_of(index)) for index in range(13)])
    epoch = head.cursor.epoch
    with pytest.raises(Equivocation, match="has 12 leaves, and had 13 before: the log was cut"):
        Follower(Place(longer, epoch)).learn(head)
    with pytest.raises(CursorCompacted):
        Follower(Place(longer, epoch - 1)).learn(head)
    with pytest.raises(Conflict, match=f"epoch of cluster-1 was {epoch}, expected {epoch + 1} or later"):
        Follower(Place(longer, epoch + 1)).learn(head)


def test_a_changed_leaf_of_a_snapshot_is_found_before_anything_is_kept(log: FedLog) -> None:
    log.grow(20)
    with log.served() as server, FeedClient(server.address) as client:
        head, sent = client.snapshot()
        leaves = list(sent)
    follower = Follower(None)
    with pytest.raises(Damaged, match="the snapshot had 20 leaves with the root"):
        list(follower.restored(head, iter([feed_pb2.FeedLeaf(seq=1, leaf=leaf_of(9)), *leaves[1:]])))
    with pytest.raises(Damaged, match="leaf 3 of the snapshot came after 1"):
        list(follower.restored(head, iter([leaves[0], *leaves[2:]])))
    with pytest.raises(Damaged, match="the snapshot had 19 leaves"):
        list(follower.restored(head, iter(leaves[:-1])))
    assert follower.place.range.size == 0


def test_a_compacted_cursor_leads_to_a_snapshot_or_freezes_who_wants_every_leaf(log: FedLog) -> None:
    log.grow(30)
    keeper, whole = Memory(), Memory()
    with log.served(keep_leaves=10) as server:
        with Puller(server.address, keeper) as puller:
            assert puller.wait(30, 10)
            assert puller.status().snapshots == 1
        assert keeper.calls == ["restore"]
        with Puller(server.address, whole, whole=True) as puller:
            assert not puller.wait(30, 10)
            status = puller.status()
    assert status.state is PullState.FROZEN
    assert isinstance(status.error, CursorCompacted)
    assert "every leaf is wanted" in status.detail


def test_a_log_that_began_anew_leads_to_a_snapshot(log: FedLog, tmp_path: Path) -> None:
    log.grow(5)
    keeper = Memory()
    with log.served() as server, Puller(server.address, keeper) as puller:
        assert puller.wait(5, 10)
    with log.served(epoch=log.epoch + 1) as server, Puller(server.address, keeper) as puller:
        assert puller.wait(0, 10)
    assert keeper.calls == ["take", "restore"]
    assert keeper.at is not None
    assert keeper.at.epoch == log.epoch + 1


def test_a_keeper_that_fails_is_asked_where_it_is(log: FedLog) -> None:
    log.grow(40)

    class Failing(Memory):
        def take(self, taken: Taken, head: FeedHead) -> None:
            if len(self.calls) == 1:
                self.calls.append("failed")
                raise Damaged("the disk is full")
            super().take(taken, head)

    keeper = Failing()
    with log.served() as server, Puller(server.address, keeper, granted=10) as puller:
        assert puller.wait(40, 10)
    assert keeper.calls[:3] == ["take", "failed", "take"]
    assert list(keeper.leaves.values()) == log.leaves


def test_a_slow_subscriber_holds_nobody_up_and_costs_no_memory(log: FedLog) -> None:
    log.grow(20_000)
    with log.served(heartbeat_ms=20) as server, FeedClient(server.address) as client:
        tracemalloc.start()
        try:
            slow = [client.subscribe(None, 1) for _ in range(8)]
            told = [iter(each) for each in slow]
            for each in told:
                assert isinstance(next(each), FeedBatch)
                next(each)  # a heartbeat: it waits
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * 2**20, f"{peak} bytes for 8 subscribers that read one leaf each"
        began_s = time.monotonic()
        log.grow(100)  # the writer does not wait for them
        assert time.monotonic() - began_s < 5
        keeper = Memory()
        with Puller(server.address, keeper) as quick:
            assert quick.wait(20_100, 30)
        for subscription in slow:
            subscription.cancel()


def test_a_killed_puller_goes_on_from_its_bundle(log: FedLog, tmp_path: Path) -> None:
    log.grow(3_000)
    folder = tmp_path / "mirror"
    command = [sys.executable, "-m", "scheduler.cli", "feed", "pull", "--into", str(folder), "--follow"]
    with log.served() as server:
        environment = {**os.environ, "TENOR_FEED_ADDRESS": server.address}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            _until(lambda: (folder / "checkpoint").is_file() and read_bundle(folder).stated.size == 3_000)
            log.grow(400)
            _until(lambda: read_bundle(folder).stated.size == 3_400)
        finally:
            process.kill()
            process.wait()
        log.grow(400)
        with Mirror(folder) as mirror:
            keeper = MirrorKeeper(mirror)
            assert keeper.key == SIGNER.verifier
            with Puller(server.address, keeper, whole=True) as puller:
                assert puller.wait(3_800, 20)
    bundle = read_bundle(folder)
    assert list(bundle.leaves()) == log.leaves
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"mirror"}
    verdicts = {check.name: check.verdict for check in audit(folder, [SIGNER.verifier]).checks}
    assert {verdicts[name] for name in ("folder", "checkpoint", "tree")} == {Verdict.OK}


def _until(done: Callable[[], bool]) -> None:
    until_s, pause = time.monotonic() + 30, threading.Event()
    while True:
        try:
            if done():
                return
        except (Damaged, InvalidValue):  # it was replaced while it was read
            pass
        assert time.monotonic() < until_s, "it did not come to that within 30 s"
        pause.wait(0.02)
