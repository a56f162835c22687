"""Who may ask the API for what, by role, through real certificates; callers whom the server does not know."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scheduler.api.access import SERVICE, rules
from scheduler.api.async_client import AsyncClient
from scheduler.api.client import Client
from scheduler.api.server import ApiServer
from scheduler.api.v1 import api_pb2 as wire
from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, UnknownName
from scheduler.exchange.admission import Limits
from scheduler.exchange.denied import Denied
from scheduler.exchange.errors import Exhausted, Untrusted
from scheduler.execution.logs import log_path
from tests.api.world import HOUR_MS, START_MS, World
from tests.exchange.trust import Trust

ACCOUNTS = "acme borealis"
DELIVERY = "exchange auditor admin"
PEERS = {
    "acme": "account/acme",
    "borealis": "account/borealis",
    "exchange": "exchange/venue",
    "auditor": "auditor/klm",
    "admin": "admin/root",
    "cluster": "cluster/local",
}


@dataclass
class Served:
    """The market of `world` behind certificates; acme has the job `job`."""

    world: World
    server: ApiServer
    trust: Trust
    job: str

    def client(self, peer: str) -> Client:
        """A client with that peer's identity."""
        return Client(self.server.address, tls=self.trust.of(peer))


@pytest.fixture
def served(world: World, tmp_path: Path) -> Iterator[Served]:
    trust = Trust(tmp_path / "certs")
    job = world.submit("acme").id
    path = log_path(world.log_dir, job, 1, 0)
    path.parent.mkdir(parents=True)
    path.write_text("step 1\n", encoding="utf-8")
    world.statements["p-acme"] = b"{}"
    with world.served(tls=trust.of("cluster/local")) as server:
        yield Served(world, server, trust, job)


def answered(on: Client) -> None:
    """Who may answer learns that there is no such dispute."""
    with pytest.raises(UnknownName, match="dispute 'dispute-1' is not known"):
        on.answer_dispute("dispute-1", accept=False, reason="no")


Ask = Callable[[Client, str], object]
WITHHELD = (START_MS + HOUR_MS, START_MS + 2 * HOUR_MS)


def refused(ask: Callable[[], object]) -> None:
    """Let in, and refused by the instrument's terms."""
    with pytest.raises(Conflict, match="expected RE"):
        ask()


CALLS: tuple[tuple[str, Ask, str], ...] = (
    ("GetStatus", lambda on, _: on.status(), DELIVERY),
    ("ListPositions", lambda on, _: on.positions(), f"{ACCOUNTS} {DELIVERY}"),
    ("ListPositions of one", lambda on, _: on.positions("acme"), f"acme {DELIVERY}"),
    ("ListJobs", lambda on, _: list(on.jobs()), f"{ACCOUNTS} admin"),
    ("ListJobs of one", lambda on, _: list(on.jobs("acme")), "acme admin"),
    ("GetJob", lambda on, job: on.get_job(job), "acme admin"),
    ("Why", lambda on, job: on.why(job), "acme admin"),
    ("GetFleet", lambda on, _: on.fleet(), "admin"),
    ("GetCoverage", lambda on, _: on.coverage(), DELIVERY),
    ("GetCoverage of one", lambda on, _: on.coverage(position="p-acme"), f"acme {DELIVERY}"),
    ("GetDeliverable", lambda on, _: on.deliverable("LOGICAL.8N.LOCAL.BASE@1", bounds_only=True), DELIVERY),
    ("GetBacking", lambda on, _: on.backing("p-acme"), DELIVERY),
    ("GetStatement", lambda on, _: on.statement("p-acme"), f"acme {DELIVERY}"),
    ("ListDisputes", lambda on, _: on.disputes(), DELIVERY),
    ("AnswerDispute", lambda on, _: answered(on), "admin"),
    ("Submit", lambda on, _: on.submit(["a"], account="acme"), "acme admin"),
    ("Logs", lambda on, job: list(on.logs(job)), "acme admin"),
    ("WatchEvents", lambda on, _: list(on.events(0, follow=False)), "admin"),
    ("Drain", lambda on, _: on.drain("node-0", None), "admin"),
    ("Mark", lambda on, _: on.mark("node-0", cause=""), "admin"),
    ("Recall", lambda on, _: refused(lambda: on.recall("p-acme", 1, *WITHHELD)), "admin"),
    ("Release", lambda on, _: refused(lambda: on.release("p-acme", 1, *WITHHELD)), "acme admin"),
    (
        "DeclareForceMajeure",
        lambda on, _: on.force_majeure(["node-0"], START_MS, START_MS + HOUR_MS, b"a letter"),
        "admin",
    ),
    ("Cancel", lambda on, job: on.cancel(job), "acme admin"),
)


def test_every_method_has_a_rule_and_a_line_here(world: World) -> None:
    methods = {method.name for method in wire.DESCRIPTOR.services_by_name["Scheduler"].methods}
    assert set(rules(world.scheduler)) == {f"/{SERVICE}/{method}" for method in methods}
    assert {what.split()[0] for what, _, _ in CALLS} == methods


