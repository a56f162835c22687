"""How it may settle its records: too early, never, again and again, and whatever a buyer says against them."""

from __future__ import annotations

from scheduler.core.metering.disputes import DisputeState
from scheduler.core.metering.records import RecordStatus
from scheduler.exchange.leaves import encode_record
from tests.exchange.evidence import (
    ANSWER_MS,
    FINAL_MS,
    FIRST,
    LAST_CHANGE_MS,
    answered,
    as_delivered,
    disputed,
    late,
    promoted,
    record_at,
    restated,
    told,
)
from tests.exchange.frauds.kinds import Fraud, lie
from tests.exchange.world import END_MS, LOTS, metered

FINALS = [promoted(position) for position in LOTS]
HOUR_MS = 3_600_000
DUE_MS = END_MS + 4_000 + ANSWER_MS

SETTLING: dict[str, Fraud] = {
    "records are final before they may be disputed": lie(
        lambda: told(more=[promoted("pos-2", written_ms=FINAL_MS - 1)]),
        "calendar",
        f"leaf {FIRST + 50}, pos-2 [1800000000000, 1800000010000) version 2: it was final at {FINAL_MS - 1}, expected",
    ),
    "a record is final from the first": lie(
        lambda: told(record_at("pos-1", 2, status=RecordStatus.FINAL)), "calendar", "it was final at 1800000031000"
    ),
    "records never become final": lie(
        lambda: told(more=[promoted("pos-1"), promoted("pos-3"), late("pos-1", 2, FINAL_MS + HOUR_MS + 1)]),
        "calendar",
        "pos-2 [1800000000000, 1800000010000) version 1: it is not final at",
    ),
    "the last records are left out of what is final": lie(
        lambda: told(
            more=[promoted("pos-1", last=11), *FINALS[1:], late("pos-1", 2, FINAL_MS + HOUR_MS + 1)],
        ),
        "calendar",
        "pos-1 [1800000110000, 1800000120000) version 1: it is not final at",
    ),
    "a record stays provisional": lie(
        lambda: told(
            record_at("pos-1", 2, status=RecordStatus.PROVISIONAL), more=[late("pos-1", 2, END_MS + 3 * HOUR_MS)]
        ),
        "calendar",
        "it is provisional at",
    ),
    "a final record is edited as if it were not": lie(
        lambda: told(
            more=[
                *FINALS,
                restated("pos-2", 3, 3, status=RecordStatus.FINAL, **as_delivered("pos-2", 3)),
            ]
        ),
        "versions",
        "status was final after final, expected corrected",
    ),
    "a final record becomes provisional again": lie(
        lambda: told(more=[*FINALS, restated("pos-2", 3, 3, status=RecordStatus.PROVISIONAL)]),
        "versions",
        "status was provisional after final, expected corrected",
    ),
    "a final record is corrected for no reason": lie(
        lambda: told(more=[*FINALS, restated("pos-2", 3, 3, **as_delivered("pos-2", 3))]),
        "finals",
        "version 3: a final record is corrected, expected a dispute or a late fact",
    ),
    "a final record is corrected for what was known before": lie(
        lambda: told(more=[late("pos-2", 3), *FINALS, restated("pos-2", 3, 3, **as_delivered("pos-2", 3))]),
        "finals",
        "expected a dispute or a late fact",
    ),
    "a final record is corrected for what came after it": lie(
        lambda: told(more=[*FINALS, late("pos-2", 5), restated("pos-2", 3, 3, **as_delivered("pos-2", 3))]),
        "finals",
        "expected a dispute or a late fact",
    ),
    "one reason serves for two corrections": lie(
        lambda: told(
            more=[
                *FINALS,
                late("pos-2", 3),
                restated("pos-2", 3, 3, **as_delivered("pos-2", 3)),
                restated("pos-2", 3, 4),
            ]
        ),
        "finals",
        "version 4: a final record is corrected, expected a dispute or a late fact",
    ),
    "a final record is corrected when that is over": lie(
        lambda: told(
            more=[
                *FINALS,
                late("pos-2", 3, LAST_CHANGE_MS + 1),
                restated("pos-2", 3, 3, LAST_CHANGE_MS + 1, **as_delivered("pos-2", 3)),
            ]
        ),
        "finals",
        f"it is corrected at {LAST_CHANGE_MS + 1}, expected {LAST_CHANGE_MS} or earlier",
    ),
    "a final record is corrected for a dispute that was rejected": lie(
        lambda: told(
            more=[
                *FINALS,
                disputed(1, "pos-2", 3, 2),
                restated("pos-2", 3, 3, **as_delivered("pos-2", 3)),
                answered(1, DisputeState.REJECTED),
            ]
        ),
        "finals",
        "expected a dispute or a late fact",
    ),
    "a dispute is not answered": lie(
        lambda: told(
            more=[
                disputed(1, "pos-2", 3),
                *(promoted("pos-1"), promoted("pos-2", last=3), promoted("pos-2", first=4), promoted("pos-3")),
                late("pos-1", 2, DUE_MS + HOUR_MS + 1),
            ]
        ),
        "disputes",
        f"dispute dispute-1 of pos-2 is open, expected an answer by {DUE_MS}",
    ),
    "a dispute is answered too late": lie(
        lambda: told(
            more=[disputed(1, "pos-2", 3), answered(1, DisputeState.REJECTED, written_ms=DUE_MS + HOUR_MS + 1), *FINALS]
        ),
        "disputes",
        f"it was answered at {DUE_MS + HOUR_MS + 1}, expected {DUE_MS} or earlier",
    ),
    "a dispute expires before its time": lie(
        lambda: told(more=[disputed(1, "pos-2", 3), answered(1, DisputeState.EXPIRED, written_ms=DUE_MS - 1)]),
        "disputes",
        f"it expired at {DUE_MS - 1}, expected {DUE_MS} or later",
    ),
    "a dispute is accepted and nothing corrected": lie(
        lambda: told(more=[disputed(1, "pos-2", 3), answered(1, DisputeState.ACCEPTED, 2)]),
        "disputes",
        "it is accepted by version 2, expected a correction of version 1",
    ),
    "a dispute is accepted by an older correction": lie(
        lambda: told(more=[disputed(1, "pos-1", 4, 2), answered(1, DisputeState.ACCEPTED, 2)]),
        "disputes",
        "it is accepted by version 2, expected a correction of version 2",
    ),
    "a dispute is answered twice": lie(
        lambda: told(
            more=[disputed(1, "pos-2", 3), answered(1, DisputeState.REJECTED), answered(1, DisputeState.REJECTED)]
        ),
        "disputes",
        "it is answered, expected one that is open",
    ),
    "a dispute is answered that nobody opened": lie(
        lambda: told(more=[answered(7, DisputeState.REJECTED)]), "disputes", "dispute-7: it is answered, expected one"
    ),
    "a dispute is told of again after its answer": lie(
        lambda: told(more=[disputed(1, "pos-2", 3), answered(1, DisputeState.REJECTED), disputed(1, "pos-2", 3)]),
        "disputes",
        "it was told of before",
    ),
    "a dispute is of a record that there is not": lie(
        lambda: told(more=[disputed(1, "pos-2", 3, 9)]), "disputes", "version 9 of pos-2 at 1800000030000 is not in the"
    ),
    "a disputed record is made final": lie(
        lambda: told(more=[disputed(1, "pos-2", 3), *FINALS]),
        "disputes",
        "version 2: it is final, expected an answer to its dispute",
    ),
    "a dispute is taken though it came too late": lie(
        lambda: told(
            more=[
                *FINALS,
                disputed(1, "pos-2", 3, 2, opened_ms=LAST_CHANGE_MS + 1),
                answered(1, DisputeState.REJECTED, written_ms=LAST_CHANGE_MS + 2),
            ]
        ),
        "disputes",
        f"opened_ms was {LAST_CHANGE_MS + 1}, expected {LAST_CHANGE_MS} or earlier",
    ),
    "what is promoted is told again as it was": lie(
        lambda: told(more=[*FINALS, encode_record(metered("pos-2", 2, 3), FINAL_MS + 1)]),
        "versions",
        "version was 1, expected 3",
    ),
}
