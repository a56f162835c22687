"""What a reading of NVML means: who a GPU is, and whether something is wrong with it, by the published list of causes.

Pure: readings in (`gpu_watch`), observations out. Laws: a fault that needs a reset or a new GPU holds until the reading
no longer shows it; heat and power must be seen three times in a row before they make a GPU ill, and be absent as often
before it is well, since either passes within seconds and work would leave for nothing.

| seen | cause |
|---|---|
| no answer, fallen off the bus, a reset or reboot is due, an Xid of the device itself | GPU_FAULT |
| memory that cannot be corrected: pages to retire, rows to remap, a remapping that failed, its Xids | ECC |
| fewer NVLinks up than another GPU of the node has (not: none, a board without a bridge), its Xids | NVLINK |
| the fabric's registration failed, its bandwidth is degraded, its routes are not well | FABRIC |
| clocks are slowed by heat | THERMAL |
| clocks are slowed by the power brake, or by a limit that somebody set below the board's default | POWER_CAP |
| another product than its node's grade says | WRONG_GRADE |

Numbers are those of `nvml.h` and of NVIDIA's list of Xids. An Xid of the program that ran (13, 31, 43, 45, 94, …) says
nothing about the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.core.causes import Cause
from scheduler.core.devices import BOARD_CLASSES, DeviceIdentity, classes_of

STEADY_LOOKS = 3
"""So many in a row before heat or power counts, either way."""

_XIDS = {
    Cause.GPU_FAULT: frozenset({46, 54, 62, 79, 109, 110, 119, 120, 143}),
    Cause.ECC: frozenset({48, 63, 64, 95, 140}),
    Cause.NVLINK: frozenset({74, 144, 145, 146, 147, 148, 149, 150}),
}
_HW_THERMAL, _SW_THERMAL = 0x40, 0x20
_POWER_BRAKE, _SW_POWER_CAP = 0x80, 0x04
_FABRIC_COMPLETED = 3
# Fields of the fabric's health mask, two bits each, where 1 says that something is not well; and its configuration.
_DEGRADED_SHIFT, _UNHEALTHY_SHIFT, _CONFIGURED_SHIFT, _CONFIGURED_MASK = 0, 4, 8, 0xF
_CONFIGURATION_SOUND = 1


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU as NVML told of it. None: this board or driver does not say. `lost`: why nothing else is known."""

    index: int
    lost: str = ""
    uuid: str | None = None
    name: str | None = None
    serial: str | None = None
    board: str | None = None
    vbios: str | None = None
    pci: str | None = None
    memory_mib: int | None = None
    uncorrected: int | None = None
    pages_pending: int | None = None
    rows_pending: int | None = None
    rows_failed: int | None = None
    clock_reasons: int | None = None
    temperature_c: int | None = None
    power_limit_mw: int | None = None
    power_default_mw: int | None = None
    recovery: int | None = None
    links_up: int = 0
    fabric_state: int | None = None
    fabric_status: int | None = None
    fabric_health: int | None = None
    xids: tuple[int, ...] = ()


def readings_of(told: Sequence[Mapping[str, Any]]) -> tuple[GpuReading, ...]:
    """The readings of a look (`GpuWatch.look`), by index."""
    return tuple(GpuReading(**{**each, "xids": tuple(each.get("xids", ()))}) for each in told)


def identity_of(reading: GpuReading) -> DeviceIdentity | None:
    """Who a GPU is; None where it does not answer."""
    if reading.uuid is None:
        return None
    return DeviceIdentity(
        uuid=reading.uuid,
        name=reading.name or "",
        serial=reading.serial or "",
        board=reading.board or "",
        vbios=reading.vbios or "",
        memory_mib=reading.memory_mib or 0,
    )


def lasting_cause(reading: GpuReading, most_links: int, grade: str) -> Cause | None:
    """What is wrong with a GPU until somebody mends it; the first of the table. `most_links`: of its node's GPUs."""
    by_xid = [cause for cause, codes in _XIDS.items() if codes.intersection(reading.xids)]
    if reading.lost or reading.recovery or Cause.GPU_FAULT in by_xid:
        return Cause.GPU_FAULT
    if reading.pages_pending or reading.rows_pending or reading.rows_failed or Cause.ECC in by_xid:
        return Cause.ECC
    if 0 < reading.links_up < most_links or Cause.NVLINK in by_xid:
        return Cause.NVLINK
    if _fabric_is_ill(reading):
        return Cause.FABRIC
    return Cause.WRONG_GRADE if not is_of_grade(reading.name, grade) else None


def passing_cause(reading: GpuReading) -> Cause | None:
    """What slows a GPU down at this instant."""
    reasons = reading.clock_reasons or 0
    if reasons & (_HW_THERMAL | _SW_THERMAL):
        return Cause.THERMAL
    limit, usual = reading.power_limit_mw, reading.power_default_mw
    capped = bool(reasons & _SW_POWER_CAP) and limit is not None and usual is not None and limit < usual
    return Cause.POWER_CAP if reasons & _POWER_BRAKE or capped else None


def is_of_grade(name: str | None, grade: str) -> bool:
    """Whether a board of this name may be of a grade: False only where both name a class, and not the same one.

    A grade's class is the longest one that it begins with (`H100SXM`: H100); a grade of any other name says nothing.
    """
    known = classes_of(grade)
    words = set(re.split(r"[^A-Z0-9]+", (name or "").upper()))
    named = words.intersection(BOARD_CLASSES)
    return not known or not named or max(known, key=len) in named


def _fabric_is_ill(reading: GpuReading) -> bool:
    if reading.fabric_state != _FABRIC_COMPLETED:  # not supported, or still on its way
        return False
    mask = reading.fabric_health or 0
    configuration = mask >> _CONFIGURED_SHIFT & _CONFIGURED_MASK
    flagged = any(mask >> shift & 0b11 == 1 for shift in (_DEGRADED_SHIFT, _UNHEALTHY_SHIFT))
    return bool(reading.fabric_status) or flagged or configuration > _CONFIGURATION_SOUND


@dataclass(slots=True)
class NodeJudge:
    """What is known of a node's GPUs by look after look. `gpus`: how many it declares; one that NVML does not count
    does not answer. The first look tells of every GPU: what was wrong before somebody began to look may be over.
    """

    grade: str
    gpus: int
    _told: dict[int, Cause | None] = field(default_factory=dict)
    _passing: dict[int, Cause | None] = field(default_factory=dict)
    _run: dict[int, tuple[Cause | None, int]] = field(default_factory=dict)

    def judged(self, readings: Sequence[GpuReading]) -> Iterator[tuple[int, Cause | None]]:
        """The GPUs whose cause is another than was told before, by index, with the new one (None: well)."""
        by_index = {reading.index: reading for reading in readings}
        most_links = max((reading.links_up for reading in readings), default=0)
        for index in range(self.gpus):
            reading = by_index.get(index, GpuReading(index, lost="NVML does not count it"))
            passing = self._settled(index, passing_cause(reading))
            cause = lasting_cause(reading, most_links, self.grade) or passing
            if index not in self._told or cause != self._told[index]:
                self._told[index] = cause
                yield index, cause

    def _settled(self, index: int, now: Cause | None) -> Cause | None:
        """What has been seen often enough; else what was settled before."""
        before, count = self._run.get(index, (None, 0))
        self._run[index] = (now, count + 1 if now == before else 1)
        if self._run[index][1] >= STEADY_LOOKS:
            self._passing[index] = now
        return self._passing.get(index)
