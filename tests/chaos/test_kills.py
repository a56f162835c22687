"""The real composition under `kill -9`: scheduler, exchange and raylets, 30 times and more, at seeded moments.

Three accounts hold lots with intervals of ten seconds; gangs run through it all, short ones come and go, a position is
sold in part, nodes die and come back. Afterwards everything must be accounted for: every gang ran once an attempt, what
could survive did, both sides have the same log and the same statements, and nothing is missing from them but what was
really out.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import Unavailable
from scheduler.core.events import Event, GangEnded, GangPlaced, GangStarted, GangStopAsked, GangSubmitted, decode
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.records import MeterRecord
from scheduler.core.quantities import ceil_div
from scheduler.core.workloads import GangStatus, StopCause
from scheduler.exchange import leaves
from scheduler.exchange.audit import audit
from scheduler.exchange.bundles import write as write_bundle
from scheduler.exchange.client import ExchangeClient
from scheduler.execution.processes import ProcessId, identity, kill, marked
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import open_checkpoint
from scheduler.own_exchange import MARK as EXCHANGE_MARK
from scheduler.recovery import fold
from tests.chaos.composition import Composition, now_ms, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

SEED = int(os.environ.get("TENOR_CHAOS_SEED", "20261122"))
KILLS = 30
STREAM = "local"
INTERVAL_MS = 10_000
DELIVERY_MS = 90_000
READING_MS = 5_000
NOTED_MS = 2_000
"""The scheduler notes once a second until when it saw the fleet: a gap may begin so much before the kill."""
DETECTED_MS = 8_000
"""Until a dead raylet is seen and its positions have moved, with the scheduler there."""
Answer = TypeVar("Answer")


@dataclass
class Story:
    """A run while it goes on, and what it was told."""

    up: Composition
    folder: Path
    chance: random.Random
    start_ms: int = 0
    positions: dict[str, str] = field(default_factory=dict)
    sold_ms: int = 0
    gangs: dict[str, str] = field(default_factory=dict)
    """Gang id by request."""
    kills: list[tuple[int, str]] = field(default_factory=list)
    """(instant, what was killed)."""
    faults: list[BaseException] = field(default_factory=list)

    @property
    def end_ms(self) -> int:
        """When delivery ends."""
        return self.start_ms + DELIVERY_MS

    def until(self, at_ms: int) -> None:
        """Sleep until an instant: the story's clock is the wall's."""
        time.sleep(max(0, at_ms - now_ms()) / 1_000)

    def exchange(self) -> ExchangeClient:
        """A client of the exchange, wherever it is now."""
        return ExchangeClient((self.up.home / "exchange.address").read_text().strip(), timeout_s=5.0)

    def submit(self, request: str, account: str, seconds: float, *, workers: int = 1, gpus: int = 1) -> None:
        """A gang, asked for until somebody answers; the same request, so it is one gang."""

        def asked() -> str:
            with self.up.client() as client:
                job = client.submit(
                    self.up.command(self.folder, seconds),
                    account=account,
                    name=request,
                    workers=workers,
                    gpus_per_worker=gpus,
                    grace_ms=3_000,
                    request_id=request,
                )
                return job.id

        self.gangs[request] = insisted(asked)


def insisted(call: Callable[[], Answer]) -> Answer:
    """The answer of a call that is made again while nobody answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except (Unavailable, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The whole run, played once; the tests look at what it left."""
    home = tmp_path_factory.mktemp("up")
    folder = home / "gangs"
    folder.mkdir()
    with Composition(home, TENOR_SPARES="1", TENOR_READING_MS=str(READING_MS)) as up:
        told = Story(up, folder, random.Random(SEED))
        play(told)
        yield told


# -- the run -----------------------------------------------------------------------------------------------------------


def play(story: Story) -> None:
    """Everything until it has settled; then stopped."""
    up = story.up
    up.start()
    time.sleep(story.chance.uniform(1.0, 4.0))  # somewhere in its first start, Ray half there
    kill_scheduler(story)
    up.start()
    up.wait_ready()
    buy(story)
    threads = [threading.Thread(target=guarded, args=(story, part)) for part in (submit_gangs, sell, kill_nodes)]
    for thread in threads:
        thread.start()
    kill_and_restart(story)
    for thread in threads:
        thread.join()
    assert not story.faults, story.faults
    up.wait_ready()
    wait_until(lambda: settled(story), 60, "the exchange has every record", 0.5)
    wait_until(lambda: short_ones_ended(story), 60, "every short gang has ended", 0.5)
    keep_answers(story)
    assert up.stop() == 0, up.said()
    assert up.left() == ()


def guarded(story: Story, part: Callable[[Story], None]) -> None:
    """A part of the run in a thread; its fault is the run's."""
    try:
        part(story)
    except BaseException as error:  # noqa: BLE001 - seen by `play`
        story.faults.append(error)


def buy(story: Story) -> None:
    """A node for acme and one for borealis, four single GPUs for cygnus."""
    story.start_ms = ceil_div(now_ms() + 4_000, INTERVAL_MS) * INTERVAL_MS
    story.sold_ms = story.start_ms + DELIVERY_MS // 2 + 3_000
    with story.exchange() as exchange:
        for terms, lots in ((terms_of(story, "8N", Level.NODE, 8), 3), (terms_of(story, "1G", Level.GPU, 1), 8)):
            exchange.list_instrument(terms, lots_listed=lots)
        whole, single = sorted_ids(exchange)
        for account, instrument, lots in (("acme", whole, 1), ("borealis", whole, 1), ("cygnus", single, 4)):
            story.positions[account] = exchange.trade(account, instrument, lots).position


def sorted_ids(exchange: ExchangeClient) -> tuple[str, str]:
    """The ids of the instruments of whole nodes and of single GPUs."""
    by_gpus = {terms.lot.gpus: terms.id for terms in exchange.instruments()}
    return by_gpus[8], by_gpus[1]


def terms_of(story: Story, lot: str, cell: Level, gpus: int) -> InstrumentTerms:
    """A listing over the run's delivery."""
    return standard_terms(
        symbol=f"LOGICAL.{lot}.LOCAL.BASE.FIRM.CHAOS",
        start_ms=story.start_ms,
        end_ms=story.start_ms + DELIVERY_MS,
        grade="LOGICAL",
        site="local",
        cell=cell,
        gpus=gpus,
        metering_interval_s=10,
        bind_limit_s=300,
        replace_within_s=0,
    )


def submit_gangs(story: Story) -> None:
    """Long gangs through it all, then a short one every few seconds."""
    whole_s = DELIVERY_MS / 1_000 + 120
    story.submit("acme-long", "acme", whole_s, gpus=8)
    story.submit("borealis-long", "borealis", whole_s, workers=2, gpus=4)
    story.submit("cygnus-long", "cygnus", whole_s, workers=2, gpus=1)
    number = 0
    chance = random.Random(SEED + 1)
    while now_ms() < story.end_ms - 15_000:
        number += 1
        story.submit(f"short-{number}", "cygnus", chance.uniform(0.2, 5.0))
        time.sleep(chance.uniform(1.0, 4.0))


def sell(story: Story) -> None:
    """One of cygnus' lots goes to dorado in the middle of delivery, whoever is there when that is told."""
    story.until(story.start_ms + 8_000)
    cygnus = story.positions["cygnus"]

    def asked() -> str:
        with story.exchange() as exchange:
            return exchange.transfer(cygnus, "dorado", 1, effective_ms=story.sold_ms, request_id="sell-one").position

    story.positions["dorado"] = insisted(asked)


def kill_scheduler(story: Story) -> None:
    """SIGKILL."""
    story.up.kill()
    story.kills.append((now_ms(), "scheduler"))


def kill_exchange(story: Story) -> None:
    """SIGKILL; the scheduler, or the next one, starts it again."""
    for pid in marked(EXCHANGE_MARK, str(story.up.home)):
        process = identity(pid)
        if process is not None and kill(process):
            story.kills.append((now_ms(), "exchange"))


def kill_and_restart(story: Story) -> None:
    """Bursts, in which nothing recovers wholly, and calms, in which something may."""
    chance = story.chance
    while now_ms() < story.end_ms - 8_000:
        for _ in range(chance.randint(1, 4)):
            if chance.random() < 0.4:
                kill_exchange(story)
            kill_scheduler(story)
            story.up.start()
            time.sleep(chance.choice((0.0, 0.3, 1.5, 3.0)) * chance.random())
        if chance.random() < 0.3:
            kill_exchange(story)
        time.sleep(chance.uniform(4.0, 9.0))


def kill_nodes(story: Story) -> None:
    """Three raylets die, one after the other, and come back later."""
    chance = random.Random(SEED + 2)
    for at_ms in (12_000, 36_000, 60_000):
        story.until(story.start_ms + at_ms + chance.randint(0, 6_000))
        ray = story.up.ray()
        name = f"node-{chance.randint(0, 2)}"
        ray.kill_node(name)
        story.kills.append((now_ms(), name))
        time.sleep(chance.uniform(6.0, 10.0))
        node = next(node for node in ray.nodes if node.name == name)
        ray.add_node(node)


def settled(story: Story) -> bool:
    """Whether both sides have complete statements of every position."""
    try:
        return all(json.loads(each)["complete"] for each in statements(story).values())
    except Exception:  # noqa: BLE001 - not yet, for whatever reason: the wait has an end
        return False


def short_ones_ended(story: Story) -> bool:
    """Whether no gang that ends by itself is still to end."""
    with story.up.client() as client:
        return all(client.get_job(gang).has_ended for name, gang in story.gangs.items() if name.startswith("short"))


def statements(story: Story) -> dict[str, bytes]:
    """The exchange's statements by position."""
    with story.exchange() as exchange:
        return {name: exchange.statement(name)[0] for name in sorted(story.positions.values())}


def keep_answers(story: Story) -> None:
    """What only the living can answer, in files."""
    home = story.up.home
    with story.exchange() as exchange, story.up.client() as client:
        wait_until(lambda: client.status().outbox_leaves == 0, 20, "every leaf is acknowledged")
        for name, theirs in statements(story).items():
            (home / f"{name}.theirs").write_bytes(theirs)
            (home / f"{name}.ours").write_bytes(client.statement_bytes(name))
        _, note = exchange.checkpoint(STREAM)
        (home / "checkpoint.theirs").write_bytes(note)
        long = {request: client.get_job(gang).attempt for request, gang in story.gangs.items() if "long" in request}
        (home / "attempts.json").write_text(json.dumps(long))


# -- what it left ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal(story: Story) -> Iterator[Journal]:
    """The journal of the run."""
    with Journal.open(story.up.home / "journal.db", create=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def events(journal: Journal) -> list[Event]:
    """Every event; reading them verifies the chain."""
    return [decode(entry.version, entry.body) for entry in journal.read()]


@pytest.fixture(scope="module")
def records(journal: Journal) -> list[MeterRecord]:
    """Every record, in order."""
    decoded = (leaves.decode(leaf) for _, leaf in journal.leaves(STREAM))
    return [leaf.record for leaf in decoded if isinstance(leaf, leaves.RecordLeaf)]


def test_there_were_enough_kills(story: Story) -> None:
    killed = Counter(what for _, what in story.kills)
    assert sum(killed.values()) >= KILLS, killed
    assert killed["scheduler"] >= 10
    assert killed["exchange"] >= 5
    assert sum(killed[f"node-{i}"] for i in range(3)) == 3


def test_the_journal_folds_again_to_its_own_snapshot(journal: Journal) -> None:
    folded = fold(journal)
    assert folded.from_snapshot
    assert not folded.state.gangs.placed


def test_every_gang_was_submitted_once(story: Story, events: list[Event]) -> None:
    submitted = {event.request: event.gang for event in events if isinstance(event, GangSubmitted)}
    assert submitted == story.gangs
    assert len([event for event in events if isinstance(event, GangSubmitted)]) == len(story.gangs)


def test_every_attempt_ran_at_most_once_and_what_succeeded_ran_whole(story: Story, journal: Journal) -> None:
    left = [path.name.split(".") for path in story.folder.iterdir()]
    ran = Counter((gang, int(attempt)) for gang, attempt, _, kind in left if kind == "ran")
    died = {(end.gang, end.attempt) for end in journal_ends(journal) if end.exit_code is None}
    state = fold(journal).state
    for gang_id in (gang_id for request, gang_id in story.gangs.items() if "long" not in request):
        gang = state.gangs.get(gang_id)
        assert (gang.status, gang.exit_code) == (GangStatus.SUCCEEDED, 0)
        whole = {attempt: times for (of, attempt), times in ran.items() if of == gang_id}
        assert whole.pop(gang.attempt) == 1, gang_id
        # A node may be killed when the work is done and nobody was told yet: then it is done again.
        assert all(times == 1 and (gang_id, attempt) in died for attempt, times in whole.items()), gang_id
    assert not [event for event in journal_ends(journal) if event.exit_code == 99]


def journal_ends(journal: Journal) -> list[GangEnded]:
    """Every end of an attempt."""
    found = (decode(entry.version, entry.body) for entry in journal.read())
    return [event for event in found if isinstance(event, GangEnded)]


def test_attempts_ended_early_only_for_a_dead_node(story: Story, events: list[Event]) -> None:
    placed = {(e.gang, e.attempt): e for e in events if isinstance(e, GangPlaced)}
    asked = {(e.gang, e.attempt): e.cause for e in events if isinstance(e, GangStopAsked)}
    dead = [(at_ms, what) for at_ms, what in story.kills if what.startswith("node-")]
    for end in (event for event in events if isinstance(event, GangEnded)):
        key = (end.gang, end.attempt)
        cause = asked.get(key)
        if end.exit_code == 0 or cause in {StopCause.SHUTDOWN, StopCause.RECLAIMED}:
            continue
        nodes = {piece.node for piece in placed[key].pieces}
        near = [what for at_ms, what in dead if what in nodes and at_ms >= placed[key].at_ms - DETECTED_MS]
        assert near, f"{key} ended with {end.exit_code} ({end.detail!r}, {cause}) on {nodes}; kills: {dead}"


def test_gangs_on_living_nodes_were_never_restarted(story: Story, events: list[Event]) -> None:
    starts = Counter(event.gang for event in events if isinstance(event, GangStarted))
    killed = {what for _, what in story.kills}
    attempts = json.loads((story.up.home / "attempts.json").read_text())
    for request, attempt in attempts.items():
        gang = story.gangs[request]
        nodes = [{piece.node for piece in e.pieces} for e in events if isinstance(e, GangPlaced) and e.gang == gang]
        assert attempt == len(nodes)
        assert all(on & killed for on in nodes[:-1]), (request, nodes)
        began = sorted(path.name for path in story.folder.glob(f"{gang}.*.0.began"))
        assert len(began) == starts[gang] == attempt


def test_both_sides_have_the_same_log_and_the_same_statements(story: Story, journal: Journal) -> None:
    home = story.up.home
    key = SignerKey.load(home / "log.key").verifier
    theirs = open_checkpoint((home / "checkpoint.theirs").read_bytes(), [key])
    assert theirs.size == journal.log_size(STREAM) == journal.acknowledged(STREAM)
    assert theirs.root == journal.root(STREAM)
    for name in story.positions.values():
        assert (home / f"{name}.ours").read_bytes() == (home / f"{name}.theirs").read_bytes()


def test_the_audit_of_the_bundle_passes(story: Story, journal: Journal, tmp_path: Path) -> None:
    home = story.up.home
    terms = tuple(fold(journal).state.instruments.values())
    given = {name: (home / f"{name}.theirs").read_bytes() for name in story.positions.values()}
    vkey = SignerKey.load(home / "log.key").verifier.encode()
    write_bundle(journal, STREAM, tmp_path / "bundle", terms, given, [vkey])
    report = audit(tmp_path / "bundle")
    assert report.ok, report.first_wrong
    assert report.positions == len(story.positions)


def test_records_tile_delivery_in_versions_without_gaps(story: Story, records: list[MeterRecord]) -> None:
    versions: dict[tuple[str, int], list[int]] = {}
    for record in records:
        versions.setdefault((record.position, record.start_ms), []).append(record.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    starts = set(range(story.start_ms, story.end_ms, INTERVAL_MS))
    for account, position in story.positions.items():
        expected = starts if account != "dorado" else {at_ms for at_ms in starts if at_ms + INTERVAL_MS > story.sold_ms}
        assert {start_ms for name, start_ms in versions if name == position} == expected


def test_everything_contracted_is_in_the_statement(story: Story) -> None:
    after_ms = story.end_ms - story.sold_ms
    expected = {
        "acme": 8 * DELIVERY_MS,
        "borealis": 8 * DELIVERY_MS,
        "cygnus": 4 * DELIVERY_MS - after_ms,
        "dorado": after_ms,
    }
    for account, statement in read_statements(story).items():
        assert statement["contracted_gpu_ms"] == expected[account]
        assert sum(gpu_ms for _, gpu_ms in statement["states"]) == expected[account]


def test_only_what_was_really_out_is_missing(story: Story, records: list[MeterRecord]) -> None:
    unseen = [
        (down_ms - NOTED_MS, up_ms) for down_ms, up_ms in story.up.outages if up_ms - down_ms > READING_MS - NOTED_MS
    ]
    dead = [(at_ms - NOTED_MS, detected_ms(story, at_ms)) for at_ms, what in story.kills if what.startswith("node-")]
    gpus = {story.positions["acme"]: 8, story.positions["borealis"]: 8}
    for record in {(r.position, r.start_ms): r for r in records}.values():  # the last version of each
        lost = dict(record.losses)
        most = gpus.get(record.position, 4)
        unknown = lost.pop(Cause.NOT_OBSERVED, 0)
        assert unknown <= most * overlap_ms(record, unseen), (record, story.up.outages)
        lost_with_node = lost.pop(Cause.NODE_LOST, 0)
        assert lost_with_node <= most * overlap_ms(record, dead), (record, dead)
        assert not lost, record
        rest = record.contracted_gpu_ms - unknown - lost_with_node
        assert record.used_gpu_ms + record.available_unused_gpu_ms == rest


def test_long_gangs_were_metered_as_used(story: Story) -> None:
    """Undisturbed, acme and borealis use all they own once their gangs run; what is less must have a reason."""
    out_ms = sum(up_ms - down_ms + NOTED_MS for down_ms, up_ms in story.up.outages[1:])
    nodes_ms = sum(detected_ms(story, at_ms) + DETECTED_MS - at_ms for at_ms, what in story.kills if "node" in what)
    for account in ("acme", "borealis"):
        states = dict(read_statements(story)[account]["states"])
        assert states["used"] >= 8 * (DELIVERY_MS - out_ms - nodes_ms - 2 * DETECTED_MS)


def detected_ms(story: Story, at_ms: int) -> int:
    """When a death at an instant must have been dealt with: so long after it, not counting while nobody was there."""
    until_ms = at_ms + DETECTED_MS
    for down_ms, up_ms in sorted(story.up.outages):
        if down_ms < until_ms and up_ms > at_ms:
            until_ms = up_ms + DETECTED_MS
    return until_ms


def overlap_ms(record: MeterRecord, spans: list[tuple[int, int]]) -> int:
    """How much of the record's interval lies in any of the spans; where spans overlap, more than that."""
    return sum(max(0, min(record.end_ms, until_ms) - max(record.start_ms, from_ms)) for from_ms, until_ms in spans)


def read_statements(story: Story) -> dict[str, dict[str, Any]]:
    """The exchange's statements by account."""
    return {
        account: json.loads((story.up.home / f"{name}.theirs").read_bytes())
        for account, name in story.positions.items()
    }


def test_nothing_is_left_running(story: Story) -> None:
    assert story.up.left() == ()
    for path in story.folder.glob("*.began"):
        process: ProcessId | None = identity(int(path.read_text().split()[0]))
        assert process is None or process.pid not in story.up.left()
