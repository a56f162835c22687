"""What the real client reads of a real scheduler, over gRPC."""

from __future__ import annotations

import json

from scheduler.api.client import Client
from scheduler.api.messages import JobCount
from scheduler.core.causes import Cause
from scheduler.core.events import ScoreChosen
from scheduler.execution.simulated import GpuFault
from tests.api.world import DAY_MS, GRADE, HOUR_MS, START_MS, World


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
    assert status.planned_by == "in the scheduler's process"
    assert (status.score, status.rehearsed) == ("gradient", "")
    assert status.exchange == world.link
    assert status.journal_seq == world.journal.head[0]


def test_status_names_the_score_in_use_and_what_the_last_rehearsal_came_to(world: World, client: Client) -> None:
    world.rehearsed = "the rehearsal's process ended with 1: no room"
    world.scheduler.choose_score(
        ScoreChosen(at_ms=world.now_ms, score="fgd", seed=1, offered_ppm=1, mix="", kinds=(), grades=(GRADE,))
    )
    status = client.status()
    assert (status.score, status.rehearsed) == ("fgd", "the rehearsal's process ended with 1: no room")


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
