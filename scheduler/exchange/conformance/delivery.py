"""Checks of publishing: openings, acknowledgements, epochs, credits, checkpoints, equivocation."""

from __future__ import annotations

from functools import partial

import grpc

from scheduler.core.metering.records import PoolRecord
from scheduler.exchange.conformance.log import Log
from scheduler.exchange.conformance.outcome import must, refused
from scheduler.exchange.conformance.session import Session
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.leaves import encode_pool
from scheduler.exchange.v1 import delivery_pb2
from scheduler.ledger.keys import SignerKey

_WRONG = grpc.StatusCode.INVALID_ARGUMENT
_AGAINST = grpc.StatusCode.FAILED_PRECONDITION
_FENCED = grpc.StatusCode.ABORTED
_NOT_YOURS = grpc.StatusCode.PERMISSION_DENIED
MANY = 700
"""More leaves than a usual batch."""


def opening_says_what_is_held(target: Target) -> str:
    """The answer to an opening: how many leaves are durable, and credits for more."""
    log = target.log()
    target.deliver(log, *pools(target, 2))
    with target.session(log) as session:
        opened = session.opened
    must(opened.acknowledged == len(log.leaves), f"{opened.acknowledged} leaves, {len(log.leaves)} were acknowledged")
    must(opened.credits >= 1, "no credits: a publisher could never send a leaf")
    return f"{opened.acknowledged} leaves are held, {opened.credits} credits"


def opening_comes_first(target: Target) -> str:
    """A batch of nobody's."""
    log = target.log()
    first = log.add(*pools(target, 1))
    with Session(target.publisher(log).delivery, None, target.timeout_s) as session:
        refusal = session.refused(log.batch(first), _WRONG)
    with target.session(log) as session:  # the log goes on with it
        must(session.acknowledged <= first, "the leaf was taken all the same")
        session.deliver(log.batch(first))
    return str(refusal)


def opening_is_checked(target: Target) -> str:
    """Epochs count from 1, keys are in C2SP form."""
    log = target.log()
    with target.session(log):
        pass
    seen = ""
    for stream, epoch, vkey in ((log.stream, 0, log.vkey), (log.stream, 2**63 - 1, "no key")):
        opening = delivery_pb2.PublishOpen(stream=stream, epoch=epoch, vkey=vkey)
        publisher = target.publisher(log).delivery
        seen = str(refused(partial(Session, publisher, opening, target.timeout_s), _WRONG))
    return seen


def acknowledged_survives(target: Target) -> str:
    """What was acknowledged is there after the connection, to whoever asks."""
    log = target.log()
    target.deliver(log, *pools(target, 3))
    with target.session(log) as session:
        again = session.opened.acknowledged
    must(again >= len(log.leaves), f"{len(log.leaves)} leaves were acknowledged, the next opening says {again}")
    held = target.held(log)
    must(held >= len(log.leaves), f"{len(log.leaves)} leaves were acknowledged, the evidence has {held}")
    return f"{again} leaves, in a new connection and in the evidence"


def acknowledgements_add_up(target: Target) -> str:
    """Several batches on the way: one count that only grows, up to all of them."""
    log = target.log()
    first = log.add(*pools(target, 6))
    with target.session(log) as session:
        for start in range(first, first + 6, 2):
            session.send_batch(log.batch(start, start + 2))
        session.wait(first + 6)
        must(not session.rejections, f"a sound leaf was rejected: {session.rejections[:1]}")
    return f"{first + 6} after three batches"


def credits_are_kept(target: Target) -> str:
    """As many leaves as were granted, without waiting, are taken."""
    log = target.log()
    with target.session(log) as session:
        granted = min(session.credits, MANY)
        first = log.add(*pools(target, granted))
        for start in range(first, first + granted, 100):
            session.send_batch(log.batch(start, min(start + 100, first + granted)))
        session.wait(first + granted)
        must(session.credits >= 1, "no credits are left when everything is acknowledged")
    return f"{granted} leaves on the way of {session.credits} granted"


def resent_is_acknowledged_again(target: Target) -> str:
    """The same leaves again: acknowledged, and there once."""
    log = target.log()
    first = log.add(*pools(target, 2))
    with target.session(log) as session:
        session.deliver(log.batch(first))
        before = target.held(log)
        session.send_batch(log.batch(first))
        answer = session.receive()
    must(answer.acknowledged == before, f"acknowledged {answer.acknowledged}, expected {before} again")
    held = target.held(log)
    must(held == before, f"{before} leaves became {held}")
    return f"{answer.acknowledged} again, and {held} leaves"


def gap_is_refused(target: Target) -> str:
    """Leaves beyond the next: what lies between is missing."""
    log = target.log()
    first = log.add(*pools(target, 2))
    with target.session(log) as session:
        refusal = session.refused(log.batch(first + 1), _AGAINST, "SEQUENCE_GAP")
    with target.session(log) as session:
        must(session.acknowledged == first, f"{session.acknowledged} leaves are held, {first} were sent without a gap")
        session.deliver(log.batch(first))
    return str(refusal)


def older_epoch_is_fenced(target: Target) -> str:
    """A publisher whose epoch is over may not even open."""
    log = target.log()
    with target.session(log):
        older = log.epoch - 1
    opening = delivery_pb2.PublishOpen(stream=log.stream, epoch=older, vkey=log.vkey)
    publisher = target.publisher(log).delivery
    return str(refused(lambda: Session(publisher, opening, target.timeout_s), _FENCED, "FENCED"))


