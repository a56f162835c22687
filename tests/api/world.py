"""A small real scheduler for the API's tests: four nodes of eight GPUs on virtual time, a journal on disk, real gRPC.

Time passes only when a test says so. acme owns two of the nodes, borealis one, one is unsold; cobalt owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.api.messages import ExchangeLink
from scheduler.api.server import ApiServer, ApiSources
from scheduler.api.trail import Trail
from scheduler.api.why import Facts, why
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.workloads import Gang, GangSpec
from scheduler.delivery import LogWriter
from scheduler.exchange.admission import Limits
from scheduler.exchange.denied import Denied
from scheduler.exchange.tls import Tls
from scheduler.execution.protocol import Launch
from scheduler.execution.simulated import SimulatedExecutor, Work
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.planners.planner import Planner
from scheduler.service import Scheduler, ServiceSettings

START_MS = 1_798_804_800_000
"""2027-01-01T12:00:00Z."""
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
GRADE = "LOGICAL"
SYMBOL = "LOGICAL.8N.LOCAL.BASE"


def nodes(count: int = 4, gpus: int = 8) -> tuple[NodeSpec, ...]:
    return tuple(NodeSpec(name=f"node-{i}", grade=GRADE, gpus=gpus, domain=f"domain-{i // 2}") for i in range(count))


class World:
    """See the module. `works` says what a gang does, by name of its specification; else it runs for an hour."""

    def __init__(self, folder: Path, fleet: tuple[NodeSpec, ...] = nodes(), planner: Planner | None = None) -> None:
        self.now_ms = START_MS
        self.works: dict[str, Work] = {}
        self.log_dir = folder / "logs"
        self.statements: dict[str, bytes] = {}
        self.rehearsed = ""
        """What the last rehearsal came to."""
        self.link = ExchangeLink(connected=True, detail="127.0.0.1:7000", last_heard_ms=START_MS)
        self.journal = Journal.open(folder / "journal.db", durable=False)
        self.executor = SimulatedExecutor(fleet, self.clock_ms, self._work)
        self.signer = SignerKey.generate("tenor.local/local")
        log = LogWriter("local", self.signer)
        settings = ServiceSettings(close_lag_ms=0)
        self.scheduler = Scheduler(self.journal, self.executor, log, self.clock_ms, settings, planner=planner)
        self._seq = 0
        self.told_reasons: set[str] = set()
        self.discreet: list[tuple[str, str, str]] = []
        """(account, what it is told, what whoever may see all is told) of each answer."""
        """Reasons that `why` gave."""
        self.rounds()

    def clock_ms(self) -> int:
        """The world's instant."""
        return self.now_ms

    def _work(self, launch: Launch) -> Work:
        return self.works.get(launch.name, Work(HOUR_MS, stop_ms=2_000))

    # -- time ----------------------------------------------------------------------------------------------------------

    def rounds(self) -> None:
        """Rounds at this instant until nothing more happens at it."""
        while True:
            before = self.journal.head[0]
            self.scheduler.round()
            if self.journal.head[0] == before:
                return

    def pass_ms(self, length_ms: int) -> None:
        """Let time pass, with a round whenever something falls due."""
        until_ms = self.now_ms + length_ms
        while True:
            due = [each for each in (self.scheduler.next_due_ms(), self.executor.next_event_ms()) if each is not None]
            self.now_ms = max(self.now_ms, min([*due, until_ms]))
            self.rounds()
            if self.now_ms >= until_ms:
                return

    # -- what is said --------------------------------------------------------------------------------------------------

    def instrument(self, symbol: str = SYMBOL, **terms: Any) -> InstrumentTerms:
        """The exchange lists whole nodes for a day; `terms` says what is otherwise."""
        given: dict[str, Any] = {
            "start_ms": START_MS,
            "end_ms": START_MS + DAY_MS,
            "grade": GRADE,
            "cell": Level.NODE,
            "gpus": 8,
            "replace_within_s": 0,
            **terms,
        }
        listed = standard_terms(symbol=symbol, **given)
        self.scheduler.learn_instruments([listed])
        return listed

    def trade(self, position: str, account: str, lots: int, instrument: str = f"{SYMBOL}@1") -> None:
        """The exchange tells of a trade."""
        self._told(PositionEventKind.TRADE, position, account, lots, instrument)

    def _told(self, kind: PositionEventKind, position: str, account: str, lots: int, instrument: str) -> None:
        self._seq += 1
        self.scheduler.learn_event(
            PositionEvent(
                cursor=Cursor(stream="exchange", epoch=1, seq=self._seq),
                kind=kind,
                position=position,
                account=account,
                instrument=instrument,
                lots=lots,
                effective_ms=START_MS,
                committed_ms=self.now_ms,
            )
        )

    def submit(self, account: str, name: str = "train", gpus: int = 8, workers: int = 1, **asked: Any) -> Gang:
        """A gang that checkpoints and declares two hours, unless told otherwise; rounds follow."""
        given: dict[str, Any] = {"checkpoint_ms": 10 * MINUTE_MS, "max_runtime_ms": 2 * HOUR_MS, **asked}
        spec = GangSpec(
            account=account, name=name, command=("train",), workers=workers, gpus_per_worker=gpus // workers, **given
        )
        gang = self.scheduler.submit(spec)
        self.rounds()
        return self.scheduler.state.gangs.get(gang.id)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def why(self, gang: Gang | str) -> str:
        """The answer as people see it."""
        name = gang if isinstance(gang, str) else gang.id
        attempts = Trail(self.journal).of(name)
        facts = Facts(self.scheduler.state, self.scheduler.last_plan, self.scheduler.paused, self.now_ms, attempts)
        answer = why(facts, name)
        self.told_reasons.add(answer.reason)
        account = self.scheduler.state.gangs.get(name).account
        self.discreet.append((account, str(why(replace(facts, told_to=account), name)), str(answer)))
        return "\n".join([answer.headline, *(f"  {sentence}" for sentence in answer.sentences)]) + "\n"

    def statement(self, position: str, as_of: int) -> bytes:  # noqa: ARG002 - one statement is all there is
        """What a test put there."""
        if position not in self.statements:
            raise InvalidValue("records", position, "none", "at least one")
        return self.statements[position]

    @contextmanager
    def served(
        self,
        address_file: Path | None = None,
        *,
        tls: Tls | None = None,
        limits: Limits | None = None,
        denied: Denied | None = None,
    ) -> Iterator[ApiServer]:
        """The API of this world, on a port that was free."""
        sources = ApiSources(
            self.clock_ms,
            "local",
            self.log_dir,
            self.statement,
            exchange=lambda: self.link,
            rehearsed=lambda: self.rehearsed,
        )
        server = ApiServer(
            self.scheduler,
            self.journal,
            "127.0.0.1:0",
            sources,
            address_file=address_file,
            tls=tls,
            limits=limits,
            denied=denied,
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()


def market(folder: Path, planner: Planner | None = None) -> World:
    """The world of the module: acme with two nodes, borealis with one."""
    world = World(folder, planner=planner)
    world.instrument()
    world.trade("p-acme", "acme", 2)
    world.trade("p-borealis", "borealis", 1)
    world.rounds()
    return world
