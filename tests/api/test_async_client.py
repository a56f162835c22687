"""The client for asyncio: the same answers and the same errors as the other one's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from scheduler.api.async_client import AsyncClient
from scheduler.api.client import Client
from scheduler.core.errors import InvalidValue, Unavailable, UnknownName
from scheduler.execution.simulated import Work
from tests.api.test_streams import write_log
from tests.api.world import HOUR_MS, MINUTE_MS, START_MS, SYMBOL, World

WAIT_S = 20


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def test_both_clients_read_the_same(world: World, client: Client) -> None:
    gang = world.submit("acme")
    world.statements["p-acme"] = json.dumps({"position": "p-acme"}).encode()

    async def read() -> None:
        async with AsyncClient(client.address) as tenor:
            assert await tenor.status() == client.status()
            assert await tenor.positions("acme") == client.positions("acme")
            assert [job async for job in tenor.jobs(page_size=1)] == list(client.jobs())
            assert await tenor.get_job(gang.id) == client.get_job(gang.id)
            assert await tenor.why(gang.id) == client.why(gang.id)
            assert await tenor.fleet() == client.fleet()
            assert await tenor.coverage() == client.coverage()
            assert await tenor.deliverable(f"{SYMBOL}@1", losses=0) == client.deliverable(f"{SYMBOL}@1", losses=0)
            assert await tenor.backing("p-acme", domain="node") == client.backing("p-acme", domain="node")
            assert await tenor.statement("p-acme") == client.statement("p-acme")
            assert [each async for each in tenor.events(0, follow=False)] == list(client.events(0, follow=False))

    run(read())


def test_jobs_are_submitted_waited_for_and_cancelled(world: World, client: Client) -> None:
    world.works["quick"] = Work(MINUTE_MS)

    async def work() -> None:
        async with AsyncClient(client.address) as tenor:
            job = await tenor.submit(["a"], account="acme", name="quick", request_id="r-1")
            assert (await tenor.submit(["a"], account="acme", name="quick", request_id="r-1")).id == job.id
            with pytest.raises(Unavailable, match="gang-1 has not ended"):
                await tenor.wait(job.id, timeout_s=0.1)
            world.rounds()
            world.pass_ms(MINUTE_MS)
            assert (await tenor.wait(job.id, timeout_s=WAIT_S)).status == "succeeded"
            write_log(world, job.id, 0, "done\n")
            assert [chunk.content async for chunk in tenor.logs(job.id)] == [b"done\n"]
            other = await tenor.submit(["a"], account="acme", grade="OTHER")
            assert (await tenor.cancel(other.id)).status == "cancelled"
            assert (await tenor.drain("node-3", START_MS + HOUR_MS)).drain_by_ms == START_MS + HOUR_MS

    run(work())


def test_refusals_are_the_same_classes(client: Client) -> None:
    async def refused() -> None:
        async with AsyncClient(client.address) as tenor:
            with pytest.raises(UnknownName, match="gang"):
                await tenor.get_job("gang-9")
            with pytest.raises(InvalidValue, match="workers of job"):
                await tenor.submit(["a"], account="acme", workers=0)
            with pytest.raises(UnknownName, match="gang"):
                async for _ in tenor.logs("gang-9"):
                    pass

    run(refused())


def test_nobody_answers(world: World) -> None:
    with world.served() as server:
        address = server.address

    async def alone() -> None:
        async with AsyncClient(address) as tenor:
            with pytest.raises(Unavailable, match=f"no Tenor answers at {address}"):
                await tenor.status()

    run(alone())
