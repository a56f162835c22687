"""Checks of how records are settled: promotions, disputes and their answers, and outages that were announced.

They are about a position of their own, whose intervals are over when those of the others are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from scheduler.core.causes import Cause
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.metering.versions import LateFact, Promotion
from scheduler.core.models import canonical_bytes
from scheduler.core.settlement_times import final_ms
from scheduler.exchange.checks import Reason
from scheduler.exchange.conformance.evidence import first_difference
from scheduler.exchange.conformance.leaves import all_rejected
from scheduler.exchange.conformance.market import Owned
from scheduler.exchange.conformance.outcome import Failed, Skipped, must, refused
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.errors import call_of
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.outages import (
    DeclaredNode,
    MaintenanceNotice,
    WithheldLots,
    encode_maintenance,
    encode_withheld,
)
from scheduler.exchange.settling_leaves import encode_settling
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.exchange.v1 import delivery_pb2, disputes_pb2, disputes_pb2_grpc

_PROMOTED, _DISPUTED, _PLANNED = 0, 1, 2
"""Which interval's record each check is about."""
_AGAINST = grpc.StatusCode.FAILED_PRECONDITION


def promotion_is_the_next_version(target: Target) -> str:
    """A promotion makes a version of each record that it settles, and a statement is over versions."""
    owned = target.aside()
    record = target.market.record(owned, _PROMOTED)
    if record.version > 1:
        raise Skipped("the record was told before, and only a first one is PROVISIONAL")
    provisional = record.model_copy(update={"status": RecordStatus.PROVISIONAL})
    promotion = _promotion(owned, _PROMOTED, RecordStatus.INITIAL)
    second, third = (target.market.record(owned, _PROMOTED, estimated_gpu_ms=1) for _ in range(2))
    written_ms = target.written_ms(record.end_ms)
    leaves = [
        encode_record(provisional, written_ms),
        encode_settling(promotion, written_ms),
        *(encode_record(each, written_ms) for each in (second, third)),
    ]
    session = target.deliver(target.log(), *leaves)
    first = len(target.log().leaves) - len(leaves)
    found = [(each.index - first, each.reason) for each in session.rejections]
    must(found == [(2, "WRONG_VERSION")], f"rejected {found}, expected leaf 2 alone, a correction of version 1")
    target.settled_aside(*leaves[:2], leaves[3])
    return f"version 3 corrects it; {_recomputed(target, owned, _PROMOTED)}"


def final_waits_for_its_time(target: Target) -> str:
    """Neither a promotion nor a record is FINAL before the calendar of its terms."""
    owned = target.aside()
    interval = owned.interval(_PLANNED)
    written_ms = target.written_ms(interval.end_ms)
    if written_ms >= final_ms(owned.terms, interval.end_ms):
        raise Skipped(f"records of {owned.terms.id} are final as soon as they are made")
    record = target.market.record(owned, _PLANNED)
    target.market.unused(owned, _PLANNED)
    final = MeterRecord.model_validate(dict(record) | {"status": RecordStatus.FINAL})
    early = encode_settling(_promotion(owned, _PLANNED, RecordStatus.FINAL), written_ms)
    return all_rejected(target, [early, encode_record(final, written_ms)], Reason.WRONG_PROMOTION)


def final_changes_for_a_reason(target: Target) -> str:
    """What was final is corrected for a fact that was learnt late, once, and never for nothing."""
    if not target.options.quick:
        raise Skipped("nothing is final before the window is over: made with --quick alone")
    target.aside()  # or there is no position to be had for it
    owned = target.market.owned()
    end_ms = owned.interval(0).end_ms  # version 2 is the promotion
    at_ms = final_ms(owned.terms, end_ms)
    told, _, right, wrong = (target.market.record(owned, 0, estimated_gpu_ms=it) for it in (0, 0, 1, 2))
    fact = LateFact(position=owned.position.id, from_ms=owned.interval(0).start_ms, fact=target.run.rjust(64, "0"))
    leaves = [
        encode_record(told, end_ms),
        encode_settling(_promotion(owned, 0, RecordStatus.FINAL), at_ms),
        encode_settling(fact, at_ms),
        *(encode_record(each, at_ms) for each in (right, wrong)),
    ]
    session = target.deliver(target.log(), *leaves)
    first = len(target.log().leaves) - len(leaves)
    found = [(each.index - first, each.reason) for each in session.rejections]
    must(found == [(4, "NOT_EXPLAINED")], f"rejected {found}, expected leaf 4 alone, a second correction for one fact")
    return "settled after the late fact; NOT_EXPLAINED without one"


