"""The Python client: what teams and admins ask of a running scheduler, typed, with the same errors as the server's.

    with Client() as tenor:
        job = tenor.submit(["python", "train.py"], account="acme", gpus_per_worker=8)
        job.wait()

Values are those of `scheduler.api.messages`. A call raises the TenorError that the server raised, and Unavailable where
none answers. A client may be shared by threads.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from scheduler.api import codec, messages
from scheduler.api.address import find_address
from scheduler.api.v1 import api_pb2 as wire
from scheduler.api.v1 import api_pb2_grpc
from scheduler.core.errors import Refused, TenorError, Unavailable
from scheduler.exchange.errors import error_of

TIMEOUT_S = 30.0
MOST_BYTES = 64 << 20
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.enable_http_proxy", 0),  # the scheduler is on this machine, whatever proxy the environment names
)
_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 1.0
_DETAILS = "grpc-status-details-bin"

Answer = TypeVar("Answer")


class Client:
    """A connection to the scheduler at `address`; None: where TENOR_ADDRESS or the scheduler's own file says.

    Raises Unavailable where nothing says where it is, InvalidValue where what is said is no address. `timeout_s` bounds
    each call, not streams.
    """

    def __init__(self, address: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = find_address(address)
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(self.address, options=OPTIONS)
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
        answer = self._call(self._stub.GetStatus, wire.GetStatusRequest())
        return codec.from_wire(answer.status, messages.Status)

    def positions(self, account: str = "", *, ended: bool = False) -> tuple[messages.Position, ...]:
        """Positions of one account or of all. Raises UnknownName."""
        answer = self._call(self._stub.ListPositions, wire.ListPositionsRequest(account=account, ended=ended))
        return tuple(codec.from_wire(each, messages.Position) for each in answer.positions)

    def jobs(
        self, account: str = "", *, statuses: Iterable[str] = (), name: str = "", page_size: int = 0
    ) -> Iterator[messages.Job]:
        """Jobs, newest first, fetched a page at a time. Raises UnknownName, InvalidValue."""
        token = ""
        while True:
            page = self.jobs_page(account, statuses=statuses, name=name, page_size=page_size, page_token=token)
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
        enum = wire.JobStatus.DESCRIPTOR
        request = wire.ListJobsRequest(account=account, name=name, page_size=page_size, page_token=page_token)
        request.statuses.extend(wire.JobStatus.ValueType(codec.number_of(enum, each)) for each in statuses)
        return codec.from_wire(self._call(self._stub.ListJobs, request), messages.JobsPage)

    def job(self, name: str) -> JobHandle:
        """A handle of a job that is there. Raises UnknownName."""
        return JobHandle(self, self.get_job(name))

    def get_job(self, name: str) -> messages.Job:
        """A job as it is now. Raises UnknownName."""
        return codec.from_wire(self._call(self._stub.GetJob, wire.GetJobRequest(job=name)).job, messages.Job)

    def why(self, job: str) -> messages.Why:
        """Why a job waits, or where and on what basis it runs. Raises UnknownName."""
        return codec.from_wire(self._call(self._stub.Why, wire.WhyRequest(job=job)).why, messages.Why)

    def fleet(self, node: str = "") -> tuple[messages.Node, ...]:
        """All nodes, or one. Raises UnknownName."""
        answer = self._call(self._stub.GetFleet, wire.GetFleetRequest(node=node))
        return tuple(codec.from_wire(each, messages.Node) for each in answer.nodes)

    def coverage(
        self, from_ms: int | None = None, to_ms: int | None = None, *, position: str = ""
    ) -> messages.Coverage:
        """Which cells stand behind which position; None: from now, for a week. Raises UnknownName, InvalidValue."""
        request = wire.GetCoverageRequest(from_ms=from_ms, to_ms=to_ms, position=position)
        return codec.from_wire(self._call(self._stub.GetCoverage, request).coverage, messages.Coverage)

    def statement(self, position: str) -> dict[str, Any]:
        """What is owed for a position, as `scheduler.core.settlement.Statement` has it. Raises UnknownName, Refused."""
        found: dict[str, Any] = json.loads(self.statement_bytes(position))
        return found

    def statement_bytes(self, position: str) -> bytes:
        """The statement's canonical JSON: what is compared with the exchange's."""
        return self._call(self._stub.GetStatement, wire.GetStatementRequest(position=position)).statement

    # -- changing ------------------------------------------------------------------------------------------------------

    def submit(
        self,
        command: Sequence[str],
        *,
        account: str,
        name: str = "",
        workers: int = 1,
        gpus_per_worker: int = 1,
        grade: str = "",
        topology: str = "",
        topology_required: bool = False,
        priority: int = 0,
        preemptible: bool = True,
        max_runtime_ms: int | None = None,
        grace_ms: int | None = None,
        checkpoint_ms: int | None = None,
        restart_ms: int | None = None,
        max_failures: int | None = None,
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
        request_id: str = "",
    ) -> JobHandle:
        """A new job in the queue, durable when this returns; `name` defaults to the program's. Raises InvalidValue.

        The same `request_id` gives the same job again, so a call that got no answer can be repeated with it; one is
        made where none is given.
        """
        program = str(command[0]).rpartition("/")[2] if command else ""
        spec = messages.JobSpec(
            account=account,
            name=name or program or "job",
            command=tuple(command),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            grade=grade,
            topology=topology,
            topology_required=topology_required,
            priority=priority,
            preemptible=preemptible,
            max_runtime_ms=max_runtime_ms,
            grace_ms=grace_ms,
            checkpoint_ms=checkpoint_ms,
            restart_ms=restart_ms,
            max_failures=max_failures,
            env=dict(env or {}),
            working_dir=working_dir,
        )
        return JobHandle(self, self.submit_spec(spec, request_id or uuid.uuid4().hex))

    def submit_spec(self, spec: messages.JobSpec, request_id: str = "") -> messages.Job:
        """The same, from a specification. Raises InvalidValue, Conflict."""
        request = wire.SubmitRequest(request_id=request_id, spec=codec.to_wire(spec, wire.JobSpec))
        return codec.from_wire(self._call(self._stub.Submit, request).job, messages.Job)

    def cancel(self, job: str) -> messages.Job:
        """End a job: at once where it waits, with its grace where it runs. Raises UnknownName."""
        return codec.from_wire(self._call(self._stub.Cancel, wire.CancelRequest(job=job)).job, messages.Job)

    def drain(self, node: str, by_ms: int | None) -> messages.Node:
        """Empty a node by an instant; None calls it off. Raises UnknownName."""
        answer = self._call(self._stub.Drain, wire.DrainRequest(node=node, by_ms=by_ms))
        return codec.from_wire(answer.node, messages.Node)

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
        request = wire.LogsRequest(job=job, worker=worker, attempt=attempt, follow=follow, tail_lines=tail_lines)
        for answer in self._stream(self._stub.Logs(request)):
            yield codec.from_wire(answer, messages.LogChunk)

    def events(
        self, after_seq: int | None = None, *, kinds: Iterable[str] = (), follow: bool = True
    ) -> Iterator[messages.JournalEvent]:
        """The journal's events after one, as they become durable; None: those that are still to come."""
        request = wire.WatchEventsRequest(after_seq=after_seq, kinds=tuple(kinds), stop_at_head=not follow)
        for answer in self._stream(self._stub.WatchEvents(request)):
            yield codec.from_wire(answer.event, messages.JournalEvent)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _call(self, method: Callable[..., Answer], request: Any) -> Answer:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as failed:
            raise raised_by(failed, self.address) from None

    def _stream(self, answers: Any) -> Iterator[Any]:
        try:
            yield from answers
        except grpc.RpcError as failed:
            raise raised_by(failed, self.address) from None
        finally:
            answers.cancel()


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
        poll_s = _FIRST_POLL_S
        while not self.refresh().has_ended:
            left_s = poll_s if deadline is None else min(poll_s, deadline - time.monotonic())
            if left_s <= 0:
                raise Unavailable(f"{self.id} has not ended after {timeout_s} s: it is {self.last.status}")
            time.sleep(left_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)
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


def raised_by(failed: grpc.RpcError, address: str) -> TenorError:
    """The error that the scheduler raised; where it said none, what became of the call."""
    call: Any = failed  # every failed call is a grpc.Call too, though the types do not say so
    if any(key == _DETAILS for key, _ in call.trailing_metadata() or ()):
        return error_of(failed)
    code, details = call.code(), call.details()
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"no Tenor answers at {address}: is `tenor up` running there?")
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unavailable(f"the Tenor at {address} did not answer: {details}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Refused(f"what answers at {address} does not know this call: {details}")
        case _:
            return TenorError(f"the Tenor at {address} failed: {code.name}, {details}")
