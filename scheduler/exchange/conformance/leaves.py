"""Checks of what a leaf says: a bad one is kept, rejected alone with its reason, and settled by nobody."""

from __future__ import annotations

import json

from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.core.devices import DevicePledge, DeviceWithdrawal
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.checks import Reason
from scheduler.exchange.conformance.delivery import pools
from scheduler.exchange.conformance.outcome import must
from scheduler.exchange.conformance.target import Delivered, Target
from scheduler.exchange.leaves import encode_pledge, encode_record, encode_shortage, encode_withdrawal
from scheduler.exchange.v1 import delivery_pb2

_BROKEN, _GOOD, _STRANGE = 0, 1, 2
"""Which interval's record each check changes: a rejected one may use its version up, so none that is counted on."""


def bad_leaf_alone(target: Target) -> str:
    """The leaves around it count."""
    done = target.delivered()
    before = target.market.leaf(done.owned, _GOOD, estimated_gpu_ms=2)
    after = target.market.leaf(done.owned, _GOOD, estimated_gpu_ms=3)
    log = done.log
    first = log.add(before, b"no leaf at all", after)
    with target.session(log) as session:
        session.deliver(log.batch(first))
        rejected = session.rejections
    found = [(each.index, each.reason) for each in rejected]
    must(found == [(first + 1, "MALFORMED")], f"rejected {found}, expected only leaf {first + 1} as MALFORMED")
    must(bool(rejected[0].detail), "the rejection has no detail")
    target.settled(after)
    held = target.held(log)
    must(held == first + 3, f"{held} leaves are held, expected the bad one too: {first + 3}")
    return f"leaf {first + 1} alone: {rejected[0].detail}"


def enum_value_is_known(target: Target) -> str:
    """A status, a quality and a cause that nobody knows, and none at all."""
    done = target.delivered()
    wrong = []
    for change in ("status", "quality", "cause", "nothing"):
        entry = delivery_pb2.LogEntry.FromString(_next(target, done, _GOOD))
        if change == "cause":
            entry.record.losses[0].cause = 987
        elif change == "nothing":
            entry.record.ClearField("status")
        else:
            setattr(entry.record, change, 77)
        wrong.append(entry.SerializeToString())
    return all_rejected(target, wrong, Reason.MALFORMED)


def leaf_kind_is_known(target: Target) -> str:
    """A kind of leaf that this version does not have: refused, never guessed."""
    unknown = delivery_pb2.LogEntry(written_ms=target.now_ms()).SerializeToString()
    return all_rejected(target, [unknown, unknown + b"\xaa\x06\x02\x08\x01"], Reason.MALFORMED)


def states_add_up(target: Target) -> str:
    """Contracted is the sum of the states, and losses are what was lost: else nothing is settled by it."""
    done = target.delivered()
    record = target.market.record(done.owned, _BROKEN)
    wrong = MeterRecord.model_validate(record.model_dump() | {"used_gpu_ms": record.used_gpu_ms + 1})
    return all_rejected(target, [encode_record(wrong, target.written_ms(wrong.end_ms))], Reason.BROKEN_IDENTITY)


def pool_adds_up(target: Target) -> str:
    """A pool's parts tile it."""
    entry = delivery_pb2.LogEntry.FromString(pools(target, 1)[0])
    entry.coverage.unsold_idle_gpu_ms += 1
    return all_rejected(target, [entry.SerializeToString()], Reason.BROKEN_IDENTITY)


def position_is_known(target: Target) -> str:
    """Nobody owns it."""
    done = target.delivered()
    return _rejected_record(target, done, _GOOD, Reason.UNKNOWN_POSITION, position=f"no-such-{target.run}")


def instrument_is_the_positions(target: Target) -> str:
    """The terms that count are those of what was sold."""
    done = target.delivered()
    return _rejected_record(target, done, _STRANGE, Reason.WRONG_INSTRUMENT, instrument="ANOTHER.THING@1")


def interval_is_the_instruments(target: Target) -> str:
    """Whole metering intervals, inside the window."""
    done = target.delivered()
    record = target.market.record(done.owned, _GOOD)
    target.market.unused(done.owned, _GOOD)
    window = done.owned.terms.window
    length_ms = done.owned.terms.interval_ms
    wrong = []
    for start_ms in (record.start_ms + 1, window.start_ms - length_ms):
        fields = record.model_dump() | {"start_ms": start_ms, "end_ms": start_ms + length_ms, "version": 1}
        made = MeterRecord.model_validate(fields | {"supersedes": None})
        wrong.append(encode_record(made, target.written_ms(made.end_ms)))
    return all_rejected(target, wrong, Reason.WRONG_INTERVAL)


