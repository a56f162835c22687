"""The replay's loop: the production scheduler on a virtual clock that jumps from instant to instant.

At each instant everything that happens then is told first, in a fixed order (execution, submissions), and one round
follows. The journal is real, on disk; it is not synced (`durable=False`), since a replay can be run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from scheduler.core.cluster import NodeSpec
from scheduler.core.events import Event
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.closing import Closing
from scheduler.core.placement.snapshot import Policy
from scheduler.core.positions import PositionEvent
from scheduler.core.state.dump import dump
from scheduler.core.state.state import State
from scheduler.core.workloads import GangSpec
from scheduler.delivery import LogWriter
from scheduler.exchange.statements import Versions, statement_of
from scheduler.execution.simulated import Fault, SimulatedExecutor, Work
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.recovery import fold
from scheduler.replay.checks import LawChecker
from scheduler.replay.figures import Figures
from scheduler.replay.shortage import UnavoidableShortfall
from scheduler.service import Scheduler, ServiceSettings

LOG_NAME = "tenor.local/replay"
STREAM = "replay"


Coming = tuple[int, GangSpec, Work]
"""An instant, what is submitted then, and what it will do."""


@dataclass(frozen=True, slots=True)
class Script:
    """What happens in a run: everything that is not the scheduler's to decide."""

    start_ms: int
    end_ms: int
    nodes: tuple[NodeSpec, ...]
    terms: tuple[InstrumentTerms, ...]
    trades: tuple[PositionEvent, ...]
    gangs: Iterable[Coming]
    """(instant, what is submitted, what it does), by instant."""
    faults: tuple[Fault, ...] = ()
    spares: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What a run came to."""

    figures: Figures
    events: int
    rounds: int
    seconds: float
    violations: int
    faults: list[str]
    unavoidable_gpu_ms: int
    state: State
    statement_totals: dict[str, int]
    """Over all positions' statements: amounts by line in micro-units of the currency, quantities in GPU-ms."""


class Watcher(Protocol):
    """Somebody who follows a run; told of everything, and changing nothing."""

    def on_event(self, event: Event) -> None:
        """An event was folded in."""

    def after_round(self, state: State, now_ms: int) -> None:
        """A round is over."""


Progress = Callable[[int, int, Scheduler], None]
"""Called now and then with (virtual now, end, the scheduler)."""


def play(
    script: Script,
    journal_path: Path | str,
    *,
    check: bool = False,
    progress: Progress | None = None,
    watchers: Sequence[Watcher] = (),
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Outcome:
    """Run the script to its end. Raises what the journal and the scheduler raise."""
    began = monotonic()
    figures, laws, shortage = Figures(), LawChecker(), UnavoidableShortfall()
    now = [script.start_ms]
    works: dict[str, Work] = {}

    def heard(closing: Closing) -> None:
        figures.on_records(closing.records, closing.pools)
        if check:
            laws.on_records(closing.records, closing.interval.end_ms)

    executor = SimulatedExecutor(script.nodes, lambda: now[0], lambda launch: works[launch.gang], script.faults)
    with Journal.open(journal_path, durable=False) as journal:
        signer = SignerKey.generate(LOG_NAME)
        settings = ServiceSettings(policy=policy, close_lag_ms=0, spares=script.spares)
        scheduler = Scheduler(journal, executor, LogWriter(STREAM, signer), lambda: now[0], settings)
        scheduler.listeners.append(figures.on_event)
        followers = (*watchers, laws) if check else tuple(watchers)
        scheduler.listeners += [follower.on_event for follower in followers]
        scheduler.closing_listeners.append(heard)
        scheduler.round()
        scheduler.learn_instruments(script.terms)
        for trade in script.trades:
            scheduler.learn_event(trade)
        due_ms = scheduler.round()
        gangs = iter(script.gangs)
        coming = next(gangs, None)
        rounds = 0
        while True:
            at_ms = _next_ms(due_ms, executor.next_event_ms(), coming)
            if at_ms is None or at_ms > script.end_ms:
                break
            shortage.advance(scheduler.state, at_ms)
            now[0] = max(at_ms, now[0])
            coming = _submitted(scheduler, coming, gangs, works, now[0])
            due_ms = scheduler.round()
            rounds += 1
            for follower in followers:
                follower.after_round(scheduler.state, now[0])
            if progress is not None and rounds % 64 == 0:
                progress(now[0], script.end_ms, scheduler)
        figures.finish(min(now[0], script.end_ms))
        if check:
            laws.finish(dump(scheduler.state), lambda: dump(fold(journal).state), now[0])
        return Outcome(
            figures=figures,
            events=journal.head[0],
            rounds=rounds,
            seconds=monotonic() - began,
            violations=laws.count,
            faults=laws.found,
            unavoidable_gpu_ms=shortage.gpu_ms,
            state=scheduler.state,
            statement_totals=_statement_totals(journal, scheduler.state),
        )


def _statement_totals(journal: Journal, state: State) -> dict[str, int]:
    """Every position's statement, computed from the log's leaves, added up."""
    found = Versions()
    for index, leaf in journal.leaves(STREAM):
        found.add(index, leaf)
    totals: Counter[str] = Counter()
    for name, versions in sorted(found.of.items()):
        position = state.book.positions[name]
        statement = statement_of(state.instruments[position.instrument], position, versions)
        totals["statements"] += 1
        totals["contracted_gpu_ms"] += statement.contracted_gpu_ms
        totals["amount_micro"] += statement.amount_micro
        for line in statement.lines:
            totals[f"{line.kind}_micro"] += line.amount_micro
    return dict(sorted(totals.items()))


def _submitted(
    scheduler: Scheduler, coming: Coming | None, later: Iterator[Coming], works: dict[str, Work], now_ms: int
) -> Coming | None:
    """Submit everything up to now; what comes next."""
    while coming is not None and coming[0] <= now_ms:
        gang = scheduler.submit(coming[1])
        works[gang.id] = coming[2]
        coming = next(later, None)
    return coming


def _next_ms(due_ms: int | None, event_ms: int | None, coming: Coming | None) -> int | None:
    """The next instant at which something happens."""
    instants = (due_ms, event_ms, coming[0] if coming else None)
    return min((at_ms for at_ms in instants if at_ms is not None), default=None)
