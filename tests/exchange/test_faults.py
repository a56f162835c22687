"""A cluster that meets a misbehaving exchange: what is lost on the way changes nothing in the end, lies are refused.

The cluster's side is the production one: a scheduler behind the watcher, a journal behind the publisher.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue, Oversold, TenorError, UnknownName
from scheduler.core.holdings import Holding
from scheduler.core.instruments import standard_terms
from scheduler.core.positions import Position
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.reference.faults.faults import MEANINGS, PLACES, Faults, Kind, Place, faults_from_file
from scheduler.exchange.watcher import Watcher, WatchState, WatchStatus
from scheduler.ledger.journal import Journal
from tests.api.world import GRADE, World
from tests.exchange.test_watcher import eventually
from tests.exchange.world import END_MS, SIGNER, START_MS, STREAM, Embedded, delivered, embedded, trade_all, write_log

WAIT_S = 20.0
QUIET_S = 0.2


@dataclass
class Met:
    """An exchange with faults, and a cluster of four nodes that listens to it."""

    exchange: Embedded
    faults: Faults
    world: World
    watcher: Watcher

    def trade(self, lots: int = 1, account: str = "acme") -> str:
        """A new position."""
        return self.exchange.client.trade(account, "L@1", lots, effective_ms=START_MS).position

    def told(self) -> tuple[Position, ...]:
        """The positions as the cluster knows them."""
        with self.world.scheduler.guard:
            return self.world.scheduler.state.book.snapshot()

    def agree(self) -> bool:
        """Whether the cluster knows exactly what the exchange holds."""
        with self.exchange.server.venue._database.guard:
            cursor, positions, _ = self.exchange.server.venue.snapshot()
        return self.told() == tuple(sorted(positions, key=lambda each: each.id)) and self._cursor() == cursor

    def covered(self) -> dict[str, tuple[Holding, ...]]:
        """The cells behind each position that has some."""
        with self.world.scheduler.guard:
            calendar = self.world.scheduler.state.calendar
            found = {name: calendar.of(name) for name in self.world.scheduler.state.book.positions}
        return {name: held for name, held in found.items() if held}

    def frozen(self) -> WatchStatus:
        """Waits until the cluster listens no longer."""
        eventually(lambda: self.watcher.status().state is WatchState.FROZEN)
        return self.watcher.status()

    def _cursor(self) -> object:
        return self.world.scheduler.state.book.cursor


@contextmanager
def meeting(folder: Path, *texts: str, lots_listed: int = 0) -> Iterator[Met]:
    faults = Faults(seed=7)
    world = World(folder)
    terms = standard_terms(
        symbol="L", start_ms=START_MS, end_ms=END_MS, grade=GRADE, cell=Level.NODE, gpus=8, metering_interval_s=10
    )
    with embedded(folder / "exchange.db", faults=faults) as exchange:
        exchange.client.list_instrument(terms, lots_listed)
        first = Watcher(exchange.server.address, world.scheduler, chance=random.Random(1), quiet_s=QUIET_S)
        with first as watcher:
            met = Met(exchange, faults, world, watcher)
            met.trade()
            eventually(met.agree)
            faults.set(texts)
            yield met
    world.close()


@pytest.mark.parametrize(
    "fault",
    [
        "drop:watch:0.3",
        "drop:heartbeats",
        "repeat:watch:0.5",
        "reorder:watch:0.3",
        "delay:watch:0.5:5ms",
        "cut:watch:0.3",
        "compact:watch:2x",
        "restart:watch:2x",
    ],
)
def test_events_that_are_lost_late_or_doubled_end_in_the_same_positions(tmp_path: Path, fault: str) -> None:
    with meeting(tmp_path, fault) as met:
        if fault.startswith("compact"):  # strikes the beginning of a watch
            met.faults.set(["cut:watch:1x"])
        bought = [met.trade() for _ in range(10)]
        met.exchange.client.transfer(bought[0], "borealis", 1)
        met.exchange.client.correct(bought[1], 0)
        if fault == "drop:heartbeats":
            eventually(lambda: "said nothing" in met.watcher.status().detail)
        eventually(met.agree)
        eventually(lambda: met.watcher.status().state is not WatchState.FROZEN)
        struck = {text: count for text, _, count in met.faults.counts()}
        assert struck[fault] > 0


def test_a_snapshot_that_fails_or_is_late_is_taken_again(tmp_path: Path) -> None:
    with meeting(tmp_path, "cut:snapshot:3x", "delay:snapshot:1:5ms", "compact:watch:1x", "cut:watch:1x") as met:
        met.trade()
        eventually(met.agree)
        assert met.watcher.status().snapshots == 2


def test_another_event_at_the_same_place_freezes_and_changes_nothing(tmp_path: Path) -> None:
    with meeting(tmp_path, "equivocate:watch:1x") as met:
        met.trade()
        assert met.frozen().detail.startswith("EQUIVOCATION: the event at exchange/1/2 came again")
        assert met.agree()
        before = met.told()
        met.trade()
        assert met.told() == before


def test_another_snapshot_at_the_same_cursor_freezes_and_changes_nothing(tmp_path: Path) -> None:
    with meeting(tmp_path, "equivocate:snapshot", "compact:watch:1x", "cut:heartbeats:1x") as met:
        assert met.frozen().detail.startswith("EQUIVOCATION: the snapshot at exchange/1/1 says something else of pos-1")
        assert met.agree()


def test_a_snapshot_that_takes_events_back_freezes(tmp_path: Path) -> None:
    with meeting(tmp_path) as met, embedded(tmp_path / "older.db") as older:
        older.client.list_instrument(next(iter(met.world.scheduler.state.instruments.values())))
        taken = Watcher(older.server.address, met.world.scheduler, quiet_s=QUIET_S)
        before = met.told()
        with taken as watcher:
            eventually(lambda: watcher.status().state is WatchState.FROZEN)
            assert (
                "CONFLICT: the snapshot is at exchange/1/0, expected exchange/1/1 or later" in watcher.status().detail
            )
        assert met.told() == before


def test_a_transfer_of_more_than_there_is_freezes_and_changes_nothing(tmp_path: Path) -> None:
    with meeting(tmp_path, "oversell:watch") as met:
        before = met.told()
        met.exchange.client.transfer(before[0].id, "borealis", 1)
        assert met.frozen().detail.startswith("OVERSOLD: lots of the transfer at exchange/1/2 was 1000")
        assert met.told() == before


def test_lots_that_were_never_listed_take_nothing_from_those_who_own(tmp_path: Path) -> None:
    with meeting(tmp_path, lots_listed=4) as met:
        met.trade(3)
        with pytest.raises(Oversold):
            met.trade(2, "borealis")
        eventually(met.agree)
        before = met.covered()
        assert sum(map(len, before.values())) > 0
        met.faults.set(["oversell:trade"])
        late = met.trade(2, "borealis")
        eventually(met.agree)
        assert met.covered() == before
        assert met.world.scheduler.state.refused == {late: Cause.OVERSOLD}
        assert met.watcher.status().state is WatchState.WATCHING


# -- delivery ----------------------------------------------------------------------------------------------------------


@contextmanager
def publishing(folder: Path, *texts: str) -> Iterator[tuple[Embedded, Faults, Journal, Publisher]]:
    faults = Faults(texts, seed=7)
    with embedded(folder / "exchange.db", faults=faults) as exchange, Journal.open(":memory:") as journal:
        trade_all(exchange.client)
        write_log(journal, delivered())
        with Publisher(
            exchange.server.address,
            journal,
            STREAM,
            SIGNER,
            1,
            chance=random.Random(1),
            batch_leaves=5,
            quiet_s=QUIET_S,
        ) as publisher:
            yield exchange, faults, journal, publisher


@pytest.mark.parametrize(
    "fault",
    [
        "drop:batches:2x",
        "drop:acks:2x",
        "repeat:batches:0.5",
        "repeat:acks:0.5",
        "reorder:batches:2x",
        "reorder:acks:2x",
        "delay:batches:0.5:5ms",
        "delay:acks:0.5:5ms",
        "cut:batches:2x",
        "cut:acks:2x",
        "lie:batches:2x",
    ],
)
def test_leaves_that_are_lost_late_or_doubled_arrive_once(tmp_path: Path, fault: str) -> None:
    with publishing(tmp_path, fault) as (exchange, faults, journal, publisher):
        size = journal.log_size(STREAM)
        assert publisher.wait_acknowledged(size, WAIT_S)
        assert faults.counts()[0][2] > 0
        if fault.startswith("lie"):  # acknowledged and not kept: the next leaf finds the gap
            faults.clear()
            write_log(journal, [b"and one more"])
            eventually(lambda: exchange.server.intake.root(STREAM) == journal.root(STREAM))
        assert exchange.server.intake.root(STREAM) == journal.root(STREAM)
        assert publisher.status().state is not PublishState.REFUSED


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missign:acks", "UNAUTHORISED: the signature of tenor.exchange/exchange"),
        ("lie:acks", "CONFLICT: 1000 leaves of stream 'cluster-1' were acknowledged, the log holds"),
    ],
)
def test_an_exchange_that_lies_of_what_it_has_is_refused(tmp_path: Path, fault: str, says: str) -> None:
    with publishing(tmp_path, fault) as (_, _, journal, publisher):
        assert not publisher.wait_acknowledged(10**9, WAIT_S)
        status = publisher.status()
        assert status.state is PublishState.REFUSED
        assert says in status.detail
        assert journal.cosigned(STREAM) is None
        assert journal.acknowledged(STREAM) <= journal.log_size(STREAM)


def test_more_than_was_sent_is_refused_though_the_log_has_it(tmp_path: Path) -> None:
    with publishing(tmp_path) as (_, faults, journal, publisher):
        assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        held = journal.log_size(STREAM)
        faults.set(["lie:acks"])
        write_log(journal, [b"a leaf"])
        publisher.wake()
        assert not publisher.wait_acknowledged(10**9, WAIT_S)
        assert f"CONFLICT: {held + 1_001} leaves of stream cluster-1 were acknowledged" in publisher.status().detail
        assert journal.acknowledged(STREAM) == held


# -- the faults themselves ---------------------------------------------------------------------------------------------


def test_the_same_seed_strikes_the_same_messages() -> None:
    def strikes(seed: int) -> list[bool]:
        faults = Faults(["drop:watch:0.3"], seed)
        return [faults.struck(Place.WATCH, Kind.DROP) is not None for _ in range(200)]

    assert strikes(7) == strikes(7) != strikes(8)
    assert 30 < sum(strikes(7)) < 90
    assert Faults(["drop:acks:2x"]).struck(Place.WATCH, Kind.DROP) is None


def test_the_first_so_many_are_struck_and_one_of_a_kind_takes_anothers_place() -> None:
    faults = Faults(["drop:acks:2x"])
    assert [faults.struck(Place.ACKS, Kind.DROP) is not None for _ in range(4)] == [True, True, False, False]
    faults.set(["drop:acks:1x", "cut:acks"])
    assert faults.counts() == (("drop:acks:1x", 0, 0), ("cut:acks", 0, 0))
    faults.clear(["drop:acks:1x"])
    assert [text for text, _, _ in faults.counts()] == ["cut:acks"]
    with pytest.raises(UnknownName, match="fault in force was 'drop:acks:1x', expected one of cut:acks"):
        faults.clear(["drop:acks:1x"])
    faults.clear()
    assert not faults.counts()


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", UnknownName, "kind of fault was ''"),
        ("lose:watch", UnknownName, "kind of fault was 'lose', expected one of compact, cut"),
        ("drop", UnknownName, "place of a fault drop was '', expected one of acks, batches, heartbeats, watch"),
        ("compact:acks", UnknownName, "place of a fault compact was 'acks', expected one of watch"),
        ("drop:watch:0", InvalidValue, "how often"),
        ("drop:watch:1.1", InvalidValue, "how often"),
        ("drop:watch:0x", InvalidValue, "how often"),
        ("drop:watch:1:5ms", InvalidValue, "only a delay has one"),
        ("delay:watch:1:5", InvalidValue, "how long"),
        ("delay:watch:1:61s", InvalidValue, "how long"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_and_changes_nothing(text: str, kind: type[TenorError], says: str) -> None:
    faults = Faults(["cut:acks"])
    with pytest.raises(kind, match=says):
        faults.set(["drop:watch", text])
    assert faults.counts() == (("cut:acks", 0, 0),)


def test_every_kind_has_places_and_a_meaning() -> None:
    assert set(PLACES) == set(MEANINGS) == set(Kind)
    Faults(f"{kind}:{place}" for kind, places in PLACES.items() for place in places)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("faults = 3", "faults of .* was 3, expected a list of texts"),
        ("seed = true", "seed of"),
        ("fault = []", "name of .* was 'fault'"),
        ("faults = [", "unreadable"),
    ],
)
def test_a_file_of_faults_that_is_none_is_refused(tmp_path: Path, told: str, says: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(told)
    with pytest.raises(InvalidValue, match=says):
        faults_from_file(path)
    path.write_text('faults = ["drop:watch:0.1"]\nseed = 7\n')
    assert faults_from_file(path) == (("drop:watch:0.1",), 7)
