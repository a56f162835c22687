"""Device probes: a pledged device computes what only it can answer for, after a nonce is revealed, within a time.

The exchange draws which device, when, and the nonce; the cluster lets the device compute only where nothing runs on it.
What the exchange found is a value that it signs and the cluster's log keeps. Laws: a nonce is committed to before the
device is ready and used once; an answer is committed to, row by row, before anybody knows which rows are opened; a
finding is evidence and changes no record: whoever draws a conclusion from one disputes the record.

What is asked of a device follows from its grade: a real board's class gets work of about 9 × 10^12 operations, and the
time in which a tenth of its published single precision does it, beside a fixed allowance. Any other grade names logical
GPUs: the stand-in, small enough for a processor, proves the path and no hardware, and its suite says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from scheduler.core.devices import classes_of
from scheduler.core.errors import InvalidValue
from scheduler.core.ids import Name
from scheduler.core.merkle import inclusion_proof, leaf_hash, root, verify_inclusion
from scheduler.core.models import Model, canonical_bytes
from scheduler.core.probe_work import MOST_SIZE, row_bytes, rows_of, seed_of
from scheduler.core.quantities import ceil_div

SUITE = "nonce-matmul-v1"
STAND_IN_SUITE = "nonce-matmul-stand-in-v1"
OPENED_ROWS = 4
"""Half a table passes once in 16 probes, and three times in 4,096."""
LONGEST_REASON = 300

MOST_CHECKED = 1 << 23
"""Size × products, so that whoever checks a row needs no more than some tens of MiB."""

_SIGNED = b"tenor.dev/device-probe/v1\0"
_HASH = r"^[0-9a-f]{64}$"
_ALLOWED_MS = 2_000
"""For everything but the computing: calls, two transfers, hashing."""
_SLOWEST_PPM = 100_000
_GIGAFLOPS = {
    "B200": 75_000,
    "GB200": 75_000,
    "H200": 67_000,
    "GH200": 67_000,
    "H100": 51_000,
    "H800": 51_000,
    "H20": 44_000,
    "A100": 19_500,
    "A800": 19_500,
    "A40": 37_400,
    "A30": 10_300,
    "A10": 31_200,
    "A10G": 31_200,
    "L40S": 91_600,
    "L40": 90_500,
    "L4": 30_300,
    "V100": 14_000,
    "P100": 9_300,
    "T4": 8_100,
}
"""Published single precision without tensor cores, by class, of its slowest form, in 10^9 operations a second."""
_USUAL_GIGAFLOPS = 51_000


class Outcome(StrEnum):
    """What the exchange found. See the wire's `ProbeOutcome`."""

    PASSED = "passed"
    WRONG = "wrong"
    LATE = "late"
    DECLINED = "declined"
    SILENT = "silent"


class Declined(StrEnum):
    """Why a cluster does not let a device compute. None of them is a failure; how often is for everybody to see."""

    BUSY = "busy"
    GAVE_WAY = "gave_way"
    NOT_HERE = "not_here"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProbeShape:
    """What is asked: a table of `size` rows from so many products, within `limit_ms`."""

    suite: str
    size: int
    products: int
    limit_ms: int


def shape_of(grade: str) -> ProbeShape:
    """What is asked of a device of a grade; see the module."""
    known = classes_of(grade)
    if not known:
        return ProbeShape(STAND_IN_SUITE, 64, 128, 5_000)
    size, products = 1_024, 4_096
    rate = _GIGAFLOPS.get(max(known, key=len), _USUAL_GIGAFLOPS) * 1_000_000  # operations a millisecond
    computing_ms = ceil_div(2 * size**3 * products * 1_000_000, rate * _SLOWEST_PPM)
    return ProbeShape(SUITE, size, products, _ALLOWED_MS + computing_ms)


class ProbedRow(Model):
    """A row of an answer: its bytes, and the proof that the answer's root is over them, in hexadecimal."""

    row: int = Field(ge=0)
    values: str = Field(pattern=r"^([0-9a-f]{4})*$", max_length=4 * MOST_SIZE)
    proof: tuple[str, ...] = Field(max_length=16)


class ProbeCall(Model):
    """A device that is to compute. `commitment`: SHA-256 of the nonce."""

    id: Name
    device: str = Field(pattern=_HASH)
    suite: str = Field(min_length=1, max_length=100)
    size: int = Field(ge=2, le=MOST_SIZE)
    products: int = Field(ge=1, le=100_000)
    commitment: str = Field(pattern=_HASH)
    called_ms: int = Field(ge=0)
    limit_ms: int = Field(ge=1)

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        if self.size & (self.size - 1):
            raise ValueError(f"size was {self.size}, expected a power of two")
        if self.size * self.products > MOST_CHECKED:
            raise ValueError(f"size × products was {self.size * self.products}, expected at most {MOST_CHECKED}")
        return self


