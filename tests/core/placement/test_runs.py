"""What runs of turns stand on: the heap, cells by their slots, room in the record.

That they decide what the rules do is in `test_equal`, where every case is played in runs too.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.placement.asking import InRuns
from scheduler.core.placement.books import Books
from scheduler.core.placement.cells import MANY_SLOTS, shift, smallest, tally_slots
from scheduler.core.placement.intake import new_record, stage_of, take_in
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.owned import INSIDE
from scheduler.core.placement.roll import Listed, pop, push
from scheduler.core.placement.runs import FULL, NO_ORDER, serve_inside
from scheduler.core.placement.snapshot import Policy
from tests.benchmarks.crowd import crowd_of


@given(st.lists(st.integers(0, 50) | st.none(), max_size=60))
def test_the_earliest_turn_leaves_the_heap_first(steps: list[int | None]) -> None:
    heap = np.zeros(len(steps) + 1, dtype=np.int64)
    held: list[int] = []
    for turn in steps:
        if turn is not None:
            push(heap, turn)
            held.append(turn)
        elif held:
            assert pop(heap) == min(held)
            held.remove(min(held))
    assert [pop(heap) for _ in range(len(held))] == sorted(held)


slots = st.integers(0, 6) | st.sampled_from((MANY_SLOTS - 1, MANY_SLOTS, MANY_SLOTS + 3, MANY_SLOTS + 9))


@given(
    st.lists(slots, min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), slots, st.integers(1, 70)), max_size=30),
    st.integers(0, 3),
)
def test_the_smallest_cell_that_suffices_is_the_first_of_the_fewest(
    first: list[int], steps: list[tuple[int, int, int]], low: int
) -> None:
    low = min(low, len(first) - 1)
    having = np.array(first, dtype=np.int64)
    by_slots = np.zeros((MANY_SLOTS + 1, 2), dtype=np.int64)
    tally_slots(having, by_slots, low, len(having))
    for at, number, parts in steps:
        cell = low + at % (len(first) - low)
        shift(having, by_slots, cell, number - int(having[cell]))
        enough = [(int(having[cell]), cell) for cell in range(low, len(having)) if having[cell] >= parts]
        assert smallest(having, by_slots, low, len(having), parts) == min(enough, default=(0, -1))[1]


def test_a_run_places_whoever_needs_no_more_than_free_gpus() -> None:
    snapshot = crowd_of(2_000, 4).snapshot
    books, lines = Books(snapshot, Policy()), Lines(snapshot.queue)
    listed = Listed(books, lines.queue)
    lines.serve_by(listed)
    asking = InRuns(books, lines, listed, INSIDE)
    by_hand = 0
    while asking.next() is not None:
        by_hand += 1
    assert len(books.actions) > 5 * by_hand
    assert len(books.actions) == len(books.decided) == len(books.rows) - books.first_of_round > 50


def test_a_run_stops_where_the_record_is_full_and_goes_on_once_it_is_taken_in() -> None:
    snapshot = crowd_of(2_000, 4).snapshot
    made: list[list[str]] = []
    for room in (3, 10_000):
        books, lines = Books(snapshot, Policy()), Lines(snapshot.queue)
        listed = Listed(books, lines.queue)
        lines.serve_by(listed)
        asking = InRuns(books, lines, listed, INSIDE)
        record = new_record(books, len(listed.gangs))
        record = record._replace(placed=record.placed[:room])
        codes = [FULL]
        while codes[-1] == FULL or codes[-1] >= 0:
            codes.append(serve_inside(stage_of(books, asking.roll, record), INSIDE, len(books.rows)))
            take_in(books, lines, listed, record, inside=True)
            if codes[-1] < FULL:
                listed.order_firm(books, NO_ORDER - codes[-1])
                codes.append(FULL)
        assert (codes.count(FULL) > 15) == (room == 3)
        made.append([repr(action) for action in books.actions])
    assert made[0] == made[1]


@pytest.mark.parametrize("opened", [0, 1, 5])
def test_rows_opened_later_are_in_their_part(opened: int) -> None:
    snapshot = crowd_of(1_000).snapshot
    books = Books(snapshot, Policy())
    before = list(books.part(3, 0))
    first = len(books.rows)
    gangs = books.rows[:opened]
    books.open_rows(gangs, [(0,)] * opened, [3] * opened, [0] * opened, range(opened))
    assert books.part(3, 0) == [*before, *range(first, first + opened)]
