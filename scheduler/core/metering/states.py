"""The ten states that a contracted GPU-millisecond can be in, and the state that each cause of loss puts it in.

States exclude each other: the precedence by which an instant gets exactly one is in `closing.py`. The table below is
total over `Cause` (a test keeps it so): a cause without a state would be a loss that nobody counts.
"""

from __future__ import annotations

from enum import StrEnum

from scheduler.core.causes import Cause


class State(StrEnum):
    """Where a contracted GPU-millisecond went. The values are the record's field names without their unit."""

    USED = "used"
    AVAILABLE_UNUSED = "available_unused"
    RELEASED = "released"
    DERATED = "derated"
    OUT_FORCED = "out_forced"
    OUT_PLANNED = "out_planned"
    OUT_BUYER = "out_buyer"
    OUT_EXCUSED = "out_excused"
    RECALLED = "recalled"
    UNKNOWN = "unknown"


DELIVERED = (State.USED, State.AVAILABLE_UNUSED, State.RELEASED)
"""What counts as delivered; all other states are shortfall, and each of their GPU-ms has one cause."""

STATE_OF_CAUSE: dict[Cause, State] = {
    Cause.GPU_FAULT: State.OUT_FORCED,
    Cause.ECC: State.OUT_FORCED,
    Cause.NVLINK: State.OUT_FORCED,
    Cause.FABRIC: State.OUT_FORCED,
    Cause.NODE_LOST: State.OUT_FORCED,
    Cause.THERMAL: State.OUT_FORCED,
    Cause.POWER_CAP: State.OUT_FORCED,
    Cause.UNDER_PERFORMANCE: State.OUT_FORCED,  # below `reject_below_ppm`; the derated part has this cause too
    Cause.WRONG_GRADE: State.OUT_FORCED,
    Cause.LATE_BIND: State.OUT_FORCED,
    Cause.OVERSOLD: State.OUT_FORCED,
    Cause.CONTROL_PLANE: State.OUT_FORCED,
    Cause.MAINTENANCE_OVER_BUDGET: State.OUT_FORCED,
    Cause.BUYER_FAULT: State.OUT_BUYER,
    Cause.BUYER_RELEASE: State.RELEASED,  # given back by its owner: delivered, so never among the losses
    Cause.FORCE_MAJEURE: State.OUT_EXCUSED,
    Cause.RECALL: State.RECALLED,
    Cause.PLANNED_MAINTENANCE: State.OUT_PLANNED,
    Cause.DRAIN: State.OUT_PLANNED,
    Cause.SWING_CAP: State.OUT_PLANNED,  # known before the window, by the terms
    Cause.SHORTAGE_RULE: State.OUT_FORCED,  # the loss was forced; the rule only said who goes short
    Cause.REPLACEMENT: State.OUT_FORCED,  # a device had failed; the terms only give time to replace it
    Cause.NOT_OBSERVED: State.UNKNOWN,
    Cause.CLOCK_SUSPECT: State.UNKNOWN,
}
