"""Codes of causes are on the wire and in every log: none may ever change its number, its name or its bearer."""

from __future__ import annotations

import pytest

from scheduler.core.causes import Bearer, Cause

PUBLISHED = {
    "GPU_FAULT": 1001,
    "ECC": 1002,
    "NVLINK": 1003,
    "FABRIC": 1004,
    "NODE_LOST": 1005,
    "THERMAL": 1006,
    "POWER_CAP": 1007,
    "UNDER_PERFORMANCE": 1008,
    "WRONG_GRADE": 1009,
    "LATE_BIND": 1010,
    "OVERSOLD": 1011,
    "CONTROL_PLANE": 1012,
    "MAINTENANCE_OVER_BUDGET": 1013,
    "BUYER_FAULT": 2001,
    "BUYER_RELEASE": 2002,
    "FORCE_MAJEURE": 3001,
    "RECALL": 4001,
    "PLANNED_MAINTENANCE": 4002,
    "DRAIN": 4003,
    "SWING_CAP": 4004,
    "SHORTAGE_RULE": 4005,
    "REPLACEMENT": 4006,
    "NOT_OBSERVED": 5001,
    "CLOCK_SUSPECT": 5002,
}
BEARERS = {1: Bearer.SELLER, 2: Bearer.BUYER, 3: Bearer.EXCUSED, 4: Bearer.TERMS, 5: Bearer.MEASUREMENT}


def test_published_codes_stay_as_they_are() -> None:
    now = {cause.name: cause.value for cause in Cause}
    assert {name: now.get(name) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("cause", Cause)
def test_the_thousands_say_who_bears_it(cause: Cause) -> None:
    assert cause.bearer is BEARERS[cause.value // 1_000]


def test_no_code_has_two_names() -> None:
    assert list(Cause.__members__.values()) == list(Cause)
    assert all(cause > 0 for cause in Cause)