def version_is_the_next(target: Target) -> str:
    """A version left out, and one that was there."""
    done = target.delivered()
    seen = []
    for step in (1, -1):
        record = target.market.record(done.owned, _GOOD)
        target.market.unused(done.owned, _GOOD)
        version = record.version + step
        made = MeterRecord.model_validate(record.model_dump() | {"version": version, "supersedes": version - 1})
        seen.append(encode_record(made, target.written_ms(made.end_ms)))
    return all_rejected(target, seen, Reason.WRONG_VERSION)


def certificate_follows(target: Target) -> str:
    """A shortage certificate whose awards do not follow from its claims."""
    claims = [
        ShortClaim(position="a", firmness_class=0, lots=2, acquired_ms=5),
        ShortClaim(position="b", firmness_class=0, lots=1, acquired_ms=7),
    ]
    start_ms = target.now_ms()
    sound = ration(claims, 2, pool=f"{target.options.grade}@{target.options.site}", start_ms=start_ms)
    plain = json.loads(sound.body)
    plain["claims"][0]["lots"] += 1
    wrong = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return all_rejected(target, [encode_shortage(wrong, start_ms)], Reason.WRONG_CERTIFICATE, Reason.MALFORMED)


def device_is_pledged_once(target: Target) -> str:
    """A device backs one promise at a time; only its own log withdraws it."""
    now_ms = target.now_ms()
    device = (target.run + f"{target.count():08x}").rjust(64, "0")
    other = (target.run + f"{target.count():08x}").rjust(64, "f")
    site, grade = target.options.site, target.options.grade
    pledge = DevicePledge(device=device, grade=grade, site=site, cell=f"{site}/b/d/n/0", from_ms=now_ms)
    again = pledge.model_copy(update={"from_ms": now_ms + 1})
    stranger = DeviceWithdrawal(device=other, from_ms=now_ms)
    log = target.log()
    leaves = [encode_pledge(pledge, now_ms), encode_pledge(again, now_ms + 1), encode_withdrawal(stranger, now_ms + 1)]
    first = log.add(*leaves)
    with target.session(log) as session:
        session.deliver(log.batch(first))
        found = [(each.index - first, each.reason) for each in session.rejections]
    expected = [(1, "PLEDGED_TWICE"), (2, "NOT_PLEDGED")]
    must(found == expected, f"rejected {found}, expected {expected}")
    return "a second pledge is PLEDGED_TWICE, a withdrawal of what was not pledged NOT_PLEDGED"


def _rejected_record(target: Target, done: Delivered, index: int, reason: Reason, **changes: object) -> str:
    leaf = target.market.leaf(done.owned, index, **changes)
    if reason is Reason.UNKNOWN_POSITION:
        target.market.unused(done.owned, index)
    return all_rejected(target, [leaf], reason)


def _next(target: Target, done: Delivered, index: int) -> bytes:
    """The leaf that would be the next version, which stays the next."""
    leaf = target.market.leaf(done.owned, index)
    target.market.unused(done.owned, index)
    return leaf


def all_rejected(target: Target, wrong: list[bytes], *reasons: Reason) -> str:
    """Each leaf is acknowledged, and rejected for one of the reasons; the one after them counts."""
    log = target.log()
    first = log.add(*wrong, *pools(target, 1))
    with target.session(log) as session:
        session.deliver(log.batch(first))
        found = {each.index: each for each in session.rejections}
    expected = " or ".join(reasons)
    for index in range(first, first + len(wrong)):
        rejection = found.pop(index, None)
        if rejection is None:
            must(holds=False, seen=f"leaf {index - first + 1} of {len(wrong)} was settled, expected {expected}")
        else:
            must(rejection.reason in reasons, f"{rejection.reason}: {rejection.detail}, expected {expected}")
    must(not found, f"a sound leaf was rejected: {[each.reason for each in found.values()]}")
    return f"{expected}, {len(wrong)} of {len(wrong)}"
