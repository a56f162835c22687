"""What the calendar of promises becomes when positions or the fleet change, as events.

A position that cannot be covered as sold is refused whole, and its shortfall is metered: nothing is oversold in
silence. It is tried again whenever something changed that could help: a node joined or is well again, a window opened
or closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.coverage.follow import follow_work
from scheduler.core.coverage.replace import Covering, Rank, cover, replace_failed, transfer
from scheduler.core.entitlements import demands
from scheduler.core.events import (
    CellsSwapped,
    CoverageAssigned,
    CoverageRefused,
    DrainOrdered,
    Event,
    HealthChanged,
    NodeJoined,
    ShortageDecided,
)
from scheduler.core.holdings import Demand
from scheduler.core.positions import PositionEvent, PositionEventKind
from scheduler.core.state.calendar import UNSOLD
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus, ends_by_ms, lost_work_ms

Why = Literal["traded", "replaced", "planned", "drained", "shortage", "transferred", "ended"]


def after_snapshot(state: State, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """All positions are new: what is not held any more is let go, what is not covered yet is covered."""
    gone = sorted({holding.position for holding in state.calendar.holdings} - set(state.book.positions))
    events: list[Event] = []
    if gone:
        events.append(_let_go(gone, now_ms, now_ms))
    held = {holding.position for holding in state.calendar.holdings}
    return events + _covered(state, [name for name in sorted(state.book.positions) if name not in held], now_ms, spares)


def after_position_event(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Coverage follows one position event, which is already folded in."""
    match event.kind:
        case PositionEventKind.TRADE:
            return _covered(state, [event.position], now_ms, spares)
        case PositionEventKind.TRANSFER | PositionEventKind.SPLIT:
            return _transferred(state, event, now_ms, spares)
        case PositionEventKind.EXPIRY | PositionEventKind.CORRECTION:
            return _corrected(state, event, now_ms)


