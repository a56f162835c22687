"""Where a scenario plays: the production scheduler on virtual time, with a journal in memory and simulated execution.

Nothing of the scheduler is replaced: what a scenario says goes in as the exchange, teams, admins and machines say it,
and what it prints are events of the journal. Every law that `LawChecker` knows is checked after every round; one that
breaks fails the scenario whatever it expects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.api.trail import Trail
from scheduler.api.why import Facts
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.events import Event
from scheduler.core.instruments import (
    Deliverable,
    Firm,
    Firmness,
    NonFirm,
    Recallable,
    SystemFirm,
    UnitFirm,
    standard_terms,
)
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.quantities import ONE_PPM
from scheduler.core.settlement import latest
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangSpec
from scheduler.delivery import LogWriter
from scheduler.exchange.leaves import PoolLeaf, RecordLeaf, decode
from scheduler.execution.protocol import Launch, Observation
from scheduler.execution.simulated import Fault, SimulatedExecutor, Work
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.planners.planner import LocalPlanner, Planner
from scheduler.recovery import fold, reconcile
from scheduler.replay.checks import LawChecker
from scheduler.service import Scheduler, ServiceSettings

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: instants in scenarios count from here."""
WEEK_MS = 7 * 86_400_000
SIGNER = SignerKey.generate("tenor.test/scenarios")
FIRMNESS: dict[str, Firmness] = {
    "firm": Firm(),
    "unit": UnitFirm(pool="H100"),
    "system": SystemFirm(),
    "recallable": Recallable(notice_ms=0, max_events=100, max_quantity_gpu_ms=WEEK_MS),
    "nonfirm": NonFirm(),
}


class Execution(SimulatedExecutor):
    """Execution that can fall silent: what happens meanwhile is told once it answers again."""

    answers = True

    @property
    def healthy(self) -> bool:
        """See Executor.healthy."""
        return self.answers

    def observe(self) -> tuple[Observation, ...]:
        """See Executor.observe."""
        return super().observe() if self.answers else ()

    def next_event_ms(self) -> int | None:
        """See SimulatedExecutor."""
        return super().next_event_ms() if self.answers else None


