"""The maintenance budget: how much of a position's capacity may be out by announced maintenance.

It is written for one lot over the whole window, and counts in proportion to what is contracted, as all such allowances
do. An interval's allowance takes what was contracted up to its end, and what would be if nothing changed any more: so
it is known when the interval is closed, and an auditor finds the same number from the records before it.
"""

from __future__ import annotations

from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, intersect, total_ms
from scheduler.core.profiles import delivery_intervals, delivery_ms
from scheduler.core.quantities import floor_div


def allowance_gpu_ms(terms: InstrumentTerms, interval: Interval, before_gpu_ms: int, contracted_gpu_ms: int) -> int:
    """How much may be out through the end of an interval in which so much is contracted, and so much before it."""
    whole_ms = delivery_ms(terms)
    if not whole_ms or not terms.maintenance.budget_ms:
        return 0
    deliveries = delivery_intervals(terms)
    inside_ms = total_ms(intersect(deliveries, (interval,)))
    gpus = floor_div(contracted_gpu_ms, inside_ms) if inside_ms else 0
    after_ms = 0
    if interval.end_ms < terms.window.end_ms:
        after_ms = total_ms(intersect(deliveries, (Interval(interval.end_ms, terms.window.end_ms),)))
    return floor_div(terms.maintenance.budget_ms * (before_gpu_ms + contracted_gpu_ms + gpus * after_ms), whole_ms)
