"""Coming back: fold the journal, say what nobody saw, and reconcile with what runs.

A snapshot only makes this fast; it is the fold's own dump, and where the journal is short it is checked against the
whole fold. Attempts that ran on while the scheduler was down are kept, ends that it missed are told by execution (they
are durable there), and what execution does not know is started (decided, not yet acted on) or lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Damaged
from scheduler.core.events import Event, ObservationGap, decode
from scheduler.core.metering.estimation import bridged, missing_readings
from scheduler.core.state.dump import dump, is_readable, load
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus
from scheduler.execution.protocol import Executor
from scheduler.ledger.journal import Journal
from scheduler.service import OBSERVED_CURSOR, Scheduler, ServiceSettings

CHECK_UP_TO_EVENTS = 50_000
"""Snapshots of journals up to this long are checked against the whole fold at every start."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a journal folds to."""

    state: State
    events: int
    from_snapshot: bool


def fold(journal: Journal, *, check_up_to: int = CHECK_UP_TO_EVENTS) -> Folded:
    """The state of a journal. Raises Damaged on a broken chain, an unreadable event, or a snapshot that is not the
    fold. A snapshot in another program's layout is left aside.
    """
    head, _ = journal.head
    kept = journal.snapshot()
    if kept is None or not is_readable(kept[2]):
        return Folded(_folded(journal, State(), 0), head, from_snapshot=False)
    seq, _, body = kept
    if head <= check_up_to:
        at_snapshot = _folded(journal, State(), 0, until_seq=seq)
        if dump(at_snapshot) != body:
            raise Damaged(f"the snapshot at event {seq} is not what the events before it fold to")
        return Folded(_folded(journal, at_snapshot, seq), head, from_snapshot=True)
    return Folded(_folded(journal, load(body), seq), head - seq, from_snapshot=True)


def save_snapshot(journal: Journal, scheduler: Scheduler) -> None:
    """Keep the state at the journal's head, so that the next start need not fold everything."""
    with scheduler.guard:
        seq, chain = journal.head
        journal.save_snapshot(seq, chain, dump(scheduler.state))


def reconcile(
    scheduler: Scheduler,
    journal: Journal,
    executor: Executor,
    now_ms: int,
    settings: ServiceSettings,
    *,
    same_nodes: bool = True,
) -> None:
    """Bring a folded scheduler up to date with the world; call once, before its first round. `same_nodes`: whether
    every node that was healthy is there; of those that are not, execution tells by itself.
    """
    events: list[Event] = []
    same = same_nodes and _unchanged(scheduler.state, executor)
    gap = observation_gap(scheduler.state, journal, now_ms, settings.reading_ms, same_state=same)
    if gap is not None:
        events.append(gap)
    known = {(attempt.gang, attempt.attempt) for attempt in executor.running()}
    placed = list(scheduler.state.gangs.placed.values())
    scheduler.adopt(events, launched=known)
    for gang in placed:
        key = (gang.id, gang.attempt)
        if key in known or (gang.status is GangStatus.BINDING):
            continue
        # Execution does not know it: either its end is on record there, or it is lost. Asking it to stop tells which.
        scheduler.adopt((), launched=(key,))
        executor.stop(gang.id, gang.attempt, 0)
    # What runs and is not decided (any more) is nobody's: the disk lost what was last written, or its end was taken.
    for gang_id, attempt in sorted(known - {(gang.id, gang.attempt) for gang in placed}):
        executor.stop(gang_id, attempt, 0)


def observation_gap(
    state: State, journal: Journal, now_ms: int, reading_ms: int, *, same_state: bool
) -> ObservationGap | None:
    """The time that nobody saw, where it is longer than one reading; None on a new journal.

    `same_state`: whether the fleet's work after it is what it was before, without which nothing may be estimated.
    """
    seen_ms = last_seen_ms(state, journal)
    if not len(state.fleet.nodes) or missing_readings(now_ms - seen_ms, reading_ms) == 0:
        return None
    same = bridged(now_ms - seen_ms, reading_ms, same_state=same_state)
    return ObservationGap(at_ms=now_ms, from_ms=seen_ms, bridged=same)


def last_seen_ms(state: State, journal: Journal) -> int:
    """Until when the fleet was seen, as far as the journal knows."""
    noted = journal.cursor(OBSERVED_CURSOR)
    return int(noted) if noted else state.now_ms


def healthy_nodes(state: State) -> tuple[NodeSpec, ...]:
    """The nodes that were there when the fleet was last seen: not lost, whatever else is wrong with them."""
    lost = state.health.cause == Cause.NODE_LOST
    return tuple(node for node in state.fleet.nodes if not lost[list(state.gpus_of(node.name))].any())


def _unchanged(state: State, executor: Executor) -> bool:
    """Whether what runs is what ran when the scheduler was last there."""
    placed = state.gangs.placed.values()
    ran = {(gang.id, gang.attempt, gang.started_ms) for gang in placed if gang.started_ms is not None}
    run = {(each.gang, each.attempt, each.started_ms) for each in executor.running() if each.started_ms is not None}
    return ran == run


def _folded(journal: Journal, state: State, after_seq: int, until_seq: int | None = None) -> State:
    for entry in journal.read(after_seq):
        if until_seq is not None and entry.seq > until_seq:
            break
        state.apply(decode(entry.version, entry.body))
    return state
