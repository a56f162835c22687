"""A site on virtual time for tests: nodes, a journal, the production scheduler, and the process's death on demand.

`Site` drives the scheduler as a real loop does: a round whenever something falls due, happens or is told, and at least
one a reading. `Fate` counts the boundaries that a process may die at (before and after each commit, each checkpoint,
each call of execution) and raises `Death` at the chosen one; the site then drops the scheduler, folds the journal anew
and goes on with the execution that survived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.records import MeterRecord
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.state.dump import dump
from scheduler.core.workloads import GangSpec
from scheduler.delivery import LogWriter
from scheduler.exchange.leaves import RecordLeaf, decode
from scheduler.execution.protocol import Launch, Observation, RunningAttempt
from scheduler.execution.simulated import Fault, SimulatedExecutor, Work
from scheduler.ledger.journal import Entry, Journal
from scheduler.ledger.keys import SignerKey
from scheduler.planners.planner import LocalPlanner, Planner
from scheduler.recovery import fold, reconcile
from scheduler.replay.checks import LawChecker
from scheduler.service import Scheduler, ServiceSettings

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
STREAM = "test"
SIGNER = SignerKey.generate("tenor.test/log")
STEP_MS = 5_000
"""A round at least this often, as the loop's reading does."""


class Death(BaseException):
    """The process is gone: not an Exception, so that nothing on the way can survive it."""


