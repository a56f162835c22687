"""The Python client: what teams and admins ask of a running scheduler, typed, with the same errors as the server's.

    with Client() as tenor:
        job = tenor.submit(["python", "train.py"], account="acme", gpus_per_worker=8)
        job.wait()

Values are those of `scheduler.api.messages`. A call raises the TenorError that the server raised, and Unavailable where
none answers. A client may be shared by threads. `async_client` is the same for asyncio.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from scheduler.api import calls, messages
from scheduler.api.address import find_address
from scheduler.api.calls import Asked, Call
from scheduler.api.v1 import api_pb2_grpc
from scheduler.core.errors import Unavailable
from scheduler.exchange.tls import Tls, opened, tls_from_environment

FIRST_POLL_S = 0.05
LONGEST_POLL_S = 1.0

Answer = TypeVar("Answer")


class Client:
    """A connection to the scheduler at `address`; None: where TENOR_ADDRESS or the scheduler's own file says.

    `tls`: who calls, and whom to believe; None: as TENOR_IDENTITY and TENOR_AUTHORITY say, else plaintext. Raises
    Unavailable where nothing says where it is, InvalidValue where what is said is no address, Unauthorised for
    plaintext off loopback, and what `Tls.valid` raises. `timeout_s` bounds each call; a stream may last ten minutes,
    one that follows a week.
    """

    def __init__(
        self, address: str | None = None, *, timeout_s: float = calls.TIMEOUT_S, tls: Tls | None = None
    ) -> None:
        self.address = find_address(address)
        self._tls = tls if tls is not None else tls_from_environment()
        self._timeout_s = timeout_s
        self._channel = opened(self.address, self._tls, calls.OPTIONS, "the Tenor")
        self._stub = api_pb2_grpc.SchedulerStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; streams end."""
        self._channel.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def status(self) -> messages.Status:
        """Everything at a glance."""
        return self._ask(calls.status())

    def positions(self, account: str = "", *, ended: bool = False) -> tuple[messages.Position, ...]:
        """Positions of one account or of all. Raises UnknownName."""
        return self._ask(calls.positions(account, ended=ended))

    def jobs(
        self, account: str = "", *, statuses: Iterable[str] = (), name: str = "", page_size: int = 0
    ) -> Iterator[messages.Job]:
        """Jobs, newest first, fetched a page at a time. Raises UnknownName, InvalidValue."""
        wanted, token = tuple(statuses), ""
        while True:
            page = self.jobs_page(account, statuses=wanted, name=name, page_size=page_size, page_token=token)
            yield from page.jobs
            token = page.next_page_token
            if not token:
                return

    def jobs_page(
        self,
        account: str = "",
        *,
        statuses: Iterable[str] = (),
        name: str = "",
        page_size: int = 0,
        page_token: str = "",
    ) -> messages.JobsPage:
        """One page of jobs, newest first."""
        return self._ask(calls.jobs_page(account, statuses, name, page_size, page_token))

    def job(self, name: str) -> JobHandle:
        """A handle of a job that is there. Raises UnknownName."""
        return JobHandle(self, self.get_job(name))

    def get_job(self, name: str) -> messages.Job:
        """A job as it is now. Raises UnknownName."""
        return self._ask(calls.get_job(name))

    def why(self, job: str) -> messages.Why:
        """Why a job waits, or where and on what basis it runs. Raises UnknownName."""
        return self._ask(calls.why(job))

    def fleet(self, node: str = "") -> tuple[messages.Node, ...]:
        """All nodes, or one. Raises UnknownName."""
        return self._ask(calls.fleet(node))

    def coverage(
        self, from_ms: int | None = None, to_ms: int | None = None, *, position: str = ""
    ) -> messages.Coverage:
        """Which cells stand behind which position; None: from now, for a week. Raises UnknownName, InvalidValue."""
        return self._ask(calls.coverage(from_ms, to_ms, position))

    def deliverable(
        self,
        instrument: str,
        from_ms: int | None = None,
        to_ms: int | None = None,
        *,
        losses: int | None = None,
        domain: str = "",
        bounds_only: bool = False,
    ) -> messages.Deliverable:
        """How many more lots may be sold with any `losses` (1) domains of a level (NVLink domains) lost. Raises
        UnknownName, InvalidValue.
        """
        return self._ask(calls.deliverable(instrument, from_ms, to_ms, losses, domain, bounds_only=bounds_only))

    def backing(
        self,
        subject: str,
        from_ms: int | None = None,
        to_ms: int | None = None,
        *,
        losses: int | None = None,
        domain: str = "",
    ) -> messages.Backing:
        """What stands behind a position or an instrument, and would stand in. Raises UnknownName, InvalidValue."""
        return self._ask(calls.backing(subject, from_ms, to_ms, losses, domain))

    def statement(self, position: str) -> dict[str, Any]:
        """What is owed for a position, as `scheduler.core.settlement.Statement` has it. Raises UnknownName, Refused."""
        found: dict[str, Any] = json.loads(self.statement_bytes(position))
        return found

    def statement_bytes(self, position: str) -> bytes:
        """The statement's canonical JSON: what is compared with the exchange's."""
        return self._ask(calls.statement(position))

    # -- changing ------------------------------------------------------------------------------------------------------

    def submit(
        self, command: Sequence[str], *, account: str, request_id: str = "", **asked: Unpack[Asked]
    ) -> JobHandle:
        """A new job in the queue, durable when this returns, named like its program unless told. Raises InvalidValue.

        The same `request_id` gives the same job again, so a call that got no answer can be repeated with it.
        """
        return JobHandle(self, self.submit_spec(calls.job_spec(command, account, asked), request_id))

    def submit_spec(self, spec: messages.JobSpec, request_id: str = "") -> messages.Job:
        """The same, from a specification. Raises InvalidValue, Refused where the id was used for another."""
        return self._ask(calls.submit(spec, request_id))

    def cancel(self, job: str) -> messages.Job:
        """End a job: at once where it waits, with its grace where it runs. Raises UnknownName."""
        return self._ask(calls.cancel(job))

    def drain(self, node: str, by_ms: int | None, *, until_ms: int | None = None) -> messages.Node:
        """Empty a node by an instant; None calls it off. With `until_ms` it is announced maintenance from then to then,
        and the node stays in use until it begins. Raises UnknownName, InvalidValue, Conflict where it overlaps another.
        """
        return self._ask(calls.drain(node, by_ms, until_ms))

    def mark(self, node: str, gpus: Sequence[int] = (), *, cause: str) -> messages.Node:
        """Say what is wrong with GPUs of a node (none named: all), as `ecc`; empty: nothing any more.

        Raises UnknownName, InvalidValue.
        """
        return self._ask(calls.mark(node, gpus, cause))

    def force_majeure(self, nodes: Sequence[str], from_ms: int, until_ms: int, evidence: bytes) -> int:
        """Declare that faults of nodes were beyond control. Only the SHA-256 of `evidence` leaves this process. Gives
        how many closed intervals were corrected. Raises UnknownName, InvalidValue.
        """
        return self._ask(calls.force_majeure(nodes, from_ms, until_ms, evidence))

    # -- streams -------------------------------------------------------------------------------------------------------

    def logs(
        self,
        job: str,
        *,
        follow: bool = False,
        worker: int | None = None,
        attempt: int | None = None,
        tail_lines: int | None = None,
    ) -> Iterator[messages.LogChunk]:
        """A job's output as it comes; `follow`: until the job has ended. Raises UnknownName, InvalidValue."""
        return self._hear(calls.logs(job, follow=follow, worker=worker, attempt=attempt, tail_lines=tail_lines))

    def events(
        self, after_seq: int | None = None, *, kinds: Iterable[str] = (), follow: bool = True
    ) -> Iterator[messages.JournalEvent]:
        """The journal's events after one, as they become durable; None: those that are still to come."""
        return self._hear(calls.events(after_seq, kinds, follow=follow))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _ask(self, call: Call[Answer]) -> Answer:
        for attempt in range(calls.TRIES):
            try:
                return call.read(getattr(self._stub, call.method)(call.request, timeout=self._timeout_s))
            except grpc.RpcError as failed:
                error = calls.raised_by(failed, self.address, self._tls)
                pause_s = calls.pause_s(attempt, error)
                if pause_s is None:
                    raise error from None
            time.sleep(pause_s)
        raise AssertionError("the last attempt returned or raised")

    def _hear(self, call: Call[Answer]) -> Iterator[Answer]:
        for attempt in range(calls.TRIES):
            answers = getattr(self._stub, call.method)(call.request, timeout=call.timeout_s)
            heard = False
            try:
                for answer in answers:
                    heard = True
                    yield call.read(answer)
            except grpc.RpcError as failed:
                error = calls.raised_by(failed, self.address, self._tls)
                pause_s = None if heard else calls.pause_s(attempt, error)
                if pause_s is None:
                    raise error from None
            else:
                return
            finally:
                answers.cancel()
            time.sleep(pause_s)


