"""What the calendar of promises becomes when positions or the fleet change, as events.

A position that cannot be covered as sold is refused whole, and its shortfall is metered: nothing is oversold in
silence. It is tried again whenever something changed that could help: a node joined or is well again, a window opened
or closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.coverage.columns import clipped, merged, moved
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
from scheduler.core.holdings import Demand, Holding
from scheduler.core.positions import PositionEvent, PositionEventKind
from scheduler.core.quantities import INT64_MAX
from scheduler.core.state.calendar import UNSOLD
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus, ends_by_ms, lost_work_ms

Why = Literal["traded", "replaced", "planned", "drained", "shortage", "transferred", "ended"]


def after_snapshot(state: State, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """All positions are as a snapshot says: what is not held any more is let go, what changed is made to fit, what is
    not covered yet is covered. Each event is told as it is asked for, the ones before being folded in.
    """
    held = {holding.position for holding in (*state.calendar.past, *state.calendar.holdings)}
    gone = sorted({holding.position for holding in state.calendar.holdings} - set(state.book.positions))
    if gone:
        yield _let_go(gone, now_ms, now_ms)
    for name in sorted(held & set(state.book.positions)):
        yield from _fitted(state, name, state.meter.history.horizon_ms, now_ms, spares)
    new = [name for name in sorted(state.book.positions) if name not in held and name not in state.refused]
    yield from _covered(state, new, now_ms, spares)
    yield from retry(state, now_ms, spares)


def after_position_event(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Coverage follows one position event, which is already folded in; from its effect on, also where that is past."""
    match event.kind:
        case PositionEventKind.TRADE:
            yield from _traded(state, event, now_ms, spares)
        case PositionEventKind.TRANSFER | PositionEventKind.SPLIT:
            yield from _transferred(state, event, now_ms, spares)
        case PositionEventKind.EXPIRY | PositionEventKind.CORRECTION:
            yield from _fitted(state, event.position, event.effective_ms, now_ms, spares)
            yield from retry(state, now_ms, spares)


def after_health(state: State, event: Event, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Coverage follows the fleet: lots on cells that fell ill move, refused ones are tried on cells that are well."""
    match event:
        case HealthChanged() if event.cause is not None:
            yield from replaced(state, now_ms, spares)
        case HealthChanged() | NodeJoined():
            yield from retry(state, now_ms, spares)
        case _:
            pass


def after_drain(state: State, order: DrainOrdered, spares: Sequence[str]) -> Iterator[Event]:
    """A drain: the node takes no new work; its lots move to other cells where there are any, at once."""
    yield order
    if order.by_ms is None:
        span = state.fleet.gpus_of_node(state.fleet.index_of_node[order.node])
        drained = tuple(gpu - span.start for gpu in span if state.health.cause[gpu] == Cause.DRAIN)
        if drained:
            yield HealthChanged(at_ms=order.at_ms, node=order.node, gpus=drained)
        yield from retry(state, order.at_ms, spares)
    else:
        yield from replaced(state, order.at_ms, spares)


def retry(state: State, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Lots on sick cells and refused positions, tried again. What is refused still is not told again."""
    if not state.health.usable.all():
        yield from replaced(state, now_ms, spares)
    refused = [name for name in sorted(state.refused) if _wanted(state, [name], now_ms)]
    partly = {holding.position for holding in state.calendar.holdings if holding.position in state.refused}
    # Positions that keep a part let go of it only for the whole, so each of them is tried alone.
    for names in [[name for name in refused if name not in partly], *([name] for name in refused if name in partly)]:
        for event in _covered(state, names, now_ms, spares):
            if not isinstance(event, CoverageRefused):
                yield event


def replaced(state: State, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """New cells for lots in force on unusable ones, by spares, unsold cells and the shortage rule."""
    unsold = state.calendar.owner_position == UNSOLD
    usable = state.health.usable & ~(unsold & (_promised_until_ms(state) > now_ms))
    covering = _replacing(state, usable, now_ms, spares)
    if covering.refused:
        # A contract goes before a borrower, also before one who cannot be preempted: he loses only where it must be.
        covering = _replacing(state, state.health.usable, now_ms, spares)
    certificates = [
        ShortageDecided(at_ms=now_ms, certificate=certificate.body.decode()) for certificate in covering.certificates
    ]
    return [*certificates, *_assigned(covering, "replaced", now_ms)]


def _replacing(state: State, usable: npt.NDArray[np.bool_], now_ms: int, spares: Sequence[str]) -> Covering:
    return replace_failed(
        state.fleet,
        state.calendar.holdings,
        usable,
        now_ms,
        _numbers(state, spares),
        {name: _rank(state, name) for name in {holding.position for holding in state.calendar.holdings}},
        loss_by_gpu=_loss_by_gpu(state, now_ms),
    )


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


def _covered(
    state: State, names: Sequence[str], now_ms: int, spares: Sequence[str], from_ms: int | None = None
) -> list[Event]:
    """Coverage of all that positions are to have from an instant (None: now) on, or a refusal of each, whole."""
    start_ms = now_ms if from_ms is None else from_ms
    wanted = _wanted(state, names, start_ms)
    missing = sorted(set(names) - {demand.position for demand in wanted})
    events: list[Event] = [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=_lots(state, name))
        for name in missing
        if _pool(state, name) is None and _lots(state, name)
    ]
    if not wanted:
        return events
    covering = _found(state, wanted, start_ms, spares)
    events += _assigned(covering, "traded" if from_ms is None else "planned", now_ms, start_ms)
    return events + [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=lots)
        for name, lots in covering.refused
    ]