class Fate:
    """Counts boundaries; raises Death at number `dies_at`, once."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.passed = 0
        self.where: list[str] = []

    def boundary(self, what: str) -> None:
        """A point at which the process may die."""
        self.passed += 1
        self.where.append(what)
        if self.passed == self.dies_at:
            raise Death(what)


class MortalJournal(Journal):
    """A journal whose process dies around its commits."""

    fate = Fate()

    def commit(
        self,
        entries: Sequence[Entry],
        *,
        leaves: Sequence[bytes] = (),
        stream: str = "",
        cursors: Mapping[str, bytes] | None = None,
    ) -> int:
        """See Journal."""
        self.fate.boundary("before commit")
        seq = super().commit(entries, leaves=leaves, stream=stream, cursors=cursors or {})
        self.fate.boundary("after commit")
        return seq

    def save_checkpoint(self, stream: str, size: int, note: bytes) -> None:
        """See Journal."""
        self.fate.boundary("before checkpoint")
        super().save_checkpoint(stream, size, note)
        self.fate.boundary("after checkpoint")


class MortalExecutor:
    """Execution that outlives the scheduler; the scheduler dies around its calls."""

    def __init__(self, inner: SimulatedExecutor, fate: Fate, seen_ms: Callable[[], int]) -> None:
        self.inner = inner
        self.seen_ms = seen_ms
        self.fate = fate
        self.starts: list[tuple[str, int]] = []
        self.healthy = True
        self.detail = ""
        self.delay_ms = 0
        """How late what is seen is told."""
        self._waits: list[Observation] = []

    def start(self, launch: Launch) -> None:
        """See Executor."""
        self.fate.boundary("before start")
        self.starts.append((launch.gang, launch.attempt))
        self.inner.start(launch)
        self.fate.boundary("after start")

    def stop(self, gang: str, attempt: int, grace_ms: int) -> None:
        """See Executor."""
        self.fate.boundary("before stop")
        self.inner.stop(gang, attempt, grace_ms)
        self.fate.boundary("after stop")

    def observe(self) -> tuple[Observation, ...]:
        """See Executor."""
        self._waits += self.inner.observe()
        told_ms = self.seen_ms() - self.delay_ms
        seen = tuple(each for each in self._waits if each.at_ms <= told_ms)
        self._waits = [each for each in self._waits if each.at_ms > told_ms]
        if seen:
            self.fate.boundary("after observe")
        return seen

    def running(self) -> tuple[RunningAttempt, ...]:
        """See Executor."""
        return self.inner.running()

    def probe(self, node: str) -> None:
        """See Executor."""
        self.inner.probe(node)

    def close(self) -> None:
        """See Executor."""


def nodes(count: int, gpus: int = 8) -> tuple[NodeSpec, ...]:
    """`node-0 ..`, two to a domain."""
    return tuple(NodeSpec(name=f"node-{i}", grade="H100", gpus=gpus, domain=f"domain-{i // 2}") for i in range(count))


def listing(
    symbol: str = "H100.NODE",
    *,
    start_ms: int = 0,
    length_ms: int = 600_000,
    cell: Level = Level.NODE,
    gpus: int = 8,
    metering_interval_s: Any = 10,
    **terms: Any,
) -> InstrumentTerms:
    """Lots of the test's fleet; `start_ms` counts from the test's beginning."""
    return standard_terms(
        symbol=symbol,
        start_ms=START_MS + start_ms,
        end_ms=START_MS + start_ms + length_ms,
        grade="H100",
        cell=cell,
        gpus=gpus,
        metering_interval_s=metering_interval_s,
        **{"replace_within_s": 0, **terms},
    )


def gang(account: str, gpus: int = 8, *, workers: int = 1, name: str = "train", **wished: Any) -> GangSpec:
    """A gang that checkpoints every ten seconds and gets two of grace unless told otherwise."""
    given = {"grace_ms": 2_000, "checkpoint_ms": 10_000, "restart_ms": 0, **wished}
    return GangSpec(account=account, name=name, command=("run",), workers=workers, gpus_per_worker=gpus, **given)


class Site:
    """See the module."""

    def __init__(
        self,
        fleet: Sequence[NodeSpec],
        *,
        path: Path | str = ":memory:",
        work: Callable[[Launch], Work] | Mapping[str, Work] | None = None,
        faults: Sequence[Fault] = (),
        fate: Fate | None = None,
        outage_ms: int = 0,
        settings: ServiceSettings | None = None,
        check: bool = True,
        planner: Callable[[], Planner] = LocalPlanner,
    ) -> None:
        self.now_ms = START_MS
        self.fate = fate or Fate()
        self.path = path
        self.outage_ms = outage_ms
        self.planner = planner
        self.settings = settings or ServiceSettings(close_lag_ms=0)
        self.executor = MortalExecutor(
            SimulatedExecutor(fleet, lambda: self.now_ms, work or (lambda _: Work(10**9)), faults),
            self.fate,
            lambda: self.now_ms,
        )
        self.laws = LawChecker() if check else None
        self.seq = 0
        self.deaths = 0
        self.died_ms = 0
        self._open()
        self.scheduler = self._started()

    # -- the process ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """The journal from its file; one in memory lives on in its connection, as a file does on a disk."""
        kept: Journal | None = getattr(self, "journal", None) if self.path == ":memory:" else None
        made = kept or Journal.open(self.path, durable=False)
        journal = MortalJournal(made._connection, made._location, made._lock)
        journal.fate = self.fate
        self.journal = journal

    def _started(self) -> Scheduler:
        state = fold(self.journal).state if self.journal.head[0] else None
        log = LogWriter(STREAM, SIGNER)
        scheduler = Scheduler(
            self.journal, self.executor, log, lambda: self.now_ms, self.settings, state, self.planner()
        )
        reconcile(scheduler, self.journal, self.executor, self.now_ms, self.settings)
        return scheduler

    def die_and_return(self) -> None:
        """The process is dropped as it is; after the outage a new one starts on what it left."""
        self.deaths += 1
        self.died_ms = self.now_ms
        if self.path != ":memory:":
            self.journal.close()
        self.executor.inner.reopen()
        self.now_ms += self.outage_ms
        self._open()
        self.scheduler = self._started()

    def doing(self, what: Callable[[Scheduler], Any]) -> Any:
        """Call the scheduler; where the process dies on it, the caller tries again after the restart."""
        while True:
            try:
                return what(self.scheduler)
            except Death:
                while True:
                    try:
                        self.die_and_return()
                        break
                    except Death:
                        continue

    # -- time ----------------------------------------------------------------------------------------------------------

    def round(self) -> int | None:
        """One round now, and every law; while planning is paused an inside gang may well wait."""
        due_ms: int | None = self.doing(Scheduler.round)
        self.doing(Scheduler.note_observed)
        if self.laws is not None and not self.scheduler.paused:
            self.laws.after_round(self.scheduler.state, self.now_ms)
            assert self.laws.found == []
        return due_ms

    def until(self, at_ms: int) -> None:
        """Rounds up to and with an instant, which counts from the beginning."""
        end_ms = START_MS + at_ms
        while True:
            due_ms = self.round()
            event_ms = self.executor.inner.next_event_ms()
            instants = [self.now_ms + STEP_MS, *(ms for ms in (due_ms, event_ms) if ms is not None)]
            next_ms = max(min(instants), self.now_ms)
            if next_ms > end_ms:
                break
            if next_ms == self.now_ms and event_ms != self.now_ms:
                next_ms += 1
            self.now_ms = next_ms
        # What is told next is told after the round's placements, never at their instant.
        self.now_ms = max(end_ms, self.now_ms + 1)

    # -- what others say -----------------------------------------------------------------------------------------------

    def listed(self, *terms: InstrumentTerms) -> None:
        """The exchange lists instruments."""
        self.doing(lambda scheduler: scheduler.learn_instruments(terms))

    def event(self, kind: PositionEventKind, position: str, account: str, **given: Any) -> PositionEvent:
        """The next event of the exchange's stream; `at_ms` (its effect) counts from the beginning, default now."""
        self.seq += 1
        at_ms = START_MS + given.pop("at_ms") if "at_ms" in given else self.now_ms
        fields = {"instrument": "H100.NODE@1", "lots": 1, **given}
        return PositionEvent(
            cursor=Cursor(stream="exchange", epoch=1, seq=self.seq),
            kind=kind,
            position=position,
            account=account,
            effective_ms=at_ms,
            committed_ms=self.now_ms,
            **fields,
        )

    def told(self, event: PositionEvent) -> None:
        """The exchange tells."""
        self.doing(lambda scheduler: scheduler.learn_event(event))

    def trade(self, position: str, account: str, lots: int = 1, **given: Any) -> None:
        """The account buys."""
        self.told(self.event(PositionEventKind.TRADE, position, account, lots=lots, **given))

    def transfer(self, source: str, position: str, account: str, lots: int = 1, **given: Any) -> None:
        """Lots of a position are sold on."""
        kind = PositionEventKind.TRANSFER
        self.told(self.event(kind, position, account, source=source, lots=lots, **given))

    def submit(self, spec: GangSpec, request: str = "") -> str:
        """A team submits; its client tries again with the same request after a crash."""
        name: str = self.doing(lambda scheduler: scheduler.submit(spec, request)).id
        return name

    # -- what is there -------------------------------------------------------------------------------------------------

    def leaves(self) -> list[bytes]:
        """All leaves of the log."""
        return [leaf for _, leaf in self.journal.leaves(STREAM)]

    def records(self, position: str | None = None) -> list[MeterRecord]:
        """All records of the log in order, of one position or of all."""
        decoded = [decode(leaf) for leaf in self.leaves()]
        records = [leaf.record for leaf in decoded if isinstance(leaf, RecordLeaf)]
        return [record for record in records if position in (None, record.position)]

    def kinds(self) -> list[str]:
        """The kinds of all events in the journal."""
        return [entry.kind for entry in self.journal.read()]

    def refolded(self) -> bytes:
        """What the journal folds to."""
        return dump(fold(self.journal).state)

    def status(self, gang_id: str) -> str:
        """A gang's status."""
        return str(self.scheduler.state.gangs.get(gang_id).status)


def lost(record: MeterRecord, cause: Cause) -> int:
    """GPU-ms lost to a cause."""
    return dict(record.losses).get(cause, 0)
