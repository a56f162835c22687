"""Nothing oversold in silence, against an exact solver: what is promised exists, and what cannot be is refused.

The solver (HiGHS) knows only the law: each lot one whole cell for its whole window, no GPU twice at an instant. Where
it proves that no such cells exist, something must have been refused; where nothing was refused, it must agree that
cells exist. That it finds some where ours refuses is about how good the assignment is, not about law.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highspy
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.replace import cover
from scheduler.core.holdings import Demand, Holding
from tests.core.coverage.drawn import calendars, cells_at, faults, fleet_of

FLEETS = st.sampled_from(
    (fleet_of(1, 2, 2, 2), fleet_of(1, 1, 3, 2), fleet_of(1, 2, 1, 3), fleet_of(2, 1, 2, 1), fleet_of(1, 1, 2, 4))
)


def can_be(fleet: Fleet, demands: Sequence[Demand]) -> bool:
    """Whether cells exist for all lots of all demands, by integer programming: one variable for each lot and cell."""
    lots = [demand for demand in demands for _ in range(demand.lots)]
    if not lots:
        return True
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.silent()
    taken: dict[tuple[int, int], list[Any]] = {}
    for lot in lots:
        choices = [solver.addBinary() for _ in range(_cells(fleet, lot.level))]
        for cell, chosen in enumerate(choices):
            for gpu in fleet.gpus_of_cell(lot.level, cell).tolist():
                for at_ms in range(lot.start_ms, lot.end_ms):
                    taken.setdefault((gpu, at_ms), []).append(chosen)
        solver.addConstr(sum(choices) == 1)
    for sharers in taken.values():
        if len(sharers) > 1:
            solver.addConstr(sum(sharers) <= 1)
    solver.run()
    return bool(solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)


def _cells(fleet: Fleet, level: Level) -> int:
    return {Level.GPU: fleet.n_gpus, Level.NODE: len(fleet.nodes), Level.NVLINK_DOMAIN: len(fleet.domains)}[level]


@settings(max_examples=60)
@given(FLEETS, st.data())
def test_what_is_promised_exists_and_what_cannot_be_is_refused(fleet: Fleet, data: st.DataObject) -> None:
    demands = data.draw(calendars(fleet, most=5))
    made = assign(fleet, demands, rounds=200)
    assert faults(fleet, made.holdings) == []
    if not made.unplaced:
        assert can_be(fleet, demands)
    if not can_be(fleet, demands):
        assert made.unplaced


@settings(max_examples=40)
@given(FLEETS, st.data())
def test_trades_one_by_one_leave_every_position_whole_or_refused(fleet: Fleet, data: st.DataObject) -> None:
    demands = data.draw(calendars(fleet, most=5, first_ms=1))
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    accepted: list[Demand] = []
    holdings: list[Holding] = []
    for demand in demands:
        covering = cover(fleet, [demand], holdings, 0, usable)
        refused = dict(covering.refused)
        holdings = [h for h in holdings if h.position not in covering.positions] + list(covering.holdings)
        if demand.position not in refused and demand.lots:
            accepted.append(demand)
        for each in accepted:
            for at_ms in range(each.start_ms, each.end_ms):
                assert cells_at(fleet, holdings, each.position, at_ms) == each.lots
    assert faults(fleet, holdings) == []
    assert can_be(fleet, accepted)


def test_the_solver_knows_the_nested_counterexample() -> None:
    """Two nodes of two GPUs: by count it fits at every instant, and there are no cells for it without a move."""
    fleet = fleet_of(nodes=2, gpus=2)
    gpus = [Demand(f"g{k}", Level.GPU, 1, start, end, 0) for k, (start, end) in enumerate(((0, 2), (0, 3), (1, 3)))]
    nodes = [Demand(f"n{k}", Level.NODE, 1, start, end, 0) for k, (start, end) in enumerate(((0, 1), (2, 3)))]
    assert not can_be(fleet, [*gpus, *nodes])
    assert can_be(fleet, [*gpus, nodes[0]])
