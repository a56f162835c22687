"""What the real client asks to change, and what is refused to it, over gRPC."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.api.client import Client
from scheduler.core.errors import Conflict, InvalidValue, Refused, TenorError, Unavailable, UnknownName
from scheduler.execution.simulated import Work
from tests.api.world import HOUR_MS, MINUTE_MS, START_MS, World

WAIT_S = 20


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


def test_wishes_arrive_and_are_shown(world: World, client: Client) -> None:
    elastic = client.submit(
        ["a"],
        account="acme",
        workers=4,
        min_workers=2,
        min_runtime_ms=5,
        deadline_ms=START_MS + HOUR_MS,
        spread="node",
        spread_required=True,
    )
    share = client.submit(["a"], account="acme", gpu_milli=300)
    spec = world.scheduler.state.gangs.get("gang-1").spec
    assert (spec.workers, spec.min_workers, spec.min_runtime_ms, spec.deadline_ms) == (4, 2, 5, START_MS + HOUR_MS)
    assert (spec.spread, spec.spread_required) == (1, True)
    assert world.scheduler.state.gangs.get("gang-2").spec.gpu_milli == 300
    assert (elastic.last.spec.spread, elastic.last.spec.min_workers) == ("node", 2)
    world.rounds()
    node = next(each for each in client.fleet() if each.shares)
    assert [(each.job, each.account, each.milli) for each in node.shares] == [(share.id, "acme", 300)]


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


def test_what_an_operator_says_is_wrong_stays_until_it_is_taken_back(client: Client) -> None:
    marked = client.mark("node-3", [1, 2], cause="thermal")
    assert [(each.cause, each.gpus) for each in marked.ill] == [("thermal", 2)]
    assert client.mark("node-3", [1, 2], cause="thermal").ill == marked.ill
    assert client.mark("node-3", cause="").ill == ()


def test_maintenance_is_announced_once_and_begins_with_a_drain(client: Client, world: World) -> None:
    from_ms, until_ms = START_MS + HOUR_MS, START_MS + 2 * HOUR_MS
    for _ in range(2):
        announced = client.drain("node-3", from_ms, until_ms=until_ms)
        assert (announced.maintenance_from_ms, announced.maintenance_until_ms) == (from_ms, until_ms)
        assert announced.drain_by_ms is None
    with pytest.raises(Conflict, match="overlaps that from"):
        client.drain("node-3", until_ms - 1, until_ms=until_ms + 1)
    world.pass_ms(HOUR_MS)
    assert client.fleet("node-3")[0].drain_by_ms == from_ms
    ended = client.drain("node-3", None)
    assert (ended.drain_by_ms, ended.maintenance_from_ms) == (None, None)


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (lambda c: c.drain("node-9", 5, until_ms=6), UnknownName, "node was 'node-9'"),
        (lambda c: c.drain("node-1", None, until_ms=6), InvalidValue, "by_ms of the drain of node-1 was None"),
        (lambda c: c.drain("node-1", 6, until_ms=6), InvalidValue, "until_ms of the maintenance of node-1 was 6"),
        (lambda c: c.drain("node-1", 5, until_ms=6), InvalidValue, "(now) or later"),
        (lambda c: c.mark("node-9", cause="ecc"), UnknownName, "node was 'node-9'"),
        (lambda c: c.mark("node-1", [8], cause="ecc"), UnknownName, "GPU was 'node-1:8'"),
        (lambda c: c.mark("node-1", cause="ECC"), InvalidValue, "cause of the mark of node-1 was 'ECC'"),
        (lambda c: c.mark("node-1", cause="node_lost"), InvalidValue, "was 'NODE_LOST', expected one of GPU_FAULT"),
        (lambda c: c.mark("node-1", cause="recall"), InvalidValue, "was 'RECALL', expected one of GPU_FAULT"),
        (lambda c: c.force_majeure([], 1, 2, b""), InvalidValue, "nodes of the force majeure was ()"),
        (lambda c: c.force_majeure(["node-9"], 1, 2, b""), UnknownName, "node was 'node-9'"),
        (lambda c: c.force_majeure(["node-1"], 2, 2, b""), InvalidValue, "until_ms of the force majeure was 2"),
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