def _found(state: State, wanted: Sequence[Demand], from_ms: int, spares: Sequence[str]) -> Covering:
    """Cells for demands beside what all other positions hold, or held, from an instant on."""
    names = {demand.position for demand in wanted}
    others = [held for held in (*state.calendar.past, *state.calendar.holdings) if held.position not in names]
    usable = state.health.usable & (_promised_until_ms(state) <= min(demand.start_ms for demand in wanted))
    for node in _numbers(state, spares):
        usable[state.fleet.gpus_of_node(node).start : state.fleet.gpus_of_node(node).stop] = False
    # What is open holds everybody's: it serves where none of these holds anything yet.
    calendar = state.calendar.opened(state.fleet)
    fresh = calendar if names.isdisjoint(calendar.of_position) else None
    return cover(state.fleet, wanted, others, from_ms, usable, account_of=_account_names(state), calendar=fresh)


def _traded(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Cells for a new position. One that is learnt within its bind limit is covered from its effect on, by cells that
    nobody else had meanwhile: a bind would have been in time.
    """
    late_ms = now_ms - event.effective_ms
    if 0 < late_ms <= state.instruments[event.instrument].bind_limit_s * 1_000:
        wanted = _wanted(state, [event.position], event.effective_ms)
        covering = _found(state, wanted, event.effective_ms, spares) if wanted else Covering((), ())
        if covering.positions == (event.position,) and not covering.refused:
            return _assigned(covering, "traded", now_ms, event.effective_ms)
    return _covered(state, [event.position], now_ms, spares)


def _transferred(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    source = event.source or ""
    busy = _worked_by(state, state.book.positions[source].account)
    lots = event.lots * state.instruments[event.instrument].lot.cells
    holdings = (*state.calendar.past, *state.calendar.holdings)
    if any(held.position == source and held.end_ms > event.effective_ms for held in holdings):
        covering = transfer(state.fleet, holdings, source, event.position, lots, event.effective_ms, busy)
        yield from _assigned(covering, "transferred", now_ms, event.effective_ms)
    if source in state.refused:
        yield from _fitted(state, source, event.effective_ms, now_ms, spares)
        yield from _fitted(state, event.position, event.effective_ms, now_ms, spares)


def _fitted(state: State, name: str, from_ms: int, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Coverage of a position is what is contracted from an instant on: what is beyond goes, what is missing is found.

    Where it cannot be found, the position keeps what it has. What was missing in the past stays missing.
    """
    held = [h for h in (*state.calendar.past, *state.calendar.holdings) if h.position == name and h.end_ms > from_ms]
    kept, complete = _within_contract(state, name, held, from_ms, now_ms)
    before = merged(part for h in held if (part := clipped(h, from_ms, INT64_MAX)) is not None)
    if kept != before:
        why: Why = "planned" if kept else "ended"
        yield CoverageAssigned(at_ms=now_ms, from_ms=from_ms, why=why, positions=(name,), holdings=kept)
    if not complete:
        yield from _covered(state, [name], now_ms, spares, max(now_ms, from_ms))


def _within_contract(
    state: State, name: str, held: Sequence[Holding], from_ms: int, now_ms: int
) -> tuple[tuple[Holding, ...], bool]:
    """(what of `held` is contracted from an instant on, whether from now on it is all that is)."""
    lot = state.instruments[state.book.positions[name].instrument].lot
    contracted = state.contracted[name]
    edges = {from_ms, now_ms, *(at_ms for at_ms, _ in contracted.steps)}
    edges |= {edge_ms for holding in held for edge_ms in (holding.start_ms, holding.end_ms)}
    kept: list[Holding] = []
    complete = True
    for start_ms, end_ms in pairwise(sorted(edge_ms for edge_ms in edges if edge_ms >= from_ms)):
        cells = contracted.at(start_ms) // lot.gpus * lot.cells
        here = sorted((h for h in held if h.start_ms <= start_ms < h.end_ms), key=lambda h: (h.level, h.cell))
        complete = complete and (end_ms <= now_ms or len(here) >= cells)
        kept += [moved(holding, start_ms=start_ms, end_ms=end_ms) for holding in here[:cells]]
    return merged(kept), complete


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


def _worked_by(state: State, account: str) -> npt.NDArray[np.bool_]:
    """(n_gpus): where the account's own work runs or is about to; what others borrowed of it moves with the GPU."""
    busy = np.zeros(state.fleet.n_gpus, dtype=np.bool_)
    for gang in state.gangs.placed.values():
        if gang.account == account and gang.status is not GangStatus.STOPPING:
            busy[list(gang.gpu_numbers)] = True
    return busy


def _promised_until_ms(state: State) -> npt.NDArray[np.int64]:
    """(n_gpus): until when each GPU was given to a gang that cannot be preempted; 0 where it was not."""
    until_ms = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for number in sorted(state.gangs.firm):
        gang = state.gangs.by_number(number)
        until_ms[list(gang.gpu_numbers)] = ends_by_ms(gang)
    return until_ms


def _loss_by_gpu(state: State, now_ms: int) -> npt.NDArray[np.int64]:
    """(n_gpus): GPU-ms that taking each GPU would waste."""
    loss = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for gang in state.gangs.placed.values():
        loss[np.array(gang.gpu_numbers, dtype=np.int64)] += lost_work_ms(gang, now_ms) // len(gang.gpu_numbers)
    return loss
