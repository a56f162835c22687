"""Why a contracted GPU-millisecond was not delivered, and who bears it. One code per lost GPU-ms, never two.

The thousands say the bearer: 1000s the seller, 2000s the buyer, 3000s excused with evidence, 4000s the instrument's own
terms, 5000s measurement. Codes are on the wire and in the log: they are only ever added.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Bearer(StrEnum):
    """Who bears a loss."""

    SELLER = "seller"
    BUYER = "buyer"
    EXCUSED = "excused"
    TERMS = "terms"
    MEASUREMENT = "measurement"


class Cause(IntEnum):
    """The published list of causes."""

    GPU_FAULT = 1001
    ECC = 1002
    NVLINK = 1003
    FABRIC = 1004
    NODE_LOST = 1005
    THERMAL = 1006
    POWER_CAP = 1007
    UNDER_PERFORMANCE = 1008
    WRONG_GRADE = 1009
    LATE_BIND = 1010
    OVERSOLD = 1011
    CONTROL_PLANE = 1012
    MAINTENANCE_OVER_BUDGET = 1013
    BUYER_FAULT = 2001
    BUYER_RELEASE = 2002
    FORCE_MAJEURE = 3001
    RECALL = 4001
    PLANNED_MAINTENANCE = 4002
    DRAIN = 4003
    SWING_CAP = 4004
    SHORTAGE_RULE = 4005
    REPLACEMENT = 4006
    NOT_OBSERVED = 5001
    CLOCK_SUSPECT = 5002

    @property
    def bearer(self) -> Bearer:
        """Who bears it, by the thousands."""
        return _BEARERS[self // 1000]


OF_HEALTH = frozenset(
    {
        Cause.GPU_FAULT,
        Cause.ECC,
        Cause.NVLINK,
        Cause.FABRIC,
        Cause.NODE_LOST,
        Cause.THERMAL,
        Cause.POWER_CAP,
        Cause.WRONG_GRADE,
        Cause.CONTROL_PLANE,
    }
)
"""What may be wrong with a GPU itself, or with the way to it: what execution observes and operators say. All other
causes follow from orders, coverage, contracts or measurement.
"""

_BEARERS = {1: Bearer.SELLER, 2: Bearer.BUYER, 3: Bearer.EXCUSED, 4: Bearer.TERMS, 5: Bearer.MEASUREMENT}
