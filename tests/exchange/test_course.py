"""What an audit keeps of a position: what the fold that has every record says, from any leaves in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.intervals import Interval
from scheduler.core.merkle import leaf_hash, root
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.versions import PositionVersions, Promotion, Stage
from scheduler.core.settlement import version_leaf
from scheduler.core.totals import Totals
from scheduler.exchange.audit.course import Course, versions_root

STEP_MS = 100
PERIOD = Interval(2 * STEP_MS, 9 * STEP_MS)

places = st.integers(0, 11)
losses = st.sampled_from(
    [(), ((Cause.PLANNED_MAINTENANCE, 5),), ((Cause.NOT_OBSERVED, 3),), ((Cause.FORCE_MAJEURE, 2),)]
)
records = st.tuples(
    places, st.integers(1, 3), st.sampled_from(RecordStatus), losses, st.sampled_from([0, 50]), st.just(STEP_MS)
)
odd = st.tuples(st.integers(0, 1_200), st.integers(1, 3), st.sampled_from(RecordStatus), losses, st.just(50), places)
promotions = st.tuples(places, places, st.sampled_from([RecordStatus.INITIAL, RecordStatus.FINAL]))


def record_of(start_ms: int, length_ms: int, version: int, status: RecordStatus, lost: Any, used: int) -> MeterRecord:
    return MeterRecord(
        position="pos-1",
        instrument="H100@1",
        start_ms=start_ms,
        end_ms=max(1, start_ms + length_ms),
        version=version,
        status=status,
        contracted_gpu_ms=used,
        used_gpu_ms=used,
        losses=lost,
    )


def both(leaves: list[Any]) -> tuple[Course, PositionVersions, dict[int, MeterRecord]]:
    course, versions, told = Course(len(leaves), PERIOD), PositionVersions(), {}
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Promotion):
            ours = [start_ms for run in course.promote(index, leaf) for start_ms in run.starts]
            assert ours == [held.record.start_ms for held in versions.promote(index, leaf)]
            continue
        told[index] = leaf
        before = course.get(leaf.start_ms)
        versions.tell(index, leaf, leaf_hash(b"%d" % index))
        if before is None or leaf.version > before.version:
            course.tell(index, leaf, None if before is None else (before, told[before.leaf]))
    return course, versions, told


def as_leaf(drawn: Any) -> MeterRecord | Promotion | None:
    if len(drawn) == 3:
        first, last, status = drawn
        if first >= last:
            return None
        return Promotion(position="pos-1", start_ms=first * STEP_MS, end_ms=last * STEP_MS, status=status)
    place, version, status, lost, used, length = drawn
    return record_of(place * STEP_MS, length, version, status, lost, used)


@given(st.lists(st.one_of(records, promotions), max_size=40))
def test_a_course_says_what_the_fold_of_all_records_says(drawn: list[Any]) -> None:
    course, versions, told = both([leaf for each in drawn if (leaf := as_leaf(each)) is not None])
    assert list(course.starts) == sorted(versions.held)
    for start_ms, held in versions.held.items():
        known = course.get(start_ms)
        assert known is not None
        assert (known.end_ms, known.leaf) == (held.record.end_ms, held.index)
        assert (known.version, known.stage) == (held.version, held.stage)
        assert held.stage is not Stage.FINAL or known.since == held.since
    assert all(not run.follows(before) for before, run in zip(course.runs, course.runs[1:], strict=False))
    used = [held for start_ms, held in sorted(versions.held.items()) if PERIOD.start_ms <= start_ms < PERIOD.end_ms]
    runs, leaves = course.clipped(PERIOD)
    assert list(leaves) == [held.index for held in used]
    assert [run.facts.contracted_gpu_ms for run in runs for _ in run.starts] == [
        held.record.contracted_gpu_ms for held in used
    ]
    expected = [version_leaf(held.record.start_ms, held.record.end_ms, held.version) for held in used]
    assert versions_root(runs) == root([leaf_hash(each) for each in expected])
    again = Totals.of(told[held.index] for held in used)
    assert (course.totals.states, course.totals.losses) == (again.states, again.losses)
    assert course.totals.contracted_gpu_ms == again.contracted_gpu_ms


@given(st.lists(st.one_of(records, odd, promotions), max_size=40))
def test_unsound_intervals_are_kept_apart(drawn: list[Any]) -> None:
    leaves: list[MeterRecord | Promotion] = []
    for each in drawn:
        if len(each) == 6 and each[5] != STEP_MS:
            start_ms, version, status, lost, used, place = each
            leaves.append(record_of(start_ms, (place - 2) * 30, version, status, lost, used))
        elif (leaf := as_leaf(each)) is not None:
            leaves.append(leaf)
    course, versions, _ = both(leaves)
    assert list(course.starts) == sorted(versions.held)
    assert [(known.leaf, known.version) for at_ms in course.starts if (known := course.get(at_ms))] == [
        (held.index, held.version) for _, held in sorted(versions.held.items())
    ]


def test_what_does_not_change_is_one_run() -> None:
    leaves = [record_of(place * STEP_MS, STEP_MS, 1, RecordStatus.PROVISIONAL, (), 50) for place in range(1_000)]
    course, _, _ = both(leaves)
    assert (len(course.runs), course.indexes.itemsize * len(course.indexes)) == (1, 4_000)
    course.promote(1_000, Promotion(position="p", start_ms=0, end_ms=500 * STEP_MS, status=RecordStatus.FINAL))
    assert [run.count for run in course.runs] == [500, 500]
