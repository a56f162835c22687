"""The laws of versions, of the calendar by which they settle, and of what a claim makes of a record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import InstrumentTerms, SettlementCalendar, SettlementTimes, standard_terms
from scheduler.core.metering.disputes import as_claimed, checked_losses
from scheduler.core.metering.records import MeterRecord, RecordStatus, broken_identities
from scheduler.core.metering.versions import PositionVersions, Promotion, Stage, wrong_version
from scheduler.core.models import canonical_bytes
from scheduler.core.quantities import MS_PER_DAY
from scheduler.core.settlement_times import (
    final_ms,
    final_through_ms,
    initial_ms,
    last_change_ms,
    next_final_ms,
    period_end_ms,
)

LENGTH = 10
INTERVALS = 4


def record(index: int, version: int = 1, status: RecordStatus = RecordStatus.INITIAL, used: int = 80) -> MeterRecord:
    return MeterRecord(
        position="p",
        instrument="i",
        start_ms=index * LENGTH,
        end_ms=(index + 1) * LENGTH,
        version=version,
        supersedes=version - 1 if version > 1 else None,
        status=status,
        contracted_gpu_ms=80,
        used_gpu_ms=used,
        out_forced_gpu_ms=80 - used,
        losses=((Cause.ECC, 80 - used),) if used < 80 else (),
        par_gpu_ms=used,
    )


Step = MeterRecord | Promotion


@st.composite
def logs(draw: st.DrawFn) -> list[Step]:
    """What an honest cluster may tell of a position: every next version as it must be."""
    versions, told = PositionVersions(), []
    for index in range(draw(st.integers(0, 24))):
        at = draw(st.integers(0, INTERVALS - 1))
        held = versions.held.get(at * LENGTH)
        step: Step
        if held is None:
            step = record(at, status=draw(st.sampled_from([RecordStatus.PROVISIONAL, RecordStatus.INITIAL])))
        elif draw(st.booleans()):
            step = record(at, held.version + 1, RecordStatus.CORRECTED, draw(st.integers(0, 80)))
        else:
            first = draw(st.integers(0, at))
            status = draw(st.sampled_from([RecordStatus.INITIAL, RecordStatus.FINAL]))
            step = Promotion(position="p", start_ms=first * LENGTH, end_ms=(at + 1) * LENGTH, status=status)
        tell(versions, index, step)
        told.append(step)
    return told


def tell(versions: PositionVersions, index: int, step: Step) -> str:
    if isinstance(step, Promotion):
        versions.promote(index, step)
        return ""
    return versions.tell(index, step, index.to_bytes(32, "big"))


def folded(steps: Sequence[Step]) -> PositionVersions:
    versions = PositionVersions()
    for index, step in enumerate(steps):
        assert tell(versions, index, step) == ""
    return versions


@given(logs())
def test_versions_are_dense_supersede_the_one_before_and_never_settle_less(steps: list[Step]) -> None:
    seen: dict[int, tuple[int, Stage]] = {}
    versions = PositionVersions()
    for index, step in enumerate(steps):
        assert tell(versions, index, step) == ""
        for start_ms, held in versions.held.items():
            version, stage = seen.get(start_ms, (0, Stage.PROVISIONAL))
            assert held.version in (version, version + 1)
            assert held.stage >= stage
            current = held.current
            assert (current.version, current.supersedes) == (held.version, held.version - 1 or None)
            assert broken_identities(current) == ()
            assert dict(current) | OF_VERSION == dict(held.record) | OF_VERSION
            seen[start_ms] = (held.version, held.stage)


OF_VERSION: dict[str, Any] = {"version": 1, "supersedes": None, "status": RecordStatus.INITIAL}


@given(logs(), st.data())
def test_a_prefix_is_a_version_set_that_no_later_leaf_changes(steps: list[Step], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    before = folded(steps[:cut])
    kept = dict(before.held)
    whole = folded(steps)
    assert folded(steps[:cut]).held == kept
    for start_ms, held in kept.items():
        later = whole.held[start_ms]
        assert later.version >= held.version
        if later.version == held.version:
            assert later == held


@given(logs(), st.data())
def test_a_record_that_is_told_again_changes_nothing(steps: list[Step], data: st.DataObject) -> None:
    versions = folded(steps)
    kept = dict(versions.held)
    records = [step for step in steps if isinstance(step, MeterRecord)]
    if records:
        again = data.draw(st.sampled_from(records))
        assert versions.tell(len(steps), again, bytes(32)) != ""
    assert versions.held == kept


@pytest.mark.parametrize(
    ("status", "stage", "wrong"),
    [
        (RecordStatus.FINAL, Stage.PROVISIONAL, ""),
        (RecordStatus.INITIAL, Stage.PROVISIONAL, ""),
        (RecordStatus.CORRECTED, Stage.FINAL, ""),
        (RecordStatus.PROVISIONAL, Stage.PROVISIONAL, "status was provisional after provisional, expected corrected"),
        (RecordStatus.INITIAL, Stage.FINAL, "status was initial after final, expected corrected"),
        (RecordStatus.FINAL, Stage.FINAL, "status was final after final, expected corrected"),
    ],
)
def test_a_record_settles_more_or_says_that_it_corrects(status: RecordStatus, stage: Stage, wrong: str) -> None:
    assert wrong_version(3, status, 2, stage) == wrong
    assert wrong_version(4, status, 2, stage) == "version was 4, expected 3"


# -- the calendar ------------------------------------------------------------------------------------------------------

HOUR_MS = 3_600_000
windows = st.tuples(st.integers(0, 20_000), st.integers(1, 24 * 95))


@st.composite
def contracts(draw: st.DrawFn) -> InstrumentTerms:
    start, hours = draw(windows)
    initial_s = draw(st.integers(0, 100_000))
    times = SettlementTimes(
        initial_after_s=initial_s,
        final_after_s=initial_s + draw(st.integers(0, 400_000)),
        dispute_s=draw(st.integers(0, 900_000)),
    )
    calendar = draw(st.sampled_from(SettlementCalendar))
    return standard_terms(
        symbol="A",
        start_ms=start * HOUR_MS,
        end_ms=(start + hours) * HOUR_MS,
        metering_interval_s=3600,
        settlement_calendar=calendar,
        settlement=times,
    )


@given(contracts(), st.data())
def test_the_calendar_goes_on_and_says_the_same_from_both_sides(terms: InstrumentTerms, data: st.DataObject) -> None:
    window = terms.window
    ends = range(window.start_ms + HOUR_MS, window.end_ms + 1, HOUR_MS)
    end_ms = data.draw(st.sampled_from(ends))
    assert end_ms <= period_end_ms(terms, end_ms) <= window.end_ms
    assert initial_ms(terms, end_ms) <= final_ms(terms, end_ms) <= last_change_ms(terms, end_ms)
    if end_ms < window.end_ms:
        assert final_ms(terms, end_ms) <= final_ms(terms, end_ms + HOUR_MS)
    due_ms = final_ms(terms, end_ms)
    for now_ms in (due_ms - 1, due_ms, due_ms + data.draw(st.integers(0, 10**10))):
        assert (end_ms <= final_through_ms(terms, now_ms)) == (now_ms >= due_ms)
    now_ms = data.draw(st.integers(0, window.end_ms + 10**9))
    following = next_final_ms(terms, now_ms)
    if following is None:
        assert final_through_ms(terms, now_ms) == window.end_ms
    else:
        assert following > now_ms
        assert final_through_ms(terms, following - 1) <= max(final_through_ms(terms, now_ms), window.start_ms)
        assert final_through_ms(terms, following) > max(final_through_ms(terms, now_ms), window.start_ms)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


@pytest.mark.parametrize(
    ("calendar", "end", "period"),
    [
        (SettlementCalendar.DELIVERY_END, "2027-01-05T12:00", "2027-03-10T06:00"),
        (SettlementCalendar.DAILY, "2027-01-05T12:00", "2027-01-06T00:00"),
        (SettlementCalendar.DAILY, "2027-01-06T00:00", "2027-01-06T00:00"),
        (SettlementCalendar.DAILY, "2027-03-10T05:00", "2027-03-10T06:00"),
        (SettlementCalendar.MONTHLY, "2027-01-05T12:00", "2027-02-01T00:00"),
        (SettlementCalendar.MONTHLY, "2027-02-01T00:00", "2027-02-01T00:00"),
        (SettlementCalendar.MONTHLY, "2027-03-02T00:00", "2027-03-10T06:00"),
    ],
)
def test_settlement_periods_are_the_window_days_or_months(calendar: SettlementCalendar, end: str, period: str) -> None:
    terms = standard_terms(
        symbol="A", start_ms=at("2026-12-31T06:00"), end_ms=at("2027-03-10T06:00"), settlement_calendar=calendar
    )
    assert period_end_ms(terms, at(end)) == at(period)
    assert final_ms(terms, at(end)) == at(period) + 3 * MS_PER_DAY


def test_terms_without_times_of_their_own_have_the_bytes_that_they_had_before_there_were_any() -> None:
    terms = standard_terms(symbol="A", start_ms=0, end_ms=HOUR_MS)
    assert b"dispute_s" not in canonical_bytes(terms)
    assert InstrumentTerms.model_validate_json(canonical_bytes(terms)) == terms
    other = standard_terms(symbol="A", start_ms=0, end_ms=HOUR_MS, settlement=SettlementTimes(dispute_s=1))
    assert b'"dispute_s":1' in canonical_bytes(other)
    assert other.spec_hash != terms.spec_hash


# -- claims ------------------------------------------------------------------------------------------------------------

CLAIMABLE = [cause for cause in Cause if cause is not Cause.BUYER_RELEASE]


@given(st.dictionaries(st.sampled_from(CLAIMABLE), st.integers(1, 30), max_size=3), st.integers(0, 80), st.data())
def test_what_a_claim_makes_of_a_record_adds_up_and_has_its_losses(
    claim: dict[Cause, int], used: int, data: st.DataObject
) -> None:
    if sum(claim.values()) > 80:
        return
    slow = data.draw(st.integers(0, 80 - used))
    content = {
        "derated_gpu_ms": slow,
        "out_forced_gpu_ms": 80 - used - slow,
        "losses": tuple(
            (cause, ms) for cause, ms in ((Cause.ECC, 80 - used - slow), (Cause.UNDER_PERFORMANCE, slow)) if ms
        ),
    }
    before = MeterRecord.model_validate(dict(record(0, used=used)) | content)
    losses = checked_losses(list(claim.items()), 80)
    after = as_claimed(before, losses)
    assert broken_identities(before) == broken_identities(after) == ()
    assert (after.contracted_gpu_ms, after.losses) == (before.contracted_gpu_ms, losses)
    assert after.delivered_gpu_ms == 80 - sum(claim.values())
    assert after.used_gpu_ms <= before.used_gpu_ms
    assert after.par_gpu_ms <= after.delivered_gpu_ms
    assert as_claimed(after, losses) == after


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (((Cause.ECC, 0),), "ECC of a claim was 0, expected a quantity above 0"),
        (((Cause.ECC, 1), (Cause.ECC, 2)), "given twice"),
        (((Cause.BUYER_RELEASE, 1),), "what is given back was delivered"),
        (((Cause.ECC, 81),), "at most 80, as contracted"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(losses: tuple[tuple[Cause, int], ...], says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        checked_losses(losses, 80)
