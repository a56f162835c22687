"""The class of an error says what the caller can do; the message says what, which, was, expected."""

from __future__ import annotations

import inspect

import pytest

from scheduler.core import errors
from scheduler.core.errors import (
    Conflict,
    Damaged,
    InvalidInstrument,
    InvalidValue,
    Refused,
    TenorError,
    Unauthorised,
    Unavailable,
    UnknownName,
)

ALL = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TenorError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_error_stands_in_the_drawn_tree(kind: type[TenorError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [(TenorError, 1), (Refused, 2), (Unavailable, 3), (Damaged, 4)],
)
def test_the_exit_code_is_what_the_caller_can_do(kind: type[TenorError], exit_code: int) -> None:
    assert kind.exit_code == exit_code
    for below in kind.__subclasses__():
        if kind is not TenorError:
            assert below.exit_code == exit_code


@pytest.mark.parametrize("kind", [InvalidValue, InvalidInstrument, UnknownName, Conflict, Unauthorised])
def test_what_will_always_be_refused_is_a_refusal(kind: type[TenorError]) -> None:
    assert issubclass(kind, Refused)
    assert not issubclass(kind, Unavailable | Damaged)


def test_a_wrong_value_says_what_which_was_and_expected() -> None:
    error = InvalidValue("floor_ppm", "H100.BASE", 1_200_000, "0..1000000")
    assert str(error) == "floor_ppm of H100.BASE was 1200000, expected 0..1000000"
    assert (error.what, error.which, error.was, error.expected) == ("floor_ppm", "H100.BASE", 1_200_000, "0..1000000")


def test_a_listing_names_every_fault() -> None:
    error = InvalidInstrument("H100.BASE", (fault for fault in ("unknown grade X", "the window ends before it starts")))
    assert error.faults == ("unknown grade X", "the window ends before it starts")
    assert str(error) == ("instrument H100.BASE cannot be listed: unknown grade X; the window ends before it starts")


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ((), "account 'acmee' is not known"),
        (("borealis", "acme"), "account was 'acmee', expected one of acme, borealis"),
        (
            tuple(f"a{i:02}" for i in range(12)),
            "account was 'acmee', expected one of a00, a01, a02, a03, a04, a05, a06, a07, a08, a09 and 2 more",
        ),
    ],
)
def test_an_unknown_name_comes_with_those_that_would_have_done(known: tuple[str, ...], message: str) -> None:
    assert str(UnknownName("account", "acmee", known)) == message
