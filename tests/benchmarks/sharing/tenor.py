"""Tenor itself: the production loop (journal, fold, planner, coverage, metering) on the case, heard by the same tally.

After each round that stopped somebody the plan is asked again with the same facts. Whom it would stop then for an owner
are `further_stops`, the beginning of a cycle; whom it would move, `further_moves`: a round empties nodes for one gang.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.causes import Bearer, Cause
from scheduler.core.events import Event, GangEnded, GangPlaced, GangStarted, GangStopAsked, GangSubmitted, HealthChanged
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Policy, Stop
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.quantities import MS_PER_DAY
from scheduler.core.state.state import State
from scheduler.core.workloads import StopCause
from scheduler.replay import book
from scheduler.replay.driver import Script, play
from tests.benchmarks.harness import Figure
from tests.benchmarks.sharing.cases import Case
from tests.benchmarks.sharing.tally import Tally

METERING_INTERVAL_S = 3_600
AFTERWARDS_DAYS = 120
"""How long ownership goes on as on the last day: longer than any job of a published trace."""


class Listener:
    """Tells the tally what the scheduler's events say. Gangs are named in order of submission, from 1."""

    def __init__(self, case: Case, tally: Tally, policy: Policy) -> None:
        self._tally = tally
        self._policy = policy
        self._origin_ms = case.replay.origin_ms
        self._nodes = case.replay.nodes
        self._down: set[str] = set()
        self._stopped = False
        self.further_stops = 0
        self.further_moves = 0
        self.moves = 0

    def on_event(self, event: Event) -> None:
        """One event."""
        at_ms = event.at_ms - self._origin_ms
        match event:
            case GangSubmitted():
                self._tally.submitted(_number(event.gang), at_ms)
            case GangPlaced():
                self._tally.placed(_number(event.gang), at_ms)
            case GangStarted():
                self._tally.started(_number(event.gang), at_ms)
            case GangStopAsked() if event.cause is not StopCause.NODE_LOST:
                moved = event.cause is StopCause.CONSOLIDATED
                self._stopped = True
                self.moves += moved
                self._tally.stop_asked(_number(event.gang), at_ms, moved=moved)
            case GangEnded():
                self._tally.ended(_number(event.gang), at_ms, failed=event.exit_code is None)
            case HealthChanged(cause=cause, node=node):
                (self._down.discard if cause is None else self._down.add)(node)
                self._tally.health(self._nodes - len(self._down), at_ms)
            case _:
                pass

    def after_round(self, state: State, now_ms: int) -> None:
        """The same facts again, where somebody was stopped."""
        if self._stopped:
            self._stopped = False
            again = plan(state.snapshot(now_ms), self._policy)
            moved = [action.cause is StopCause.CONSOLIDATED for action in again.actions if isinstance(action, Stop)]
            self.further_moves += sum(moved)
            self.further_stops += len(moved) - sum(moved)


def run_tenor(case: Case, policy: Policy = Policy()) -> dict[str, Figure]:  # noqa: B008 - frozen
    """The row of the production code."""
    tally = Tally(case)
    listener = Listener(case, tally, policy)
    outcome = play(script_of(case), ":memory:", watchers=(listener,), policy=policy)
    tally.finish()
    bearers = {cause.name: cause.bearer for cause in Cause}
    seller_short_gpu_ms = sum(
        gpu_ms for name, gpu_ms in outcome.figures.lost_by_cause.items() if bearers[name] is Bearer.SELLER
    )
    return {
        **tally.row(),
        "moves": listener.moves,
        "further_stops": listener.further_stops,
        "further_moves": listener.further_moves,
        "metered_shortfall_gpu_ms": seller_short_gpu_ms,
        "metered_avoidable_gpu_ms": max(0, seller_short_gpu_ms - outcome.unavoidable_gpu_ms),
    }


def script_of(case: Case) -> Script:
    """The case as a run of the production loop: what was sold each day, and the last day's lots for ever after."""
    replay = case.replay
    end_ms = replay.origin_ms + replay.end_ms
    terms = (
        *book.instruments(replay, METERING_INTERVAL_S),
        book.node_terms(end_ms, end_ms + AFTERWARDS_DAYS * MS_PER_DAY, METERING_INTERVAL_S),
    )
    trades = tuple(book.trades(replay, terms))
    return Script(
        start_ms=replay.origin_ms,
        end_ms=end_ms,
        nodes=book.nodes(replay.nodes),
        terms=terms,
        trades=(*trades, *_afterwards(case, terms[-1].id, len(trades))),
        gangs=book.gangs(replay),
        faults=case.faults,
    )


def _afterwards(case: Case, instrument: str, n_before: int) -> Iterator[PositionEvent]:
    replay = case.replay
    last = zip(replay.tenants, case.nodes_owned[-1].tolist(), strict=True)
    for seq, (tenant, nodes) in enumerate(((tenant, nodes) for tenant, nodes in last if nodes), n_before + 1):
        yield PositionEvent(
            cursor=Cursor(stream=book.STREAM, epoch=1, seq=seq),
            kind=PositionEventKind.TRADE,
            position=f"{tenant}-afterwards",
            account=tenant,
            instrument=instrument,
            lots=nodes,
            effective_ms=replay.origin_ms,
            committed_ms=replay.origin_ms,
        )


def _number(gang: str) -> int:
    return int(gang.removeprefix("gang-")) - 1
