"""What a position contracts over time, and when accounts own more, against counting every instant."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.instruments import PeakProfile, standard_terms
from scheduler.core.intervals import StepFunction
from scheduler.core.placement.snapshot import Opening
from scheduler.core.positions import Position
from scheduler.core.state.contracted import contracted_gpus, next_contracted_ms, openings

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z, a Thursday."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
steps = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=6).map(StepFunction.of)
instants = st.integers(-1, 13)


def position(*lots: tuple[int, int]) -> Position:
    return Position(id="p", account="acme", instrument="A@1", acquired_ms=lots[0][0], lots=lots)


def test_base_load_contracts_its_lots_from_their_instant_to_the_windows_end() -> None:
    terms = standard_terms(symbol="A", start_ms=START_MS, end_ms=START_MS + 10_000, gpus=8)
    lots = ((START_MS - 5_000, 1), (START_MS + 4_000, 3), (START_MS + 7_000, 0))
    found = contracted_gpus(terms, position(*lots))
    assert found.steps == ((START_MS, 8), (START_MS + 4_000, 24), (START_MS + 7_000, 0))
    open_end = contracted_gpus(terms, position((START_MS + 4_000, 1)))
    assert open_end.steps == ((START_MS + 4_000, 8), (START_MS + 10_000, 0))
    assert contracted_gpus(terms, position((START_MS + 10_000, 1))).steps == ()


def test_peak_load_contracts_in_its_hours_alone() -> None:
    peak = PeakProfile(time_zone="UTC", start_local="08:00", end_local="11:00")
    terms = standard_terms(symbol="A", start_ms=START_MS, end_ms=START_MS + 7 * DAY_MS, gpus=2, profile=peak)
    found = contracted_gpus(terms, position((START_MS, 1), (START_MS + 9 * HOUR_MS, 2)))
    for hour in range(7 * 24):
        at = datetime.fromtimestamp((START_MS + hour * HOUR_MS) / 1_000, UTC)
        on = at.hour in (8, 9, 10) and at.strftime("%a") in ("Mon", "Tue", "Wed", "Thu", "Fri")
        expected = 2 * (1 if hour < 9 else 2) if on else 0
        assert found.at(START_MS + hour * HOUR_MS) == expected, at


@given(steps, st.none() | instants)
def test_the_next_instant_at_which_something_is_contracted(contracted: StepFunction, from_ms: int | None) -> None:
    every = range(-1 if from_ms is None else from_ms, 14)
    assert next_contracted_ms(contracted, from_ms) == next((ms for ms in every if contracted.at(ms) > 0), None)


@given(st.dictionaries(st.sampled_from(["a1", "a2", "b1"]), steps), instants)
def test_an_account_opens_when_it_first_owns_more_than_now(contracted: dict[str, StepFunction], now_ms: int) -> None:
    account_of = {"a1": "a", "a2": "a", "b1": "b"}

    def owned(account: str, at_ms: int) -> int:
        return sum(each.at(at_ms) for name, each in contracted.items() if account_of[name] == account)

    expected = {}
    for account in ("a", "b"):
        more = (ms for ms in range(now_ms + 1, 14) if owned(account, ms) > owned(account, now_ms))
        if (at_ms := next(more, None)) is not None:
            expected[account] = Opening(at_ms, owned(account, at_ms))
    assert openings(contracted, account_of, now_ms) == expected
