"""Which devices back what is sold: pledges and withdrawals, as a log tells them, and devices that are pledged twice.

It exists because a GPU is only worth what stands behind one promise: the same device behind two is the oldest fraud of
warehouses. A device is told by the SHA-256 of a fixed prefix and its UUID. A UUID is random, so the hash tells nothing
of the machine and still compares, in one log and across the logs of different sellers.

Laws: at an instant a device is pledged to one pool at most; it is pledged again only from its withdrawal on.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

from pydantic import Field

from scheduler.core.ids import Name
from scheduler.core.intervals import StepFunction
from scheduler.core.models import Model

BOARD_CLASSES = (
    *("GB300", "GB200", "B300", "B200", "GH200", "H200", "H100", "H800", "H20", "A100", "A800", "A40", "A30", "A10"),
    *("A10G", "L40S", "L40", "L4", "V100", "P100", "T4"),
)
"""What boards of data centres are called, as a word of their name."""

_PREFIX = b"tenor.dev/device/v1\0"


def device_hash(uuid: str) -> str:
    """How a device is named in logs: the lower-case hex of the SHA-256 of the prefix and its UUID, as its driver writes
    it (`GPU-5b1f…`).
    """
    return hashlib.sha256(_PREFIX + uuid.encode()).hexdigest()


def classes_of(grade: str) -> tuple[str, ...]:
    """The classes of real boards that a grade's name begins with; none: its GPUs are logical ones."""
    return tuple(each for each in BOARD_CLASSES if grade.upper().startswith(each))


class DeviceIdentity(Model):
    """A device as its driver tells of it. A fact that is empty, or 0, is one that it does not tell."""

    uuid: str = Field(min_length=1, max_length=200)
    name: str = Field(default="", max_length=200)
    serial: str = Field(default="", max_length=200)
    board: str = Field(default="", max_length=200)
    vbios: str = Field(default="", max_length=200)
    memory_mib: int = Field(default=0, ge=0)


class DevicePledge(Model):
    """A device that backs what is sold of a pool, from an instant on. `cell`: its path, site first (`site/block/…`)."""

    device: str = Field(pattern=r"^[0-9a-f]{64}$")
    grade: Name
    site: Name
    cell: str = Field(min_length=1, max_length=1_000)
    from_ms: int = Field(ge=0)

    @property
    def pool(self) -> str:
        """`site/grade`."""
        return f"{self.site}/{self.grade}"


class DeviceWithdrawal(Model):
    """The device backs nothing of this log from then on."""

    device: str = Field(pattern=r"^[0-9a-f]{64}$")
    from_ms: int = Field(ge=0)


@dataclass(frozen=True, slots=True)
class PledgedSpan:
    """A pledge and how long it held. `end_ms`: None until it is withdrawn. `where`: the leaf that says so."""

    pledge: DevicePledge
    end_ms: int | None
    where: str

    @property
    def named(self) -> str:
        """In words, for messages."""
        until = "" if self.end_ms is None else f" to {self.end_ms}"
        return f"{self.pledge.cell} of {self.pledge.pool} from {self.pledge.from_ms}{until} ({self.where})"

    def overlaps(self, other: PledgedSpan) -> bool:
        """Whether both hold at some instant."""
        begins_ms = max(self.pledge.from_ms, other.pledge.from_ms)
        return all(each.end_ms is None or begins_ms < each.end_ms for each in (self, other))


@dataclass(slots=True)
class PledgeBook:
    """The pledges of one log, in its order."""

    by_device: dict[str, list[PledgedSpan]] = field(default_factory=dict)

    def pledge(self, pledge: DevicePledge, where: str) -> str:
        """Takes a pledge in; what is wrong with it, in words, or empty."""
        span = PledgedSpan(pledge, None, where)
        known = self.by_device.setdefault(pledge.device, [])
        before = next((each for each in known if each.overlaps(span)), None)
        known.append(span)
        if before is None:
            return ""
        return f"device {pledge.device[:16]} is pledged twice: to {before.named}, and to {span.named}"

    def withdraw(self, withdrawal: DeviceWithdrawal) -> str:
        """Takes a withdrawal in; what is wrong with it, in words, or empty."""
        known = self.by_device.get(withdrawal.device, [])
        if not known or known[-1].end_ms is not None:
            return f"device {withdrawal.device[:16]} was withdrawn, expected one that is pledged"
        begun_ms = known[-1].pledge.from_ms
        if withdrawal.from_ms < begun_ms:
            return (
                f"from_ms of the withdrawal of device {withdrawal.device[:16]} was {withdrawal.from_ms}, "
                f"expected {begun_ms} or later, when it was pledged"
            )
        known[-1] = replace(known[-1], end_ms=withdrawal.from_ms)
        return ""

    def standing(self, pool: str, at_ms: int) -> tuple[int, int]:
        """(devices that are pledged to a pool from `at_ms` or before and not withdrawn so far, those of them in its
        largest NVLink domain).
        """
        domains = Counter(
            spans[-1].pledge.cell.rsplit("/", 2)[0]
            for spans in self.by_device.values()
            if spans[-1].end_ms is None and spans[-1].pledge.pool == pool and spans[-1].pledge.from_ms <= at_ms
        )
        return sum(domains.values()), max(domains.values(), default=0)

    def gpus_by_pool(self) -> dict[str, StepFunction]:
        """How many devices are pledged to each pool, over time."""
        changes: dict[str, Counter[int]] = defaultdict(Counter)
        for spans in self.by_device.values():
            for span in spans:
                changes[span.pledge.pool][span.pledge.from_ms] += 1
                if span.end_ms is not None:
                    changes[span.pledge.pool][span.end_ms] -= 1
        return {pool: _summed(changes[pool]) for pool in sorted(changes)}


def pledged_in_both(left: PledgeBook, right: PledgeBook) -> Iterator[tuple[PledgedSpan, PledgedSpan]]:
    """The pledges of the same device at the same time in two logs, by device."""
    for device in sorted(left.by_device.keys() & right.by_device.keys()):
        yield from _overlapping(left.by_device[device], right.by_device[device])


def _summed(changes: Mapping[int, int]) -> StepFunction:
    instants = sorted(changes)
    return StepFunction.of(zip(instants, accumulate(changes[at_ms] for at_ms in instants), strict=True))


def _overlapping(
    left: Iterable[PledgedSpan], right: Iterable[PledgedSpan]
) -> Iterator[tuple[PledgedSpan, PledgedSpan]]:
    theirs = tuple(right)
    for ours in left:
        for other in theirs:
            if ours.overlaps(other):
                yield ours, other