def after_health(state: State, event: Event, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Coverage follows the fleet: lots on cells that fell ill move, refused ones are tried on cells that are well."""
    match event:
        case HealthChanged() if event.cause is not None:
            return replaced(state, now_ms, spares)
        case HealthChanged() | NodeJoined():
            return retry(state, now_ms, spares)
        case _:
            return []


def after_drain(state: State, order: DrainOrdered, spares: Sequence[str]) -> Iterator[Event]:
    """A drain: the node takes no new work; its lots move to other cells where there are any, at once."""
    yield order
    if order.by_ms is None:
        number = state.fleet.index_of_node[order.node]
        if state.health.cause[state.fleet.gpus_of_node(number).start] == Cause.DRAIN:
            yield HealthChanged(at_ms=order.at_ms, node=order.node)
        yield from retry(state, order.at_ms, spares)
    else:
        yield from replaced(state, order.at_ms, spares)


def retry(state: State, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Lots on sick cells and refused positions, tried again."""
    events = replaced(state, now_ms, spares) if not state.health.usable.all() else []
    if state.refused and not events:
        names = [name for name in sorted(state.refused) if _wanted(state, [name], now_ms)]
        events += [event for event in _covered(state, names, now_ms, spares) if not isinstance(event, CoverageRefused)]
    return events


def replaced(state: State, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """New cells for lots in force on unusable ones, by spares, unsold cells and the shortage rule."""
    covering = replace_failed(
        state.fleet,
        state.calendar.holdings,
        state.health.usable & (_promised_until_ms(state) <= now_ms),
        now_ms,
        _numbers(state, spares),
        {name: _rank(state, name) for name in {holding.position for holding in state.calendar.holdings}},
        loss_by_gpu=_loss_by_gpu(state, now_ms),
    )
    certificates = [
        ShortageDecided(at_ms=now_ms, certificate=certificate.body.decode()) for certificate in covering.certificates
    ]
    return [*certificates, *_assigned(covering, "replaced", now_ms)]


def follow(state: State, now_ms: int) -> list[Event]:
    """Swaps of equal cells, so that accounts own the cells on which their work runs."""
    accounts = np.full(len(state.gangs.ids) + 1, NOBODY, dtype=np.int32)
    fixed_numbers = np.zeros(len(state.gangs.ids) + 1, dtype=np.bool_)
    for number, gang in state.gangs.placed.items():
        if gang.status is not GangStatus.STOPPING:
            accounts[number] = state.accounts[gang.account]
            fixed_numbers[number] = not gang.spec.preemptible
    # A GPU that is being freed counts for the gang that gets it; -1 picks the last entry, which stays NOBODY.
    holder = np.where(state.gangs.claimant != NOBODY, state.gangs.claimant, state.gangs.occupant)
    swaps = follow_work(
        state.fleet,
        state.calendar.holdings,
        now_ms,
        state.account_of_position,
        accounts[holder],
        fixed=fixed_numbers[holder],
        owner=(state.calendar.owner_account, state.calendar.until_ms),
    )
    return [CellsSwapped(at_ms=now_ms, level=level, left=left, right=right) for level, left, right in swaps]


# -- inside ------------------------------------------------------------------------------------------------------------


def _covered(state: State, names: Sequence[str], now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Coverage for positions that have none."""
    wanted = _wanted(state, names, now_ms)
    missing = sorted(set(names) - {demand.position for demand in wanted})
    events: list[Event] = [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=_lots(state, name))
        for name in missing
        if _pool(state, name) is None and _lots(state, name)
    ]
    if not wanted:
        return events
    usable = state.health.usable & (_promised_until_ms(state) <= min(demand.start_ms for demand in wanted))
    for node in _numbers(state, spares):
        usable[state.fleet.gpus_of_node(node).start : state.fleet.gpus_of_node(node).stop] = False
    covering = cover(state.fleet, wanted, state.calendar.holdings, now_ms, usable, account_of=_account_names(state))
    events += _assigned(covering, "traded", now_ms)
    return events + [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=lots)
        for name, lots in covering.refused
    ]


def _transferred(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> list[Event]:
    source = event.source or ""
    if source in state.refused:
        return _covered(state, [event.position], now_ms, spares)
    busy = (state.gangs.occupant != NOBODY) | (state.gangs.claimant != NOBODY)
    lots = event.lots * state.instruments[event.instrument].lot.cells
    covering = transfer(state.fleet, state.calendar.holdings, source, event.position, lots, event.effective_ms, busy)
    return _assigned(covering, "transferred", now_ms, event.effective_ms)


def _corrected(state: State, event: PositionEvent, now_ms: int) -> list[Event]:
    """The position's coverage from the correction on is found anew, its old cells being free for it."""
    from_ms = max(now_ms, event.effective_ms)
    dropped = _let_go([event.position], now_ms, from_ms)
    if event.lots == 0:
        return [dropped]
    others = tuple(holding for holding in state.calendar.holdings if holding.position != event.position)
    wanted = _wanted(state, [event.position], from_ms)
    covering = cover(state.fleet, wanted, others, from_ms, state.health.usable, account_of=_account_names(state))
    refused = [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=lots)
        for name, lots in covering.refused
    ]
    return [dropped, *_assigned(covering, "planned", now_ms, from_ms), *refused]


def _let_go(names: Sequence[str], now_ms: int, from_ms: int) -> CoverageAssigned:
    return CoverageAssigned(at_ms=now_ms, from_ms=from_ms, why="ended", positions=tuple(names), holdings=())


def _assigned(covering: Covering, why: Why, now_ms: int, from_ms: int | None = None) -> list[Event]:
    if not covering.positions:
        return []
    return [
        CoverageAssigned(
            at_ms=now_ms,
            from_ms=now_ms if from_ms is None else from_ms,
            why=why,
            positions=covering.positions,
            holdings=covering.holdings,
        )
    ]


def _wanted(state: State, names: Iterable[str], now_ms: int) -> list[Demand]:
    """Demands from now on of positions whose pool exists."""
    found: list[Demand] = []
    for name in names:
        position = state.book.positions[name]
        pool = _pool(state, name)
        if pool is not None:
            terms = state.instruments[position.instrument]
            found += demands(position, terms, lambda _grade, _site, pool=pool: pool, now_ms)  # type: ignore[misc]
    return found


def _pool(state: State, name: str) -> int | None:
    terms = state.instruments[state.book.positions[name].instrument]
    pool = (terms.grade.klass, terms.site)
    return state.fleet.pools.index(pool) if pool in state.fleet.pools else None


def _lots(state: State, name: str) -> int:
    return max((lots for _, lots in state.book.positions[name].lots), default=0)


def _rank(state: State, name: str) -> Rank:
    position = state.book.positions[name]
    return Rank(state.instruments[position.instrument].firmness_rank, position.acquired_ms)


def _account_names(state: State) -> dict[str, str]:
    return {name: position.account for name, position in state.book.positions.items()}


def _numbers(state: State, nodes: Iterable[str]) -> list[int]:
    """Numbers of those nodes that have joined."""
    return sorted(state.fleet.index_of_node[node] for node in nodes if node in state.fleet.index_of_node)


def _promised_until_ms(state: State) -> npt.NDArray[np.int64]:
    """(n_gpus): until when an unsold GPU was given to a gang that cannot be preempted; 0 for all others."""
    until_ms = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for gang in state.gangs.placed.values():
        if not gang.spec.preemptible:
            until_ms[list(gang.gpu_numbers)] = ends_by_ms(gang)
    return np.where(state.calendar.owner_position == UNSOLD, until_ms, 0)


def _loss_by_gpu(state: State, now_ms: int) -> npt.NDArray[np.int64]:
    """(n_gpus): GPU-ms that taking each GPU would waste."""
    loss = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for gang in state.gangs.placed.values():
        loss[np.array(gang.gpu_numbers, dtype=np.int64)] += lost_work_ms(gang, now_ms) // len(gang.gpu_numbers)
    return loss
