"""How many more lots may be sold over a window, with everything already sold still honoured after the loss of any k
failure domains.

Two bounds and a plan. *Proven*: so many find cells that are free throughout, and the N-k condition (`losses`) holds for
the envelope of the whole window (`standing`), in each part of the pool whose cells differ in size from the others'
(`prospects`); no later plan has to come true. *At most*: at some instant more would
break the condition, wherever they lay. *Planned*: so many were offered to the planner itself, with everything in force
pinned, and it found cells for them. Where all cells of a level are alike, proven and at most are equal at an instant,
but for GPU lots against the loss of blocks and above that are sold too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of, rows_of
from scheduler.core.coverage.filling import Filling, filling
from scheduler.core.coverage.losses import Outlook, domain_gpus, domain_places, largest
from scheduler.core.coverage.prospects import Offer, Prospects, prospects
from scheduler.core.coverage.replace import TRADE_ROUNDS, cover
from scheduler.core.coverage.standing import Mask, counted, none_of, pool_cells
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand
from scheduler.core.quantities import floor_div

OFFER = "offered"
"""The name of the position that is offered to the planner."""


@dataclass(frozen=True, slots=True)
class Deliverable:
    """How many more lots may be sold. `planned` is None where the planner was not asked.

    `tightest_ms`: the instant that allows no more than `at_most`. `survives`: whether what is sold already is shown to
    be honoured after the loss; where not, nothing more is proven.
    """

    proven: int
    at_most: int
    planned: int | None
    tightest_ms: int
    survives: bool


def deliverable(
    fleet: Fleet,
    holdings: Holdings,
    offer: Offer,
    now_ms: int,
    usable: Mask,
    sellable: Mask | None = None,
) -> Deliverable:
    """The two bounds from `now_ms` on; `planned_lots` gives the third number.

    `usable` and `sellable` are (n_gpus) bool: GPUs that may stand in for lost ones, and those of them that may be sold
    (None: all of them; spares may not).

    Raises InvalidValue where nothing is left to deliver, for fewer than 0 losses, or domains below a node.
    """
    stretches = [each._replace(start_ms=max(each.start_ms, now_ms)) for each in offer.stretches if each.end_ms > now_ms]
    if not stretches:
        raise InvalidValue("window", "what may be sold", "over", f"a delivery that ends after {now_ms}")
    held = columns_of(holdings)
    may_sell = usable if sellable is None else usable & sellable
    proven: list[int] = []
    bounds: list[tuple[int, int]] = []
    survives = True
    for stretch in stretches:
        found = prospects(fleet, held, offer, stretch.start_ms, stretch.end_ms, usable)
        survives &= found.survives
        proven.append(proven_cells(found, offer.level, may_sell))
        bounds.append(_count_bound(fleet, held, offer, stretch, usable, may_sell))
        cells = found.whole.standing.cells
        if stretch.start_ms == now_ms and cells.alike and not any(found.whole.waiting):
            # What is in force stays where it is: its layout counts, not its sum alone.
            now = prospects(fleet, held, offer, now_ms, now_ms + 1, usable).whole
            bounds.append((most_lots(fleet, now, offer.level, offer.pool, may_sell)[1], now_ms))
    most, tightest_ms = min(bounds)
    at_most = max(floor_div(most, offer.cells), floor_div(min(proven), offer.cells))
    return Deliverable(floor_div(min(proven), offer.cells), at_most, None, tightest_ms, survives)


def planned_lots(
    fleet: Fleet,
    holdings: Holdings,
    offer: Offer,
    now_ms: int,
    usable: Mask,
    sellable: Mask,
    found: Deliverable,
    *,
    account_of: Mapping[str, str] | None = None,
    rounds: int = TRADE_ROUNDS,
    handovers: Collection[str] = (),
) -> Deliverable:
    """The bounds with `planned`: the most lots, by halving between the bounds, that `cover` finds cells for and after
    which the loss is still survived. With no losses it is what a trade would be granted. `handovers`: the positions,
    `OFFER` for the offer's own, whose lots may be handed over by plan.
    """
    lowest, highest = found.proven, found.at_most
    while lowest < highest:
        lots = floor_div(lowest + highest + 1, 2)
        if _accepted(fleet, holdings, offer, lots, now_ms, usable, sellable, account_of, rounds, handovers):
            lowest = lots
        else:
            highest = lots - 1
    return replace(found, planned=lowest)


def proven_cells(found: Prospects, level: Level, sellable: Mask) -> int:
    """So many more cells of the offered level may be sold, of whatever size they are."""
    if not found.survives:
        return 0
    return sum(most_lots(part.fleet, part.view, level, part.pool, sellable)[0] for part in found.parts)


def most_lots(fleet: Fleet, view: Outlook, level: Level, pool: int, sellable: Mask) -> tuple[int, int]:
    """(so many more cells of a level may be sold, more may not wherever they lay).

    The second holds where all cells of a level are alike and nothing waits. `view` must be of lots offered at that
    level (see `losses.outlook`), and of cells of one size at each level that is sold or offered.
    """
    state, cells = view.standing, view.standing.cells
    if not view.survives:
        return 0, 0
    offered = state.free[level] & none_of(cells, level, counted(~sellable[topology_of(fleet).gpu_at]))
    below = [(view.margin(each), cells.inside[level][each][offered]) for each in LEVELS[: level + 1]]
    top = min(int(np.searchsorted(np.cumsum(np.sort(inside)[::-1]), margin, side="right")) for margin, inside in below)
    if level == LEVELS[-1] or top == 0:
        return top, top
    higher = LEVELS[level + 1 :]
    places = {above: domain_places(fleet, pool, cells, above, view.domain) for above in higher}
    filled = filling(state, level, offered)
    limits = _limits(filled, filled.fewest_broken(), view, places)
    # Above the domains' level only the count of broken cells matters, and this order breaks fewest.
    least, most = min(top, *limits.values()), min(top, *(n for above, n in limits.items() if above >= view.domain))
    for between in higher:
        if between < view.domain and least < top:
            order = filled.most_lost_first(between, view.taken[between], places[between])
            limits = _limits(filled, order, view, places)
            least, most = max(least, min(top, *limits.values())), min(most, limits[between])
    return least, max(least, most)


def _limits(filled: Filling, order: IntArray, view: Outlook, places: Mapping[Level, IntArray]) -> dict[Level, int]:
    return {above: filled.limit(order, view, above, places[above]) for above in places}


def _count_bound(
    fleet: Fleet, held: Columns, offer: Offer, stretch: Demand, usable: Mask, sellable: Mask
) -> tuple[int, int]:
    """(cells, instant): more than so many cells cannot be sold, whatever the future is planned like.

    At every instant and level the lots, with those that are offered, need no more cells than there are; and, counted
    in GPUs, no more than are left when the largest domains are gone.
    """
    cells, topology = pool_cells(fleet, offer.pool), topology_of(fleet)
    uncovered = offer.waiting(stretch.start_ms, stretch.end_ms)
    rows = (held.start_ms < stretch.end_ms) & (held.end_ms > stretch.start_ms)
    edges = [held.start_ms[rows], np.array([each.start_ms for each in uncovered], dtype=np.int64)]
    instants = np.unique(np.clip(np.concatenate([[stretch.start_ms], *edges]), stretch.start_ms, stretch.end_ms - 1))
    gpus_lost = largest(domain_gpus(fleet, offer.pool, usable, offer.domain), offer.losses)
    found: list[tuple[int, int]] = []
    for level in LEVELS[: offer.level + 1]:
        for may, lost in ((sellable, 0), (usable, gpus_lost)):
            if lost and level != Level.GPU:
                continue
            whole = none_of(cells, level, counted(~may[topology.gpu_at]))
            starts = np.zeros(fleet.n_gpus + 1, dtype=np.int64)
            starts[cells.first[level] + 1] = True if lost else whole
            before = np.cumsum(starts)
            need = np.zeros(len(instants) + 1, dtype=np.int64)
            for above in LEVELS[level:]:
                weight = cells.least_inside[above][level]
                theirs = np.flatnonzero(rows & (held.level == above))
                first = topology.first_gpu[above][held.cell[theirs]]
                # What stands on cells that may not be sold takes none that may.
                inside = before[topology.end_gpu[above][held.cell[theirs]]] - before[first]
                _add(need, instants, held.start_ms[theirs], held.end_ms[theirs], np.minimum(inside, weight))
                for each in uncovered:
                    if each.level == above:
                        edge = np.array([each.start_ms, each.end_ms], dtype=np.int64)
                        _add(need, instants, edge[:1], edge[1:], np.array([weight * each.lots]))
            left = int(whole.sum()) - lost - np.cumsum(need[:-1])
            tightest = int(np.argmin(left))
            found.append((floor_div(int(left[tightest]), cells.least_inside[offer.level][level]), tightest))
    most, at = min(found)
    return max(0, most), int(instants[at])


def _add(need: IntArray, instants: IntArray, start_ms: IntArray, end_ms: IntArray, weight: IntArray) -> None:
    """Counts windows into the differences of a sum over instants; what starts before the first counts from it on."""
    np.add.at(need, np.maximum(np.searchsorted(instants, start_ms, side="right") - 1, 0), weight)
    np.add.at(need, np.searchsorted(instants, end_ms), -weight)


def _accepted(
    fleet: Fleet,
    holdings: Holdings,
    offer: Offer,
    lots: int,
    now_ms: int,
    usable: Mask,
    sellable: Mask,
    account_of: Mapping[str, str] | None,
    rounds: int,
    handovers: Collection[str],
) -> bool:
    """Whether the planner finds cells for so many lots, and the loss is survived once they are sold."""
    wanted = [each._replace(position=OFFER, lots=each.lots * lots) for each in offer.stretches]
    covering = cover(
        fleet, wanted, holdings, now_ms, sellable, account_of=account_of, rounds=rounds, handovers=handovers
    )
    if covering.refused:
        return False
    changed = set(covering.positions)
    held = columns_of([*(each for each in rows_of(holdings) if each.position not in changed), *covering.holdings])
    return all(
        prospects(fleet, held, offer, max(each.start_ms, now_ms), each.end_ms, usable).survives
        for each in offer.stretches
        if each.end_ms > now_ms
    )
