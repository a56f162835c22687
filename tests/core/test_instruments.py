"""Terms: what a minimal listing is, and that equal hashes mean equal promises, on the wire and back."""

from __future__ import annotations

import json
from datetime import date
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.cluster import Level
from scheduler.core.events import InstrumentListed, decode, encode
from scheduler.core.instruments import (
    METERING_INTERVALS_S,
    BaseProfile,
    CustomProfile,
    Damages,
    Deliverable,
    Firm,
    Firmness,
    InstrumentTerms,
    Lot,
    NonFirm,
    PauseCredit,
    PeakProfile,
    Profile,
    Recallable,
    SwingProfile,
    SwingTerms,
    SystemFirm,
    UnitFirm,
    UnusedRule,
    Weekday,
    Window,
    cells_per_lot,
    standard_terms,
)
from scheduler.core.models import canonical_bytes

MINIMAL = {
    "symbol": "H100SXM.8N.USE.BASE.FIRM.2027-01",
    "grade": {"klass": "H100SXM"},
    "window": {"start_ms": 0, "end_ms": 3_600_000},
    "price_micro_per_gpu_hour": 2_000_000,
}


def read(plain: dict[str, Any]) -> InstrumentTerms:
    return InstrumentTerms.model_validate_json(json.dumps(plain))


def standard(**terms: Any) -> InstrumentTerms:
    return standard_terms(**{"symbol": "S", "start_ms": 0, "end_ms": 3_600_000, **terms})


def test_four_fields_make_a_listing() -> None:
    terms = read(MINIMAL)
    assert terms.id == "H100SXM.8N.USE.BASE.FIRM.2027-01@1"
    assert (terms.lot, terms.profile, terms.firmness) == (Lot(gpus=1, cell=Level.GPU), BaseProfile(), Firm())
    assert terms.deliverables == (Deliverable(grade="H100SXM"),)
    assert (terms.interval_ms, terms.currency, terms.site) == (300_000, "USD", "local")


def test_what_is_left_out_is_as_if_it_had_been_said() -> None:
    short = read(MINIMAL)
    assert read(short.model_dump(mode="json")).spec_hash == short.spec_hash
    assert read({**MINIMAL, "firmness": {"kind": "FIRM"}, "lot": {"cell": "GPU"}}) == short


def test_the_hash_is_of_the_canonical_bytes_and_levels_are_written_by_name() -> None:
    terms = standard(cell=Level.NODE, gpus=8)
    assert terms.spec_hash == sha256(canonical_bytes(terms)).hexdigest()
    assert json.loads(canonical_bytes(terms))["lot"] == {"cell": "NODE", "gpus": 8}


def test_the_canonical_bytes_of_a_listing_do_not_change() -> None:
    # Contracts name this hash: if it changes, old contracts cannot be read any more.
    assert read(MINIMAL).spec_hash == "18eccc01089fbfa5a605f41aa68257e92e2df281ccb9c1f8480ab97347324e01"


def test_a_term_that_came_later_is_written_only_where_it_is_not_what_it_was_before() -> None:
    assert "handovers" not in json.loads(canonical_bytes(read(MINIMAL)))
    accepted = read({**MINIMAL, "handovers": True})
    assert json.loads(canonical_bytes(accepted))["handovers"] is True
    assert accepted.spec_hash != read(MINIMAL).spec_hash
    for terms in (read(MINIMAL), accepted):
        assert read(json.loads(canonical_bytes(terms))) == terms


profiles: st.SearchStrategy[Profile] = st.one_of(
    st.just(BaseProfile()),
    st.builds(
        PeakProfile,
        time_zone=st.sampled_from(["Europe/Berlin", "UTC"]),
        days=st.lists(st.sampled_from(list(Weekday)), unique=True).map(tuple),
        holidays=st.lists(st.dates(), max_size=3).map(tuple),
    ),
    st.just(CustomProfile(steps=(Window(start_ms=0, end_ms=1), Window(start_ms=5, end_ms=7)))),
    st.just(SwingProfile()),
)
firmnesses: st.SearchStrategy[Firmness] = st.one_of(
    st.just(Firm()),
    st.builds(UnitFirm, pool=st.just("pool-1")),
    st.just(SystemFirm()),
    st.builds(
        Recallable,
        notice_ms=st.integers(0, 9),
        min_run_ms=st.integers(0, 9),
        max_events=st.integers(1, 9),
        max_quantity_gpu_ms=st.integers(0, 9),
    ),
    st.just(NonFirm()),
)
unused_rules: st.SearchStrategy[UnusedRule] = st.builds(PauseCredit, credit_ppm=st.integers(0, 10))
terms_of_all_kinds = st.builds(
    standard,
    cell=st.sampled_from(list(Level)),
    gpus=st.integers(1, 8),
    version=st.integers(1, 3),
    profile=profiles,
    firmness=firmnesses,
    unused_rule=unused_rules,
    swing=st.none() | st.just(SwingTerms(total_gpu_ms=1, max_rate_gpus=1)),
    damages=st.builds(Damages, cap_micro=st.none() | st.integers(1, 5)),
    metering_interval_s=st.sampled_from(METERING_INTERVALS_S),
)


