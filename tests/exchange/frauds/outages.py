"""What a seller who holds the log's key may tell of outages, to have somebody else bear them."""

from __future__ import annotations

from typing import Any

from scheduler.core.causes import Cause
from scheduler.core.instruments import Maintenance, Recallable, ReleaseUnused
from scheduler.exchange.leaves import encode_shortage
from scheduler.exchange.outages import (
    DeclaredNode,
    ForceMajeure,
    MaintenanceNotice,
    WithheldLots,
    encode_force_majeure,
    encode_maintenance,
    encode_withheld,
)
from tests.exchange.evidence import FIRST, PLEDGED_MS, Evidence, told
from tests.exchange.frauds.kinds import Fraud, settled
from tests.exchange.world import END_MS, INTERVAL_MS, START_MS, shortage, terms

LOST = 3_000
"""What pos-1 loses in an interval, as the world has it: all of it in one node."""
NODE = DeclaredNode("H100SXM", "local", "local/block-0/domain-0/node-0", 8)
NOTICE_MS = 30_000
BUDGET = Maintenance(notice_s=NOTICE_MS // 1_000, budget_ms=1_000)
"""A second for each GPU of each lot, 24 GPU-seconds of pos-1."""
AT = 2
AT_MS = START_MS + AT * INTERVAL_MS
EVIDENCE = bytes(range(32))
SHORTAGE = encode_shortage(shortage(), END_MS + 2_000)


def notice(written_ms: int = PLEDGED_MS, node: DeclaredNode = NODE, until_ms: int = END_MS) -> bytes:
    """Maintenance of a node from the third interval on."""
    return encode_maintenance(MaintenanceNotice((node,), AT_MS, until_ms), written_ms)


def force_majeure(written_ms: int = PLEDGED_MS, evidence: bytes = EVIDENCE, node: DeclaredNode = NODE) -> bytes:
    """Force majeure on a node from the third interval on."""
    return encode_force_majeure(ForceMajeure((node,), AT_MS, END_MS, evidence), written_ms)


def lost_to(cause: Cause, *indices: int, lost: int = LOST) -> Any:
    """What pos-1 lost in these intervals is told to be lost to a cause."""
    field = {
        Cause.PLANNED_MAINTENANCE: "out_planned_gpu_ms",
        Cause.DRAIN: "out_planned_gpu_ms",
        Cause.FORCE_MAJEURE: "out_excused_gpu_ms",
        Cause.REPLACEMENT: "out_forced_gpu_ms",
    }[cause]

    def change(record: Any) -> Any:
        index = (record.start_ms - START_MS) // INTERVAL_MS
        if record.position != "pos-1" or index not in indices:
            return record
        more = lost - LOST
        changed = {
            "out_forced_gpu_ms": 0,
            field: lost,
            "losses": ((cause, lost),),
            "used_gpu_ms": record.used_gpu_ms - more,
            "par_gpu_ms": record.par_gpu_ms - more,
        }
        return type(record).model_validate(dict(record) | changed)

    return change


def log(*before: bytes, of_record: Any, after: tuple[bytes, ...] = (), sound: bool = True, **changes: Any) -> Evidence:
    """A log that begins with some leaves, of an instrument with a maintenance budget. `sound`: with the shortage of the
    world, which is one of firm lots.
    """
    rest = told(of_record, more=after)
    return Evidence(
        leaves=[*before, *(leaf for leaf in rest if sound or leaf != SHORTAGE)],
        settled={},
        instruments=(terms(**{"maintenance": BUDGET, **changes}),),
    )


PLANNED = Cause.PLANNED_MAINTENANCE
RECALLED = Recallable(notice_ms=20_000, min_run_ms=20_000, max_events=1, max_quantity_gpu_ms=960_000)
RECALLABLE: dict[str, Any] = {"firmness": RECALLED}
RELEASABLE: dict[str, Any] = {"unused_rule": ReleaseUnused()}


def withheld(*, recalled: bool, at: int = AT, intervals: int = 1, lots: int = 1, written_ms: int = PLEDGED_MS) -> bytes:
    """Lots of pos-1, for so many intervals."""
    from_ms = START_MS + at * INTERVAL_MS
    said = WithheldLots("pos-1", "H100.BASE@1", lots, from_ms, from_ms + intervals * INTERVAL_MS)
    return encode_withheld(said, written_ms, recalled=recalled)


def away(state: str, *indices: int, gpu_ms: int = 8 * INTERVAL_MS) -> Any:
    """So much of pos-1 is recalled or released in these intervals, and was used before."""

    def change(record: Any) -> Any:
        if record.position != "pos-1" or (record.start_ms - START_MS) // INTERVAL_MS not in indices:
            return record
        recalled = state == "recalled"
        changed = {
            f"{state}_gpu_ms": gpu_ms,
            "used_gpu_ms": record.used_gpu_ms - gpu_ms,
            "losses": (*record.losses, *([(Cause.RECALL, gpu_ms)] if recalled else [])),
            "par_gpu_ms": record.par_gpu_ms - (gpu_ms if recalled else 0),
        }
        return type(record).model_validate(dict(record) | changed)

    return change


HONEST = {
    "recalled": lambda: log(
        withheld(recalled=True, intervals=2), of_record=away("recalled", 2, 3), sound=False, **RECALLABLE
    ),
    "released": lambda: log(withheld(recalled=False), of_record=away("released", 2), **RELEASABLE),
    "planned": lambda: log(notice(), of_record=lost_to(PLANNED, 2, 3, 4, 5)),
    "excused": lambda: log(force_majeure(), of_record=lost_to(Cause.FORCE_MAJEURE, 2, 3)),
    "replaced": lambda: log(of_record=lost_to(Cause.REPLACEMENT, 2, 3)),
    "drained": lambda: log(of_record=lost_to(Cause.DRAIN, 10, 11), drain_s=20),
}
"""Logs in which somebody bears what the terms say."""

OUTAGES: dict[str, Fraud] = {
    "a fault is told as time to replace, of which the terms give none": settled(
        lambda: log(of_record=lost_to(Cause.REPLACEMENT, AT), replace_within_s=0),
        "replacement",
        "REPLACEMENT: replace_within_s of H100.BASE@1 is 0, so nothing is lost to it",
    ),
    "a lot is recalled that nobody was told of": settled(
        lambda: log(of_record=away("recalled", AT), sound=False, **RECALLABLE),
        "recalls",
        "80000 GPU-ms are recalled, expected at most 0, as the log has it before",
    ),
    "more is recalled than was said": settled(
        lambda: log(withheld(recalled=True), of_record=away("recalled", AT, gpu_ms=80_001), sound=False, **RECALLABLE),
        "recalls",
        "80001 GPU-ms are recalled, expected at most 80000",
    ),
    "a recall comes without its notice": settled(
        lambda: log(
            withheld(recalled=True, written_ms=AT_MS - 19_999),
            of_record=away("recalled", AT),
            sound=False,
            **RECALLABLE,
        ),
        "recalls",
        f"leaf 0, pos-1: the notice of its recall from {AT_MS} was 19999 ms, expected 20000 or more",
    ),
    "a recall comes before the least run": settled(
        lambda: log(withheld(recalled=True, at=1), of_record=away("recalled", 1), sound=False, **RECALLABLE),
        "recalls",
        f"it is recalled at {START_MS + INTERVAL_MS}, expected {AT_MS} or later, after its least run",
    ),
    "it is recalled more often than the terms let it": settled(
        lambda: log(
            withheld(recalled=True),
            withheld(recalled=True, at=8),
            of_record=away("recalled", 2, 8),
            sound=False,
            **RECALLABLE,
        ),
        "recalls",
        "leaf 1, pos-1: it is recalled 2 times, expected at most 1",
    ),
    "what is firm is recalled": settled(
        lambda: log(withheld(recalled=True), of_record=away("recalled", AT)),
        "recalls",
        "the firmness of H100.BASE@1 is FIRM, expected RECALLABLE",
    ),
    "a recall takes no lots": settled(
        lambda: log(withheld(recalled=True, lots=0), of_record=lambda record: record),
        "leaves",
        "lots of a recall was 0, expected 1 or more",
    ),
    "unused time is called released that nobody gave back": settled(
        lambda: log(of_record=away("released", AT), **RELEASABLE),
        "releases",
        "80000 GPU-ms are released, expected at most 0, as the log has it before",
    ),
    "an owner gives back what the terms pay for": settled(
        lambda: log(withheld(recalled=False), of_record=away("released", AT)),
        "releases",
        "the unused rule of H100.BASE@1 is PAY, expected RELEASE",
    ),
    "an outage is called planned that nobody announced": settled(
        lambda: log(of_record=lost_to(PLANNED, AT)),
        "maintenance",
        f"leaf {FIRST + 8}, pos-1 [{AT_MS}, {AT_MS + INTERVAL_MS}) version 1: {LOST} GPU-ms are lost to "
        f"PLANNED_MAINTENANCE, expected a notice of it in the log {NOTICE_MS} ms before it begins",
    ),
    "a notice comes too late": settled(
        lambda: log(notice(AT_MS - NOTICE_MS + 1), of_record=lost_to(PLANNED, AT)), "maintenance", "expected a notice"
    ),
    "a notice is of another site": settled(
        lambda: log(
            notice(node=DeclaredNode("H100SXM", "elsewhere", "elsewhere/a/b/c", 8)), of_record=lost_to(PLANNED, AT)
        ),
        "maintenance",
        "expected a notice",
    ),
    "a notice is over before the outage": settled(
        lambda: log(notice(until_ms=AT_MS + INTERVAL_MS), of_record=lost_to(PLANNED, 2, 3)),
        "maintenance",
        f"pos-1 [{AT_MS + INTERVAL_MS}, ",
    ),
    "a notice is told after the outage": settled(
        lambda: log(of_record=lost_to(PLANNED, 11), after=(notice(END_MS + 3_000),)),
        "maintenance",
        "expected a notice of it in the log",
    ),
    "a notice is dated back": settled(
        lambda: log(of_record=lost_to(PLANNED, 11), after=(notice(),)),
        "written",
        f"written_ms was {PLEDGED_MS}, expected {END_MS} or later, the end of an interval that the log had closed",
    ),
    "more is planned than the budget has": settled(
        lambda: log(notice(), of_record=lost_to(PLANNED, *range(2, 11))),
        "maintenance",
        f"pos-1 [{START_MS + 100_000}, {END_MS - 10_000}): 27000 GPU-ms were planned by then, expected at most 24000",
    ),
    "more is planned than the node has": settled(
        lambda: log(
            notice(node=DeclaredNode("H100SXM", "local", "local/block-0/domain-0/node-0", 1)),
            of_record=lost_to(PLANNED, AT, lost=11_000),
        ),
        "maintenance",
        f"site local [{AT_MS}, {AT_MS + INTERVAL_MS}): 11000 GPU-ms are lost to PLANNED_MAINTENANCE, expected at most",
    ),
    "a drain is booked that the terms do not have": settled(
        lambda: log(of_record=lost_to(Cause.DRAIN, 11)), "maintenance", "expected none: the terms have no drain"
    ),
    "a drain is booked before the terms' own": settled(
        lambda: log(of_record=lost_to(Cause.DRAIN, 9), drain_s=20), "maintenance", f"none before {END_MS - 20_000}"
    ),
    "an outage is excused that nobody declared": settled(
        lambda: log(of_record=lost_to(Cause.FORCE_MAJEURE, AT)),
        "excused",
        f"{LOST} GPU-ms are lost to FORCE_MAJEURE, expected one declared in the log before",
    ),
    "an outage is excused before it is declared": settled(
        lambda: log(of_record=lost_to(Cause.FORCE_MAJEURE, AT), after=(force_majeure(END_MS + 3_000),)),
        "excused",
        "expected one declared in the log before",
    ),
    "force majeure excuses where the terms say that it does not": settled(
        lambda: log(force_majeure(), of_record=lost_to(Cause.FORCE_MAJEURE, AT), force_majeure_excuses=False),
        "excused",
        "which does not excuse in H100.BASE@1",
    ),
    "force majeure has no evidence": settled(
        lambda: log(force_majeure(evidence=b""), of_record=lambda record: record),
        "leaves",
        "evidence of a force majeure was '0 bytes', expected the 32 of a SHA-256",
    ),
    "a node is made larger than any": settled(
        lambda: log(
            force_majeure(node=DeclaredNode("H100SXM", "local", "local/block-0/domain-0/node-0", 65)),
            of_record=lambda record: record,
        ),
        "leaves",
        "gpus of local/block-0/domain-0/node-0 of a force majeure was 65, expected 1..64",
    ),
    "more is excused than the node has": settled(
        lambda: log(
            force_majeure(node=DeclaredNode("H100SXM", "local", "local/block-0/domain-0/node-0", 1)),
            of_record=lost_to(Cause.FORCE_MAJEURE, AT, lost=11_000),
        ),
        "excused",
        "11000 GPU-ms are lost to FORCE_MAJEURE, expected at most 10000, what the nodes have",
    ),
}
