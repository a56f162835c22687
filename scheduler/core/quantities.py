"""Integer quantities with their units, and the few divisions that say how they round.

There is no float in the model, in metering or in settlement. Ratios are parts per million, money is micro-units of
a currency, time is milliseconds. A bare `/` never appears: `floor_div`, `ceil_div` and `apportion` say the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType

from scheduler.core.errors import InvalidValue

GpuMs = NewType("GpuMs", int)
"""GPU-milliseconds: one GPU for one millisecond. int64 on the wire."""

Ppm = NewType("Ppm", int)
"""Parts per million: 1_000_000 is one."""

MicroMoney = NewType("MicroMoney", int)
"""Millionths of a unit of an ISO 4217 currency."""

Ms = NewType("Ms", int)
"""Milliseconds: an instant since 1970-01-01T00:00:00Z, or a length of time (`_ms` either way)."""

MilliGpu = NewType("MilliGpu", int)
"""Thousandths of one GPU."""

ONE_PPM = 1_000_000
MS_PER_HOUR = 3_600_000
MS_PER_DAY = 86_400_000
INT64_MAX = 2**63 - 1


def floor_div(numerator: int, denominator: int) -> int:
    """The quotient rounded towards minus infinity. `denominator` must be positive."""
    if denominator <= 0:
        raise InvalidValue("denominator", "floor_div", denominator, "a positive integer")
    return numerator // denominator


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded towards plus infinity. `denominator` must be positive."""
    if denominator <= 0:
        raise InvalidValue("denominator", "ceil_div", denominator, "a positive integer")
    return -(-numerator // denominator)


def share_ppm(part: int, whole: int) -> Ppm:
    """`part` of `whole` in ppm, rounded down; 0 where the whole is 0."""
    return Ppm(0) if whole == 0 else Ppm(floor_div(part * ONE_PPM, whole))


def apportion(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `total` in proportion to `weights` in whole units, by largest remainder; the shares add up exactly.

    Ties between equal remainders go to the earlier weight, so the caller's order is the tie-break. Weights are
    non-negative; where all are 0, nothing can be shared and a positive `total` is refused. Source: Hamilton's method.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise InvalidValue("total and weights", "apportion", (total, tuple(weights)), "integers of 0 or more")
    whole = sum(weights)
    if whole == 0:
        if total:
            raise InvalidValue("weights", "apportion", tuple(weights), f"a positive sum to share {total} by")
        return (0,) * len(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)
