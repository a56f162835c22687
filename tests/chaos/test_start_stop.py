"""Starting and stopping the real composition: all of it or nothing, a clear word about why, and no process left.

One small node is enough here. Whatever ends a run (a signal, a busy port, a damaged journal, no Ray), everything that
it had started is gone afterwards; what only a crash leaves is found by the next start.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.errors import Unavailable
from scheduler.core.events import VERSION, CalendarTurned, GangEnded, decode, encode
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.logs import log_path
from scheduler.execution.processes import identity, marked
from scheduler.ledger.journal import Entry, Journal
from scheduler.own_exchange import MARK as EXCHANGE_MARK
from scheduler.recovery import fold
from tests.chaos.composition import Composition, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

SMALL = {"TENOR_NODES": "1", "TENOR_GPUS_PER_NODE": "4"}
IGNORES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
HEARS = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
print("up", flush=True)
while True:
    time.sleep(1)
"""
# Files of 4 KiB hold what it says, and no journal.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
os.execv(sys.argv[1], sys.argv[1:])
"""
NO_RAY = """
import sys
from importlib.abc import MetaPathFinder

class NoRay(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")

sys.meta_path.insert(0, NoRay())
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Composition]:
    """A composition that was not started yet."""
    with Composition(tmp_path / "up", **SMALL) as composition:
        yield composition


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    """One that runs."""
    with Composition(tmp_path_factory.mktemp("running"), **SMALL) as composition:
        composition.start()
        composition.wait_ready()
        yield composition


def ended(up: Composition) -> tuple[int, str]:
    """The exit code of a start that fails, and the last line that it wrote."""
    code = up.start().wait(90)
    return code, up.said().splitlines()[-1]


# -- one that runs -----------------------------------------------------------------------------------------------------


def test_a_second_one_in_the_same_home_is_refused_and_disturbs_nothing(running: Composition) -> None:
    second = Composition(running.home, **SMALL)
    second.log = running.home / "second.log"
    address = running.address_file.read_text()
    process = second.start_beside()
    assert process.wait(30) == 2
    said = second.said()
    assert f"owned by the running process {running.process.pid}" in said
    assert "Traceback" not in said
    with running.client() as client:
        assert client.status().paused == ""
    assert running.address_file.read_text() == address


def test_a_full_disk_pauses_it_and_nothing_is_lost(running: Composition, tmp_path: Path) -> None:
    with running.client() as client:
        before = client.submit(running.command(tmp_path, 1.0), account="acme")
        wait_until((tmp_path / f"{before.id}.1.0.began").exists, 30, "it runs")
        allowed = limit_files(running, 0)
        try:
            wait_until(lambda: client.status().paused, 20, "it pauses")
            assert "journal.db" in client.status().paused
            with pytest.raises(Unavailable, match="not saved yet"):
                client.submit(running.command(tmp_path, 1.0), account="acme", request_id="while-full")
            wait_until((tmp_path / f"{before.id}.1.0.ran").exists, 20, "what ran runs on")
        finally:
            limit_files(running, allowed)
        wait_until(lambda: client.status().paused == "", 20, "it goes on")
        assert before.wait(20).exit_code == 0
        after = client.submit(running.command(tmp_path, 0.1), account="acme", request_id="while-full")
        assert after.wait(20).exit_code == 0
        assert [job.id for job in client.jobs()][::-1] == [before.id, after.id]
    wait_until(lambda: "going on, was paused: " in running.said(), 20, "it says so")
    assert "journal.db" in running.said().splitlines()[-1]


def test_an_exchange_that_dies_is_started_again_where_it_was(running: Composition) -> None:
    record = running.home / "exchange.address"
    address = record.read_text()
    (pid,) = marked(EXCHANGE_MARK, str(running.home))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: marked(EXCHANGE_MARK, str(running.home)) not in {(), (pid,)}, 20, "another one runs")
    wait_until(lambda: record.exists() and record.read_text() == address, 20, "it listens where it did")
    with running.client() as client:
        wait_until(lambda: (link := client.status().exchange) is not None and link.connected, 20, "it is watched")


def limit_files(running: Composition, size: int) -> int:
    """How long files may get that the scheduler writes, as on a full disk; what was allowed before."""
    before = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    return before[0]


# -- signals -----------------------------------------------------------------------------------------------------------


def said(up: Composition, words: str) -> bool:
    """Whether it has said that."""
    return up.log.exists() and words in up.log.read_text()


def record_exists(up: Composition) -> bool:
    """Whether Ray's head is up, and its nodes may not be."""
    record = up.home / "ray" / "cluster.json"
    return record.exists() and '"pid"' in record.read_text()


