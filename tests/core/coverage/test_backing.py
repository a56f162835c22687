"""What stands behind promises: handovers by plan, and what would stand in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.coverage.assign import assign
from scheduler.core.coverage.backing import Handover, StandIns, handovers, stand_ins
from scheduler.core.coverage.columns import columns_of
from scheduler.core.coverage.standing import standing
from scheduler.core.holdings import Holding
from tests.core.coverage.drawn import calendars, fleet_of, fleets


def held(position: str, cell: int, start_ms: int, end_ms: int) -> Holding:
    return Holding(position=position, level=Level.NODE, cell=cell, start_ms=start_ms, end_ms=end_ms)


def test_a_handover_is_where_a_position_leaves_a_cell_and_enters_another() -> None:
    lots = [held("a", 0, 0, 4), held("a", 1, 4, 9), held("a", 2, 0, 9), held("b", 1, 0, 4), held("b", 3, 5, 9)]
    assert handovers(lots, 0, 9) == (Handover("a", 4, Level.NODE, (0,), (1,)),)
    assert handovers(lots, 4, 9) == ()
    assert handovers([held("a", 0, 0, 4), held("a", 0, 4, 9)], 0, 9) == ()


@given(st.data())
def test_stand_ins_are_whole_free_cells_of_spares_or_of_nobody(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    lots = assign(fleet, data.draw(calendars(fleet, most=4)), rounds=20).holdings
    usable, spare = (
        np.array(data.draw(st.lists(st.booleans(), min_size=fleet.n_gpus, max_size=fleet.n_gpus))) for _ in range(2)
    )
    level = data.draw(st.sampled_from(Level))
    state = standing(fleet, 0, columns_of(lots), 0, 9, usable)
    found = stand_ins(fleet, state, level, spare)
    taken = {int(gpu) for lot in lots for gpu in fleet.gpus_of_cell(lot.level, lot.cell)}
    for cell in (*found.spares, *found.unsold):
        gpus = fleet.gpus_of_cell(level, cell)
        assert usable[gpus].all()
        assert not taken & set(gpus.tolist())
        assert (cell in found.spares) == bool(spare[gpus].all())


def test_a_spare_is_told_apart_from_what_is_unsold() -> None:
    fleet = fleet_of(nodes=3)
    spare = np.zeros(fleet.n_gpus, dtype=np.bool_)
    spare[4:] = True
    state = standing(fleet, 0, columns_of([held("a", 0, 0, 9)]), 1, 2, ~np.zeros(fleet.n_gpus, dtype=np.bool_))
    assert stand_ins(fleet, state, Level.NODE, spare) == StandIns((2,), (1,))
