"""Each call of the API as a value: the method, the request, how its answer is read. Clients differ only in waiting."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import grpc

from scheduler.api import codec, messages
from scheduler.api.v1 import api_pb2 as wire
from scheduler.core.errors import Refused, TenorError, Unavailable
from scheduler.exchange.channels import CHANNEL_OPTIONS, Options
from scheduler.exchange.errors import Exhausted, Overdue, error_of, never_arrived, retry_pause_s, told_itself
from scheduler.exchange.handshakes import explained
from scheduler.exchange.tls import Tls

TIMEOUT_S = 30.0
STREAM_S = 600.0
"""For a stream that ends by itself."""
FOLLOW_S = 604_800.0
"""For one that follows what comes: a week."""
OPTIONS: Options = (*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0))  # a proxy of the environment is not meant for it
TRIES = 5
_FIRST_PAUSE_S = 0.1

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """`method` of the service with `request`; `read` makes the answer of what comes back (of each, in a stream).
    `timeout_s`: of a stream; other calls have the client's.
    """

    method: str
    request: Any
    read: Callable[[Any], Answer]
    timeout_s: float = STREAM_S


class Asked(TypedDict, total=False):
    """What a submission may ask for beside its command and account; what is left out has the scheduler's default."""

    name: str
    workers: int
    gpus_per_worker: int
    grade: str
    topology: str
    topology_required: bool
    priority: int
    preemptible: bool
    max_runtime_ms: int | None
    grace_ms: int | None
    checkpoint_ms: int | None
    restart_ms: int | None
    max_failures: int | None
    env: Mapping[str, str]
    working_dir: str
    min_workers: int | None
    gpu_milli: int | None
    min_runtime_ms: int | None
    deadline_ms: int | None
    spread: str
    spread_required: bool


def status() -> Call[messages.Status]:
    """Everything at a glance."""
    return Call("GetStatus", wire.GetStatusRequest(), lambda got: codec.from_wire(got.status, messages.Status))


def positions(account: str, *, ended: bool) -> Call[tuple[messages.Position, ...]]:
    """Positions of one account or of all."""
    request = wire.ListPositionsRequest(account=account, ended=ended)
    return Call("ListPositions", request, lambda got: _all(got.positions, messages.Position))


def jobs_page(
    account: str, statuses: Iterable[str], name: str, page_size: int, page_token: str
) -> Call[messages.JobsPage]:
    """One page of jobs. Raises InvalidValue for a status that there is not."""
    request = wire.ListJobsRequest(account=account, name=name, page_size=page_size, page_token=page_token)
    enum = wire.JobStatus.DESCRIPTOR
    request.statuses.extend(wire.JobStatus.ValueType(codec.number_of(enum, each)) for each in statuses)
    return Call("ListJobs", request, lambda got: codec.from_wire(got, messages.JobsPage))


def get_job(name: str) -> Call[messages.Job]:
    """A job as it is now."""
    return Call("GetJob", wire.GetJobRequest(job=name), _job)


def why(job: str) -> Call[messages.Why]:
    """Why a job waits, or where it runs."""
    return Call("Why", wire.WhyRequest(job=job), lambda got: codec.from_wire(got.why, messages.Why))


def fleet(node: str) -> Call[tuple[messages.Node, ...]]:
    """All nodes, or one."""
    return Call("GetFleet", wire.GetFleetRequest(node=node), lambda got: _all(got.nodes, messages.Node))


def coverage(from_ms: int | None, to_ms: int | None, position: str) -> Call[messages.Coverage]:
    """Which cells stand behind which position."""
    request = wire.GetCoverageRequest(from_ms=from_ms, to_ms=to_ms, position=position)
    return Call("GetCoverage", request, lambda got: codec.from_wire(got.coverage, messages.Coverage))


def deliverable(
    instrument: str, from_ms: int | None, to_ms: int | None, losses: int | None, domain: str, *, bounds_only: bool
) -> Call[messages.Deliverable]:
    """What more may be sold of an instrument. Raises InvalidValue for a level that there is not."""
    request = wire.GetDeliverableRequest(
        instrument=instrument, from_ms=from_ms, to_ms=to_ms, losses=losses, bounds_only=bounds_only
    )
    request.domain = wire.Cell.ValueType(codec.number_of(wire.Cell.DESCRIPTOR, domain))
    return Call("GetDeliverable", request, lambda got: codec.from_wire(got.deliverable, messages.Deliverable))


def backing(
    subject: str, from_ms: int | None, to_ms: int | None, losses: int | None, domain: str
) -> Call[messages.Backing]:
    """What stands behind a position or an instrument. Raises InvalidValue for a level that there is not."""
    request = wire.GetBackingRequest(subject=subject, from_ms=from_ms, to_ms=to_ms, losses=losses)
    request.domain = wire.Cell.ValueType(codec.number_of(wire.Cell.DESCRIPTOR, domain))
    return Call("GetBacking", request, lambda got: codec.from_wire(got.backing, messages.Backing))


def statement(position: str, as_of: int) -> Call[bytes]:
    """A statement's canonical JSON."""
    request = wire.GetStatementRequest(position=position, as_of=as_of)
    return Call("GetStatement", request, lambda got: bytes(got.statement))


def disputes(*, answered: bool) -> Call[tuple[messages.Dispute, ...]]:
    """Disputes that were heard."""
    request = wire.ListDisputesRequest(answered=answered)
    return Call(
        "ListDisputes",
        request,
        lambda got: tuple(codec.from_wire(each, messages.Dispute) for each in got.disputes),
    )


