"""Every verb through the real command: its table for people, its one JSON document for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.__main__ import VERBS
from scheduler.exchange import bundles
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import parse_note
from tests.api.world import START_MS, SYMBOL, World
from tests.cli.conftest import Run


def document(run: Run, *arguments: str) -> Any:
    """What a verb says to programs: one document on stdout, nothing else there."""
    verb, *rest = arguments
    ended = run(verb, "--output", "json", *rest)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def table(run: Run, *arguments: str) -> list[list[str]]:
    """What a verb says to people, by line and word."""
    ended = run(*arguments)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out, "a pipe gets no colours"
    return [line.split() for line in ended.out.splitlines()]


def test_status(run: Run) -> None:
    found = document(run, "status")
    assert (found["gpus"], found["sold_gpus"], found["positions"]) == (32, 24, 2)
    assert found["exchange"]["connected"] is True
    lines = table(run, "status")
    assert ["GPUs", "32:", "24", "sold,", "8", "unsold"] in lines
    assert ["score", "gradient;", "last", "rehearsal:", "none", "yet"] in lines


def test_positions(run: Run) -> None:
    found = document(run, "positions")
    assert [each["id"] for each in found["positions"]] == ["p-acme", "p-borealis"]
    assert [each["id"] for each in document(run, "positions", "--account", "acme")["positions"]] == ["p-acme"]
    lines = table(run, "positions")
    assert lines[0][:4] == ["POSITION", "ACCOUNT", "INSTRUMENT", "LOTS"]
    assert lines[1][:6] == ["p-acme", "acme", "LOGICAL.8N.LOCAL.BASE@1", "2", "16", "16"]


def test_jobs(run: Run) -> None:
    live = document(run, "jobs")["jobs"]
    assert {"gang-1", "gang-2", "gang-4"} <= {each["id"] for each in live}
    assert "gang-3" not in {each["id"] for each in live}
    failed = document(run, "jobs", "--status", "failed")["jobs"]
    assert [(each["id"], each["exit_code"]) for each in failed] == [("gang-3", 3)]
    assert len(document(run, "jobs", "--all", "--limit", "2")["jobs"]) == 2
    rows = {line[0]: line for line in table(run, "jobs", "--all", "--account", "acme")}
    assert rows["gang-1"][1:5] == ["long", "acme", "running", "8"]
    assert rows["gang-3"][-3:] == ["exit", "code", "3"]
    assert rows["gang-4"][-3:] == ["no", "such", "grade"]


def test_why(run: Run, world: World) -> None:
    found = document(run, "why", "gang-4")
    assert (found["status"], found["reason"]) == ("waiting", "no_such_grade")
    assert run("why", "gang-4").out == world.why("gang-4")


def test_logs(run: Run) -> None:
    assert run("logs", "gang-1").out == "step 1\nstep 2\n"
    assert run("logs", "gang-1", "--tail", "1").out == "step 2\n"
    assert document(run, "logs", "gang-1")["lines"][0] == {"attempt": 1, "worker": 0, "text": "step 1"}


def test_submit_and_cancel(run: Run, world: World) -> None:
    command = ("submit", "--account", "acme", "--gpus", "16", "--workers", "2", "--grade", "NONE")
    more = ("--priority", "3", "--max-runtime", "2h", "--grace", "30s", "--checkpoint-every", "10m", "--env", "K=V")
    topology = ("--topology", "domain:required", "--name", "asked", "--not-preemptible")
    ended = run(*command, *more, *topology, "--", "python", "train.py", "--output", "x", "--debug")
    assert ended.code == 0, ended.err
    gang = world.scheduler.state.gangs.get(ended.out.strip())
    spec = gang.spec
    assert spec.command == ("python", "train.py", "--output", "x", "--debug")
    assert (spec.workers, spec.gpus_per_worker, spec.priority, spec.preemptible) == (2, 8, 3, False)
    assert (spec.max_runtime_ms, spec.grace_ms, spec.checkpoint_ms) == (7_200_000, 30_000, 600_000)
    assert (spec.topology, spec.topology_required, dict(spec.env)) == (2, True, {"K": "V"})
    assert document(run, "cancel", gang.id)["jobs"][0]["status"] == "cancelled"
    again = document(run, "submit", "-a", "acme", "--gpus", "4", "--gpus-per-worker", "2", "--grade", "NONE", "--", "a")
    assert (again["spec"]["workers"], again["spec"]["gpus_per_worker"], again["status"]) == (2, 2, "waiting")
    assert table(run, "cancel", again["id"])[1] == [again["id"], "a", "cancelled"]


def test_submit_with_wishes_of_its_own(run: Run, world: World) -> None:
    """Elastic, spread, with a deadline and a minimum run time; and a share of one GPU."""
    wishes = ("--workers", "2..4", "--gpus-per-worker", "2", "--spread", "node:required", "--topology", "block")
    times = ("--min-runtime", "20m", "--deadline", "2027-01-01T12:00", "--max-runtime", "1h")
    found = document(run, "submit", "-a", "acme", "--grade", "NONE", *wishes, *times, "--", "a")["spec"]
    assert (found["min_workers"], found["workers"], found["gpus_per_worker"]) == (2, 4, 2)
    assert (found["spread"], found["spread_required"], found["topology"]) == ("node", True, "fabric_block")
    assert (found["min_runtime_ms"], found["deadline_ms"], found["gpu_milli"]) == (1_200_000, 1_798_804_800_000, None)
    share = document(run, "submit", "-a", "acme", "--grade", "NONE", "--gpus", "0.25", "--", "a")
    assert (share["spec"]["gpu_milli"], share["spec"]["workers"]) == (250, 1)
    whole = document(run, "submit", "-a", "acme", "--grade", "NONE", "--gpus", "4", "--workers", "4", "--", "a")["spec"]
    assert (whole["min_workers"], whole["gpu_milli"], whole["workers"]) == (None, None, 4)
    sizes = {line[0]: line[4] for line in table(run, "jobs", "--name", "a")}
    assert sizes[share["id"]] == "0.25"
    assert "4..8" in sizes.values()


def test_following_a_job_ends_as_it_does(run: Run, world: World) -> None:
    """The job has ended by then: the same request gives it again, with its exit code."""
    arguments = ("submit", "-a", "acme", "-n", "gone", "--grade", "NONE", "--request-id", "r-1")
    name = run(*arguments, "--", "a").out.strip()
    world.scheduler.cancel(name)
    ended = run(*arguments, "--follow", "--", "a")
    assert (ended.code, ended.out) == (1, "")
    assert f"{name} cancelled" in ended.err


def test_fleet(run: Run) -> None:
    found = document(run, "fleet")["nodes"]
    assert [each["name"] for each in found] == ["node-0", "node-1", "node-2", "node-3"]
    rows = {line[0]: line for line in table(run, "fleet")}
    assert rows["node-0"][1:6] == ["LOGICAL", "local/block-0/domain-0", "8", "acme/p-acme:8", "gang-1(acme):8"]
    assert len(document(run, "fleet", "node-3")["nodes"]) == 1


def test_coverage(run: Run) -> None:
    found = document(run, "coverage", "p-acme", "--from", "2027-01-01T13:00", "--to", "2027-01-01T14:00:00Z")
    assert (found["from_ms"], found["to_ms"]) == (START_MS + 3_600_000, START_MS + 7_200_000)
    assert found["positions"][0]["stretches"][0]["gpus"] == 16
    assert [line[0] for line in table(run, "coverage")] == ["POSITION", "p-acme", "p-borealis"]


def test_deliverable(run: Run) -> None:
    found = document(run, "deliverable", f"{SYMBOL}@1", "--losses", "0")
    assert (found["proven_lots"], found["planned_lots"], found["at_most_lots"]) == (1, 1, 1)
    part = ("--from", "2027-01-01T13:00", "--to", "2027-01-01T14:00:00Z", "--level", "node", "--bounds-only")
    narrow = document(run, "deliverable", f"{SYMBOL}@1", *part)
    assert (narrow["from_ms"], narrow["to_ms"]) == (START_MS + 3_600_000, START_MS + 7_200_000)
    assert (narrow["domain"], narrow["planned_lots"], narrow["proven_lots"], narrow["survives"]) == (
        "node",
        None,
        0,
        True,
    )
    lines = [" ".join(line) for line in table(run, "deliverable", f"{SYMBOL}@1")]
    assert "survives the loss of any 1 nvlink domain" in lines
    assert "beware what is sold already does not survive that loss" in lines
    assert any(line.endswith("4 4 3 1 2 2 0") for line in lines)


def test_backing(run: Run) -> None:
    found = document(run, "backing", "p-acme", "--level", "node")
    assert [each["position"] for each in found["positions"]] == ["p-acme"]
    assert (found["unsold_cells"], found["margin"], found["survives"], found["handovers"]) == (1, 0, True, [])
    lines = [" ".join(line) for line in table(run, "backing", f"{SYMBOL}@1")]
    assert "would stand in no spare; 1 unsold cell" in lines
    assert "margin -1 after the loss of any 1 nvlink domain" in lines
    (acme,) = [line for line in lines if line.startswith("p-acme acme 2 ")]
    assert re.search(r" node-\d and node-\d well, 1000000 ppm$", acme)


def test_drain(run: Run, world: World) -> None:
    assert document(run, "drain", "node-3", "--by", "2027-01-02")["drain_by_ms"] == START_MS + 43_200_000
    assert "node-3 does not drain" in run("drain", "node-3", "--cancel").err
    assert not world.scheduler.state.health.draining


def test_mark(run: Run) -> None:
    assert document(run, "mark", "node-3", "1", "2", "--cause", "ECC")["ill"] == [{"cause": "ecc", "gpus": 2}]
    assert "all GPUs of node-3: nothing is said to be wrong" in run("mark", "node-3", "--well").err


def test_maintenance_and_force_majeure(run: Run, world: World, tmp_path: Path) -> None:
    found = document(run, "drain", "node-3", "--maintenance", "--at", "2027-01-02", "--for", "2h")
    assert (found["maintenance_from_ms"], found["drain_by_ms"]) == (START_MS + 43_200_000, None)
    assert "maintenance 2027-01-02 00:00:00 UTC to 2027-01-02 02:00:00 UTC" in run("fleet", "node-3").out
    letter = tmp_path / "letter"
    letter.write_bytes(b"the grid was down")
    given = ("--from", "2027-01-01T11:30", "--until", "2027-01-01T13:00", "--evidence", str(letter))
    assert "force majeure on node-0, node-1 from" in run("force-majeure", "node-0", "node-1", *given).err
    assert world.scheduler.state.outages.declarations[-1].nodes == ("node-0", "node-1")


def test_statement(run: Run, world: World) -> None:
    found = document(run, "statement", "p-acme")
    assert found == json.loads(world.statements["p-acme"])
    lines = [" ".join(line) for line in table(run, "statement", "p-acme")]
    assert "contracted 5.333 GPU-h" in lines
    assert any(line.startswith("total") and line.endswith("USD") for line in lines)


@pytest.fixture
def bundle(world: World, tmp_path: Path) -> Path:
    kept = world.journal.checkpoint("local")
    assert kept is not None
    signer = world.signer
    bundles.write(
        world.journal,
        "local",
        tmp_path / "bundle",
        world.scheduler.state.instruments.values(),
        world.statements,
        [signer.verifier.encode()],
    )
    assert parse_note(kept[1]).signatures
    return tmp_path / "bundle"


def test_audit(run: Run, bundle: Path) -> None:
    found = document(run, "audit", str(bundle))
    assert found["ok"] is True
    assert found["records"] == 8
    ended = run("audit", str(bundle))
    assert (ended.code, "the audit passes" in ended.err) == (0, True)


def test_an_audit_that_fails_says_where_and_exits_with_4(run: Run, bundle: Path) -> None:
    (bundle / "statements" / "p-acme.json").write_text("{}", encoding="utf-8")
    ended = run("audit", str(bundle), "-o", "json")
    assert ended.code == 4
    failed = [each for each in json.loads(ended.out)["checks"] if each["verdict"] != "ok"]
    assert [each["name"] for each in failed] == ["statements"]


def test_an_audit_believes_only_the_keys_it_is_told_to(run: Run, bundle: Path) -> None:
    stranger = SignerKey.generate("tenor.local/local").verifier.encode()
    ended = run("audit", str(bundle), "--vkey", stranger, "-o", "json")
    assert ended.code == 4
    assert not json.loads(ended.out)["ok"]


def test_version(run: Run) -> None:
    assert run("version").out.startswith("tenor ")
    assert set(document(run, "version")) == {"version", "python"}


def test_help_names_every_verb(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    for _, verbs in VERBS:
        for verb in verbs:
            assert f"  {verb.__name__.replace('_', '-')} " in ended.out
    assert run().out == ended.out
