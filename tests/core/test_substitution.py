"""Which grades a position may be delivered in: par always, others by the terms and by consent, then for good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.instruments import Deliverable, standard_terms
from scheduler.core.positions import Position
from scheduler.core.substitution import accepted_grades, asked_since_ms

GRADES = ("A100SXM", "B200SXM", "H200SXM", "V100SXM")
instants = st.integers(0, 50)


@given(
    st.dictionaries(st.sampled_from(GRADES), st.booleans()),
    st.dictionaries(st.sampled_from(GRADES), instants),
    instants,
    instants,
)
def test_a_grade_is_accepted_by_the_terms_or_by_a_consent_that_holds(
    listed: dict[str, bool], agreed: dict[str, int], at_ms: int, later_ms: int
) -> None:
    others = tuple(
        Deliverable(grade=grade, conversion_ppm=800_000, needs_consent=asks) for grade, asks in listed.items()
    )
    terms = standard_terms(symbol="H100.SUB", start_ms=0, end_ms=300_000)
    terms = type(terms).model_validate(dict(terms) | {"deliverables": (*terms.deliverables, *others)})
    consents = tuple(sorted(agreed.items()))
    position = Position(id="p", account="acme", instrument=terms.id, acquired_ms=0, lots=((0, 1),), consents=consents)
    now = [each.grade for each in accepted_grades(terms, position, at_ms)]
    assert now[0] == "H100SXM"
    assert set(now[1:]) == {
        grade for grade, asks in listed.items() if not asks or agreed.get(grade, at_ms + 1) <= at_ms
    }
    if later_ms >= at_ms:
        assert set(now) <= {each.grade for each in accepted_grades(terms, position, later_ms)}
    assert asked_since_ms(terms, position) == tuple(
        (grade, agreed.get(grade)) for grade, asks in sorted(listed.items()) if asks
    )
