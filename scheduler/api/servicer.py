"""The service `tenor.api.v1.Scheduler`: each call reads the state under the scheduler's guard, or asks it to change it.

Every refusal is a TenorError and reaches the caller as the same class. Streams never hold the guard while they wait,
and there are only so many of them, so that followers cannot keep others out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grpc

from scheduler.api import asked, codec, event_lines, logs, messages, selling, views
from scheduler.api.trail import Trail
from scheduler.api.v1 import api_pb2 as wire
from scheduler.api.v1 import api_pb2_grpc
from scheduler.api.why import Facts, why
from scheduler.core.errors import InvalidValue, Refused, UnknownName
from scheduler.core.events import Event, decode
from scheduler.core.placement.scores.table import DEFAULT
from scheduler.core.quantities import MS_PER_DAY
from scheduler.core.rounds import outages
from scheduler.core.state.state import State
from scheduler.core.workloads import ENDED, GangStatus
from scheduler.exchange.errors import Exhausted, answers, streams
from scheduler.ledger.journal import Journal
from scheduler.service import Scheduler

MOST_STREAMS = 24
POLL_S = 0.1
COVERAGE_MS = 7 * MS_PER_DAY
"""How much of the calendar is shown where nobody says how much."""

Context = grpc.ServicerContext
_KINDS = frozenset(str(kind.model_fields["kind"].default) for kind in Event.__args__[0].__args__)


@dataclass(frozen=True, slots=True)
class ApiSources:
    """What the API tells of beyond the scheduler and its journal; whoever composes them gives it.

    `statement` gives a position's statement, by the first so many leaves of the log (0: all), as canonical JSON bytes,
    and raises TenorErrors.
    """

    clock_ms: Callable[[], int]
    stream: str = ""
    log_dir: Path | None = None
    statement: Callable[[str, int], bytes] | None = None
    exchange: Callable[[], messages.ExchangeLink] | None = None
    alerts: Callable[[], tuple[str, ...]] | None = None
    rehearsed: Callable[[], str] | None = None
    """What the last rehearsal of scores came to."""


class Servicer(api_pb2_grpc.SchedulerServicer):
    """See the module."""

    def __init__(self, scheduler: Scheduler, journal: Journal, sources: ApiSources) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._sources = sources
        self._trail = Trail(journal)
        self._open: set[threading.Event] = set()
        self._streams = threading.Lock()
        self._closing = False

    def close(self) -> None:
        """Let every stream end."""
        with self._streams:
            self._closing = True
            for left in self._open:
                left.set()

    # -- reading -------------------------------------------------------------------------------------------------------

    @answers
    def GetStatus(self, request: wire.GetStatusRequest) -> wire.GetStatusResponse:  # noqa: ARG002, N802
        """See the proto."""
        sources, journal = self._sources, self._journal
        checkpoint = journal.checkpoint(sources.stream)
        exchange = None if sources.exchange is None else sources.exchange()
        with self._reading() as (state, now_ms):
            held = [each for each in state.book.positions.values() if views.holds_later(state, each, now_ms)]
            status = messages.Status(
                now_ms=now_ms,
                version=self._version,
                **views.node_counts(state),
                **views.gpu_counts(state),
                accounts=len(state.accounts),
                positions=len(held),
                positions_uncovered=sum(each.id in state.refused for each in held),
                jobs=views.job_counts(state),
                journal_seq=journal.head[0],
                exchange=exchange,
                outbox_leaves=journal.log_size(sources.stream) - journal.acknowledged(sources.stream),
                log_leaves=journal.log_size(sources.stream),
                checkpoint_leaves=None if checkpoint is None else checkpoint[0],
                paused=self._scheduler.paused,
                alerts=(*self._scheduler.alerts, *(sources.alerts() if sources.alerts else ())),
                planned_by=self._scheduler.planned_by,
                score=DEFAULT if state.score is None else state.score.score,
                rehearsed=sources.rehearsed() if sources.rehearsed else "",
            )
        return wire.GetStatusResponse(status=codec.to_wire(status, wire.Status))

    @answers
    def ListPositions(self, request: wire.ListPositionsRequest) -> wire.ListPositionsResponse:  # noqa: N802
        """See the proto."""
        with self._reading() as (state, now_ms):
            _known_account(state, request.account)
            shown = views.positions(state, now_ms, request.account, ended=request.ended)
        return wire.ListPositionsResponse(
            now_ms=now_ms, positions=[codec.to_wire(each, wire.Position) for each in shown]
        )

    @answers
    def ListJobs(self, request: wire.ListJobsRequest) -> wire.ListJobsResponse:  # noqa: N802
        """See the proto."""
        enum = wire.JobStatus.DESCRIPTOR
        wanted = frozenset(GangStatus(codec.name_of(enum, each)) for each in request.statuses)
        size, below = asked.page_size(request.page_size), asked.page_token(request.page_token)
        page: list[messages.Job] = []
        following = ""
        with self._reading() as (state, now_ms):
            _known_account(state, request.account)
            for gang in views.newest_gangs(state, below):
                if (
                    (wanted and gang.status not in wanted)
                    or (request.account and gang.account != request.account)
                    or (request.name and gang.spec.name != request.name)
                ):
                    continue
                if len(page) == size:
                    following = str(state.gangs.get(page[-1].id).number)
                    break
                page.append(views.job(gang, self._scheduler.last_plan))
        jobs = [codec.to_wire(each, wire.Job) for each in page]
        return wire.ListJobsResponse(now_ms=now_ms, jobs=jobs, next_page_token=following)

    @answers
    def GetJob(self, request: wire.GetJobRequest) -> wire.GetJobResponse:  # noqa: N802
        """See the proto."""
        return wire.GetJobResponse(job=self._job(request.job))

    @answers
    def Why(self, request: wire.WhyRequest) -> wire.WhyResponse:  # noqa: N802
        """See the proto."""
        attempts = self._trail.of(request.job)
        with self._reading() as (state, now_ms):
            facts = Facts(
                state, self._scheduler.last_plan, self._scheduler.paused, now_ms, attempts, request.told_to or None
            )
            answer = why(facts, request.job)
        return wire.WhyResponse(why=codec.to_wire(answer, wire.Why))

    @answers
    def GetFleet(self, request: wire.GetFleetRequest) -> wire.GetFleetResponse:  # noqa: N802
        """See the proto."""
        with self._reading() as (state, now_ms):
            shown = views.nodes(state, None if not request.node else [_node_number(state, request.node)])
        return wire.GetFleetResponse(now_ms=now_ms, nodes=[codec.to_wire(each, wire.Node) for each in shown])

    @answers
    def GetCoverage(self, request: wire.GetCoverageRequest) -> wire.GetCoverageResponse:  # noqa: N802
        """See the proto."""
        with self._reading() as (state, now_ms):
            from_ms = asked.instant("from_ms", "coverage", request.from_ms) if request.HasField("from_ms") else now_ms
            to_ms = request.to_ms if request.HasField("to_ms") else from_ms + COVERAGE_MS
            if to_ms <= from_ms:
                raise InvalidValue("to_ms", "coverage", to_ms, f"an instant after from_ms {from_ms}")
            if request.position and request.position not in state.book.positions:
                raise UnknownName("position", request.position, state.book.positions)
            shown = views.coverage(state, from_ms, to_ms, request.position)
        return wire.GetCoverageResponse(coverage=codec.to_wire(shown, wire.Coverage))

    @answers
    def GetDeliverable(self, request: wire.GetDeliverableRequest) -> wire.GetDeliverableResponse:  # noqa: N802
        """See the proto."""
        question = selling.question_of(request, request.instrument)
        with self._reading() as (state, now_ms):
            facts = selling.offer_facts(state, now_ms, self._scheduler.settings.spares, request.instrument)
        found = selling.deliverable(facts, question, plan=not request.bounds_only)
        return wire.GetDeliverableResponse(deliverable=codec.to_wire(found, wire.Deliverable))

    @answers
    def GetBacking(self, request: wire.GetBackingRequest) -> wire.GetBackingResponse:  # noqa: N802
        """See the proto."""
        question = selling.question_of(request, request.subject)
        with self._reading() as (state, now_ms):
            facts = selling.backing_facts(state, now_ms, self._scheduler.settings.spares, request.subject, question)
        found = selling.backing(facts, question)
        return wire.GetBackingResponse(backing=codec.to_wire(found, wire.Backing))

    @answers
    def GetStatement(self, request: wire.GetStatementRequest) -> wire.GetStatementResponse:  # noqa: N802
        """See the proto."""
        with self._reading() as (state, _):
            if request.position not in state.book.positions:
                raise UnknownName("position", request.position, state.book.positions)
        if self._sources.statement is None:
            raise Refused("this scheduler keeps no delivery log, so it makes no statements")
        return wire.GetStatementResponse(statement=self._sources.statement(request.position, request.as_of))

    @answers
    def ListDisputes(self, request: wire.ListDisputesRequest) -> wire.ListDisputesResponse:  # noqa: N802
        """See the proto."""
        with self._reading() as (state, _):
            shown = views.disputes(state, answered=request.answered)
        return wire.ListDisputesResponse(disputes=[codec.to_wire(each, wire.Dispute) for each in shown])

    # -- changing ------------------------------------------------------------------------------------------------------

    @answers
    def Submit(self, request: wire.SubmitRequest) -> wire.SubmitResponse:  # noqa: N802
        """See the proto."""
        spec = asked.gang_spec(codec.from_wire(request.spec, messages.JobSpec))
        gang = self._scheduler.submit(spec, asked.request_id(request.request_id))
        return wire.SubmitResponse(job=codec.to_wire(views.job(gang), wire.Job))

    @answers
    def Cancel(self, request: wire.CancelRequest) -> wire.CancelResponse:  # noqa: N802
        """See the proto."""
        self._scheduler.cancel(request.job)
        return wire.CancelResponse(job=self._job(request.job))

    @answers
    def AnswerDispute(self, request: wire.AnswerDisputeRequest) -> wire.AnswerDisputeResponse:  # noqa: N802
        """See the proto."""
        losses = tuple(asked.loss(each.cause, each.gpu_ms) for each in request.losses) or None
        reason = asked.reason(request.reason, needed=not request.accept)
        self._scheduler.answer_dispute(request.dispute, accept=request.accept, reason=reason, losses=losses)
        with self._reading() as (state, _):
            (shown,) = [each for each in views.disputes(state, answered=True) if each.id == request.dispute]
        return wire.AnswerDisputeResponse(dispute=codec.to_wire(shown, wire.Dispute))

    @answers
    def Drain(self, request: wire.DrainRequest) -> wire.DrainResponse:  # noqa: N802
        """See the proto."""
        node, which = request.node, f"the drain of {request.node}"
        by_ms = asked.instant("by_ms", which, request.by_ms) if request.HasField("by_ms") else None
        if not request.HasField("until_ms"):
            self._scheduler.drain(node, by_ms)
        elif by_ms is None:
            raise InvalidValue("by_ms", which, None, "an instant, at which the maintenance begins")
        else:
            until_ms = asked.instant("until_ms", which, request.until_ms)
            self._scheduler.carry_out(lambda state, now_ms: outages.announce(state, node, by_ms, until_ms, now_ms))
        with self._reading() as (state, _):
            shown = views.nodes(state, [_node_number(state, request.node)])
        return wire.DrainResponse(node=codec.to_wire(shown[0], wire.Node))

    @answers
    def Recall(self, request: wire.RecallRequest) -> wire.RecallResponse:  # noqa: N802
        """See the proto."""
        return wire.RecallResponse(position=self._withheld(request, outages.recall))

    @answers
    def Release(self, request: wire.ReleaseRequest) -> wire.ReleaseResponse:  # noqa: N802
        """See the proto."""
        return wire.ReleaseResponse(position=self._withheld(request, outages.release))

    @answers
    def Mark(self, request: wire.MarkRequest) -> wire.MarkResponse:  # noqa: N802
        """See the proto."""
        node, gpus, cause = request.node, tuple(request.gpus), asked.cause(f"the mark of {request.node}", request.cause)
        self._scheduler.carry_out(lambda state, now_ms: outages.mark(state, node, gpus, cause, now_ms))
        with self._reading() as (state, _):
            shown = views.nodes(state, [_node_number(state, node)])
        return wire.MarkResponse(node=codec.to_wire(shown[0], wire.Node))

    @answers
    def DeclareForceMajeure(  # noqa: N802
        self, request: wire.DeclareForceMajeureRequest
    ) -> wire.DeclareForceMajeureResponse:
        """See the proto."""
        evidence = asked.digest("evidence", "the force majeure", request.evidence)
        nodes, from_ms, until_ms = tuple(request.nodes), request.from_ms, request.until_ms
        corrected = self._scheduler.carry_out(
            lambda state, now_ms: outages.declare(state, nodes, from_ms, until_ms, evidence, now_ms)
        )
        return wire.DeclareForceMajeureResponse(corrected_intervals=corrected)

    # -- streams -------------------------------------------------------------------------------------------------------

    @streams
    def Logs(self, request: wire.LogsRequest, context: Context) -> Iterator[wire.LogsResponse]:  # noqa: N802
        """See the proto."""
        log_dir = self._sources.log_dir
        if log_dir is None:
            raise Refused("this scheduler keeps no output of jobs")
        worker = asked.at_least("worker", request.job, request.worker if request.HasField("worker") else None, 0)
        attempt = asked.at_least("attempt", request.job, request.attempt if request.HasField("attempt") else None, 1)
        lines = request.tail_lines if request.HasField("tail_lines") else None
        known = self._progress(request.job)
        if worker is not None and worker >= known.workers:
            raise InvalidValue("worker", request.job, worker, f"0..{known.workers - 1}")
        if attempt is not None and attempt > known.attempt:
            raise InvalidValue("attempt", request.job, attempt, f"1..{known.attempt}" if known.attempt else "none yet")
        with self._streaming(context) as left:
            for chunk in logs.read(
                log_dir,
                request.job,
                lambda: self._progress(request.job),
                left.wait,
                worker=worker,
                attempt=attempt,
                follow=request.follow,
                tail_lines=asked.at_least("tail_lines", request.job, lines, 0),
            ):
                yield codec.to_wire(chunk, wire.LogsResponse)

    @streams
    def WatchEvents(self, request: wire.WatchEventsRequest, context: Context) -> Iterator[wire.WatchEventsResponse]:  # noqa: N802
        """See the proto."""
        head = self._journal.head[0]
        seq = request.after_seq if request.HasField("after_seq") else head
        if not 0 <= seq <= head:
            raise InvalidValue("after_seq", "the journal's events", seq, f"0..{head}")
        kinds = frozenset(request.kinds)
        for kind in sorted(kinds - _KINDS):
            raise UnknownName("kind of event", kind, _KINDS)
        with self._streaming(context) as left:
            while not left.is_set():
                for entry in self._journal.read(seq, verify=False):
                    seq = entry.seq
                    if not kinds or entry.kind in kinds:
                        yield wire.WatchEventsResponse(event=_told(seq, decode(entry.version, entry.body)))
                    if left.is_set():
                        return
                if request.stop_at_head or left.wait(POLL_S):
                    return

    # -- inside --------------------------------------------------------------------------------------------------------

    @cached_property
    def _version(self) -> str:
        try:
            return version("tenor-scheduler")
        except PackageNotFoundError:  # run from a folder that nobody installed
            return "unknown"

    @contextmanager
    def _reading(self) -> Iterator[tuple[State, int]]:
        """The state and the instant at which it is read, while nobody changes it."""
        with self._scheduler.guard:
            yield self._scheduler.state, self._sources.clock_ms()

    @contextmanager
    def _streaming(self, context: Context) -> Iterator[threading.Event]:
        """One of the places for streams; the event is set once the caller has left or the server closes."""
        left = threading.Event()
        with self._streams:
            if self._closing or len(self._open) >= MOST_STREAMS:
                raise Exhausted(
                    f"{len(self._open)} streams are open, expected fewer than {MOST_STREAMS}: try again later"
                )
            self._open.add(left)
        try:
            if not context.add_callback(left.set):
                left.set()
            yield left
        finally:
            with self._streams:
                self._open.discard(left)

    def _withheld(
        self, request: wire.RecallRequest | wire.ReleaseRequest, order: Callable[..., Iterator[Event]]
    ) -> wire.Position:
        name, lots, from_ms, until_ms = request.position, request.lots, request.from_ms, request.until_ms
        spares = self._scheduler.settings.spares
        self._scheduler.carry_out(lambda state, now_ms: order(state, name, lots, from_ms, until_ms, now_ms, spares))
        with self._reading() as (state, now_ms):
            account = state.book.positions[name].account
            shown = views.positions(state, now_ms, account, ended=True)
        return codec.to_wire(next(each for each in shown if each.id == name), wire.Position)

    def _job(self, name: str) -> wire.Job:
        with self._reading() as (state, _):
            shown = views.job(state.gangs.get(name), self._scheduler.last_plan)
        return codec.to_wire(shown, wire.Job)

    def _progress(self, name: str) -> logs.Progress:
        with self._reading() as (state, _):
            gang = state.gangs.get(name)
        over = gang.status in ENDED
        return logs.Progress(gang.attempt, gang.spec.workers, over or gang.status is GangStatus.WAITING, over)


def _told(seq: int, event: Event) -> wire.Event:
    subject, text = event_lines.line(event)
    return codec.to_wire(messages.JournalEvent(seq, event.at_ms, event.kind, subject, text), wire.Event)


def _known_account(state: State, account: str) -> None:
    """Raises UnknownName for an account that nobody ever named: else a typing error would look like an empty list."""
    if account and account not in state.accounts:
        raise UnknownName("account", account, state.accounts)


def _node_number(state: State, name: str) -> int:
    number = state.fleet.index_of_node.get(name)
    if number is None:
        raise UnknownName("node", name, state.fleet.index_of_node)
    return number
