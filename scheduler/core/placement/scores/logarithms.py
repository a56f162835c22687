"""Natural logarithms of ratios as integers: where a curve of published formulas is needed without a float.

Fixed point of `ONE`, error under 1e-12, the same on every machine.
"""

from __future__ import annotations

from functools import cache

from scheduler.core.errors import InvalidValue

ONE = 10**15
"""One, in the fixed point of this module's results."""
_GUARD = 10**6
_TERMS = 60


def ln(numerator: int, denominator: int) -> int:
    """The natural logarithm of numerator ÷ denominator, times ONE, rounded down.

    Raises InvalidValue unless both are positive.
    """
    if numerator <= 0 or denominator <= 0:
        raise InvalidValue("a ratio", "ln", (numerator, denominator), "positive integers")
    halvings = 0
    while numerator > 2 * denominator:
        denominator *= 2
        halvings += 1
    while 2 * numerator < denominator:
        numerator *= 2
        halvings -= 1
    return (_series(numerator, denominator) + halvings * _ln_2()) // _GUARD


@cache
def _ln_2() -> int:
    return _series(2, 1)


def _series(numerator: int, denominator: int) -> int:
    """2 atanh((n − d) ÷ (n + d)) for a ratio between a half and two, with guard digits."""
    whole = ONE * _GUARD
    step = (numerator - denominator) * whole // (numerator + denominator)
    square = step * step // whole
    total, power = 0, step
    for k in range(_TERMS):
        total += power // (2 * k + 1)
        power = power * square // whole
    return 2 * total
