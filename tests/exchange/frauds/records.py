"""What a seller who holds the log's key may tell of its records."""

from __future__ import annotations

from scheduler.core.causes import Cause
from scheduler.core.instruments import Deliverable
from scheduler.core.metering.records import MeterRecord, Quality, RecordStatus
from scheduler.exchange.consents import SubstituteConsent, encode_consent
from scheduler.exchange.leaves import encode_record
from tests.exchange.evidence import FIRST, Evidence, as_delivered, later, record_at, told
from tests.exchange.frauds.kinds import Fraud, lie, settled
from tests.exchange.world import END_MS, INTERVAL_MS, START_MS, metered, terms

WHOLE = 3 * 8 * INTERVAL_MS
"""What pos-1 contracts in an interval."""
LOST = 3_000
DELIVERED = WHOLE - LOST
USED = DELIVERED // 2


def moved_gpu_ms(record: MeterRecord) -> MeterRecord:
    """One GPU-ms of the third interval that pos-1 contracted is told of pos-2."""
    more = {"pos-1": -1, "pos-2": 1}.get(record.position, 0) if record.start_ms == START_MS + 20_000 else 0
    fields = ("contracted_gpu_ms", "used_gpu_ms", "par_gpu_ms")
    return MeterRecord.model_validate(dict(record) | {name: getattr(record, name) + more for name in fields})


def slow(ppm: int, **changes: object) -> dict[str, object]:
    """A record that says how fast its GPUs were."""
    return {"measured_mean_ppm": ppm, "measured_min_ppm": ppm, "suite": "matmul.v1", **changes}


A100 = Deliverable(grade="A100SXM", conversion_ppm=450_000, needs_consent=True)


def substituted(*before: bytes) -> Evidence:
    """Two lots of pos-1's third interval are told to be delivered in another grade."""
    record = record_at("pos-1", 2, quality=Quality.SUBSTITUTED)
    instruments = (terms(deliverables=(*terms().deliverables, A100)),)
    return Evidence(leaves=[*before, *told(record)], settled={}, instruments=instruments)


def agreed(grade: str = "A100SXM", from_ms: int = START_MS) -> bytes:
    """The consent of pos-1's owner."""
    return encode_consent(SubstituteConsent("pos-1", "H100.BASE@1", (grade,), from_ms), START_MS)


AGREED = {"a substitute that its buyer agreed to": lambda: substituted(agreed())}
"""A log in which another grade stands in as the terms say."""