def test_each_may_what_is_its_own(served: Served) -> None:
    for what, ask, allowed in CALLS:
        let_in = set()
        for name, peer in PEERS.items():
            with served.client(peer) as client:
                try:
                    ask(client, served.job)
                except Unauthorised as error:
                    assert f"{peer} may not" in str(error)  # noqa: PT017 - others must pass
                    continue
                let_in.add(name)
        assert let_in == set(allowed.split()), what


def test_an_account_sees_its_own_and_learns_nothing_of_others(served: Served) -> None:
    theirs = served.world.submit("borealis").id
    with served.client("account/acme") as acme:
        assert {each.account for each in acme.positions()} == {"acme"}
        assert [each.id for each in acme.jobs()] == [served.job]
        for name in (theirs, "gang-99"):  # there, or not: it sounds the same
            with pytest.raises(Unauthorised, match=f"account/acme may not ask for job {name}: it is not its own"):
                acme.why(name)
        for name in ("p-borealis", "p-none"):
            with pytest.raises(Unauthorised, match=f"may not ask for the statement of {name}"):
                acme.statement(name)
        with pytest.raises(Unauthorised, match="may not ask for jobs of account borealis"):
            acme.submit(["a"], account="borealis")
    assert served.world.scheduler.state.gangs.get(theirs).account == "borealis"


def test_why_names_others_work_to_admins_alone(served: Served) -> None:
    lender, borrower = served.job, served.world.submit("cobalt", gpus=24, workers=3).id
    with served.client("account/cobalt") as cobalt, served.client("admin/root") as admin:
        told, full = cobalt.why(borrower), admin.why(borrower)
        assert "borealis" in {each.account for each in full.held if each.basis == "lent"}
        assert {each.account for each in told.held if each.basis == "lent"} == {""}
        assert sum(each.gpus for each in told.held) == sum(each.gpus for each in full.held)
        assert any("lent by other accounts" in each for each in told.sentences)
        for name in ("acme", "borealis", lender):
            assert name not in str(told)


def test_a_peer_on_the_list_is_refused_by_the_api(world: World, tmp_path: Path) -> None:
    trust, listed = Trust(tmp_path / "certs"), tmp_path / "denied"
    listed.write_text("account/acme\nauditor/klm\n")
    with world.served(tls=trust.of("cluster/local"), denied=Denied(listed)) as server:
        for peer, is_denied in (("account/acme", True), ("auditor/klm", True), ("account/borealis", False)):
            with Client(server.address, tls=trust.of(peer)) as client:
                if not is_denied:
                    assert client.positions()
                    continue
                with pytest.raises(Unauthorised, match=f"{peer} is denied here, whatever its certificate says"):
                    client.positions()


def test_what_is_refused_changes_nothing(served: Served) -> None:
    head = served.world.journal.head
    with served.client("auditor/klm") as auditor:
        for ask in (
            lambda: auditor.cancel(served.job),
            lambda: auditor.drain("node-0", 0),
            lambda: auditor.submit(["a"], account="acme"),
        ):
            with pytest.raises(Unauthorised):
                ask()
    assert served.world.journal.head == head


def test_callers_and_server_that_do_not_know_each_other_are_told(served: Served, tmp_path: Path) -> None:
    stranger = Trust(tmp_path / "others").of("admin/root")
    cases = (
        (None, "speaks TLS, and was called in plaintext"),
        (stranger, "has a certificate of another authority than those in"),
    )
    for tls, says in cases:
        with Client(served.server.address, tls=tls) as client, pytest.raises(Untrusted, match=says):
            client.status()

        async def asks() -> None:
            async with AsyncClient(served.server.address, tls=tls) as client:  # noqa: B023 - run at once
                await client.status()

        with pytest.raises(Untrusted, match=says):
            asyncio.run(asks())


def test_asyncio_speaks_tls_too(served: Served) -> None:
    async def asks() -> int:
        async with AsyncClient(served.server.address, tls=served.trust.of("admin/root")) as client:
            return (await client.status()).nodes

    assert asyncio.run(asks()) == 4


def test_the_environment_says_who_calls(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = served.trust.of("account/borealis")
    monkeypatch.setenv("TENOR_IDENTITY", str(tls.identity))
    with pytest.raises(InvalidValue, match=r"authority of TLS was None"):
        Client(served.server.address)
    monkeypatch.setenv("TENOR_AUTHORITY", str(tls.authority))
    with Client(served.server.address) as client:
        assert [each.account for each in client.positions()] == ["borealis"]


def test_a_remote_scheduler_is_not_called_in_plaintext() -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(Unauthorised, match=r"the Tenor would be called at tenor.example:7070 in plaintext"):
            kind("tenor.example:7070")


def test_too_many_calls_are_made_again_by_the_client(world: World, tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    limits = Limits(calls_per_s=20, burst=2, streams=1)
    with (
        world.served(tls=trust.of("cluster/local"), limits=limits) as server,
        Client(server.address, tls=trust.of("admin/root")) as admin,
    ):
        assert {admin.status().nodes for _ in range(8)} == {4}
        first: Any = admin.events(0)
        next(first)
        with pytest.raises(Exhausted, match="admin/root has 1 streams open"):
            next(admin.events(0))
        freed = admin.events(0)
        threading.Timer(0.2, first.close).start()
        assert next(freed).seq == 1