def dispute_is_answered_by_the_log(target: Target) -> str:
    """Open where it was opened, until the log of whoever delivered the record answers."""
    owned = _told(target, _DISPUTED)
    opened = _opened(target, _wish(target, owned))
    dispute = opened.dispute
    state = _listed(target, owned, dispute.id).state
    must(state == delivery_pb2.DISPUTE_STATE_OPEN, f"it is listed as state {state}, expected OPEN")
    must(opened.stream == target.log().stream, f"it is about stream {opened.stream}, expected {target.log().stream}")
    _end(target, opened)
    ended = _listed(target, owned, dispute.id)
    must(ended.state == delivery_pb2.DISPUTE_STATE_REJECTED, f"it is listed as state {ended.state}, expected REJECTED")
    must(ended.answer == "it was so", f"its answer is {ended.answer!r}, expected that of the log")
    return f"{dispute.id}: OPEN, then REJECTED with the log's reason"


def dispute_repeats(target: Target) -> str:
    """The same request is the same dispute; another content under its name is none, nor is a second dispute."""
    owned = _told(target, _DISPUTED)
    wish = _wish(target, owned)
    opened = _opened(target, wish)
    again = _opened(target, wish)
    must(again.dispute == opened.dispute, f"{again.dispute.id} was opened, expected {opened.dispute.id} again")
    changed, second = (disputes_pb2.OpenDisputeRequest.FromString(wish.SerializeToString()) for _ in range(2))
    changed.reason += ", it seems"
    second.request_id += "-2"
    refused(lambda: _ask_to_open(target, changed), _AGAINST, "CONFLICT")
    refusal = refused(lambda: _ask_to_open(target, second), _AGAINST, "CONFLICT")
    _end(target, opened)
    return f"{opened.dispute.id} again; a second one: {refusal}"