class DeviceProbe(ProbeCall):
    """What became of a call; what it did not come to is empty, or 0. Instants are by the exchange's clock."""

    nonce: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    revealed_ms: int = Field(default=0, ge=0)
    root: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    answered_ms: int = Field(default=0, ge=0)
    rows: tuple[ProbedRow, ...] = Field(default=(), max_length=OPENED_ROWS)
    outcome: Outcome
    reason: str = Field(default="", max_length=LONGEST_REASON)
    exchange: str = Field(default="", max_length=1_000)
    signature: str = Field(default="", pattern=r"^([0-9a-f]{128})?$")

    @property
    def signed_bytes(self) -> bytes:
        """What the exchange's signature is over."""
        return _SIGNED + canonical_bytes(self.model_dump(mode="json", exclude={"signature"}))

    @property
    def seed(self) -> bytes:
        """Of the work; only where the nonce was revealed."""
        return seed_of(bytes.fromhex(self.nonce), bytes.fromhex(self.device), self.size, self.products)


@dataclass(frozen=True, slots=True)
class Answer:
    """A table that a device computed, as it is committed to and opened."""

    rows: tuple[bytes, ...]
    hashes: tuple[bytes, ...]

    @classmethod
    def of(cls, table: bytes, size: int) -> Self:
        """The answer that a table is, given row by row. Raises InvalidValue for one of another size."""
        if len(table) != 2 * size * size:
            raise InvalidValue("table", "an answer", f"{len(table)} bytes", f"{2 * size * size}")
        rows = tuple(table[at : at + 2 * size] for at in range(0, len(table), 2 * size))
        return cls(rows, tuple(map(leaf_hash, rows)))

    @property
    def root(self) -> bytes:
        """RFC 9162 root over the rows."""
        return root(self.hashes)

    def opened(self, rows: Sequence[int]) -> tuple[ProbedRow, ...]:
        """These rows, each with its proof."""
        size = len(self.hashes)
        return tuple(
            ProbedRow(
                row=row,
                values=self.rows[row].hex(),
                proof=tuple(each.hex() for each in inclusion_proof(self.hashes, row, size)),
            )
            for row in rows
        )


def commitment_of(nonce: bytes) -> str:
    """What a call says of its nonce."""
    return hashlib.sha256(nonce).hexdigest()


def wrong_rows(probe: DeviceProbe) -> str:
    """What is wrong with the rows that were opened, in words; empty where each is under the root and is what this
    device has to answer to this nonce.
    """
    given = [each.row for each in probe.rows]
    if len(set(given)) != OPENED_ROWS or max(given) >= probe.size:
        return f"{len(set(given))} rows were opened, expected {OPENED_ROWS} of {probe.size}"
    for each in probe.rows:
        proof = tuple(bytes.fromhex(one) for one in each.proof)
        if not verify_inclusion(leaf_hash(bytes.fromhex(each.values)), each.row, probe.size, proof, _bytes(probe.root)):
            return f"row {each.row} is not under the root that was answered"
    expected = rows_of(probe.seed, probe.size, probe.products, given)
    for each, row in zip(probe.rows, expected, strict=True):
        if bytes.fromhex(each.values) != row_bytes(row):
            return f"row {each.row} is not what this device computes from this nonce"
    return ""


def is_answer_for(probe: DeviceProbe, device: str) -> bool:
    """Whether the first row that was opened is what another device has to answer to the same nonce."""
    other = probe.model_copy(update={"device": device})  # of the same form: only the seed is asked for
    first = probe.rows[0]
    (row,) = rows_of(other.seed, probe.size, probe.products, [first.row])
    return bytes.fromhex(first.values) == row_bytes(row)


def wrong_course(probe: DeviceProbe) -> str:
    """What contradicts itself in how a finding says that it came about, in words; empty for nothing."""
    if probe.nonce and commitment_of(_bytes(probe.nonce)) != probe.commitment:
        return "its nonce is not the one that was committed to"
    if bool(probe.nonce) != bool(probe.revealed_ms) or (probe.revealed_ms and probe.revealed_ms < probe.called_ms):
        return f"revealed_ms was {probe.revealed_ms}, expected {probe.called_ms}, its call, or later"
    if probe.root and (not probe.nonce or probe.answered_ms < probe.revealed_ms):
        if probe.outcome is Outcome.WRONG:
            return ""  # that is what was wrong
        return f"answered at {probe.answered_ms}, before its nonce was revealed"
    if probe.outcome is Outcome.PASSED:
        took_ms = probe.answered_ms - probe.revealed_ms
        if not probe.root or took_ms > probe.limit_ms:
            return f"it passed after {took_ms} ms, expected an answer within {probe.limit_ms}"
    return ""


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)