class JobHandle:
    """One job of a client: ask it, wait for it, end it."""

    def __init__(self, client: Client, job: messages.Job) -> None:
        self._client = client
        self.last = job
        """The job as it was last seen."""

    @property
    def id(self) -> str:
        """Its name in the scheduler (`gang-7`)."""
        return self.last.id

    @property
    def status(self) -> str:
        """Its status now."""
        return self.refresh().status

    def refresh(self) -> messages.Job:
        """The job as it is now."""
        self.last = self._client.get_job(self.id)
        return self.last

    def wait(self, timeout_s: float | None = None) -> messages.Job:
        """The job once it has ended. Raises Unavailable where it has not after so long."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        poll_s = FIRST_POLL_S
        while not self.refresh().has_ended:
            left_s = poll_s if deadline is None else min(poll_s, deadline - time.monotonic())
            if left_s <= 0:
                raise Unavailable(f"{self.id} has not ended after {timeout_s} s: it is {self.last.status}")
            time.sleep(left_s)
            poll_s = min(2 * poll_s, LONGEST_POLL_S)
        return self.last

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Its output, line by line, of all its workers."""
        for chunk in self._client.logs(self.id, follow=follow):
            yield from chunk.content.decode(errors="replace").splitlines()

    def why(self) -> messages.Why:
        """Why it waits, or where and on what basis it runs."""
        return self._client.why(self.id)

    def cancel(self) -> messages.Job:
        """End it."""
        self.last = self._client.cancel(self.id)
        return self.last
