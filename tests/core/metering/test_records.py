"""Records that do not add up are named; corrections supersede and never edit; states, derates, gaps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Bearer, Cause
from scheduler.core.errors import Conflict
from scheduler.core.metering.derate import derated_gpu_ms
from scheduler.core.metering.estimation import Sight, bridged, missing_readings, sight_of_clock
from scheduler.core.metering.records import MeterRecord, RecordStatus, broken_identities, superseding
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.models import canonical_bytes

SOUND: dict[str, Any] = {
    "position": "p",
    "instrument": "H100@1",
    "start_ms": 0,
    "end_ms": 10,
    "contracted_gpu_ms": 100,
    "used_gpu_ms": 60,
    "derated_gpu_ms": 5,
    "out_forced_gpu_ms": 35,
    "losses": ((Cause.ECC, 30), (Cause.UNDER_PERFORMANCE, 10)),
    "par_gpu_ms": 60,
}


def record(**changes: Any) -> MeterRecord:
    return MeterRecord(**(SOUND | changes))


def test_a_sound_record_breaks_nothing_and_survives_its_bytes() -> None:
    assert broken_identities(record()) == ()
    assert MeterRecord.model_validate_json(canonical_bytes(record())) == record()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"used_gpu_ms": 61}, "states add up to 101, contracted_gpu_ms is 100"),
        ({"contracted_gpu_ms": 99}, "states add up to 100, contracted_gpu_ms is 99"),
        ({"end_ms": 0 + 1, "start_ms": 1}, "expected an instant after start_ms"),
        ({"losses": ((Cause.ECC, 30),)}, "causes of out_forced"),
        ({"losses": ((Cause.ECC, 40),)}, "exceeds the loss by UNDER_PERFORMANCE"),
        ({"losses": ((Cause.ECC, 30), (Cause.UNDER_PERFORMANCE, 9), (Cause.DRAIN, 1))}, "causes of out_planned"),
        ({"losses": ((Cause.UNDER_PERFORMANCE, 10), (Cause.ECC, 30))}, "must rise by cause"),
        ({"losses": ((Cause.ECC, 30), (Cause.LATE_BIND, 0), (Cause.UNDER_PERFORMANCE, 10))}, "must rise by cause"),
        ({"losses": (*SOUND["losses"], (Cause.BUYER_RELEASE, 3))}, "causes of released"),
        ({"estimated_gpu_ms": 101}, "estimated_gpu_ms 101 exceeds"),
        ({"version": 3, "supersedes": 1, "status": RecordStatus.CORRECTED}, "version 3 supersedes 1, expected 2"),
        ({"supersedes": 1}, "version 1 supersedes 1, expected None"),
        ({"status": RecordStatus.CORRECTED}, "version 1 has status corrected"),
    ],
)
def test_each_broken_identity_is_named(changes: dict[str, Any], named: str) -> None:
    assert any(named in broken for broken in broken_identities(record(**changes)))


def test_a_correction_is_the_next_version_and_says_only_what_is_new() -> None:
    assert superseding(record(), record()) is None
    corrected = superseding(record(), record(used_gpu_ms=65, derated_gpu_ms=0, losses=((Cause.ECC, 35),)))
    assert corrected is not None
    assert (corrected.version, corrected.supersedes, corrected.status) == (2, 1, RecordStatus.CORRECTED)
    assert broken_identities(corrected) == ()
    final = superseding(record(), record(), RecordStatus.FINAL)
    assert final is not None
    assert (final.version, final.status) == (2, RecordStatus.FINAL)
    assert superseding(final, record(), RecordStatus.FINAL) is None
    assert superseding(final, record()) is None
    with pytest.raises(Conflict, match="cannot be superseded"):
        superseding(record(), record(position="q"))


def test_every_cause_has_the_state_of_its_bearer() -> None:
    assert set(STATE_OF_CAUSE) == set(Cause)
    allowed = {
        Bearer.SELLER: {State.OUT_FORCED},
        Bearer.BUYER: {State.OUT_BUYER, State.RELEASED},
        Bearer.EXCUSED: {State.OUT_EXCUSED},
        Bearer.TERMS: {State.RECALLED, State.OUT_PLANNED, State.OUT_FORCED},
        Bearer.MEASUREMENT: {State.UNKNOWN},
    }
    assert all(state in allowed[cause.bearer] for cause, state in STATE_OF_CAUSE.items())


ppms = st.integers(0, 2_000_000)


@given(st.integers(0, 10**15), ppms, ppms, st.integers(0, 10_000_000), st.integers(0, 1_000), st.integers(0, 1_000))
def test_the_derate_is_bounded_and_monotone(
    gpu_ms: int, ppm: int, floor_ppm: int, slope_ppm: int, faster: int, steeper: int
) -> None:
    lost = derated_gpu_ms(gpu_ms, ppm=ppm, floor_ppm=floor_ppm, slope_ppm=slope_ppm)
    assert 0 <= lost <= gpu_ms
    assert lost == 0 or ppm < floor_ppm
    assert derated_gpu_ms(gpu_ms, ppm=ppm + faster, floor_ppm=floor_ppm, slope_ppm=slope_ppm) <= lost
    assert derated_gpu_ms(gpu_ms, ppm=ppm, floor_ppm=floor_ppm, slope_ppm=slope_ppm + steeper) >= lost


def test_the_derate_rounds_up_for_the_owner() -> None:
    assert derated_gpu_ms(3, ppm=899_999, floor_ppm=900_000, slope_ppm=1_000_000) == 1
    assert derated_gpu_ms(1_000, ppm=800_000, floor_ppm=900_000, slope_ppm=1_000_000) == 100
    assert derated_gpu_ms(1_000, ppm=0, floor_ppm=900_000, slope_ppm=2_000_000) == 1_000


@pytest.mark.parametrize(("gap_ms", "missing"), [(1, 0), (1_000, 0), (1_001, 1), (3_000, 2), (3_001, 3)])
def test_up_to_two_missing_readings_between_equal_states_are_bridged(gap_ms: int, missing: int) -> None:
    assert missing_readings(gap_ms, 1_000) == missing
    assert bridged(gap_ms, 1_000, same_state=True) == (missing <= 2)
    assert not bridged(gap_ms, 1_000, same_state=False)


def test_a_clock_more_than_a_second_wrong_is_suspect() -> None:
    assert [sight_of_clock(error_ms) for error_ms in (0, -1_000, 1_000)] == [Sight.OBSERVED] * 3
    assert [sight_of_clock(error_ms) for error_ms in (-1_001, 1_001)] == [Sight.SUSPECT] * 2
