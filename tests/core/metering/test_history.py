"""A field's history against the definition: the latest row at or before an instant, ties to the later told."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.metering.history import FieldHistory

rows = st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(1, 5))
forgettings = st.integers(0, 9)


def defined(told: list[tuple[int, int, int]], gpu: int, at_ms: int) -> int:
    best_ms, value = -1, 0
    for told_ms, of_gpu, told_value in told:
        if of_gpu == gpu and best_ms <= told_ms <= at_ms:
            best_ms, value = told_ms, told_value
    return value


@given(st.lists(rows | forgettings, max_size=12))
def test_values_are_the_latest_told_however_late_and_whatever_was_forgotten(
    story: list[tuple[int, int, int] | int],
) -> None:
    history, told, horizon_ms = FieldHistory(0), [], 0
    history.grow(2)
    for step in story:
        if isinstance(step, int):
            horizon_ms = max(horizon_ms, step)
            history.forget(horizon_ms)
        else:
            told.append(step)
            history.tell(np.array([step[0]]), np.array([step[1]]), step[2])
    for at_ms in range(horizon_ms, 11):
        assert history.at(at_ms).tolist() == [defined(told, gpu, at_ms) for gpu in range(2)]


@given(st.lists(rows, max_size=200))
def test_rows_come_out_in_order_of_time_then_of_telling(told: list[tuple[int, int, int]]) -> None:
    history = FieldHistory(0)
    history.grow(2)
    for at_ms, gpu, value in told:
        history.tell(np.array([at_ms]), np.array([gpu]), value)
    expected = sorted((row for row in told if 2 < row[0] < 8), key=lambda row: row[0])
    assert history.between(2, 8).T.tolist() == [list(row) for row in expected]
