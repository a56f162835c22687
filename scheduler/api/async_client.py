"""The Python client for asyncio: the calls of `client`, awaited.

async with AsyncClient() as tenor:
    job = await tenor.submit(["python", "train.py"], account="acme", gpus_per_worker=8)
    await tenor.wait(job.id)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from scheduler.api import calls, messages
from scheduler.api.address import find_address
from scheduler.api.calls import Asked, Call
from scheduler.api.client import FIRST_POLL_S, LONGEST_POLL_S
from scheduler.api.v1 import api_pb2_grpc
from scheduler.core.errors import Unavailable
from scheduler.exchange.tls import Tls, opened_aio, tls_from_environment

Answer = TypeVar("Answer")


class AsyncClient:
    """As `client.Client`, made inside a running event loop. What each call gives and raises is said there."""

    def __init__(
        self, address: str | None = None, *, timeout_s: float = calls.TIMEOUT_S, tls: Tls | None = None
    ) -> None:
        self.address = find_address(address)
        self._tls = tls if tls is not None else tls_from_environment()
        self._timeout_s = timeout_s
        self._channel = opened_aio(self.address, self._tls, calls.OPTIONS, "the Tenor")
        self._stub: Any = api_pb2_grpc.SchedulerStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; streams end."""
        await self._channel.close()

    async def status(self) -> messages.Status:
        """Everything at a glance."""
        return await self._ask(calls.status())

    async def positions(self, account: str = "", *, ended: bool = False) -> tuple[messages.Position, ...]:
        """Positions of one account or of all."""
        return await self._ask(calls.positions(account, ended=ended))

    async def jobs(
        self, account: str = "", *, statuses: Iterable[str] = (), name: str = "", page_size: int = 0
    ) -> AsyncIterator[messages.Job]:
        """Jobs, newest first, fetched a page at a time."""
        wanted, token = tuple(statuses), ""
        while True:
            page = await self._ask(calls.jobs_page(account, wanted, name, page_size, token))
            for job in page.jobs:
                yield job
            token = page.next_page_token
            if not token:
                return

    async def get_job(self, name: str) -> messages.Job:
        """A job as it is now."""
        return await self._ask(calls.get_job(name))

    async def why(self, job: str) -> messages.Why:
        """Why a job waits, or where and on what basis it runs."""
        return await self._ask(calls.why(job))

    async def fleet(self, node: str = "") -> tuple[messages.Node, ...]:
        """All nodes, or one."""
        return await self._ask(calls.fleet(node))

    async def coverage(
        self, from_ms: int | None = None, to_ms: int | None = None, *, position: str = ""
    ) -> messages.Coverage:
        """Which cells stand behind which position; None: from now, for a week."""
        return await self._ask(calls.coverage(from_ms, to_ms, position))

    async def deliverable(
        self,
        instrument: str,
        from_ms: int | None = None,
        to_ms: int | None = None,
        *,
        losses: int | None = None,
        domain: str = "",
        bounds_only: bool = False,
    ) -> messages.Deliverable:
        """How many more lots may be sold with any `losses` (1) domains of a level (NVLink domains) lost."""
        return await self._ask(calls.deliverable(instrument, from_ms, to_ms, losses, domain, bounds_only=bounds_only))

    async def backing(
        self,
        subject: str,
        from_ms: int | None = None,
        to_ms: int | None = None,
        *,
        losses: int | None = None,
        domain: str = "",
    ) -> messages.Backing:
        """What stands behind a position or an instrument, and would stand in."""
        return await self._ask(calls.backing(subject, from_ms, to_ms, losses, domain))

    async def statement(self, position: str) -> dict[str, Any]:
        """What is owed for a position."""
        encoded = await self._ask(calls.statement(position))
        found: dict[str, Any] = json.loads(encoded)
        return found

    async def submit(
        self, command: Sequence[str], *, account: str, request_id: str = "", **asked: Unpack[Asked]
    ) -> messages.Job:
        """A new job in the queue, durable when this returns."""
        return await self._ask(calls.submit(calls.job_spec(command, account, asked), request_id))

    async def wait(self, job: str, timeout_s: float | None = None) -> messages.Job:
        """The job once it has ended. Raises Unavailable where it has not after so long."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ended(job)
        except TimeoutError:
            raise Unavailable(f"{job} has not ended after {timeout_s} s") from None

    async def cancel(self, job: str) -> messages.Job:
        """End a job."""
        return await self._ask(calls.cancel(job))

    async def drain(self, node: str, by_ms: int | None, *, until_ms: int | None = None) -> messages.Node:
        """Empty a node by an instant; None calls it off. With `until_ms` it is announced maintenance from then to then,
        and the node stays in use until it begins. Raises UnknownName, InvalidValue, Conflict where it overlaps another.
        """
        return await self._ask(calls.drain(node, by_ms, until_ms))

    async def mark(self, node: str, gpus: Sequence[int] = (), *, cause: str) -> messages.Node:
        """Say what is wrong with GPUs of a node (none named: all), as `ecc`; empty: nothing any more.

        Raises UnknownName, InvalidValue.
        """
        return await self._ask(calls.mark(node, gpus, cause))

    async def force_majeure(self, nodes: Sequence[str], from_ms: int, until_ms: int, evidence: bytes) -> int:
        """Declare that faults of nodes were beyond control. Only the SHA-256 of `evidence` leaves this process. Gives
        how many closed intervals were corrected. Raises UnknownName, InvalidValue.
        """
        return await self._ask(calls.force_majeure(nodes, from_ms, until_ms, evidence))

    def logs(
        self,
        job: str,
        *,
        follow: bool = False,
        worker: int | None = None,
        attempt: int | None = None,
        tail_lines: int | None = None,
    ) -> AsyncIterator[messages.LogChunk]:
        """A job's output as it comes; `follow`: until the job has ended."""
        return self._hear(calls.logs(job, follow=follow, worker=worker, attempt=attempt, tail_lines=tail_lines))

    def events(
        self, after_seq: int | None = None, *, kinds: Iterable[str] = (), follow: bool = True
    ) -> AsyncIterator[messages.JournalEvent]:
        """The journal's events after one, as they become durable; None: those that are still to come."""
        return self._hear(calls.events(after_seq, kinds, follow=follow))

    async def _ended(self, name: str) -> messages.Job:
        poll_s = FIRST_POLL_S
        while not (job := await self.get_job(name)).has_ended:
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LONGEST_POLL_S)
        return job

    async def _ask(self, call: Call[Answer]) -> Answer:
        for attempt in range(calls.TRIES):
            try:
                return call.read(await getattr(self._stub, call.method)(call.request, timeout=self._timeout_s))
            except grpc.RpcError as failed:
                error = await asyncio.to_thread(calls.raised_by, failed, self.address, self._tls)
                pause_s = calls.pause_s(attempt, error)
                if pause_s is None:
                    raise error from None
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returned or raised")

    async def _hear(self, call: Call[Answer]) -> AsyncIterator[Answer]:
        for attempt in range(calls.TRIES):
            answers = getattr(self._stub, call.method)(call.request, timeout=call.timeout_s)
            heard = False
            try:
                async for answer in answers:
                    heard = True
                    yield call.read(answer)
            except grpc.RpcError as failed:
                error = await asyncio.to_thread(calls.raised_by, failed, self.address, self._tls)
                pause_s = None if heard else calls.pause_s(attempt, error)
                if pause_s is None:
                    raise error from None
            else:
                return
            finally:
                answers.cancel()
            await asyncio.sleep(pause_s)
