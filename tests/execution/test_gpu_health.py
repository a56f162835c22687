"""What readings of NVML mean: one row a cause, the order of causes, and how long heat must last before it counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import OF_HEALTH, Cause
from scheduler.core.devices import classes_of
from scheduler.execution.gpu_health import (
    STEADY_LOOKS,
    GpuReading,
    NodeJudge,
    identity_of,
    is_of_grade,
    lasting_cause,
    passing_cause,
    readings_of,
)

FACTS: dict[str, Any] = {
    "index": 0,
    "uuid": "GPU-5b1f",
    "name": "NVIDIA H100 80GB HBM3",
    "serial": None,
    "board": "900-1",
    "vbios": "96",
    "pci": "00000000:01:00.0",
    "memory_mib": 81_559,
    "uncorrected": 0,
    "pages_pending": None,
    "rows_pending": 0,
    "rows_failed": 0,
    "clock_reasons": 1,
    "temperature_c": 40,
    "power_limit_mw": 700_000,
    "recovery": 0,
    "power_default_mw": 700_000,
    "links_up": 18,
    "fabric_state": 3,
    "fabric_status": 0,
    "fabric_health": 0x12A,
    "xids": [],
}
(WELL,) = readings_of([FACTS])
HOT = replace(WELL, clock_reasons=0x40)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"lost": "GPU is lost"}, Cause.GPU_FAULT),
        ({"recovery": 1}, Cause.GPU_FAULT),
        ({"recovery": None}, None),
        ({"xids": (79,)}, Cause.GPU_FAULT),
        ({"xids": (31, 13, 43, 94)}, None),
        ({"xids": (31, 48)}, Cause.ECC),
        ({"pages_pending": 1}, Cause.ECC),
        ({"rows_pending": 1}, Cause.ECC),
        ({"rows_failed": 1}, Cause.ECC),
        ({"uncorrected": 3}, None),
        ({"links_up": 17}, Cause.NVLINK),
        ({"links_up": 0}, None),
        ({"xids": (74,)}, Cause.NVLINK),
        ({"fabric_status": 999}, Cause.FABRIC),
        ({"fabric_status": 999, "fabric_state": 2}, None),
        ({"fabric_state": None, "fabric_status": None, "fabric_health": None}, None),
        ({"fabric_health": 0x129}, Cause.FABRIC),
        ({"fabric_health": 0x11A}, Cause.FABRIC),
        ({"fabric_health": 0x52A}, Cause.FABRIC),
        ({"name": "NVIDIA L40S"}, Cause.WRONG_GRADE),
        ({"name": "NVIDIA L40S", "rows_failed": 1, "links_up": 3, "lost": "gone"}, Cause.GPU_FAULT),
        ({"name": "NVIDIA L40S", "rows_failed": 1, "links_up": 3}, Cause.ECC),
        ({"name": "NVIDIA L40S", "links_up": 3}, Cause.NVLINK),
    ],
)
def test_a_reading_has_the_first_cause_of_the_table(changes: dict[str, Any], cause: Cause | None) -> None:
    assert lasting_cause(replace(WELL, **changes), 18, "H100SXM") is cause


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"clock_reasons": None}, None),
        ({"clock_reasons": 0x40}, Cause.THERMAL),
        ({"clock_reasons": 0x20}, Cause.THERMAL),
        ({"clock_reasons": 0x88}, Cause.POWER_CAP),
        ({"clock_reasons": 0x04}, None),  # at its usual limit under load, as it should be
        ({"clock_reasons": 0x04, "power_limit_mw": 500_000}, Cause.POWER_CAP),
        ({"clock_reasons": 0x04, "power_limit_mw": None}, None),
    ],
)
def test_what_slows_a_gpu_down_has_its_cause(changes: dict[str, Any], cause: Cause | None) -> None:
    assert passing_cause(replace(WELL, **changes)) is cause


@pytest.mark.parametrize(
    ("name", "grade", "same"),
    [
        ("NVIDIA H100 80GB HBM3", "H100SXM", True),
        ("NVIDIA H100 NVL", "h100", True),
        ("Tesla V100-SXM2-16GB", "V100", True),
        ("NVIDIA GH200 480GB", "H200", False),
        ("NVIDIA L4", "L40S", False),
        ("NVIDIA A100-SXM4-40GB", "A10G", False),
        ("NVIDIA H100 80GB HBM3", "LOGICAL", True),
        ("NVIDIA GeForce RTX 4090", "H100", True),
        (None, "H100", True),
    ],
)
def test_a_board_is_of_another_grade_only_where_both_name_a_class(name: str | None, grade: str, *, same: bool) -> None:
    assert is_of_grade(name, grade) is same
    assert bool(classes_of(grade)) is (grade != "LOGICAL")


def test_heat_counts_once_it_lasts_and_is_over_once_it_stays_away() -> None:
    judge = NodeJudge("H100", 1)
    told = [list(judge.judged([each])) for each in [WELL, HOT, WELL, HOT, HOT, HOT, HOT, WELL, WELL, WELL, WELL]]
    assert told[0] == [(0, None)]
    assert [i for i, each in enumerate(told[1:], 1) if each] == [5, 9]
    assert (told[5], told[9]) == ([(0, Cause.THERMAL)], [(0, None)])


def test_a_fault_is_told_at_once_and_again_when_it_is_another() -> None:
    judge = NodeJudge("H100", 2)
    other = replace(WELL, index=1)
    assert list(judge.judged([WELL, other])) == [(0, None), (1, None)]
    assert list(judge.judged([WELL, replace(other, rows_pending=1)])) == [(1, Cause.ECC)]
    assert list(judge.judged([WELL])) == [(1, Cause.GPU_FAULT)]
    assert list(judge.judged([WELL, other])) == [(1, None)]


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFF), st.integers(0, 2), st.sampled_from([(), (79,), (48,), (74,)])), max_size=12
    )
)
def test_what_is_told_is_a_cause_of_health_and_never_the_same_twice(
    seen: list[tuple[int, int, tuple[int, ...]]],
) -> None:
    judge = NodeJudge("H100", 1)
    told = [
        cause
        for reasons, rows, xids in seen
        for _, cause in judge.judged([replace(WELL, clock_reasons=reasons, rows_pending=rows, xids=xids)])
    ]
    assert all(cause is None or cause in OF_HEALTH for cause in told)
    assert all(one != other for one, other in pairwise(told))
    if len(seen) < STEADY_LOOKS:
        assert not {Cause.THERMAL, Cause.POWER_CAP}.intersection(told)


def test_an_identity_has_what_is_told_and_nothing_else() -> None:
    known = identity_of(WELL)
    assert known is not None
    assert (known.uuid, known.serial, known.memory_mib) == ("GPU-5b1f", "", 81_559)
    assert identity_of(GpuReading(3, lost="GPU is lost")) is None
