"""What people type: lengths of time and instants, as values."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from scheduler.api.wording import duration
from scheduler.cli import parsing

NOON_MS = 1_798_804_800_000


@pytest.mark.parametrize(
    ("text", "length_ms"),
    [("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1h30m", 5_400_000), ("500ms", 500), ("1d", 86_400_000)],
)
def test_lengths_of_time(text: str, length_ms: int) -> None:
    assert parsing.duration_ms(text) == length_ms


@pytest.mark.parametrize("text", ["", "10", "h", "10 m", "1.5h", "-5m", "5m ", "10x", "ms", "m10"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a length of time with its unit"):
        parsing.duration_ms(text)


@given(st.integers(min_value=0, max_value=315_360_000_000))
def test_every_length_of_time_can_be_typed(length_ms: int) -> None:
    assert parsing.duration_ms(f"{length_ms}ms") == length_ms


@given(st.integers(min_value=0, max_value=10**15))
def test_shown_lengths_of_time_never_say_more_than_there_is(length_ms: int) -> None:
    units = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
    words = duration(length_ms).split()
    shown_ms = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert shown_ms <= length_ms
    assert length_ms - shown_ms < units[words[-1]] * 24 * 60


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2027-01-01T12:00", NOON_MS),
        ("2027-01-01T12:00:00", NOON_MS),
        ("2027-01-01T12:00:00Z", NOON_MS),
        ("2027-01-01 12:00", NOON_MS),
        ("2027-01-01", NOON_MS - 43_200_000),
        (str(NOON_MS), NOON_MS),
    ],
)
def test_instants(text: str, at_ms: int) -> None:
    assert parsing.instant_ms(text) == at_ms


@pytest.mark.parametrize("text", ["", "tomorrow", "2027", "2027-02-30", "12:00", "2027-01-01T25:00", "1"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected an instant in UTC"):
        parsing.instant_ms(text)


def test_a_moment_may_be_told_from_now_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "now_ms", lambda: NOON_MS)
    assert parsing.moment_ms("10m") == NOON_MS + 600_000
    assert parsing.moment_ms("2027-01-01T12:00") == NOON_MS


@pytest.mark.parametrize(
    ("gpus", "workers", "each", "shape"),
    [
        (None, None, None, (1, 1)),
        (8, None, None, (1, 8)),
        (16, 2, None, (2, 8)),
        (16, None, 8, (2, 8)),
        (None, 4, 2, (4, 2)),
        (None, 4, None, (4, 1)),
        (16, 2, 8, (2, 8)),
    ],
)
def test_the_shape_of_a_gang(gpus: int | None, workers: int | None, each: int | None, shape: tuple[int, int]) -> None:
    assert parsing.gang_shape(gpus, workers, each) == shape


@pytest.mark.parametrize(("gpus", "workers", "each"), [(7, 2, None), (16, 3, 8), (9, None, 8), (1, 2, None)])
def test_numbers_that_do_not_multiply(gpus: int, workers: int | None, each: int | None) -> None:
    with pytest.raises(typer.BadParameter, match="give numbers that multiply"):
        parsing.gang_shape(gpus, workers, each)