def answer_dispute(
    dispute: str, reason: str, losses: Sequence[tuple[str, int]], *, accept: bool
) -> Call[messages.Dispute]:
    """The answer to a dispute."""
    lost = [wire.Loss(cause=cause, gpu_ms=gpu_ms) for cause, gpu_ms in losses]
    request = wire.AnswerDisputeRequest(dispute=dispute, accept=accept, reason=reason, losses=lost)
    return Call("AnswerDispute", request, lambda got: codec.from_wire(got.dispute, messages.Dispute))


def submit(spec: messages.JobSpec, request_id: str) -> Call[messages.Job]:
    """A new job; with no `request_id` a random one, so that gRPC may send it again. Raises InvalidValue."""
    request = wire.SubmitRequest(request_id=request_id or uuid.uuid4().hex, spec=codec.to_wire(spec, wire.JobSpec))
    return Call("Submit", request, _job)


def job_spec(command: Sequence[str], account: str, asked: Asked) -> messages.JobSpec:
    """The specification of a submission; its name is the program's where none is given."""
    program = str(command[0]).rpartition("/")[2] if command else ""
    given: dict[str, Any] = {**asked, "env": dict(asked.get("env") or {})}
    given["name"] = given.get("name") or program or "job"
    return messages.JobSpec(account=account, command=tuple(command), **given)


def cancel(job: str) -> Call[messages.Job]:
    """The end of a job."""
    return Call("Cancel", wire.CancelRequest(job=job), _job)


def drain(node: str, by_ms: int | None, until_ms: int | None) -> Call[messages.Node]:
    """A drain, or its end."""
    request = wire.DrainRequest(node=node, by_ms=by_ms, until_ms=until_ms)
    return Call("Drain", request, lambda got: codec.from_wire(got.node, messages.Node))


def recall(position: str, lots: int, from_ms: int, until_ms: int) -> Call[messages.Position]:
    """A recall of lots."""
    request = wire.RecallRequest(position=position, lots=lots, from_ms=from_ms, until_ms=until_ms)
    return Call("Recall", request, lambda got: codec.from_wire(got.position, messages.Position))


def release(position: str, lots: int, from_ms: int, until_ms: int) -> Call[messages.Position]:
    """A release of lots."""
    request = wire.ReleaseRequest(position=position, lots=lots, from_ms=from_ms, until_ms=until_ms)
    return Call("Release", request, lambda got: codec.from_wire(got.position, messages.Position))


def mark(node: str, gpus: Sequence[int], cause: str) -> Call[messages.Node]:
    """What is wrong with GPUs."""
    request = wire.MarkRequest(node=node, gpus=gpus, cause=cause)
    return Call("Mark", request, lambda got: codec.from_wire(got.node, messages.Node))


def force_majeure(nodes: Sequence[str], from_ms: int, until_ms: int, evidence: bytes) -> Call[int]:
    """A force majeure, by the hash of its evidence."""
    digest = hashlib.sha256(evidence).hexdigest()
    request = wire.DeclareForceMajeureRequest(nodes=nodes, from_ms=from_ms, until_ms=until_ms, evidence=digest)
    return Call("DeclareForceMajeure", request, lambda got: int(got.corrected_intervals))


def logs(
    job: str, *, follow: bool, worker: int | None, attempt: int | None, tail_lines: int | None
) -> Call[messages.LogChunk]:
    """A job's output, as a stream."""
    request = wire.LogsRequest(job=job, worker=worker, attempt=attempt, follow=follow, tail_lines=tail_lines)
    return Call("Logs", request, lambda got: codec.from_wire(got, messages.LogChunk), _stream_s(follow=follow))


def events(after_seq: int | None, kinds: Iterable[str], *, follow: bool) -> Call[messages.JournalEvent]:
    """The journal's events, as a stream."""
    request = wire.WatchEventsRequest(after_seq=after_seq, kinds=tuple(kinds), stop_at_head=not follow)
    timeout_s = _stream_s(follow=follow)
    return Call("WatchEvents", request, lambda got: codec.from_wire(got.event, messages.JournalEvent), timeout_s)


def raised_by(failed: grpc.RpcError, address: str, tls: Tls | None = None) -> TenorError:
    """The error that the scheduler raised; where it said none, what became of the call."""
    call: Any = failed  # every failed call is a grpc.Call too, though the types do not say so
    code, details = call.code(), call.details()
    if never_arrived(failed):
        nobody = Unavailable(f"no Tenor answers at {address}: is `tenor up` running there?")
        return explained(nobody, address, tls, "the Tenor")
    error = error_of(failed, f"the Tenor at {address}")
    if code is grpc.StatusCode.UNIMPLEMENTED and not told_itself(failed):
        return Refused(f"what answers at {address} does not know this call: {details}")
    if type(error) not in (TenorError, Unavailable, Overdue) or told_itself(failed):
        return error
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unavailable(f"the Tenor at {address} did not answer: {details}")
        case _:
            return TenorError(f"the Tenor at {address} failed: {code.name}, {details}")


def pause_s(attempt: int, error: TenorError) -> float | None:
    """How long to wait before attempt `attempt` + 1 (from 0); None: do not make it. Only what the scheduler had no room
    for is asked again by itself: it has done nothing of it.
    """
    if not isinstance(error, Exhausted) or attempt + 1 >= TRIES:
        return None
    return retry_pause_s(error, _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0))


def _stream_s(*, follow: bool) -> float:
    return FOLLOW_S if follow else STREAM_S


def _job(got: Any) -> messages.Job:
    return codec.from_wire(got.job, messages.Job)


def _all(sent: Iterable[Any], kind: type[Answer]) -> tuple[Answer, ...]:
    return tuple(codec.from_wire(each, kind) for each in sent)
