"""Names: what is one and what is not, and that their order is total and reads numbers as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue
from scheduler.core.ids import checked_name, instrument_id, natural_key

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "node-2", "H100.SXM_5", "a" * 253])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert checked_name("node", name) is name


@pytest.mark.parametrize("name", ["", "-a", "a-", ".", "a b", "a/b", "a:1", "ä", "a\n", "a²", "a" * 254])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue, match="node of a name was"):
        checked_name("node", name)
    with pytest.raises(InvalidValue):
        instrument_id(name, 1)


def test_an_instrument_is_its_symbol_and_version() -> None:
    assert instrument_id("H100.NODE", 12) == "H100.NODE@12"


def test_digits_compare_as_numbers() -> None:
    ordered = ["2", "10", "a", "node", "node-2", "node-2:9", "node-2:10", "node-10", "node-10b"]
    mixed = ordered[::-1]
    assert sorted(mixed, key=natural_key) == ordered


@pytest.mark.parametrize("name", ["", "a²", "٣", "1²3"])
def test_the_order_takes_any_text(name: str) -> None:
    assert natural_key(name) < natural_key(f"{name}-1")


@given(names, st.integers(0, 10**9), st.integers(0, 10**9))
def test_numbered_names_sort_by_their_number(prefix: str, one: int, other: int) -> None:
    stem = f"{prefix}-"
    assert (natural_key(f"{stem}{one}") < natural_key(f"{stem}{other}")) == (one < other)


@given(st.lists(st.one_of(names, st.text(max_size=6)), max_size=6), st.randoms(use_true_random=False))
def test_the_order_is_total_whatever_order_names_come_in(given_names: list[str], order: object) -> None:
    shuffled = list(given_names)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(shuffled, key=natural_key) == sorted(given_names, key=natural_key)


@given(names, names)
def test_only_equal_names_have_equal_keys_and_a_prefix_comes_first(one: str, rest: str) -> None:
    assert (natural_key(one) == natural_key(rest)) == (one == rest)
    assert natural_key(one) < natural_key(f"{one}-{rest}")
