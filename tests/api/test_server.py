"""A real server over a real scheduler, asked by the real client over gRPC."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler.api.client import Client
from scheduler.api.messages import JobCount
from scheduler.api.server import SERVICE, ApiServer, ApiSources
from scheduler.api.servicer import MOST_STREAMS
from scheduler.core.causes import Cause
from scheduler.core.errors import InvalidValue, Refused, TenorError, Unavailable, UnknownName
from scheduler.exchange.errors import Exhausted
from scheduler.execution.logs import log_path
from scheduler.execution.simulated import GpuFault, Work
from tests.api.world import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, World

WAIT_S = 20


def write_log(world: World, gang: str, worker: int, text: str, attempt: int = 1) -> None:
    path = log_path(world.log_dir, gang, attempt, worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_status_counts_the_fleet_and_the_jobs(world: World, client: Client) -> None:
    world.submit("acme")
    world.submit("cobalt", gpus=16, workers=2)
    world.submit("cobalt", grade="OTHER")
    idle = next(node.name for node in client.fleet() if not node.occupants)
    world.executor.inject(GpuFault(idle, (1, 2), world.now_ms, Cause.ECC))
    world.rounds()
    status = client.status()
    assert (status.nodes, status.nodes_ill, status.gpus, status.ill_gpus) == (4, 1, 32, 2)
    assert (status.sold_gpus, status.unsold_gpus) == (24, 8)
    # The promise on the sick node moved to the unsold one: all that cobalt uses is lent now.
    assert (status.used_gpus, status.lent_gpus, status.idle_gpus) == (24, 16, 6)
    assert JobCount("waiting", 1) in status.jobs
    assert JobCount("running", 2) in status.jobs
    assert (status.positions, status.positions_uncovered, status.paused) == (2, 0, "")
    assert status.exchange == world.link
    assert status.journal_seq == world.journal.head[0]


def test_positions_say_what_they_entitle_to_and_who_uses_it(world: World, client: Client) -> None:
    world.submit("acme")
    world.submit("cobalt", gpus=16, workers=2)
    acme, borealis = client.positions()
    assert (acme.id, acme.lots, acme.entitled_gpus, acme.covered_gpus, acme.cell) == ("p-acme", 2, 16, 16, "node")
    assert (acme.used_gpus, acme.next_change_ms, acme.next_entitled_gpus) == (8, START_MS + DAY_MS, 0)
    assert acme.used_gpus + acme.lent_gpus + acme.idle_gpus + acme.ill_gpus == acme.covered_gpus
    assert borealis.account == "borealis"
    assert client.positions("borealis") == (borealis,)


def test_a_position_that_is_not_covered_says_so(world: World, client: Client) -> None:
    world.trade("p-over", "dune", 3)
    position = client.positions("dune")[0]
    assert (position.covered_gpus, position.uncovered_cause) == (0, "oversold")
    assert client.status().positions_uncovered == 1


def test_ended_positions_are_shown_where_they_are_asked_for(world: World, client: Client) -> None:
    world.now_ms += DAY_MS
    world.rounds()
    assert client.positions() == ()
    assert [each.id for each in client.positions(ended=True)] == ["p-acme", "p-borealis"]


def test_jobs_come_newest_first_in_pages(world: World, client: Client) -> None:
    for number in range(7):
        world.submit("acme" if number % 2 else "cobalt", f"job-{number}", gpus=1)
    assert [job.id for job in client.jobs(page_size=3)] == [f"gang-{n}" for n in range(7, 0, -1)]
    page = client.jobs_page(page_size=3)
    assert ([job.id for job in page.jobs], page.next_page_token) == (["gang-7", "gang-6", "gang-5"], "4")
    assert [job.id for job in client.jobs("acme", page_size=2)] == ["gang-6", "gang-4", "gang-2"]
    assert [job.spec.name for job in client.jobs(name="job-3")] == ["job-3"]


def test_jobs_are_found_by_status(world: World, client: Client) -> None:
    world.submit("acme")
    world.submit("acme", grade="OTHER")
    assert [job.id for job in client.jobs(statuses=["waiting"])] == ["gang-2"]
    assert [job.reason for job in client.jobs(statuses=["waiting"])] == ["no_such_grade"]
    assert [job.id for job in client.jobs(statuses=["waiting", "running"])] == ["gang-2", "gang-1"]


def test_the_fleet_is_shown_by_owner_and_occupant(world: World, client: Client) -> None:
    world.submit("acme", gpus=6)
    world.executor.inject(GpuFault("node-2", (0,), world.now_ms, Cause.ECC))
    world.scheduler.drain("node-3", START_MS + HOUR_MS)
    world.rounds()
    nodes = {node.name: node for node in client.fleet()}
    assert list(nodes) == ["node-0", "node-1", "node-2", "node-3"]
    assert [(each.job, each.account, each.gpus) for each in nodes["node-0"].occupants] == [("gang-1", "acme", 6)]
    assert (nodes["node-0"].idle_gpus, nodes["node-0"].owners[0].account) == (2, "acme")
    assert [(each.cause, each.gpus) for each in nodes["node-2"].ill] == [("ecc", 1)]
    assert nodes["node-3"].drain_by_ms == START_MS + HOUR_MS
    for node in nodes.values():
        assert sum(each.gpus for each in node.owners) + node.unsold_gpus == node.gpus
        assert sum(each.gpus for each in node.occupants) + node.idle_gpus == node.gpus
    assert client.fleet("node-1") == (nodes["node-1"],)


def test_coverage_shows_cells_over_time(world: World, client: Client) -> None:
    coverage = client.coverage()
    assert (coverage.from_ms, coverage.to_ms) == (START_MS, START_MS + 7 * DAY_MS)
    assert [each.position for each in coverage.positions] == ["p-acme", "p-borealis"]
    (stretch,) = coverage.positions[0].stretches
    assert (stretch.start_ms, stretch.end_ms) == (START_MS, START_MS + DAY_MS)
    assert (stretch.cell, stretch.cells, stretch.gpus) == ("node", ("node-0", "node-1"), 16)


def test_coverage_is_cut_to_what_is_asked(client: Client) -> None:
    coverage = client.coverage(START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, position="p-borealis")
    (stretch,) = coverage.positions[0].stretches
    assert (stretch.start_ms, stretch.end_ms) == (START_MS + HOUR_MS, START_MS + 2 * HOUR_MS)
    assert client.coverage(START_MS + DAY_MS, START_MS + 2 * DAY_MS).positions == ()


def test_why_goes_over_the_wire(world: World, client: Client) -> None:
    gang = world.submit("acme", grade="OTHER")
    answer = client.why(gang.id)
    assert (answer.status, answer.reason) == ("waiting", "no_such_grade")
    assert "\n  ".join([answer.headline, *answer.sentences]) + "\n" == world.why(gang)


def test_a_statement_comes_as_its_bytes(world: World, client: Client) -> None:
    world.statements["p-acme"] = json.dumps({"position": "p-acme"}).encode()
    assert client.statement("p-acme") == {"position": "p-acme"}
    assert client.statement_bytes("p-acme") == world.statements["p-acme"]


# -- changing ----------------------------------------------------------------------------------------------------------


def test_a_submitted_job_runs_and_is_waited_for(world: World, client: Client) -> None:
    world.works["quick"] = Work(MINUTE_MS)
    job = client.submit(
        ["/usr/bin/python", "train.py"], account="acme", name="quick", gpus_per_worker=8, max_runtime_ms=HOUR_MS
    )
    assert (job.id, job.last.status, job.last.gpus) == ("gang-1", "waiting", 8)
    world.rounds()
    assert job.status == "running"
    world.pass_ms(MINUTE_MS)
    assert job.wait(timeout_s=WAIT_S).status == "succeeded"


def test_waiting_ends_with_the_timeout(client: Client) -> None:
    job = client.submit(["a"], account="acme")
    with pytest.raises(Unavailable, match=r"gang-1 has not ended after 0\.1 s: it is waiting"):
        job.wait(timeout_s=0.1)


def test_everything_that_was_asked_arrives(world: World, client: Client) -> None:
    client.submit(
        ["a", "--flag"],
        account="acme",
        name="n",
        workers=2,
        gpus_per_worker=3,
        grade="LOGICAL",
        topology="nvlink_domain",
        topology_required=True,
        priority=-5,
        preemptible=False,
        max_runtime_ms=7_000,
        grace_ms=0,
        checkpoint_ms=1,
        restart_ms=2,
        max_failures=3,
        env={"K": "V"},
        working_dir="/tmp",  # noqa: S108 - a name only
    )
    spec = world.scheduler.state.gangs.get("gang-1").spec
    assert spec.command == ("a", "--flag")
    assert (spec.workers, spec.gpus_per_worker, spec.priority, spec.max_runtime_ms) == (2, 3, -5, 7_000)
    assert (spec.topology, spec.topology_required, spec.preemptible) == (2, True, False)
    assert (spec.grace_ms, spec.checkpoint_ms, spec.restart_ms, spec.max_failures) == (0, 1, 2, 3)
    assert (dict(spec.env), spec.working_dir) == ({"K": "V"}, "/tmp")  # noqa: S108


def test_an_environment_is_never_given_back(client: Client) -> None:
    job = client.submit(["a"], account="acme", env={"TOKEN": "secret"})
    assert job.refresh().spec.env == {}


def test_the_same_request_gives_the_same_job(client: Client) -> None:
    first = client.submit(["a"], account="acme", request_id="r-1")
    assert client.submit(["a"], account="acme", request_id="r-1").id == first.id
    with pytest.raises(Refused, match="r-1"):
        client.submit(["b"], account="acme", request_id="r-1")
    assert client.submit(["a"], account="acme").id != first.id


def test_cancelling_ends_a_job(world: World, client: Client) -> None:
    waiting = client.submit(["a"], account="acme", grade="OTHER")
    running = client.submit(["a"], account="acme")
    world.rounds()
    assert client.cancel(waiting.id).status == "cancelled"
    assert running.cancel().status == "stopping"
    world.rounds()
    world.pass_ms(MINUTE_MS)
    assert (running.status, running.last.stop_cause) == ("cancelled", "cancelled")
    assert client.cancel(waiting.id).status == "cancelled"


def test_a_node_drains_and_no_longer_does(client: Client) -> None:
    assert client.drain("node-3", START_MS + HOUR_MS).drain_by_ms == START_MS + HOUR_MS
    assert client.drain("node-3", None).drain_by_ms is None


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (lambda c: c.get_job("gang-9"), UnknownName, "gang"),
        (lambda c: c.why("gang-9"), UnknownName, "gang"),
        (lambda c: c.cancel("gang-9"), UnknownName, "gang"),
        (lambda c: list(c.logs("gang-9")), UnknownName, "gang"),
        (lambda c: c.positions("acmee"), UnknownName, "account was 'acmee', expected one of acme, borealis"),
        (lambda c: list(c.jobs("acmee")), UnknownName, "account was 'acmee'"),
        (lambda c: list(c.jobs(statuses=["sleeping"])), InvalidValue, "expected one of waiting, binding, running"),
        (lambda c: c.jobs_page(page_size=1_001), InvalidValue, "page_size of a list of jobs was 1001"),
        (lambda c: c.jobs_page(page_size=-1), InvalidValue, "page_size of a list of jobs was -1"),
        (lambda c: c.jobs_page(page_token="x"), InvalidValue, "page_token of a list of jobs was 'x'"),  # noqa: S106
        (lambda c: c.fleet("node-9"), UnknownName, "node was 'node-9', expected one of node-0"),
        (lambda c: c.drain("node-9", None), UnknownName, "node was 'node-9'"),
        (lambda c: c.drain("node-1", -1), InvalidValue, "by_ms of the drain of node-1 was -1"),
        (lambda c: c.coverage(2, 1), InvalidValue, "to_ms of coverage was 1"),
        (lambda c: c.coverage(-1), InvalidValue, "from_ms of coverage was -1"),
        (lambda c: c.coverage(position="p-9"), UnknownName, "position was 'p-9'"),
        (lambda c: c.statement("p-9"), UnknownName, "position was 'p-9'"),
        (lambda c: c.statement("p-acme"), InvalidValue, "records of p-acme"),
        (lambda c: c.submit([], account="acme"), InvalidValue, "command of job"),
        (lambda c: c.submit(["a"], account=""), InvalidValue, "account of job"),
        (lambda c: c.submit(["a"], account="a b"), InvalidValue, "letters, digits"),
        (lambda c: c.submit(["a"], account="acme", workers=0), InvalidValue, "workers of job"),
        (lambda c: c.submit(["a"], account="acme", gpus_per_worker=65), InvalidValue, "less than or equal to 64"),
        (lambda c: c.submit(["a"], account="acme", grace_ms=-1), InvalidValue, "grace_ms of job"),
        (lambda c: c.submit(["a"], account="acme", preemptible=False), InvalidValue, "max_runtime_ms"),
        (lambda c: c.submit(["a"], account="acme", topology="rack"), InvalidValue, "nvlink_domain"),
        (lambda c: c.submit(["a"], account="acme", request_id="r" * 257), InvalidValue, "request_id"),
        (lambda c: list(c.events(-1)), InvalidValue, "after_seq"),
        (lambda c: list(c.events(10_000)), InvalidValue, "after_seq"),
        (lambda c: list(c.events(0, kinds=["nonsense"])), UnknownName, "kind of event was 'nonsense'"),
    ],
)
def test_refusals_reach_the_client_as_what_they_are(
    client: Client, call: Callable[[Client], object], kind: type[TenorError], told: str
) -> None:
    with pytest.raises(kind) as refused:
        call(client)
    assert type(refused.value) is kind
    assert told in str(refused.value)


def test_refused_input_changes_nothing(world: World, client: Client) -> None:
    before = world.journal.head
    with pytest.raises(InvalidValue):
        client.submit(["a"], account="acme", workers=0)
    assert world.journal.head == before


# -- logs --------------------------------------------------------------------------------------------------------------


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


# -- events ------------------------------------------------------------------------------------------------------------


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


# -- the server --------------------------------------------------------------------------------------------------------


def test_the_server_is_found_by_its_file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENOR_ADDRESS", raising=False)
    monkeypatch.setenv("TENOR_HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / "api.address"
    with world.served(file) as server, Client() as client:
        assert client.address == server.address
        assert client.status().nodes == 4
    assert not file.exists()


def test_the_environment_goes_before_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.served() as server:
        monkeypatch.setenv("TENOR_ADDRESS", server.address)
        with Client() as client:
            assert client.status().nodes == 4


def test_nothing_says_where_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENOR_ADDRESS", raising=False)
    monkeypatch.setenv("TENOR_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no Tenor is running here: .*api\.address is missing"):
        Client()


def test_nobody_answers(world: World) -> None:
    with world.served() as server:
        address = server.address
    with Client(address) as client, pytest.raises(Unavailable, match=f"no Tenor answers at {address}"):
        client.status()


@pytest.mark.parametrize("address", ["", "7070", "localhost:", "localhost:port", ":7070", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(world: World, address: str) -> None:
    with pytest.raises(InvalidValue, match="expected host:port"):
        ApiServer(world.scheduler, world.journal, address, ApiSources(world.clock_ms))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:7070", "example.com:7070", "[::]:0"])
def test_an_address_that_others_reach_is_refused(world: World, address: str) -> None:
    with pytest.raises(InvalidValue, match="a loopback address"):
        ApiServer(world.scheduler, world.journal, address, ApiSources(world.clock_ms))


def test_a_busy_port_is_refused(world: World) -> None:
    with world.served() as server:
        second = ApiServer(world.scheduler, world.journal, server.address, ApiSources(world.clock_ms))
        with pytest.raises(Unavailable, match=f"cannot listen on {server.address}"):
            second.start()


def test_stopping_ends_streams_and_tells_whoever_asked(world: World) -> None:
    told: list[str] = []
    sources = ApiSources(world.clock_ms)
    server = ApiServer(world.scheduler, world.journal, "127.0.0.1:0", sources, on_stop=lambda: told.append("stopped"))
    address = server.start()
    with Client(address) as client:
        stream = client.events(0)
        assert next(stream).seq == 1
        server.stop()
        server.stop()
        list(stream)
    assert told == ["stopped"]


def test_a_scheduler_without_logs_and_statements_says_so(world: World) -> None:
    server = ApiServer(world.scheduler, world.journal, "127.0.0.1:0", ApiSources(world.clock_ms))
    address = server.start()
    gang = world.submit("acme")
    with Client(address) as client:
        with pytest.raises(Refused, match="keeps no output"):
            list(client.logs(gang.id))
        with pytest.raises(Refused, match="makes no statements"):
            client.statement("p-acme")
        assert client.status().exchange is None
    server.stop()


def test_the_health_service_answers(world: World) -> None:
    with world.served() as server, grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_scheduler_that_cannot_save_says_that_it_may_be_tried_again(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise Unavailable("journal.db: the disk is full")

    monkeypatch.setattr(world.journal, "commit", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        client.submit(["a"], account="acme")


def test_two_clients_may_submit_at_once(world: World) -> None:
    with world.served() as server:
        ids: queue.Queue[str] = queue.Queue()

        def submit() -> None:
            with Client(server.address) as client:
                for _ in range(10):
                    ids.put(client.submit(["a"], account="acme").id)

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert sorted(ids.queue) == sorted(f"gang-{n}" for n in range(1, 41))