def newer_epoch_fences(target: Target) -> str:
    """As soon as a newer one has opened, the older may not speak."""
    log = target.log()
    return _fenced(target, log, log.epoch + 2)


def later_of_equals_speaks(target: Target) -> str:
    """Of two of one epoch the later to open."""
    log = target.log()
    return _fenced(target, log, log.epoch + 1)


def key_is_kept(target: Target) -> str:
    """Another key than the first one seen."""
    log = target.log()
    with target.session(log):
        pass
    stranger = SignerKey.generate(log.key.name).verifier.encode()
    return str(refused(lambda: target.session(log, vkey=stranger), _NOT_YOURS, "UNAUTHORISED"))


def checkpoint_is_signed(target: Target) -> str:
    """By the stream's key and no other."""
    log = target.log()
    first = log.add(*pools(target, 1))
    wrong = log.batch(first)
    wrong.checkpoint = log.note(len(log.leaves), key=SignerKey.generate(log.key.name))
    return _refused_and_not_kept(target, log, wrong, _NOT_YOURS)


def checkpoint_is_over_the_leaves(target: Target) -> str:
    """Of the root that the leaves have."""
    log = target.log()
    first = log.add(*pools(target, 1))
    wrong = log.batch(first)
    wrong.checkpoint = log.note(len(log.leaves), root=bytes(32))
    return _refused_and_not_kept(target, log, wrong, _WRONG)


def checkpoint_reaches_the_batch(target: Target) -> str:
    """Over at least all of its leaves."""
    log = target.log()
    first = log.add(*pools(target, 3))
    with target.session(log) as session:
        session.deliver(log.batch(first, first + 1, first + 1))
        wrong = log.batch(first + 1)
        wrong.checkpoint = log.note(first + 2)
        refusal = session.refused(wrong, _WRONG)
    with target.session(log) as session:
        must(session.acknowledged == first + 1, f"{session.acknowledged} leaves are held, expected {first + 1}")
        session.deliver(log.batch(first + 1))
    return str(refusal)


def checkpoint_ahead_is_proved(target: Target) -> str:
    """One checkpoint over several batches, each with its consistency to it; a wrong proof is refused."""
    log = target.log()
    first = log.add(*pools(target, 5))
    with target.session(log) as session:
        session.deliver(log.batch(first, first + 2))
        session.deliver(log.batch(first + 2, first + 4))
        session.deliver(log.batch(first + 4))
    more = log.add(*pools(target, 4))
    unproved = log.batch(more, more + 1)
    unproved.consistency[0] = bytes(32)
    return _refused_and_not_kept(target, log, unproved, _WRONG)


def leaf_equivocation_freezes(target: Target) -> str:
    """Another leaf at an index that is known: nothing more is taken, for good."""
    log = target.spare_log()
    first, second = pools(target, 2)
    target.deliver(log, first, second)
    with target.session(log) as session:
        refusal = session.refused(log.beside(1, [first]), _AGAINST, "EQUIVOCATION")
    return _frozen(target, log, str(refusal))


def checkpoint_equivocation_freezes(target: Target) -> str:
    """Two roots over one size, both signed."""
    log = target.spare_log()
    first = log.add(*pools(target, 4))
    with target.session(log) as session:
        session.deliver(log.batch(first, 2))  # under a checkpoint over all four
        other = log.beside(2, [log.leaves[3], log.leaves[2]])
        refusal = session.refused(other, _AGAINST, "EQUIVOCATION")
    return _frozen(target, log, str(refusal))


def pools(target: Target, count: int) -> list[bytes]:
    """Sound leaves that are about no position: coverage certificates of a pool of nothing, each unlike all others."""
    made = []
    before_ms = target.now_ms() // 10_000 * 10_000
    for _ in range(count):
        number = before_ms // 10_000 - target.count()
        pool = PoolRecord(
            grade=target.options.grade,
            site=target.options.site,
            start_ms=number * 10_000,
            end_ms=(number + 1) * 10_000,
            total_gpu_ms=80_000,
            sold_gpu_ms=0,
            covered_gpu_ms=0,
            unsold_used_gpu_ms=0,
            unsold_idle_gpu_ms=80_000,
            unsold_unhealthy_gpu_ms=0,
            unknown_gpu_ms=0,
        )
        made.append(encode_pool(pool, target.now_ms()))
    return made


def _fenced(target: Target, log: Log, epoch: int) -> str:
    first = log.add(*pools(target, 1))
    with target.session(log) as older, target.session(log, epoch=epoch) as newer:
        log.epoch = max(log.epoch, epoch)
        refusal = older.refused(log.batch(first), _FENCED, "FENCED")
        must(newer.acknowledged == first, f"the newer one was told of {newer.acknowledged} leaves, expected {first}")
        newer.deliver(log.batch(first))
    return str(refusal)


def _refused_and_not_kept(
    target: Target, log: Log, wrong: delivery_pb2.Batch, code: grpc.StatusCode, *reasons: str
) -> str:
    """The refusal; the log goes on with the same leaves, soundly."""
    first = wrong.first_index
    with target.session(log) as session:
        refusal = session.refused(wrong, code, *reasons)
    with target.session(log) as session:
        must(
            session.acknowledged == first,
            f"{session.acknowledged} leaves are held, the refused batch was not to be kept",
        )
        session.deliver(log.batch(first))
    return str(refusal)


def _frozen(target: Target, log: Log, seen: str) -> str:
    again = refused(lambda: target.session(log), _AGAINST, "EQUIVOCATION")
    return f"{seen}; and when opened again: {again.said}"