def dispute_of_the_unknown_is_refused(target: Target) -> str:
    """A position that nobody owns, and an interval that nobody told of."""
    owned = _told(target, _DISPUTED)
    nobody, untold = _wish(target, owned), _wish(target, owned)
    nobody.position = f"no-such-{target.run}"
    untold.start_ms += 1
    refused(lambda: _ask_to_open(target, nobody), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME")
    return str(refused(lambda: _ask_to_open(target, untold), grpc.StatusCode.INVALID_ARGUMENT))


def answer_is_to_a_dispute(target: Target) -> str:
    """A log neither answers nor tells of what was not opened."""
    owned = target.aside()
    _disputing(target, "ListDisputes", disputes_pb2.ListDisputesRequest(position=owned.position.id))
    interval, now_ms = owned.interval(_DISPUTED), target.now_ms()
    written_ms = target.written_ms(interval.end_ms)
    invented = Dispute(
        id=f"no-such-{target.run}",
        position=owned.position.id,
        start_ms=interval.start_ms,
        end_ms=interval.end_ms,
        version=1,
        leaf=0,
        opened_ms=now_ms,
        answer_by_ms=now_ms + 1_000,
    )
    answer = Answer(dispute=invented.id, state=DisputeState.REJECTED, reason="it was so")
    wrong = [encode_settling(invented, written_ms), encode_settling(answer, written_ms)]
    return all_rejected(target, wrong, Reason.UNKNOWN_DISPUTE)


def notices_are_read(target: Target) -> str:
    """Maintenance, recalls and releases are taken as they are announced; what says nothing is MALFORMED."""
    owned = target.aside()
    sound = [_maintenance(target, owned, 1), *(_withheld(target, owned, 1, recalled=each) for each in (True, False))]
    session = target.deliver(target.log(), *sound)
    must(not session.rejections, f"a sound notice was rejected: {[each.reason for each in session.rejections]}")
    wrong = [_maintenance(target, owned, 0), *(_withheld(target, owned, 0, recalled=each) for each in (True, False))]
    return all_rejected(target, wrong, Reason.MALFORMED)


def planned_is_settled(target: Target) -> str:
    """What was out as announced is in the statement, and owed by nobody."""
    owned = target.aside()
    for index in (_PROMOTED, _DISPUTED):
        _told(target, index)
    notice = _maintenance(target, owned, 1)
    plain = target.market.record(owned, _PLANNED)
    lost = plain.out_forced_gpu_ms
    planned = MeterRecord.model_validate(
        dict(plain)
        | {"out_forced_gpu_ms": 0, "out_planned_gpu_ms": lost, "losses": ((Cause.PLANNED_MAINTENANCE, lost),)}
    )
    leaf = encode_record(planned, target.written_ms(planned.end_ms))
    session = target.deliver(target.log(), notice, leaf)
    must(not session.rejections, f"rejected {[each.reason for each in session.rejections]}, expected nothing")
    target.settled_aside(leaf)
    return _recomputed(target, owned, _PLANNED)


# -- inside ------------------------------------------------------------------------------------------------------------


def _promotion(owned: Owned, index: int, status: RecordStatus) -> Promotion:
    interval = owned.interval(index)
    return Promotion(position=owned.position.id, start_ms=interval.start_ms, end_ms=interval.end_ms, status=status)


def _told(target: Target, index: int) -> Owned:
    """The position, once an interval of it has a record."""
    owned = target.aside()
    if not target.market.told(owned, index):
        leaf = target.market.leaf(owned, index)
        session = target.deliver(target.log(), leaf)
        must(not session.rejections, f"a sound record was rejected: {[each.reason for each in session.rejections]}")
        target.settled_aside(leaf)
    return owned


def _recomputed(target: Target, owned: Owned, index: int) -> str:
    """The statement until the end of an interval, the same bytes from the same leaves."""
    until_ms = owned.interval(index).end_ms
    versions = versions_of(enumerate(target.told_aside), owned.position.id)
    expected = canonical_bytes(statement_of(owned.terms, owned.position, versions, until_ms))
    was = target.statement(owned.position.id, until_ms).statement
    if was != expected:
        raise Failed(first_difference(was, expected))
    return f"the statement has the same {len(expected)} bytes"


def _wish(target: Target, owned: Owned) -> disputes_pb2.OpenDisputeRequest:
    return disputes_pb2.OpenDisputeRequest(
        request_id=f"conformance-{target.run}-dispute-{target.count()}",
        position=owned.position.id,
        start_ms=owned.interval(_DISPUTED).start_ms,
        losses=[delivery_pb2.Loss(cause=Cause.ECC, gpu_ms=1_000)],
        reason="the suite disputes it",
    )


def _opened(target: Target, wish: disputes_pb2.OpenDisputeRequest) -> disputes_pb2.DisputeStatus:
    answer: disputes_pb2.OpenDisputeResponse = _disputing(target, "OpenDispute", wish)
    return answer.dispute


def _ask_to_open(target: Target, wish: disputes_pb2.OpenDisputeRequest) -> object:
    return _disputes(target).OpenDispute(wish, timeout=target.timeout_s)


def _listed(target: Target, owned: Owned, name: str) -> disputes_pb2.DisputeStatus:
    """The dispute as the server lists it."""
    after = 0
    while True:
        request = disputes_pb2.ListDisputesRequest(position=owned.position.id, after=after)
        page: list[disputes_pb2.DisputeStatus] = list(_disputing(target, "ListDisputes", request).disputes)
        for each in page:
            if each.dispute.id == name:
                return each
            must(each.seq > after, f"a page after place {after} has place {each.seq}")
            after = each.seq
        must(bool(page), f"{name} is not listed")


def _end(target: Target, opened: disputes_pb2.DisputeStatus) -> None:
    """The log hears the dispute, and answers that the record stands."""
    written_ms = target.written_ms(opened.dispute.end_ms)
    heard = delivery_pb2.LogEntry(written_ms=written_ms, dispute=opened.dispute).SerializeToString()
    answer = Answer(dispute=opened.dispute.id, state=DisputeState.REJECTED, reason="it was so")
    leaves = [heard, encode_settling(answer, written_ms)]
    session = target.deliver(target.log(), *leaves)
    must(not session.rejections, f"rejected {[each.reason for each in session.rejections]}, expected nothing")
    target.settled_aside(*leaves)


def _disputes(target: Target) -> Any:
    return disputes_pb2_grpc.DisputeServiceStub(target.venue().channel)


def _disputing(target: Target, method: str, request: object) -> Any:
    """What the service answers. Raises Skipped where the server has none."""
    call: Callable[..., Any] = getattr(_disputes(target), method)
    try:
        return call(request, timeout=target.timeout_s)
    except grpc.RpcError as failed:
        if (found := call_of(failed)) is not None and found.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Skipped("the server has no DisputeService") from None
        raise


def _maintenance(target: Target, owned: Owned, length: int) -> bytes:
    terms, interval = owned.terms, owned.interval(_PLANNED)
    node = DeclaredNode(grade=terms.grade.klass, site=terms.site, cell=f"{terms.site}/b/d/n", gpus=terms.lot.gpus)
    until_ms = interval.start_ms + length * interval.length_ms
    return encode_maintenance(MaintenanceNotice((node,), interval.start_ms, until_ms), target.now_ms())


def _withheld(target: Target, owned: Owned, lots: int, *, recalled: bool) -> bytes:
    interval = owned.interval(_PLANNED)
    said = WithheldLots(owned.position.id, owned.terms.id, lots, interval.start_ms, interval.end_ms)
    return encode_withheld(said, target.now_ms(), recalled=recalled)
