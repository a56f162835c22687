"""What the calendar of promises becomes when positions or the fleet change, as events.

A position that cannot be covered as sold is refused whole, and its shortfall is metered: nothing is oversold in
silence. It is tried again whenever something changed that could help: a node joined or is well again, a window opened
or closed, work that cannot be preempted ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.coverage.columns import clipped, merged, moved
from scheduler.core.coverage.follow import follow_work
from scheduler.core.coverage.grades import cover_grades
from scheduler.core.coverage.replace import Covering, replace_failed, transfer
from scheduler.core.coverage.shortage import changes_nothing
from scheduler.core.coverage.topology import topology_of
from scheduler.core.errors import UnknownName
from scheduler.core.events import (
    CellsSwapped,
    CoverageAssigned,
    CoverageRefused,
    DrainOrdered,
    Event,
    GangEnded,
    HealthChanged,
    LotsRecalled,
    LotsReleased,
    NodeJoined,
    PerformanceMeasured,
    ShortageDecided,
    ShortageOver,
)
from scheduler.core.holdings import Demand, Holding
from scheduler.core.positions import PositionEvent, PositionEventKind
from scheduler.core.quantities import INT64_MAX
from scheduler.core.rounds.claims import (
    account_names,
    demands_of,
    handed_over,
    lots_of,
    node_numbers,
    pool_of,
    pools_of,
    promised_until_ms,
    rank_of,
    short_now,
    stand_ins_of,
    terms_of,
)
from scheduler.core.rounds.giving import alike, cell_of, fits, looks_for, may_be_given, off_slow, slow_for
from scheduler.core.rounds.making_room import wanted
from scheduler.core.rounds.observing import well_again
from scheduler.core.state.calendar import UNSOLD
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.health import HEALTHY
from scheduler.core.state.shortages import shortage_of
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus, lost_work_ms

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
    for names in alike(state, new):
        yield from _covered(state, names, now_ms, spares)
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
        case PositionEventKind.CONSENT:
            yield from retry(state, now_ms, spares)


def after_health(state: State, event: Event, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Coverage follows the fleet: lots on cells that fell ill move, those that have not begun leave slow ones, refused
    ones are tried on cells that are well, and on those that work which cannot be preempted has left.
    """
    match event:
        case HealthChanged() if event.cause is not None:
            yield from replaced(state, now_ms, spares)
        case DrainOrdered() if event.by_ms is not None:
            yield from replaced(state, now_ms, spares)
        case HealthChanged() | NodeJoined():
            yield from retry(state, now_ms, spares)
        case PerformanceMeasured():
            yield from off_slow(state, event, now_ms, spares)
        case GangEnded() if state.refused and not state.gangs.get(event.gang).spec.preemptible:
            yield from retry(state, now_ms, spares)
        case _:
            pass


def drained(state: State, node: str, by_ms: int | None, now_ms: int, spares: Sequence[str]) -> Iterable[Event]:
    """A drain as it is ordered, with what follows; None calls it off, and announced maintenance with it. The same again
    changes nothing. Raises UnknownName.
    """
    if node not in state.fleet.index_of_node:
        raise UnknownName("node", node, tuple(state.fleet.index_of_node))
    if state.health.draining.get(node) == by_ms and (by_ms is not None or node not in state.outages.coming):
        return ()
    return after_drain(state, DrainOrdered(at_ms=now_ms, node=node, by_ms=by_ms), spares)


def after_drain(state: State, order: DrainOrdered, spares: Sequence[str]) -> Iterator[Event]:
    """A drain: the node takes no new work; its lots move to other cells where there are any, at once."""
    yield order
    if order.by_ms is None:
        span = state.fleet.gpus_of_node(state.fleet.index_of_node[order.node])
        drained = tuple(gpu - span.start for gpu in span if state.health.cause[gpu] == Cause.DRAIN)
        yield from well_again(state, order.node, drained, order.at_ms)
        yield from retry(state, order.at_ms, spares)
    else:
        yield from replaced(state, order.at_ms, spares)