@dataclass
class Stage:
    """See the module. `nodes`, `spares` and `settings` are set before anything else happens."""

    nodes: list[NodeSpec] = field(default_factory=list)
    settings: ServiceSettings = field(default_factory=lambda: ServiceSettings(close_lag_ms=0))
    planner: Callable[[], Planner] = LocalPlanner
    now_ms: int = START_MS
    works: dict[str, Work] = field(default_factory=dict)
    gang_ids: dict[str, str] = field(default_factory=dict)
    """Gang by the name under which it was submitted."""
    heard: list[tuple[int, Event]] = field(default_factory=list)
    """(instant, event) of what nobody was told of yet."""
    laws: LawChecker = field(default_factory=LawChecker)
    is_down: bool = False
    """Whether the scheduler was shut down."""
    _scheduler: Scheduler | None = None
    _executor: Execution | None = None
    _journal: Journal | None = None
    _seq: int = 0

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler; it starts when it is first asked for, and sees the fleet."""
        if self._scheduler is None:
            self._journal = Journal.open(":memory:", durable=False)
            self._executor = Execution(self.nodes, lambda: self.now_ms, self._work)
            self._scheduler = self._started(None)
            self.rounds()
            self.heard.clear()
        return self._scheduler

    def _started(self, state: State | None) -> Scheduler:
        assert self._journal is not None
        assert self._executor is not None
        log = LogWriter("scenario", SIGNER)
        scheduler = Scheduler(
            self._journal, self._executor, log, lambda: self.now_ms, self.settings, state, self.planner()
        )
        scheduler.listeners.append(lambda event: self.heard.append((self.now_ms, event)))
        scheduler.closing_listeners.append(self._on_closing)
        return scheduler

    @property
    def journal(self) -> Journal:
        """What was written down."""
        self.scheduler  # noqa: B018 - it is opened with it
        assert self._journal is not None
        return self._journal

    @property
    def trail(self) -> Trail:
        """What happened to the attempts of gangs."""
        assert self._journal is not None
        return Trail(self._journal)

    def _work(self, launch: Launch) -> Work:
        return self.works[launch.name]

    def _on_closing(self, closing: Closing) -> None:
        self.laws.on_records(closing.records, closing.interval.end_ms)

    # -- the process ---------------------------------------------------------------------------------------------------

    def hear_of_execution(self, *, answers: bool) -> None:
        """Whether execution answers from now on."""
        self.scheduler  # noqa: B018 - it was there before
        assert self._executor is not None
        self._executor.answers = answers

    def shut_down(self) -> None:
        """The scheduler stops all that runs, and places nothing any more."""
        self.scheduler.shut_down()
        self.is_down = True

    def start_again(self) -> None:
        """A new scheduler comes up on what the last one left in its journal."""
        assert self._journal is not None
        assert self._executor is not None
        self._scheduler = self._started(fold(self._journal).state)
        reconcile(self._scheduler, self._journal, self._executor, self.now_ms, self.settings)
        self.is_down = False

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def rounds(self) -> None:
        """Rounds at this instant until nothing more happens at it; every law after each of them, as long as anything is
        planned: who is inside its entitlement may well wait meanwhile.
        """
        scheduler = self.scheduler
        assert self._journal is not None
        while True:
            before = self._journal.head[0]
            scheduler.round()
            if not (scheduler.paused or self.is_down):
                self.laws.after_round(scheduler.state, self.now_ms)
            assert self.laws.found == [], self.laws.found
            if self._journal.head[0] == before:
                return

    def next_ms(self) -> int:
        """The next instant at which something falls due or happens; far off where nothing does."""
        assert self._executor is not None
        due = (self.scheduler.next_due_ms(), self._executor.next_event_ms())
        return min((each for each in due if each is not None), default=self.now_ms + WEEK_MS)

    def pass_ms(self, length_ms: int) -> None:
        """Let time pass, with rounds whenever something falls due or happens."""
        until_ms = self.now_ms + length_ms
        self.rounds()  # what was said a moment ago is heard at once
        while self.now_ms < until_ms:
            self.now_ms = max(self.now_ms, min(until_ms, self.next_ms()))
            self.rounds()

    # -- what is said --------------------------------------------------------------------------------------------------

    def buy(self, account: str, lots: int, level: Level, wished: dict[str, Any]) -> None:
        """The exchange lists the lots that are wanted, where it has not yet, and tells of the trade. Their cells are
        `like` those around that node, else around the first one of the `grade`.
        """
        like = wished.pop("like", None) or self._first_node(wished.pop("grade", self.nodes[0].grade))
        start_ms, end_ms = wished.pop("from_ms", 0), wished.pop("until_ms", WEEK_MS)
        name = wished.pop("position")
        par, also = Deliverable(grade=like.grade), wished.pop("also", "")
        terms = standard_terms(
            symbol=f"{name}.LOT",
            start_ms=START_MS + start_ms,
            end_ms=START_MS + end_ms,
            grade=like.grade,
            site=like.site,
            cell=level,
            gpus=self._gpus_of(level, like),
            deliverables=(par, *(_stand_in(word) for word in also.split(",") if word)),
            **{"replace_within_s": 0, **wished, "firmness": _firmness(wished.get("firmness", "firm"))},
        )
        self.scheduler.learn_instruments([terms])
        self.told(PositionEventKind.TRADE, name, account, lots, terms.id)

    def _first_node(self, grade: str) -> NodeSpec:
        return next(node for node in self.nodes if node.grade == grade)

    def _gpus_of(self, level: Level, like: NodeSpec) -> int:
        """GPUs of the cell of a level around a node."""
        nodes = [node for node in self.nodes if (node.grade, node.site) == (like.grade, like.site)]
        match level:
            case Level.GPU:
                return 1
            case Level.NODE:
                return like.gpus
            case Level.NVLINK_DOMAIN:
                return sum(node.gpus for node in nodes if (node.block, node.domain) == (like.block, like.domain))
            case Level.FABRIC_BLOCK:
                return sum(node.gpus for node in nodes if node.block == like.block)
            case _:
                return sum(node.gpus for node in nodes)

    def told(
        self,
        kind: PositionEventKind,
        position: str,
        account: str,
        lots: int,
        instrument: str,
        *,
        source: str | None = None,
        effective_ms: int | None = None,
        grades: tuple[str, ...] = (),
    ) -> None:
        """The exchange tells of an event. Raises Refused where it makes no sense; then the exchange did not say it."""
        self.scheduler.learn_event(
            PositionEvent(
                cursor=Cursor(stream="exchange", epoch=1, seq=self._seq + 1),
                kind=kind,
                position=position,
                account=account,
                instrument=instrument,
                lots=lots,
                source=source,
                grades=grades,
                effective_ms=self.now_ms if effective_ms is None else effective_ms,
                committed_ms=self.now_ms,
            )
        )
        self._seq += 1

    def submit(self, spec: GangSpec, work: Work) -> Gang:
        """A team submits a gang that does this work. Raises ValueError where its name is taken."""
        if spec.name in self.gang_ids:
            raise ValueError(f"there is a gang {spec.name!r} already")
        self.works[spec.name] = work
        gang = self.scheduler.submit(spec)
        self.gang_ids[spec.name] = gang.id
        return gang

    def break_down(self, fault: Fault) -> None:
        """Something breaks or is well again; a round sees it."""
        self.scheduler  # noqa: B018 - the fleet is seen first
        assert self._executor is not None
        self._executor.inject(fault)

    def set_policy(self, **values: Any) -> None:
        """Change the policy from now on."""
        self.settings = replace(self.settings, policy=replace(self.settings.policy, **values))
        if self._scheduler is not None:
            self._scheduler.settings = self.settings

    def metered(self) -> tuple[MeterRecord, ...]:
        """The last version of every record in the log."""
        self.rounds()
        assert self._journal is not None
        leaves = (decode(leaf) for _, leaf in self._journal.leaves("scenario"))
        return latest(leaf.record for leaf in leaves if isinstance(leaf, RecordLeaf))

    def certificates(self) -> tuple[PoolRecord, ...]:
        """The last certificate of each pool, by pool."""
        self.rounds()
        assert self._journal is not None
        leaves = (decode(leaf) for _, leaf in self._journal.leaves("scenario"))
        last = {leaf.pool.pool: leaf.pool for leaf in leaves if isinstance(leaf, PoolLeaf)}
        return tuple(last[pool] for pool in sorted(last))

    # -- what is there -------------------------------------------------------------------------------------------------

    def gang(self, name: str) -> Gang:
        """The gang of that name."""
        return self.scheduler.state.gangs.get(self.gang_ids[name])

    def facts(self, gang_id: str) -> Facts:
        """What is known of a gang to whoever asks why."""
        scheduler = self.scheduler
        return Facts(scheduler.state, scheduler.last_plan, scheduler.paused, self.now_ms, self.trail.of(gang_id))

    def name_of(self, gang_id: str) -> str:
        """The name of a gang."""
        return self.scheduler.state.gangs.get(gang_id).spec.name

    def since_start(self, at_ms: int) -> int:
        """An instant, counted from the scenario's beginning."""
        return at_ms - START_MS


def _stand_in(word: str) -> Deliverable:
    """`H200`, `H200:120%` where it is worth more or less than par, `H200?` where the buyer has to consent."""
    grade, _, worth = word.removesuffix("?").partition(":")
    conversion_ppm = int(worth.removesuffix("%")) * 10_000 if worth else ONE_PPM
    return Deliverable(grade=grade, conversion_ppm=conversion_ppm, needs_consent=word.endswith("?"))


def _firmness(given: str | Firmness) -> Firmness:
    return FIRMNESS[given] if isinstance(given, str) else given
