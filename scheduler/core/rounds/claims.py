"""What positions claim of the fleet and what of it is spoken for, read from the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet
from scheduler.core.coverage.waterfall import Rank
from scheduler.core.entitlements import demands
from scheduler.core.holdings import Demand
from scheduler.core.instruments import Deliverable, InstrumentTerms
from scheduler.core.state.state import State
from scheduler.core.substitution import accepted_grades
from scheduler.core.workloads import ends_by_ms


def demands_of(state: State, names: Iterable[str], now_ms: int) -> list[Demand]:
    """Demands from now on of positions whose pool exists."""
    found: list[Demand] = []
    for name in names:
        position = state.due_position(name)
        pool = pool_of(state, name)
        if pool is not None:
            terms = state.instruments[position.instrument]
            found += demands(position, terms, lambda _grade, _site, pool=pool: pool, now_ms)  # type: ignore[misc]
    return found


def short_now(state: State, now_ms: int) -> list[str]:
    """Positions that stand on fewer GPUs, well or ill, than are due now, by name."""
    covered: Counter[str] = Counter()
    for holding in state.calendar.holdings:
        if holding.start_ms <= now_ms:
            covered[holding.position] += len(state.fleet.gpus_of_cell(holding.level, holding.cell))
    return sorted(name for name, due in state.due.items() if due.at(now_ms) > covered[name])


def pools_of(state: State, name: str) -> tuple[int, ...]:
    """The pools that may deliver a position now and from now on, as its terms and its owner's consents have it, par
    first; those that the fleet has.
    """
    terms = terms_of(state, name)
    return _pools(state.fleet, terms, accepted_grades(terms, state.book.positions[name], state.now_ms))


def pools_of_terms(fleet: Fleet, terms: InstrumentTerms) -> tuple[int, ...]:
    """Those that may deliver an instrument without asking the buyer."""
    return _pools(fleet, terms, [each for each in terms.deliverables if not each.needs_consent])


def _pools(fleet: Fleet, terms: InstrumentTerms, grades: Iterable[Deliverable]) -> tuple[int, ...]:
    pools = [(each.grade, terms.site) for each in grades]
    return tuple(fleet.pools.index(pool) for pool in pools if pool in fleet.pools)


def pool_of(state: State, name: str) -> int | None:
    """The first of a position's pools; None: the fleet has none of them."""
    pools = pools_of(state, name)
    return pools[0] if pools else None


def stand_ins_of(state: State, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The further pools of those positions that have more than one."""
    pools = {name: pools_of(state, name) for name in sorted(set(names))}
    return {name: theirs[1:] for name, theirs in pools.items() if len(theirs) > 1}


def terms_of(state: State, name: str) -> InstrumentTerms:
    """The terms of a position's instrument."""
    return state.instruments[state.book.positions[name].instrument]


def lots_of(state: State, name: str) -> int:
    """The most lots that a position ever holds."""
    return max((lots for _, lots in state.book.positions[name].lots), default=0)


def rank_of(state: State, name: str) -> Rank:
    """How the shortage rule sees a position."""
    position = state.book.positions[name]
    return Rank(state.instruments[position.instrument].firmness_rank, position.acquired_ms)


def handed_over(state: State) -> frozenset[str]:
    """Positions whose buyers accept planned handovers."""
    terms = state.instruments
    return frozenset(name for name, position in state.book.positions.items() if terms[position.instrument].handovers)


def account_names(state: State) -> dict[str, str]:
    """Account by position."""
    return {name: position.account for name, position in state.book.positions.items()}


def node_numbers(state: State, nodes: Iterable[str]) -> list[int]:
    """Numbers of those nodes that have joined."""
    return sorted(state.fleet.index_of_node[node] for node in nodes if node in state.fleet.index_of_node)


def promised_until_ms(state: State) -> npt.NDArray[np.int64]:
    """(n_gpus): until when each GPU was given to a gang that cannot be preempted; 0 where it was not."""
    until_ms = np.zeros(state.fleet.n_gpus, dtype=np.int64)
    for number in sorted(state.gangs.firm):
        gang = state.gangs.by_number(number)
        given = list(gang.gpu_numbers)
        until_ms[given] = np.maximum(until_ms[given], ends_by_ms(gang))
    return until_ms
