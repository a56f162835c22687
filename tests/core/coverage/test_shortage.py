"""The shortage rule and its certificate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import Certificate, ShortClaim, certificate_of, ration, verify
from scheduler.core.errors import InvalidValue, TenorError


def claim(position: str, firmness_class: int, lots: int, acquired_ms: int = 0) -> ShortClaim:
    return ShortClaim(position=position, firmness_class=firmness_class, lots=lots, acquired_ms=acquired_ms)


@st.composite
def claims(draw: st.DrawFn) -> list[ShortClaim]:
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 3)), max_size=8))
    return [claim(f"p{k}", firmness, lots, acquired) for k, (firmness, lots, acquired) in enumerate(rows)]


@given(claims(), st.integers(0, 40), st.randoms(use_true_random=False))
def test_no_lower_class_gets_what_an_unmet_higher_one_could_use(
    given_claims: list[ShortClaim], cells: int, chance: object
) -> None:
    certificate = ration(given_claims, cells, pool="H100@local")
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
    assert ration(shuffled, cells, pool="H100@local") == certificate


def test_within_a_class_pro_rata_by_largest_remainder_then_age_then_id() -> None:
    lots = [claim("c", 0, 3, acquired_ms=5), claim("a", 0, 3, acquired_ms=9), claim("b", 0, 3, acquired_ms=5)]
    assert ration(lots, 4).awarded == {"b": 2, "c": 1, "a": 1}
    assert ration([claim("a", 0, 8), claim("b", 0, 2)], 9).awarded == {"a": 7, "b": 2}
    assert ration([claim("late", 2, 4), claim("firm", 0, 3)], 5).awarded == {"firm": 3, "late": 2}


@given(claims(), st.integers(0, 40))
def test_a_certificate_verifies_from_its_bytes(given_claims: list[ShortClaim], cells: int) -> None:
    certificate = ration(given_claims, cells, pool="H100@local", level=Level.NODE, start_ms=7, end_ms=9)
    assert verify(certificate) == certificate
    assert verify(certificate.body) == certificate
    assert certificate_of(certificate.body.decode()) == certificate


@given(claims(), st.integers(0, 40), st.data())
def test_a_changed_byte_fails(given_claims: list[ShortClaim], cells: int, data: st.DataObject) -> None:
    body = bytearray(ration(given_claims, cells, pool="H100@local", start_ms=7).body)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TenorError):
        verify(bytes(body))


def test_every_byte_matters() -> None:
    body = ration([claim("p1", 0, 3, acquired_ms=44), claim("p2", 2, 5)], 4, pool="H100@local", start_ms=70).body
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


def test_claims_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidValue, match="one for each position"):
        ration([claim("a", 0, 1), claim("a", 1, 1)], 1)
    with pytest.raises(InvalidValue, match="0 or more"):
        ration([], -1)