@given(terms_of_all_kinds)
def test_terms_come_back_from_their_bytes_and_from_the_journal(terms: InstrumentTerms) -> None:
    back = InstrumentTerms.model_validate_json(canonical_bytes(terms))
    assert (back, back.spec_hash, hash(back)) == (terms, terms.spec_hash, hash(terms))
    listed = InstrumentListed(at_ms=1, terms=terms)
    assert decode(1, encode(listed)) == listed


@given(terms_of_all_kinds, terms_of_all_kinds)
def test_hashes_are_equal_exactly_where_terms_are(left: InstrumentTerms, right: InstrumentTerms) -> None:
    assert (left.spec_hash == right.spec_hash) == (left == right)


def test_terms_never_change() -> None:
    terms = standard()
    with pytest.raises(ValidationError, match="frozen"):
        terms.version = 2  # type: ignore[misc]  # that the type checker sees it too is the point


@pytest.mark.parametrize(
    ("cell", "gpus", "cells"), [(Level.GPU, 4, 4), (Level.NODE, 8, 1), (Level.NVLINK_DOMAIN, 72, 1)]
)
def test_a_lot_is_single_gpus_or_one_whole_cell(cell: Level, gpus: int, cells: int) -> None:
    assert cells_per_lot(standard(cell=cell, gpus=gpus)) == cells


def test_the_shortage_rule_serves_firm_first() -> None:
    recallable = Recallable(notice_ms=0, max_events=1, max_quantity_gpu_ms=1)
    classes = [Firm(), UnitFirm(pool="p"), SystemFirm(), recallable, NonFirm()]
    assert [standard(firmness=firmness).firmness_rank for firmness in classes] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("version", 0),
        ("version", "1"),
        ("version", 1.0),
        ("version", True),
        ("symbol", "-x"),
        ("symbol", ""),
        ("lot", {"gpus": 0}),
        ("lot", {"cell": "RACK"}),
        ("lot", {"cell": 9}),
        ("window", {"start_ms": 7, "end_ms": 7}),
        ("window", {"start_ms": 7, "end_ms": 10**15}),
        ("window", {"start_ms": -1, "end_ms": 7}),
        ("profile", {"kind": "OFFPEAK"}),
        ("profile", {}),
        ("profile", {"kind": "PEAK", "time_zone": "UTC", "start_local": "8:00"}),
        ("profile", {"kind": "PEAK", "time_zone": "UTC", "end_local": "24:01"}),
        ("profile", {"kind": "PEAK", "time_zone": "UTC", "days": ["MONDAY"]}),
        ("profile", {"kind": "PEAK", "time_zone": "UTC", "holidays": ["2027-02-30"]}),
        ("profile", {"kind": "PEAK", "time_zone": "UTC", "holidays": [5]}),
        ("firmness", {"kind": "UNIT_FIRM"}),
        ("firmness", {"kind": "RECALLABLE", "notice_ms": 1}),
        ("unused_rule", {"kind": "PAUSE_CREDIT"}),
        ("metering_interval_s", 30),
        ("currency", "usd"),
        ("price_micro_per_gpu_hour", -1),
        ("price_micro_per_gpu_hour", None),
        ("spec_hash", "0"),
    ],
)
def test_what_has_the_wrong_type_or_range_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(ValidationError) as refused:
        read({**read(MINIMAL).model_dump(mode="json"), field: wrong})
    assert {fault["loc"][0] for fault in refused.value.errors()} == {field}


def test_python_callers_may_give_dates_and_enums() -> None:
    peak = PeakProfile(time_zone="UTC", days=(Weekday.SAT,), holidays=(date(2027, 1, 2),))
    assert json.loads(canonical_bytes(peak)) == {
        "kind": "PEAK",
        "time_zone": "UTC",
        "days": ["SAT"],
        "start_local": "08:00",
        "end_local": "20:00",
        "holidays": ["2027-01-02"],
    }
