"""What more may be sold and what stands behind what is, as the state has it at an instant.

`SalesView` is what such questions need, taken out of the state at once and never changed after, so that long answers
are worked out while the state moves on. A question about what a trade would be granted sees the GPUs as trades see them
(`covering`): healthy, no spares, not promised to work that cannot be preempted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.accreditation import Accredited, accredited, changes
from scheduler.core.coverage.columns import Columns, columns_of
from scheduler.core.coverage.deliverable import OFFER, Deliverable, deliverable, planned_lots
from scheduler.core.coverage.losses import DEFAULT_DOMAIN, DEFAULT_LOSSES
from scheduler.core.coverage.prospects import Offer
from scheduler.core.coverage.standing import Mask
from scheduler.core.coverage.topology import topology_of
from scheduler.core.entitlements import demands
from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.holdings import Demand
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.positions import Position
from scheduler.core.quantities import floor_div
from scheduler.core.rounds.claims import (
    account_names,
    demands_of,
    handed_over,
    node_numbers,
    pools_of_terms,
    promised_until_ms,
    stand_ins_of,
)
from scheduler.core.state.state import State

MOST_ROWS = 2_000
"""Rows of accreditation in one answer: a calendar that changes more often is asked about in parts."""


@dataclass(frozen=True, slots=True)
class SalesView:
    """See the module. Masks are (n_gpus) bool."""

    fleet: Fleet
    held: Columns
    now_ms: int
    usable: Mask
    spare: Mask
    """GPUs of spare nodes."""
    promised_until_ms: np.ndarray[tuple[int], np.dtype[np.int64]]
    uncovered: tuple[Demand, ...]
    """Lots that are sold and covered by nothing."""
    accounts: Mapping[str, str]
    """Account by position."""
    handovers: frozenset[str] = frozenset()
    """Positions whose buyers accept planned handovers."""

    def sellable(self, from_ms: int) -> Mask:
        """What a trade that begins then may be given."""
        return np.asarray(self.usable & ~self.spare & (self.promised_until_ms <= max(from_ms, self.now_ms)))

    def of_size(self, level: Level, gpus: int) -> Mask:
        """The GPUs in cells of a level that have so many: a lot stands on no others."""
        topology = topology_of(self.fleet)
        alike = np.flatnonzero(topology.end_gpu[level] - topology.first_gpu[level] == gpus)
        found = np.zeros(self.fleet.n_gpus, dtype=np.bool_)
        found[topology.gpu_at[topology.spread(level, alike)[1]]] = True
        return found


@dataclass(frozen=True, slots=True)
class Risk:
    """The loss that is to be survived: any so many failure domains of a level."""

    losses: int = DEFAULT_LOSSES
    domain: Level = DEFAULT_DOMAIN


def sales_view(state: State, now_ms: int, spares: Iterable[str]) -> SalesView:
    """What is sold at `now_ms` and on which fleet. `spares` are names of nodes."""
    spare = np.zeros(state.fleet.n_gpus, dtype=np.bool_)
    for node in node_numbers(state, spares):
        spare[state.fleet.gpus_of_node(node).start : state.fleet.gpus_of_node(node).stop] = True
    return SalesView(
        fleet=state.fleet,
        held=columns_of(state.calendar.holdings),
        now_ms=now_ms,
        usable=state.health.usable.copy(),
        spare=spare,
        promised_until_ms=promised_until_ms(state),
        uncovered=_uncovered(state, now_ms),
        accounts=account_names(state),
        handovers=handed_over(state),
    )


def offer_of(
    view: SalesView,
    terms: InstrumentTerms,
    from_ms: int | None = None,
    to_ms: int | None = None,
    risk: Risk | None = None,
) -> Offer:
    """One lot of an instrument from now on, in `[from_ms, to_ms)` where they are given.

    Raises UnknownName where the fleet has no such pool, InvalidValue where nothing is delivered in the window.
    """
    pool = pool_number(view.fleet, terms)
    start_ms = max(view.now_ms, 0 if from_ms is None else from_ms)
    one = Position(id=OFFER, account=OFFER, instrument=terms.id, acquired_ms=0, lots=((0, 1),))
    found = demands(one, terms, lambda _grade, _site: pool, start_ms)
    stretches = (
        found
        if to_ms is None
        else tuple(each._replace(end_ms=min(each.end_ms, to_ms)) for each in found if each.start_ms < to_ms)
    )
    if not stretches:
        window = (start_ms, terms.window.end_ms if to_ms is None else to_ms)
        expected = f"a part of [{max(view.now_ms, terms.window.start_ms)}, {terms.window.end_ms}) with delivery"
        raise InvalidValue("window", f"what may be sold of {terms.id}", window, expected)
    risk = risk or Risk()
    return Offer(stretches, risk.losses, risk.domain, view.uncovered)


def may_be_sold(view: SalesView, terms: InstrumentTerms, offer: Offer, *, plan: bool) -> Deliverable:
    """How many more lots of the instrument's offer, in all pools that its terms let deliver it; when it is tightest and
    whether the loss is survived is told of the offer's own. `plan`: the planner is asked too, which takes longer.
    """
    first, *further = (
        _may_be_sold(view, terms, _in_pool(offer, pool), plan=plan)
        for pool in dict.fromkeys((offer.pool, *pools_of_terms(view.fleet, terms)))
    )
    return replace(
        first,
        proven=first.proven + sum(each.proven for each in further),
        at_most=first.at_most + sum(each.at_most for each in further),
        planned=None if first.planned is None else first.planned + sum(each.planned or 0 for each in further),
    )


def _in_pool(offer: Offer, pool: int) -> Offer:
    return replace(offer, stretches=tuple(each._replace(pool=pool) for each in offer.stretches))


def _may_be_sold(view: SalesView, terms: InstrumentTerms, offer: Offer, *, plan: bool) -> Deliverable:
    alike = view.of_size(terms.lot.cell, floor_div(terms.lot.gpus, terms.lot.cells))
    sellable = view.sellable(offer.stretches[0].start_ms) & alike
    found = deliverable(view.fleet, view.held, offer, view.now_ms, view.usable, sellable)
    if not plan:
        return found
    return planned_lots(
        view.fleet,
        view.held,
        offer,
        view.now_ms,
        view.usable,
        sellable,
        found,
        account_of=view.accounts,
        handovers=view.handovers | {OFFER} if terms.handovers else (),
    )


def accreditation(
    view: SalesView, pool: int, levels: Sequence[Level], from_ms: int, to_ms: int, risk: Risk
) -> tuple[Accredited, ...]:
    """Sold against accredited, by interval and level of a pool. Raises InvalidValue where the calendar changes too
    often in the window for one answer.
    """
    count = intervals(view, pool, from_ms, to_ms)
    if count * len(levels) > MOST_ROWS:
        most = f"at most {MOST_ROWS // len(levels)}: ask for a shorter window"
        raise InvalidValue("intervals", f"accreditation in [{from_ms}, {to_ms})", count, most)
    return accredited(
        view.fleet,
        view.held,
        view.usable,
        from_ms,
        to_ms,
        sellable=view.sellable(from_ms),
        losses=risk.losses,
        domain=risk.domain,
        uncovered=view.uncovered,
        pools=(pool,),
        levels=levels,
    )


def intervals(view: SalesView, pool: int, from_ms: int, to_ms: int) -> int:
    """Into how many intervals the changes of a pool's calendar cut a window."""
    return len(changes(view.fleet, view.held, pool, view.uncovered, from_ms, to_ms)) - 1


def pool_number(fleet: Fleet, terms: InstrumentTerms) -> int:
    """The first pool of an instrument, of its par grade where there is one. Raises UnknownName where the fleet has none
    of its pools.
    """
    pools = pools_of_terms(fleet, terms)
    if not pools:
        known = [f"{grade} at {site}" for grade, site in fleet.pools]
        raise UnknownName(f"pool of {terms.id}", f"{terms.grade.klass} at {terms.site}", known)
    return pools[0]


def _uncovered(state: State, now_ms: int) -> tuple[Demand, ...]:
    """Demands of positions that are not covered as sold, less the cells that they hold throughout; in each pool that
    may serve them.
    """
    found: list[Demand] = []
    names = sorted(set(state.refused) & set(state.book.positions))
    stand_ins = stand_ins_of(state, names)
    for demand in demands_of(state, names, now_ms):
        kept = sum(
            held.position == demand.position and held.start_ms <= demand.start_ms and held.end_ms >= demand.end_ms
            for held in state.calendar.holdings
        )
        if demand.lots > kept:
            pools = (demand.pool, *stand_ins.get(demand.position, ()))
            found += [demand._replace(lots=demand.lots - kept, pool=pool) for pool in pools]
    return tuple(found)
