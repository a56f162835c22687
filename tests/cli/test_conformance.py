"""`tenor exchange fault` and `tenor exchange conformance`, against an exchange that was started to misbehave."""

from __future__ import annotations

import json
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.__main__ import main
from scheduler.core.errors import Unauthorised
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.reference.faults.control import FaultClient
from scheduler.exchange.reference.faults.faults import Faults
from scheduler.exchange.reference.server import ServerSettings, serve
from tests.cli.conftest import TENOR
from tests.exchange.trust import Trust


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exchange")
    told = folder / "faults.toml"
    told.write_text('faults = ["delay:snapshot:0.5:5ms"]\nseed = 7\n')
    given = ("--faults", "--fault-file", str(told), "--fault", "lie:statement", "--fault-seed", "8")
    process = subprocess.Popen(
        [TENOR, "exchange", "serve", "--db", str(folder / "exchange.db"), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "this exchange misbehaves on purpose: nothing that it says is worth anything\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["exchange", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_faults_are_set_listed_and_cleared(address: str, run: Any) -> None:
    code, out, _ = run("fault", "list", "--exchange", address, "-o", "json")
    assert (code, [each["fault"] for each in json.loads(out)]) == (0, ["delay:snapshot:0.5:5ms", "lie:statement"])
    code, out, _ = run("fault", "set", "drop:watch:0.1", "delay:snapshot:1x", "--exchange", address)
    assert (code, "drop:watch:0.1" in out, "delay:snapshot:0.5" in out) == (0, True, False)
    code, out, err = run("fault", "set", "cut:acks", "lose:watch", "--exchange", address)
    assert (code, "kind of fault was 'lose', expected one of compact" in err) == (2, True)
    code, out, _ = run("fault", "clear", "drop:watch:0.1", "--exchange", address)
    assert (code, "cut:acks" in out, "drop:watch" in out) == (0, False, False)
    code, _, err = run("fault", "clear", "drop:watch:0.1", "--exchange", address)
    assert (code, "fault in force was 'drop:watch:0.1'" in err) == (2, True)
    code, out, _ = run("fault", "kinds")
    assert (code, "equivocate" in out) == (0, True)


def test_a_lie_is_found_and_the_report_is_written(address: str, run: Any, tmp_path: Path) -> None:
    run("fault", "set", "lie:statement", "--exchange", address)
    junit = tmp_path / "report.xml"
    code, out, err = run("conformance", address, "--quick", "--only", "statement_is_recomputed", "--junit", str(junit))
    assert (code, "FAIL" in out, "amount_micro is" in out) == (1, True, True)
    assert "0 passed, 1 failed, 0 skipped" in err
    assert ET.parse(junit).getroot().get("failures") == "1"  # noqa: S314 - ours
    run("fault", "clear", "--exchange", address)
    code, out, err = run("conformance", address, "--quick", "--only", "evidence", "--only", "access", "-o", "json")
    report = json.loads(out)
    assert (code, report["complete"], report["counts"]) == (0, True, {"pass": 11, "fail": 0, "skipped": 5})
    assert "11 passed, 0 failed, 5 skipped" in err


def test_what_cannot_be_tested_is_said(run: Any, tmp_path: Path) -> None:
    assert run("conformance", "--list", "--only", "delivery")[1].count("delivery") >= 18
    assert json.loads(run("conformance", "--list", "-o", "json")[1])[0]["name"] == "health_is_told"
    code, _, err = run("conformance", "127.0.0.1:9", "--only", "gap")
    assert (code, "check was 'gap'" in err) == (2, True)
    assert (run("conformance")[0], run("conformance", "nowhere")[0]) == (2, 2)
    code, _, err = run("conformance", "127.0.0.1:9", "--only", "health_is_told", "--timeout-s", "2")
    assert (code, "127.0.0.1:9" in err) == (3, True)
    with serve(ServerSettings(tmp_path / "honest.db", durable=False)) as honest:
        code, _, err = run("fault", "list", "--exchange", honest.address)
    assert (code, "takes no faults: it was not started with --faults" in err) == (3, True)


def test_ctrl_c_ends_a_run_with_what_it_has_seen(address: str) -> None:
    checks = ["--only", "health_is_told", "--only", "bad_leaf_alone"]
    command = [TENOR, "exchange", "conformance", address, *checks, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "waiting" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    report = json.loads(out)
    assert (process.returncode, report["complete"], report["counts"]["pass"]) == (130, False, 1)
    assert "1 passed, 0 failed, 0 skipped, 1 not run: interrupted" in err
    assert "Traceback" not in err


def test_over_mutual_tls_only_the_venues_own_people_set_faults(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    settings = ServerSettings(
        tmp_path / "exchange.db",
        durable=False,
        tls=trust.of("exchange/venue"),
        faults=Faults(["cut:snapshot:1x"]),
        fault_control=True,
    )
    with serve(settings) as server:
        with FaultClient(server.address, tls=trust.of("exchange/operator")) as operator:
            assert [each.fault for each in operator.list()] == ["cut:snapshot:1x"]
        for peer in ("cluster/east", "account/acme", "auditor/klm", "admin/x"):
            with FaultClient(server.address, tls=trust.of(peer)) as other, pytest.raises(Unauthorised):
                other.clear()
        with ExchangeClient(server.address, tls=trust.of("auditor/klm")) as client:
            client.snapshot()  # cut once, and asked again
        assert server.venue.cursor.seq == 0
