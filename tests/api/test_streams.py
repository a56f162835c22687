"""Output and events as they come, over gRPC, until whoever listens has heard enough."""

from __future__ import annotations

import queue
import threading

import pytest

from scheduler.api.client import Client
from scheduler.api.servicer import MOST_STREAMS
from scheduler.core.errors import InvalidValue
from scheduler.exchange.errors import Exhausted
from scheduler.execution.logs import log_path
from scheduler.execution.simulated import Work
from tests.api.world import MINUTE_MS, World

WAIT_S = 20


def write_log(world: World, gang: str, worker: int, text: str, attempt: int = 1) -> None:
    path = log_path(world.log_dir, gang, attempt, worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_logs_come_by_worker(world: World, client: Client) -> None:
    gang = world.submit("acme", gpus=2, workers=2)
    write_log(world, gang.id, 0, "one\ntwo\n")
    write_log(world, gang.id, 1, "three\nhalf")
    assert [(each.worker, each.content) for each in client.logs(gang.id)] == [
        (0, b"one\ntwo\n"),
        (1, b"three\n"),
        (1, b"half"),
    ]
    assert [each.content for each in client.logs(gang.id, worker=0, tail_lines=1)] == [b"two\n"]
    assert [each.content for each in client.logs(gang.id, worker=0, tail_lines=0)] == []
    assert list(client.job(gang.id).logs()) == ["one", "two", "three", "half"]


def test_many_lines_are_read_from_their_end(world: World, client: Client) -> None:
    gang = world.submit("acme", gpus=1)
    write_log(world, gang.id, 0, "".join(f"line {n} {'x' * 50}\n" for n in range(5_000)))
    tail = b"".join(each.content for each in client.logs(gang.id, tail_lines=2_000)).decode().splitlines()
    assert len(tail) == 2_000
    assert tail[0].startswith("line 3000 ")


def test_following_goes_on_until_the_job_has_ended(world: World, client: Client) -> None:
    world.works["short"] = Work(MINUTE_MS)
    gang = world.submit("acme", "short", gpus=1)
    lines: queue.Queue[str | None] = queue.Queue()

    def follow() -> None:
        for line in client.job(gang.id).logs(follow=True):
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=follow)
    reader.start()
    write_log(world, gang.id, 0, "first\n")
    assert lines.get(timeout=WAIT_S) == "first"
    write_log(world, gang.id, 0, "second\n")
    assert lines.get(timeout=WAIT_S) == "second"
    write_log(world, gang.id, 0, "last words")
    world.pass_ms(MINUTE_MS)
    assert lines.get(timeout=WAIT_S) == "last words"
    assert lines.get(timeout=WAIT_S) is None
    reader.join(WAIT_S)


def test_following_goes_on_over_a_restart(world: World, client: Client) -> None:
    world.works["flaky"] = Work(MINUTE_MS, exit_code=1)
    gang = world.submit("acme", "flaky", gpus=1, max_failures=1)
    write_log(world, gang.id, 0, "attempt one\n", attempt=1)
    write_log(world, gang.id, 0, "attempt two\n", attempt=2)
    world.pass_ms(2 * MINUTE_MS)
    assert list(client.job(gang.id).logs(follow=True)) == ["attempt two"]
    assert [each.content for each in client.logs(gang.id, attempt=1, follow=True)] == [b"attempt one\n"]


def test_a_job_without_output_has_none(world: World, client: Client) -> None:
    waiting = world.submit("acme", grade="OTHER")
    assert list(client.logs(waiting.id)) == []
    with pytest.raises(InvalidValue, match="attempt of gang-1 was 1, expected none yet"):
        list(client.logs(waiting.id, attempt=1))
    with pytest.raises(InvalidValue, match=r"worker of gang-1 was 1, expected 0\.\.0"):
        list(client.logs(waiting.id, worker=1))


def test_events_tell_what_the_journal_holds(world: World, client: Client) -> None:
    world.submit("acme")
    told = list(client.events(0, follow=False))
    assert [each.seq for each in told] == list(range(1, world.journal.head[0] + 1))
    assert [each.kind for each in told] == [entry.kind for entry in world.journal.read()]
    submitted = next(each for each in told if each.kind == "gang_submitted")
    assert (submitted.subject, submitted.text) == ("gang-1", "train of acme submitted: 1 worker of 8 GPUs")
    assert list(client.events(0, kinds=["gang_submitted"], follow=False)) == [submitted]


def test_events_are_watched_as_they_come(world: World, client: Client) -> None:
    heard: queue.Queue[str] = queue.Queue()
    head = world.journal.head[0]

    def watch() -> None:
        for event in client.events(head, kinds=["gang_submitted", "gang_started"]):
            heard.put(event.kind)
            if event.kind == "gang_started":
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    world.submit("acme")
    assert [heard.get(timeout=WAIT_S), heard.get(timeout=WAIT_S)] == ["gang_submitted", "gang_started"]
    watcher.join(WAIT_S)


def test_followers_cannot_keep_others_out(world: World) -> None:
    with world.served() as server, Client(server.address) as client:
        first = world.submit("acme", grade="OTHER")
        streams = [client.events(0) for _ in range(MOST_STREAMS)]
        assert [next(stream).seq for stream in streams] == [1] * MOST_STREAMS
        with pytest.raises(Exhausted, match=f"{MOST_STREAMS} streams are open"):
            next(client.events(0))
        assert client.get_job(first.id).id == first.id
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