RECORDS: dict[str, Fraud] = {
    "a substitute is delivered that nobody agreed to": settled(
        substituted, "contracted", "quality was substituted, expected a consent in the log before: H100SXM alone counts"
    ),
    "a substitute is delivered before it was agreed to": settled(
        lambda: substituted(agreed(from_ms=START_MS + 3 * INTERVAL_MS)),
        "contracted",
        "quality was substituted, expected a consent in the log before",
    ),
    "a consent is to a grade that nobody may deliver": settled(
        lambda: substituted(agreed("V100")), "consents", "a consent to V100, for which H100.BASE@1 asks none"
    ),
    "more is used than there was": lie(
        lambda: told(record_at("pos-1", 2, used_gpu_ms=WHOLE)),
        "identities",
        f"leaf {FIRST + 8}, pos-1 [1800000020000, 1800000030000) version 1: the states add up to",
    ),
    "a loss has no cause": lie(
        lambda: told(record_at("pos-1", 2, losses=())),
        "identities",
        "the causes of out_forced add up to 0, expected 3000",
    ),
    "a loss has two causes": lie(
        lambda: told(record_at("pos-1", 2, losses=((Cause.ECC, LOST), (Cause.NODE_LOST, LOST)))),
        "identities",
        "the causes of out_forced add up to 6000, expected 3000",
    ),
    "a lost node is booked on the buyer": lie(
        lambda: told(record_at("pos-1", 2, out_forced_gpu_ms=0, out_buyer_gpu_ms=LOST)),
        "identities",
        "the causes of out_forced add up to 3000, expected 0",
    ),
    "more is estimated than was contracted": lie(
        lambda: told(record_at("pos-1", 2, estimated_gpu_ms=WHOLE + 1)), "identities", "estimated_gpu_ms 240001 exceeds"
    ),
    "a first version poses as a correction": lie(
        lambda: told(record_at("pos-1", 2, status=RecordStatus.CORRECTED)),
        "identities",
        "version 1 has status corrected, expected an earlier version to correct",
    ),
    "a correction supersedes itself": lie(
        lambda: told(more=[later("pos-2", 3, supersedes=2)]), "identities", "version 2 supersedes 2, expected 1"
    ),
    "half a GPU is contracted": lie(
        lambda: told(record_at("pos-2", 5, contracted_gpu_ms=160_001, used_gpu_ms=79_001)),
        "contracted",
        "contracted_gpu_ms was 160001, expected a multiple of the lot's 8 GPUs",
    ),
    "a GPU-ms moves from one position to another": lie(
        lambda: told(moved_gpu_ms),
        "contracted",
        "contracted_gpu_ms was 239999, expected a multiple of the lot's 8 GPUs",
    ),
    "a slower grade is delivered at more than par": lie(
        lambda: told(record_at("pos-1", 1, par_gpu_ms=WHOLE)),
        "contracted",
        "par_gpu_ms was 240000, expected at most 237000 for what was delivered",
    ),
    "another instrument was delivered": lie(
        lambda: told(record_at("pos-1", 1, instrument="H200@1")), "intervals", "holds no terms of H200@1"
    ),
    "the instrument changes in the middle": settled(
        lambda: Evidence(
            leaves=told(record_at("pos-1", 1, instrument="CHEAP@1")),
            instruments=(terms(), terms("CHEAP", price_micro_per_gpu_hour=1)),
        ),
        "intervals",
        "was of CHEAP@1, expected H100.BASE@1",
    ),
    "an interval is longer than it may be": lie(
        lambda: told(record_at("pos-1", 11, end_ms=END_MS + INTERVAL_MS)), "written", "written_ms was"
    ),
    "an interval begins between two": lie(
        lambda: told(record_at("pos-1", 3, start_ms=START_MS + 35_000, end_ms=START_MS + 40_000)),
        "intervals",
        "[1800000035000, 1800000040000) is not 10000 ms from a multiple of it",
    ),
    "delivery goes on after the window": lie(
        lambda: told(more=[encode_record(metered("pos-1", 3, 12), END_MS + 20_000)]),
        "intervals",
        "[1800000120000, 1800000130000) is outside [1800000000000, 1800000120000)",
    ),
    "a record is written before its interval is over": lie(
        lambda: told(more=[encode_record(metered("pos-1", 3, 11, version=2, supersedes=1), START_MS)]),
        "written",
        "written_ms was 1800000000000, expected 1800000120000 or later, the end of its interval",
    ),
    "a slow GPU is not derated": lie(
        lambda: told(record_at("pos-1", 2, **slow(700_000))),
        "throughput",
        "measured_min_ppm was 700000 and nothing is derated, expected a loss below 900000",
    ),
    "a fast GPU is derated": lie(
        lambda: told(record_at("pos-1", 2, **slow(990_000, losses=((Cause.UNDER_PERFORMANCE, LOST),)))),
        "throughput",
        "3000 GPU-ms are lost to under-performance, expected none where measured_min_ppm is 990000",
    ),
    "the slowest GPU is faster than the mean": lie(
        lambda: told(record_at("pos-1", 2, **slow(990_000, measured_min_ppm=995_000))),
        "throughput",
        "measured_min_ppm was 995000, expected at most the mean, 990000",
    ),
    "a record is dropped": lie(
        lambda: told(lambda record: None if record.start_ms == START_MS + 50_000 else record),
        "tiling",
        "pos-1 has no record of [1800000050000, 1800000060000)",
    ),
    "the last record is withheld": lie(
        lambda: told(lambda it: None if (it.position, it.start_ms) == ("pos-2", END_MS - INTERVAL_MS) else it),
        "statements",
        "statements/pos-2.json: ",
    ),
    "a record is replaced in silence": lie(
        lambda: told(more=[encode_record(metered("pos-2", 2, 3, **as_delivered("pos-2", 3)), END_MS + 1)]),
        "versions",
        f"leaf {FIRST + 50}, pos-2 [1800000030000, 1800000040000) version 1: version was 1, expected 2",
    ),
    "the same leaf counts twice": lie(
        lambda: told(more=[encode_record(metered("pos-2", 2, 3), START_MS + 41_000)]), "versions", "expected 2"
    ),
    "a version is left out": lie(
        lambda: told(more=[later("pos-2", 3, version=3)]), "versions", "version was 3, expected 2"
    ),
    "something is corrected that was never told": lie(
        lambda: told(
            lambda it: None if (it.position, it.start_ms) == ("pos-2", START_MS) else it, more=[later("pos-2", 0)]
        ),
        "versions",
        "version was 2, expected 1",
    ),
    "a leaf says nothing": lie(lambda: told(more=[b"nonsense"]), "leaves", f"leaf {FIRST + 50}: "),
}