MOMENTS: dict[str, tuple[signal.Signals, Callable[[Composition], bool]]] = {
    "as the exchange starts": (signal.SIGINT, lambda up: said(up, "starting the reference exchange")),
    "as Ray starts": (signal.SIGTERM, lambda up: said(up, "starting Ray")),
    "with half of Ray": (signal.SIGINT, record_exists),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_while_it_starts_stops_everything(up: Composition, moment: str) -> None:
    number, has_come = MOMENTS[moment]
    up.start()
    wait_until(lambda: has_come(up), 60, moment, 0.01)
    assert up.stop(number, within_s=20) == 130, up.said()
    assert up.said().splitlines()[-1] == "stopped while starting"
    assert up.left() == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_gangs_run_gives_them_their_grace_and_stops_everything(
    up: Composition, number: signal.Signals, tmp_path: Path
) -> None:
    up.start()
    up.wait_ready()
    with up.client() as client:
        heeds = client.submit(up.command(tmp_path, 600), account="acme", grace_ms=10_000)
        ignores = client.submit([sys.executable, "-c", IGNORES], account="acme", grace_ms=1_500)
        wait_until(lambda: heeds.status == ignores.status == "running", 40, "both run")
        wait_until(lambda: "up" in "".join(ignores.logs()), 20, "it ignores")
    assert up.stop(number, within_s=20) == 0, up.said()
    assert up.said().splitlines()[-2:] == ["stopping: gangs get their grace", "stopped"]
    assert up.left() == ()
    assert (tmp_path / f"{heeds.id}.1.0.stopped").exists()
    with Journal.open(up.home / "journal.db", create=False) as journal:
        ends = {end.gang: end.exit_code for end in journal_ends(journal)}
        assert ends == {heeds.id: 0, ignores.id: 128 + signal.SIGKILL}


def test_one_that_is_killed_while_it_stops_goes_on_stopping_and_then_starts_anew(
    up: Composition, tmp_path: Path
) -> None:
    up.start()
    up.wait_ready()
    with up.client() as client:
        job = client.submit([sys.executable, "-c", HEARS], account="acme", grace_ms=4_000)
        wait_until(lambda: "up" in "".join(job.logs()), 40, "it runs")
    up.process.send_signal(signal.SIGTERM)
    output = log_path(up.home / "logs", job.id, 1, 0)
    wait_until(lambda: "asked to stop" in output.read_text(), 20, "it is asked to stop", 0.01)
    up.kill()
    up.start()
    up.wait_ready()
    with up.client() as client:
        wait_until(lambda: client.get_job(job.id).attempt == 2, 40, "it starts anew")
        wait_until(lambda: client.get_job(job.id).status == "running", 40, "it runs")
        assert client.get_job(job.id).failures == 0
    assert up.stop() == 0, up.said()
    assert up.left() == ()


def journal_ends(journal: Journal) -> list[GangEnded]:
    """Every end of an attempt."""
    events = (decode(entry.version, entry.body) for entry in journal.read())
    return [event for event in events if isinstance(event, GangEnded)]


# -- starts that fail --------------------------------------------------------------------------------------------------


def test_a_busy_port_is_said_before_anything_is_started(up: Composition) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        up.environment["TENOR_LISTEN"] = address
        code, last = ended(up)
    assert (code, last) == (3, f"tenor: the API cannot listen on {address}: Address already in use")
    assert not said(up, "starting")
    assert up.left() == ()


def test_a_busy_port_of_the_exchange_is_said(up: Composition) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        up.environment["TENOR_EXCHANGE_LISTEN"] = address
        code, last = ended(up)
    assert code == 3
    assert last.startswith("tenor: the reference exchange did not start: ")
    assert f"cannot listen on {address}: the port is taken" in last
    assert up.left() == ()


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "not an address": ({"TENOR_LISTEN": "here"}, 2, "address of the API was 'here', expected host:port"),
    "not loopback": ({"TENOR_LISTEN": "0.0.0.0:0"}, 2, "which is for a loopback address only"),
    "no exchange's address": ({"TENOR_EXCHANGE": "there"}, 2, "address of the exchange was 'there'"),
    "no list of denied": ({"TENOR_DENIED": "/none"}, 2, "denied of /none was 'unreadable'"),
    "not a number": ({"TENOR_NODES": "many"}, 2, "nodes of the settings was 'many'"),
    "unknown setting": ({"CONFIG": "gpus = 8"}, 2, "gpus of the settings was 8"),
    "not TOML": ({"CONFIG": "nodes ="}, 2, "content of config.toml was "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_settings_are_refused_before_anything_is_started(up: Composition, what: str) -> None:
    environment, code, says = REFUSED[what]
    up.environment.update(environment)
    if "CONFIG" in environment:
        (up.home / "config.toml").write_text(environment["CONFIG"])
    found, last = ended(up)
    assert found == code
    assert says in last
    assert "Traceback" not in up.log.read_text()
    assert not said(up, "starting")


def test_a_home_that_is_a_file_is_refused(up: Composition) -> None:
    (up.home / "file").touch()
    up.environment["TENOR_HOME"] = str(up.home / "file")
    code, last = ended(up)
    assert code == 2
    assert last.endswith("expected a folder, or a path where one can be made")


def test_a_disk_that_is_full_from_the_start_is_said(up: Composition) -> None:
    up.wrapper = (sys.executable, "-c", LIMITED)
    code, last = ended(up)
    assert code == 3
    assert str(up.home) in last
    assert up.left() == ()


def test_no_ray_is_said(up: Composition, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(NO_RAY)
    up.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    code, last = ended(up)
    assert code == 3
    assert "ray" in last.lower()
    assert "Traceback" not in up.log.read_text()
    assert up.left() == ()


def test_a_flipped_byte_names_file_and_seq_and_starts_nothing(up: Composition) -> None:
    path = up.home / "journal.db"
    body = encode(CalendarTurned(at_ms=1_767_225_600_123))
    with Journal.open(path) as journal:
        entries = [CalendarTurned(at_ms=1_767_225_600_000 + number) for number in (1, 123, 200)]
        journal.commit([Entry(each.at_ms, each.kind, VERSION, encode(each)) for each in entries])
    content = path.read_bytes()
    assert content.count(body) == 1
    path.write_bytes(content.replace(body, body.replace(b"600123", b"600122")))
    code, last = ended(up)
    assert code == 4
    assert str(path) in last
    assert "2" in last.removeprefix(f"tenor: {path}")
    assert not said(up, "starting")
    assert up.left() == ()


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_a_torn_tail_of_the_journal_is_recovered_from(up: Composition, tmp_path: Path) -> None:
    up.start()
    up.wait_ready()
    with up.client() as client:
        job = client.submit(up.command(tmp_path, 600), account="acme")
        wait_until((tmp_path / f"{job.id}.1.0.began").exists, 40, "it runs")
        wait_until(lambda: client.get_job(job.id).status == "running", 40, "it is known to run")
        kept_seq = client.status().journal_seq
    pid = int((tmp_path / f"{job.id}.1.0.began").read_text().split()[0])
    up.kill()
    wal = up.home / "journal.db-wal"
    wal.write_bytes(wal.read_bytes() + os.urandom(5_000))  # a frame that was being written
    up.start()
    up.wait_ready()
    with up.client() as client:
        assert client.status().journal_seq >= kept_seq
        assert (client.get_job(job.id).status, client.get_job(job.id).attempt) == ("running", 1)
    assert identity(pid) is not None
    assert up.stop() == 0, up.said()
    assert up.left() == ()
    with Journal.open(up.home / "journal.db", create=False) as journal:
        fold(journal)


def test_what_the_disk_forgot_does_not_run_on(up: Composition, tmp_path: Path) -> None:
    """A disk that lied about a sync: the journal is whole, and knows nothing of a gang that runs."""
    up.start()
    up.wait_ready()
    up.kill()
    kept = {path: path.read_bytes() for path in up.home.glob("journal.db*") if path.suffix != ".lock"}
    up.start()
    up.wait_ready()
    with up.client() as client:
        job = client.submit(up.command(tmp_path, 600), account="acme")
        wait_until((tmp_path / f"{job.id}.1.0.began").exists, 40, "it runs")
    pid = int((tmp_path / f"{job.id}.1.0.began").read_text().split()[0])
    up.kill()
    for path in up.home.glob("journal.db*"):
        if path.suffix != ".lock":
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    up.start()
    up.wait_ready()
    wait_until(lambda: identity(pid) is None, 20, "it is stopped")
    with up.client() as client:
        assert list(client.jobs()) == []
    assert up.stop() == 0, up.said()


def test_a_ray_that_was_killed_in_its_start_is_started_anew(up: Composition) -> None:
    up.start()
    wait_until(lambda: record_exists(up), 60, "Ray's head is up", 0.01)
    up.kill()
    assert LocalRay.attach(up.home / "ray") is None
    up.start()
    up.wait_ready()
    with up.client() as client:
        wait_until(lambda: [node.gpus for node in client.fleet()] == [4], 20, "the node is there")
    assert up.stop() == 0, up.said()
    assert up.left() == ()
