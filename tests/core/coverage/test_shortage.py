"""The shortage rule and its certificate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import (
    FIRST_RULE,
    RULE,
    Certificate,
    ShortClaim,
    certificate_of,
    changes_nothing,
    ration,
    unmet,
    verify,
)
from scheduler.core.errors import Conflict, InvalidValue, TenorError


def claim(position: str, firmness_class: int, lots: int, acquired_ms: int = 0) -> ShortClaim:
    return ShortClaim(position=position, firmness_class=firmness_class, lots=lots, acquired_ms=acquired_ms)


@st.composite
def claims(draw: st.DrawFn) -> list[ShortClaim]:
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 3)), max_size=8))
    return [claim(f"p{k}", firmness, lots, acquired) for k, (firmness, lots, acquired) in enumerate(rows)]


def held(given_claims: list[ShortClaim]) -> int:
    """What the lower classes hold: by the rule in force there are so many cells at least."""
    first = min((c.firmness_class for c in given_claims), default=0)
    return sum(c.lots for c in given_claims if c.firmness_class > first)


@given(claims(), st.integers(0, 40), st.randoms(use_true_random=False))
def test_no_lower_class_gets_what_an_unmet_higher_one_could_use(
    given_claims: list[ShortClaim], cells: int, chance: object
) -> None:
    certificate = ration(given_claims, cells, pool="H100@local", rule=FIRST_RULE)
    awarded = certificate.awarded
    asked = {c.position: c.lots for c in given_claims}
    assert sum(awarded.values()) == min(cells, sum(asked.values()))
    assert all(0 <= awarded[name] <= asked[name] for name in asked)
    for higher in given_claims:
        for lower in given_claims:
            if higher.firmness_class < lower.firmness_class and awarded[higher.position] < higher.lots:
                assert awarded[lower.position] == 0
    shuffled = list(given_claims)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ration(shuffled, cells, pool="H100@local", rule=FIRST_RULE) == certificate
    again = ration(given_claims, cells + held(given_claims), pool="H100@local")
    assert again.awarded == ration(given_claims, cells + held(given_claims), rule=FIRST_RULE).awarded
    first = min((c.firmness_class for c in given_claims), default=0)
    missing = {c.position: c.lots - again.awarded[c.position] for c in given_claims if c.firmness_class == first}
    assert unmet(again) == {position: lots for position, lots in missing.items() if lots}
    assert changes_nothing(again) == (not any(again.awarded.values()))


def test_within_a_class_pro_rata_by_largest_remainder_then_age_then_id() -> None:
    lots = [claim("c", 0, 3, acquired_ms=5), claim("a", 0, 3, acquired_ms=9), claim("b", 0, 3, acquired_ms=5)]
    assert ration(lots, 4).awarded == {"b": 2, "c": 1, "a": 1}
    assert ration([claim("a", 0, 8), claim("b", 0, 2)], 9).awarded == {"a": 7, "b": 2}
    assert ration([claim("late", 2, 4), claim("firm", 0, 3)], 5).awarded == {"firm": 3, "late": 2}


@given(claims(), st.integers(0, 40))
def test_a_certificate_verifies_from_its_bytes(given_claims: list[ShortClaim], cells: int) -> None:
    more = cells + held(given_claims)
    certificate = ration(given_claims, more, pool="H100@local", level=Level.NODE, start_ms=7, end_ms=9)
    assert verify(certificate) == certificate
    assert verify(certificate.body) == certificate
    assert certificate_of(certificate.body.decode()) == certificate


@given(claims(), st.integers(0, 40), st.data())
def test_a_changed_byte_fails(given_claims: list[ShortClaim], cells: int, data: st.DataObject) -> None:
    body = bytearray(ration(given_claims, cells + held(given_claims), pool="H100@local", start_ms=7).body)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TenorError):
        verify(bytes(body))


def test_every_byte_matters() -> None:
    body = ration([claim("p1", 0, 3, acquired_ms=44), claim("p2", 2, 5)], 6, pool="H100@local", start_ms=70).body
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= 1  # A digit becomes another digit, a letter a letter: mostly it still reads well.
        with pytest.raises(TenorError):
            verify(bytes(changed))


def test_an_award_that_does_not_follow_fails() -> None:
    honest = ration([claim("a", 0, 2), claim("b", 2, 2)], 2)
    changed = honest.model_dump() | {"awards": tuple(a.model_dump() | {"awarded": 1} for a in honest.awards)}
    with pytest.raises(TenorError, match="does not follow"):
        verify(Certificate.model_validate(changed))


TAMPERED: dict[str, tuple[dict[str, Any], str]] = {
    "an award": ({"awards": [("a", 2, 1), ("b", 1, 1), ("c", 2, 1)]}, "a got 1 of 2, expected 2 of 2"),
    "an award of what was not claimed": ({"awards": [("a", 2, 2), ("b", 9, 1), ("c", 2, 0)]}, "b got 1 of 9"),
    "an award left out": (
        {"awards": [("a", 2, 2), ("b", 1, 1)]},
        "its awards are of .'a', 'b'., expected one",
    ),
    "the order": ({"claims": "reversed"}, "the order of its claims had c, expected a"),
    "the cells": ({"cells": 4}, "c got 0 of 2, expected 1 of 2"),
    "fewer cells than are held": ({"cells": 1}, "facts that cannot be: cells of a shortage was 1, expected 2 or more"),
    "the level": ({"level": Level.GPU}, "its digest was"),
    "the pool": ({"pool": "A100@local"}, "its digest was"),
    "the instant": ({"start_ms": 8}, "its digest was"),
    "the digest": ({"digest": "0" * 64}, "its digest was 0000"),
    "the rule": ({"rule": FIRST_RULE}, "its digest was"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_was_tampered_with_is_named(what: str) -> None:
    honest = ration([claim("a", 0, 2), claim("b", 0, 1), claim("c", 2, 2)], 3, pool="H100@local", start_ms=7)
    assert (honest.rule, honest.awarded) == (RULE, {"a": 2, "b": 1, "c": 0})
    changes, says = TAMPERED[what]
    fields = honest.model_dump() | changes
    if changes.get("claims") == "reversed":
        fields["claims"] = tuple(reversed(honest.model_dump()["claims"]))
    if "awards" in changes:
        fields["awards"] = tuple(
            {"position": position, "claimed": claimed, "awarded": awarded}
            for position, claimed, awarded in changes["awards"]
        )
    with pytest.raises(Conflict, match=says):
        verify(Certificate.model_validate(fields))


def test_a_certificate_by_the_first_rule_still_verifies() -> None:
    """As a log of the first version has it."""
    body = (
        '{"awards":[{"awarded":1,"claimed":1,"position":"a"},{"awarded":0,"claimed":2,"position":"c"}],"cells":1,'
        '"claims":[{"acquired_ms":0,"firmness_class":0,"lots":1,"position":"a"},'
        '{"acquired_ms":0,"firmness_class":2,"lots":2,"position":"c"}],'
        '"digest":"80885f55ef2f42a25ae2bd404a23a581a34ef81da9254e62e47b5467f15b96a3","end_ms":null,'
        '"level":1,"pool":"H100@local","rule":"class-then-pro-rata-1","start_ms":7}'
    )
    assert verify(body).awarded == {"a": 1, "c": 0}


def test_claims_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidValue, match="one for each position"):
        ration([claim("a", 0, 1), claim("a", 1, 1)], 1)
    with pytest.raises(InvalidValue, match="0 or more"):
        ration([], -1)
