"""Pledges of devices: at an instant one device backs one pool, in one log and across logs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.devices import (
    DevicePledge,
    DeviceWithdrawal,
    PledgeBook,
    device_hash,
    pledged_in_both,
)
from scheduler.core.intervals import StepFunction

DEVICE = device_hash("GPU-8a5c1f0e-9f5b-4f3e-8b53-6f2d0a1c9e77")


def pledge(from_ms: int, device: str = DEVICE, grade: str = "H100SXM") -> DevicePledge:
    return DevicePledge(device=device, grade=grade, site="local", cell="local/b/d/n/0", from_ms=from_ms)


def withdrawal(from_ms: int, device: str = DEVICE) -> DeviceWithdrawal:
    return DeviceWithdrawal(device=device, from_ms=from_ms)


def test_a_device_is_named_by_the_published_hash() -> None:
    uuid = "GPU-8a5c1f0e-9f5b-4f3e-8b53-6f2d0a1c9e77"
    assert device_hash(uuid) == hashlib.sha256(b"tenor.dev/device/v1\0" + uuid.encode()).hexdigest()


def test_a_device_is_pledged_again_from_its_withdrawal_on() -> None:
    book = PledgeBook()
    assert book.pledge(pledge(10), "leaf 0") == ""
    assert book.withdraw(withdrawal(20)) == ""
    assert book.pledge(pledge(20, grade="A100"), "leaf 2") == ""
    assert [(span.pledge.pool, span.pledge.from_ms, span.end_ms) for span in book.by_device[DEVICE]] == [
        ("local/H100SXM", 10, 20),
        ("local/A100", 20, None),
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([pledge(10), pledge(30)], "is pledged twice: to local/b/d/n/0 of local/H100SXM from 10 (leaf 0), and to"),
        ([pledge(10), withdrawal(20), pledge(19)], "from 10 to 20 (leaf 0), and to"),
        ([withdrawal(20)], "was withdrawn, expected one that is pledged"),
        ([pledge(10), withdrawal(20), withdrawal(30)], "was withdrawn, expected one that is pledged"),
        ([pledge(10), withdrawal(9)], "was 9, expected 10 or later, when it was pledged"),
    ],
)
def test_what_contradicts_itself_is_named(told: list[DevicePledge | DeviceWithdrawal], says: str) -> None:
    book = PledgeBook()
    wrong = [
        book.pledge(each, f"leaf {at}") if isinstance(each, DevicePledge) else book.withdraw(each)
        for at, each in enumerate(told)
    ]
    assert [bool(each) for each in wrong] == [*([False] * (len(told) - 1)), True]
    assert says in wrong[-1]


Edge = tuple[int, int | None]
edges = st.tuples(st.integers(0, 30), st.none() | st.integers(0, 30)).filter(
    lambda edge: edge[1] is None or edge[1] >= edge[0]
)


@given(edges, edges)
def test_two_pledges_meet_where_an_instant_is_in_both(
    left: tuple[int, int | None], right: tuple[int, int | None]
) -> None:
    def instants(edge: tuple[int, int | None]) -> set[int]:
        return set(range(edge[0], 60 if edge[1] is None else edge[1]))

    def book(edge: tuple[int, int | None]) -> PledgeBook:
        made = PledgeBook()
        made.pledge(pledge(edge[0]), "leaf 0")
        if edge[1] is not None:
            made.withdraw(withdrawal(edge[1]))
        return made

    found = list(pledged_in_both(book(left), book(right)))
    assert bool(found) == bool(instants(left) & instants(right))


@given(st.lists(edges, max_size=6), st.integers(0, 40))
def test_how_many_devices_are_pledged_is_counted_by_the_millisecond(held: list[Edge], at_ms: int) -> None:
    book = PledgeBook()
    for number, (from_ms, end_ms) in enumerate(held):
        device = device_hash(f"GPU-{number}")
        book.pledge(pledge(from_ms, device=device), f"leaf {number}")
        if end_ms is not None:
            book.withdraw(withdrawal(end_ms, device=device))
    pledged = sum(from_ms <= at_ms and (end_ms is None or at_ms < end_ms) for from_ms, end_ms in held)
    assert book.gpus_by_pool().get("local/H100SXM", StepFunction()).at(at_ms) == pledged


def test_other_devices_never_meet() -> None:
    left, right = PledgeBook(), PledgeBook()
    left.pledge(pledge(1), "leaf 0")
    right.pledge(pledge(1, device=device_hash("GPU-other")), "leaf 0")
    assert list(pledged_in_both(left, right)) == []


@pytest.mark.parametrize("device", ["", "ab", "g" * 64, DEVICE.upper(), DEVICE + "0"])
def test_a_device_that_is_no_hash_is_refused(device: str) -> None:
    with pytest.raises(ValidationError):
        pledge(1, device=device)