def retry(state: State, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Lots on sick cells, displaced and refused ones, tried again. What is refused still is not told again."""
    refused = [name for name in sorted(state.refused) if demands_of(state, [name], now_ms)]
    refused = [name for name in refused if state.refused[name] != Cause.SHORTAGE_RULE]
    partly = {holding.position for holding in state.calendar.holdings if holding.position in state.refused}
    # Positions that keep a part let go of it only for the whole, so each of them is tried alone.
    whole = [name for name in refused if name not in partly]
    for names in [*alike(state, whole), *([name] for name in refused if name in partly)]:
        for event in _covered(state, names, now_ms, spares):
            if not isinstance(event, CoverageRefused):
                yield event
    if state.shortages or short_now(state, now_ms) or not state.health.usable.all():
        yield from replaced(state, now_ms, spares)


def replaced(state: State, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """New cells for lots in force on unusable ones or on none: spares, unsold cells, then those of lower classes by the
    shortage rule. A certificate where its facts are new; an event where a shortage is over.
    """
    unsold = state.calendar.owner_position == UNSOLD
    usable = state.health.usable & ~(unsold & (promised_until_ms(state) > now_ms))
    covering = _replacing(state, usable, now_ms, spares)
    if covering.refused:
        # A contract goes before a borrower, also before one who cannot be preempted: he loses only where it must be.
        covering = _replacing(state, state.health.usable, now_ms, spares)
    lasting = dict(state.shortages)
    found = [(*shortage_of(certificate), certificate) for certificate in covering.certificates]
    for shortage, waits, certificate in found:
        known = lasting.get(shortage)
        if known is None or known.lots != waits.lots or not changes_nothing(certificate):
            yield ShortageDecided(at_ms=now_ms, certificate=certificate.body.decode())
    yield from _assigned(covering, "replaced", now_ms)
    still = {shortage for shortage, waits, _ in found if waits.lots}
    for shortage, waits in sorted(lasting.items()):
        if shortage not in still:
            yield ShortageOver(at_ms=now_ms, **shortage._asdict(), certificate=waits.certificate)
    for name, lots in covering.uncovered:
        if name not in state.refused:
            yield CoverageRefused(at_ms=now_ms, position=name, cause=Cause.SHORTAGE_RULE, uncovered_lots=lots)
    yield from _whole_again(state, now_ms)


def _whole_again(state: State, now_ms: int) -> Iterator[Event]:
    """Positions that the rule had displaced and that have all their cells again."""
    for name in sorted(name for name, cause in state.refused.items() if cause == Cause.SHORTAGE_RULE):
        held = state.calendar.of(name)
        kept, complete = _within_contract(state, name, held, now_ms, now_ms)
        if complete:
            yield CoverageAssigned(at_ms=now_ms, from_ms=now_ms, why="planned", positions=(name,), holdings=kept)


def _replacing(state: State, usable: npt.NDArray[np.bool_], now_ms: int, spares: Sequence[str]) -> Covering:
    waiting, oversold = _without_cell(state, now_ms)
    names = {holding.position for holding in state.calendar.holdings} | {
        each.position for each in (*waiting, *oversold)
    }
    return replace_failed(
        state.fleet,
        state.calendar.holdings,
        usable,
        now_ms,
        node_numbers(state, spares),
        {name: rank_of(state, name) for name in names},
        loss_by_gpu=_loss_by_gpu(state, now_ms),
        cell_gpus={name: cell_of(state, name)[1] for name in names},
        waiting=waiting,
        oversold=oversold,
        well=state.health.cause == HEALTHY,
        pools={name: pools_of(state, name) for name in stand_ins_of(state, names)},
        slow=slow_for(state, names),
    )


def _without_cell(state: State, now_ms: int) -> tuple[list[Demand], list[Demand]]:
    """(lots in force that a higher class displaced, or whose cell was theirs for a while, those of positions that were
    never covered as sold) and that stand on no cell.
    """
    waiting: list[Demand] = []
    oversold: list[Demand] = []
    for demand in demands_of(state, short_now(state, now_ms), now_ms):
        if demand.start_ms > now_ms:
            continue
        held = sum(held.start_ms <= now_ms for held in state.calendar.of(demand.position))
        if demand.lots > held:
            displaced = state.refused.get(demand.position, Cause.SHORTAGE_RULE) == Cause.SHORTAGE_RULE
            (waiting if displaced else oversold).append(demand._replace(lots=demand.lots - held))
    return waiting, oversold


def follow(state: State, now_ms: int) -> list[Event]:
    """Swaps of equal cells, so that accounts own the cells on which their work runs. Not of cells that they want free,
    and of unsold ones borrowed by what cannot be preempted, which may be more of its kind than its account owns.
    """
    accounts = np.full(len(state.gangs.ids) + 1, NOBODY, dtype=np.int32)
    fixed_numbers, borrows = np.zeros((2, len(state.gangs.ids) + 1), dtype=np.bool_)
    for number, gang in state.gangs.placed.items():
        if gang.status is not GangStatus.STOPPING:
            accounts[number] = state.accounts[gang.account]
            fixed_numbers[number] = not gang.spec.preemptible
            borrows[number] = fixed_numbers[number] and not gang.inside
    # A GPU that is being freed counts for the gang that gets it; -1 picks the last entry, which stays NOBODY.
    holder = np.where(state.gangs.claimant != NOBODY, state.gangs.claimant, state.gangs.occupant)
    unsold = state.calendar.owner_position == UNSOLD
    swaps = follow_work(
        state.fleet,
        state.calendar.holdings,
        now_ms,
        state.account_of_position,
        accounts[holder],
        fixed=fixed_numbers[holder],
        owner=(state.calendar.owner_account, state.calendar.until_ms),
        usable=state.health.usable & ~wanted(state, now_ms) & ~(borrows[holder] & unsold),
    )
    return [CellsSwapped(at_ms=now_ms, level=level, left=left, right=right) for level, left, right in swaps]


# -- inside ------------------------------------------------------------------------------------------------------------


def _covered(
    state: State, names: Sequence[str], now_ms: int, spares: Sequence[str], from_ms: int | None = None
) -> list[Event]:
    """Coverage of all that positions are to have from an instant (None: now) on, or a refusal of each, whole."""
    start_ms = now_ms if from_ms is None else from_ms
    wanted = demands_of(state, names, start_ms)
    missing = sorted(set(names) - {demand.position for demand in wanted})
    events: list[Event] = [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=lots_of(state, name))
        for name in missing
        if pool_of(state, name) is None and lots_of(state, name)
    ]
    if not wanted:
        return events
    covering = _found(state, wanted, start_ms, spares)
    events += _assigned_beside(state, covering, names, "traded" if from_ms is None else "planned", now_ms, start_ms)
    return events + [
        CoverageRefused(at_ms=now_ms, position=name, cause=Cause.OVERSOLD, uncovered_lots=lots)
        for name, lots in covering.refused
    ]


def _assigned_beside(
    state: State, covering: Covering, names: Sequence[str], why: Why, now_ms: int, from_ms: int
) -> list[Event]:
    """Coverage of new positions and of those whose future was planned anew for them.

    A position that is short stays so when its future cells are others: only those of `names` are covered as sold by it.
    """
    short = set(covering.positions) & set(state.refused) - set(names)
    if not short:
        return _assigned(covering, why, now_ms, from_ms)
    own = tuple(name for name in covering.positions if name in names)
    holdings = tuple(holding for holding in covering.holdings if holding.position in own)
    return _assigned(covering, "replaced", now_ms, from_ms) + _assigned(Covering(own, holdings), why, now_ms, from_ms)


def _found(state: State, wanted: Sequence[Demand], from_ms: int, spares: Sequence[str]) -> Covering:
    """Cells for demands beside what all other positions hold, or held, from an instant on."""
    names = sorted({demand.position for demand in wanted})
    others = [held for held in (*state.calendar.past, *state.calendar.holdings) if held.position not in names]
    usable = may_be_given(state, names, min(demand.start_ms for demand in wanted), spares)
    # What is open holds everybody's: it serves where none of these holds anything yet.
    calendar = state.calendar.opened(state.fleet)
    fresh = calendar if calendar.of_position.keys().isdisjoint(names) else None
    covering = cover_grades(
        state.fleet,
        wanted,
        others,
        from_ms,
        looks_for(state, names, usable),
        stand_ins_of(state, names),
        cells_per_lot={name: terms_of(state, name).lot.cells for name in names},
        account_of=account_names(state),
        calendar=fresh,
        handovers=handed_over(state),
    )
    if all(fits(state, holding) for holding in covering.holdings):
        return covering
    # The future was planned anew with cells that others' lots may not stand on: it stays as it was.
    most = {name: max(demand.lots for demand in wanted if demand.position == name) for name in names}
    return Covering((), (), tuple(sorted(most.items())))


def _traded(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> list[Event]:
    """Cells for a new position. One that is learnt within its bind limit is covered from its effect on, by cells that
    nobody else had meanwhile: a bind would have been in time.
    """
    late_ms = now_ms - event.effective_ms
    if 0 < late_ms <= state.instruments[event.instrument].bind_limit_s * 1_000:
        wanted = demands_of(state, [event.position], event.effective_ms)
        covering = _found(state, wanted, event.effective_ms, spares) if wanted else Covering((), ())
        if covering.positions == (event.position,) and not covering.refused:
            return _assigned(covering, "traded", now_ms, event.effective_ms)
    return _covered(state, [event.position], now_ms, spares)


def _transferred(state: State, event: PositionEvent, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    source = event.source or ""
    busy = _worked_by(state, state.book.positions[source].account)
    fleet, buyers = state.fleet, pools_of(state, event.position)
    busy |= ~np.isin(fleet.pool_of_node[fleet.node_of_gpu], buyers)  # of grades that the buyer may not get: the last
    lots = event.lots * state.instruments[event.instrument].lot.cells
    holdings = (*state.calendar.past, *state.calendar.holdings)
    if any(held.position == source and held.end_ms > event.effective_ms for held in holdings):
        covering = transfer(state.fleet, holdings, source, event.position, lots, event.effective_ms, busy)
        accepted = tuple(held for held in covering.holdings if held.position == source or _is_in(state, held, buyers))
        yield from _assigned(replace(covering, holdings=accepted), "transferred", now_ms, event.effective_ms)
        if accepted != covering.holdings and source not in state.refused:
            yield from _fitted(state, event.position, event.effective_ms, now_ms, spares)
    if source in state.refused:
        yield from _fitted(state, source, event.effective_ms, now_ms, spares)
        yield from _fitted(state, event.position, event.effective_ms, now_ms, spares)


def _is_in(state: State, held: Holding, pools: Sequence[int]) -> bool:
    return int(topology_of(state.fleet).pool[held.level][held.cell]) in pools


def withheld(state: State, event: LotsRecalled | LotsReleased, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Lots are recalled or released: their cells, idle ones first, serve others meanwhile, and come back."""
    yield event
    yield from _fitted(state, event.position, event.from_ms, now_ms, spares)
    yield from retry(state, now_ms, spares)


def _fitted(state: State, name: str, from_ms: int, now_ms: int, spares: Sequence[str]) -> Iterator[Event]:
    """Coverage of a position is what is due from an instant on: what is beyond goes, what is missing is found.

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
    """(what of `held` is due from an instant on, whether from now on it is all that is). Idle cells go first where lots
    are withheld.
    """
    lot = state.instruments[state.book.positions[name].instrument].lot
    contracted = state.due[name]
    busy = _busy_cells(state, name, held) if name in state.withheld else frozenset()
    edges = {from_ms, now_ms, *(at_ms for at_ms, _ in contracted.steps)}
    edges |= {edge_ms for holding in held for edge_ms in (holding.start_ms, holding.end_ms)}
    kept: list[Holding] = []
    complete = True
    for start_ms, end_ms in pairwise(sorted(edge_ms for edge_ms in edges if edge_ms >= from_ms)):
        cells = contracted.at(start_ms) // lot.gpus * lot.cells
        there = (h for h in held if h.start_ms <= start_ms < h.end_ms)
        here = sorted(there, key=lambda h: (h.cell not in busy, h.level, h.cell))
        complete = complete and (end_ms <= now_ms or len(here) >= cells)
        kept += [moved(holding, start_ms=start_ms, end_ms=end_ms) for holding in here[:cells]]
    return merged(kept), complete


def _busy_cells(state: State, name: str, held: Sequence[Holding]) -> frozenset[int]:
    """Cells of a position on which its account works."""
    busy = _worked_by(state, state.book.positions[name].account)
    cells = {(holding.level, holding.cell) for holding in held}
    return frozenset(cell for level, cell in cells if busy[state.fleet.gpus_of_cell(level, cell)].any())


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


def _worked_by(state: State, account: str) -> npt.NDArray[np.bool_]:
    """(n_gpus): where the account's own work runs or is about to; what others borrowed of it moves with the GPU."""
    busy = np.zeros(state.fleet.n_gpus, dtype=np.bool_)
    for gang in state.gangs.placed.values():
        if gang.account == account and gang.status is not GangStatus.STOPPING:
            busy[list(gang.gpu_numbers)] = True
    return busy


def _loss_by_gpu(state: State, now_ms: int) -> npt.NDArray[np.int64]:
    """(n_gpus): GPU-ms that taking each GPU would waste."""
    loss = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for gang in state.gangs.placed.values():
        loss[np.array(gang.gpu_numbers, dtype=np.int64)] += lost_work_ms(gang, now_ms) // len(gang.gpu_numbers)
    return loss
