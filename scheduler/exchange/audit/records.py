"""What one meter record must be by itself and by its instrument, each fault in words; empty for a sound one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.core.causes import Cause
from scheduler.core.instruments import MAX_INSTANT_MS, InstrumentTerms, ThroughputScope
from scheduler.core.intervals import Interval, overlap
from scheduler.core.metering.records import MeterRecord, Quality
from scheduler.core.quantities import ONE_PPM, floor_div

LATER = MAX_INSTANT_MS + 1


def wrong_contracted(
    record: MeterRecord, terms: InstrumentTerms, deliveries: Sequence[Interval], agreed_ms: Mapping[str, int]
) -> str:
    """Why the record cannot be of whole lots inside the profile, or is worth more than any grade that was accepted.
    `deliveries`: `delivery_intervals` of the terms; `agreed_ms`: since when the owner agrees to each grade, as the log
    has it before.
    """
    if record.start_ms >= record.end_ms:
        return ""
    if record.contracted_gpu_ms % terms.lot.gpus:
        return (
            f"contracted_gpu_ms was {record.contracted_gpu_ms}, expected a multiple of the lot's {terms.lot.gpus} GPUs"
        )
    if record.contracted_gpu_ms and not overlap(deliveries, record.interval):
        return f"contracted_gpu_ms was {record.contracted_gpu_ms}, expected 0 outside the profile"
    accepted = [
        each
        for each in terms.deliverables
        if not each.needs_consent or agreed_ms.get(each.grade, LATER) < record.end_ms
    ]
    if record.quality is Quality.SUBSTITUTED and len(accepted) == 1 and len(terms.deliverables) > 1:
        return f"quality was {record.quality}, expected a consent in the log before: {terms.grade.klass} alone counts"
    best_ppm = max((each.conversion_ppm for each in accepted), default=ONE_PPM)
    most = floor_div(record.delivered_gpu_ms * best_ppm, ONE_PPM)
    if record.par_gpu_ms > most:
        return f"par_gpu_ms was {record.par_gpu_ms}, expected at most {most} for what was delivered"
    return ""


def wrong_throughput(record: MeterRecord, terms: InstrumentTerms) -> str:
    """Why what was measured and what was derated contradict each other.

    What counts is the least GPU's performance, or the mean where the floor is on the total. Below the floor (below the
    rejection limit, where the slope takes nothing) something is lost to UNDER_PERFORMANCE; at or above it, nothing is.
    """
    throughput = terms.throughput
    by_total = throughput.scope is ThroughputScope.TOTAL
    name = "measured_mean_ppm" if by_total else "measured_min_ppm"
    ppm = record.measured_mean_ppm if by_total else record.measured_min_ppm
    if record.measured_min_ppm > record.measured_mean_ppm:
        return f"measured_min_ppm was {record.measured_min_ppm}, expected at most the mean, {record.measured_mean_ppm}"
    if not ppm:
        return ""  # nothing was healthy and seen
    slow_gpu_ms = dict(record.losses).get(Cause.UNDER_PERFORMANCE, 0)
    least_ppm = throughput.floor_ppm if throughput.discount_slope_ppm else throughput.reject_below_ppm
    if ppm < least_ppm and not slow_gpu_ms:
        return f"{name} was {ppm} and nothing is derated, expected a loss below {least_ppm}"
    if ppm >= max(throughput.floor_ppm, throughput.reject_below_ppm) and slow_gpu_ms:
        return f"{slow_gpu_ms} GPU-ms are lost to under-performance, expected none where {name} is {ppm}"
    return ""
