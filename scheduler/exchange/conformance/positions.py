"""Checks of positions: cursors, snapshots, watches, instruments."""

from __future__ import annotations

import time
from functools import partial

import grpc

from scheduler.core.positions import PositionBook, PositionEvent
from scheduler.exchange import convert
from scheduler.exchange.conformance.outcome import Failed, Skipped, must, refusal_of, refused
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.v1 import positions_pb2

HEARTBEAT_S = 5.0
"""A heartbeat comes each second; so long one may be late."""

_Cursor = positions_pb2.Cursor


def instruments_are_sound(target: Target) -> str:
    """Terms in canonical form, the hash theirs, the repeated fields theirs."""
    listed = [convert.instrument_from_wire(each) for each in target.instruments()]
    names = [each.id for each in listed]
    must(len(set(names)) == len(names), f"an instrument is listed twice: {sorted(names)}")
    return f"{len(listed)} instruments"


def instruments_by_prefix(target: Target) -> str:
    """Only symbols that begin so."""
    symbol = target.market.terms().symbol
    found = target.instruments(symbol)
    must(any(each.symbol == symbol for each in found), f"{symbol} is listed and was not found by its symbol")
    others = [each.symbol for each in found if not each.symbol.startswith(symbol)]
    must(not others, f"asked for {symbol}, {others[0]} was among them" if others else "")
    must(not target.instruments(symbol + "~"), "instruments were found by a prefix that none has")
    return f"{len(found)} of them begin with {symbol}"


def snapshot_is_sound(target: Target) -> str:
    """Every position well formed, its instrument with it, under one cursor."""
    snapshot = target.snapshot()
    cursor = convert.cursor_from_wire(snapshot.cursor)
    positions = convert.positions_from_wire(snapshot.positions)
    known = {each.id for each in map(convert.instrument_from_wire, snapshot.instruments)}
    PositionBook.of(cursor, positions)  # refuses one name twice
    strangers = [each.id for each in positions if each.instrument not in known]
    must(not strangers, f"the instrument of {strangers[0]} is not in the snapshot" if strangers else "")
    return f"{len(positions)} positions at {cursor.stream}/{cursor.epoch}/{cursor.seq}"


def snapshot_of_an_account(target: Target) -> str:
    """An account's own positions and no others."""
    everything = target.snapshot()
    accounts = sorted({each.account for each in everything.positions})
    if not accounts:
        target.market.buy()
        everything = target.snapshot()
        accounts = sorted({each.account for each in everything.positions})
    account = accounts[0]
    expected = {each.id for each in everything.positions if each.account == account}
    found = {each.id for each in target.snapshot(account=account).positions}
    must(found == expected, f"{sorted(found ^ expected)} differ from what the whole snapshot has of {account}")
    nobodys = [each.id for each in target.snapshot(account=f"no-such-{target.run}").positions]
    must(not nobodys, f"an account that owns nothing was told of {nobodys[:3]}")
    return f"{len(found)} positions of {account}"


def other_streams_are_unknown(target: Target) -> str:
    """A snapshot or a watch of a stream that there is not."""
    stream = f"no-such-{target.run}"
    refused(lambda: target.snapshot(stream=stream), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME")
    cursor = _Cursor(stream=stream, epoch=1, seq=0)
    refusal = refused(lambda: target.told_since(cursor), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME")
    return str(refusal)


def cursor_is_dense(target: Target) -> str:
    """From the beginning of the epoch every seq, or word that they are no longer kept."""
    last = target.snapshot().cursor
    try:
        events = target.events_since(_Cursor(stream=last.stream, epoch=last.epoch, seq=0))
    except grpc.RpcError as failed:
        refusal = refusal_of(failed)
        compacted = refusal.code is grpc.StatusCode.OUT_OF_RANGE and refusal.reason == "CURSOR_COMPACTED"
        must(compacted, f"{refusal}, expected the events or OUT_OF_RANGE CURSOR_COMPACTED")
        return f"compacted: {refusal.said}"
    _must_follow(events, last.epoch, 0)
    must(len(events) >= last.seq, f"{len(events)} events were told, the snapshot is at {last.seq}")
    return f"{len(events)} events, each seq once"


def watch_goes_on_from_a_snapshot(target: Target) -> str:
    """Snapshot, then events: nothing missed between, and their fold is the next snapshot."""
    target.market.terms()
    before = target.snapshot()
    bought = target.market.buy(lots=3)
    given = target.market.transfer(bought.position, f"{target.account}-2", 1).event
    target.market.correct(given.position, 0)
    after = target.snapshot()
    events = target.events_since(before.cursor)
    _must_follow(events, before.cursor.epoch, before.cursor.seq)
    must(len(events) == 3, f"{len(events)} events follow the snapshot, three things were traded")
    book = PositionBook.of(convert.cursor_from_wire(before.cursor), convert.positions_from_wire(before.positions))
    for event in events:
        book.apply(convert.event_from_wire(event))
    must(
        book.cursor == convert.cursor_from_wire(after.cursor),
        f"the events lead to {book.cursor}, not to {after.cursor}",
    )
    told = {each.id: (each.account, each.lots_over_time) for each in convert.positions_from_wire(after.positions)}
    folded = {each.id: (each.account, each.lots_over_time) for each in book.snapshot()}
    wrong = sorted(name for name in told.keys() | folded.keys() if _differ(told.get(name), folded.get(name)))
    must(not wrong, f"the snapshot says another thing of {wrong[:3]} than the events do")
    return f"{len(events)} events, and their fold is the snapshot at {after.cursor.seq}"


def watch_repeats_itself(target: Target) -> str:
    """The same cursor, the same events, byte for byte."""
    last = target.snapshot().cursor
    event = target.market.trade().event
    cursor = _Cursor(stream=last.stream, epoch=last.epoch, seq=last.seq)
    first, second = target.events_since(cursor), target.events_since(cursor)
    must(first == second, "the same cursor led to other events the second time")
    must(first[:1] == [event], "the event of a trade is told otherwise than it was answered")
    return f"{len(first)} events, twice the same"


def watch_tells_events_as_they_come(target: Target) -> str:
    """An open watch hears of a trade without asking again."""
    watch = target.watch(target.snapshot().cursor)
    try:
        for told in watch:
            if told.HasField("heartbeat"):
                break
        bought = target.market.trade().event
        for told in watch:
            if told.HasField("event"):
                must(told.event == bought, "another event came than the one that was traded")
                return f"seq {told.event.cursor.seq} came while the watch was open"
    finally:
        watch.cancel()
    raise Failed("the watch ended before the event came")


def instruments_come_before_their_events(target: Target) -> str:
    """A watcher knows the terms of whatever an event is about."""
    snapshot = target.snapshot()
    target.market.buy()
    known: set[str] = set()
    for told in target.told_since(snapshot.cursor):
        if told.HasField("instrument"):
            known.add(convert.instrument_from_wire(told.instrument).id)
        elif told.HasField("event"):
            must(told.event.instrument in known, f"{told.event.instrument} of an event was not told before it")
    return f"{len(known)} instruments, then the events"


def events_are_sound(target: Target) -> str:
    """Known kinds, and fields that fit them."""
    target.market.terms()
    last = target.snapshot().cursor
    bought = target.market.buy(lots=2)
    target.market.transfer(bought.position, target.account, 1)
    events = [convert.event_from_wire(each) for each in target.events_since(last)]
    _must_be_committed(events)
    return f"{len(events)} events of known kinds"


def heartbeats_name_what_comes_next(target: Target) -> str:
    """A quiet watch says each second that it lives, with the cursor of the next event."""
    cursor = target.snapshot().cursor
    watch, begun = target.watch(cursor), time.monotonic()
    beats = []
    try:
        for told in watch:
            if told.HasField("heartbeat"):
                beats.append((time.monotonic() - begun, told.heartbeat))
                if len(beats) == 2:
                    break
    except grpc.RpcError as failed:
        raise Failed(f"{len(beats)} heartbeats in {target.timeout_s:g} s: {refusal_of(failed)}") from failed
    finally:
        watch.cancel()
    must(len(beats) == 2, "the watch ended before the second heartbeat")
    late_s = max(beats[0][0], beats[1][0] - beats[0][0])
    must(late_s <= HEARTBEAT_S, f"a heartbeat came after {late_s:.1f} s, expected {HEARTBEAT_S:g} at most")
    following = beats[0][1].next
    expected = _Cursor(stream=cursor.stream, epoch=cursor.epoch, seq=cursor.seq + 1)
    was = f"the heartbeat names {following.stream}/{following.epoch}/{following.seq}, seq {expected.seq} comes next"
    must(following == expected, was)
    return f"next is {following.seq}, a heartbeat each {beats[1][0] - beats[0][0]:.1f} s"


def cursor_ahead_is_refused(target: Target) -> str:
    """Somebody lost something: neither side may go on as if nothing were."""
    last = target.snapshot().cursor
    seen = ""
    for epoch, seq in ((last.epoch, last.seq + 1_000), (last.epoch + 1, 0)):
        cursor = _Cursor(stream=last.stream, epoch=epoch, seq=seq)
        seen = str(refused(partial(target.told_since, cursor), grpc.StatusCode.FAILED_PRECONDITION, "CONFLICT"))
    return seen


def cursor_of_an_epoch_that_is_over(target: Target) -> str:
    """Leads to a snapshot."""
    last = target.snapshot().cursor
    if last.epoch <= 1:
        raise Skipped(f"the target is in its first epoch of positions ({last.epoch})")
    cursor = _Cursor(stream=last.stream, epoch=last.epoch - 1, seq=1)
    return str(refused(lambda: target.told_since(cursor), grpc.StatusCode.OUT_OF_RANGE, "CURSOR_COMPACTED"))


def cursor_that_is_none(target: Target) -> str:
    """A watch must say from where."""
    return str(refused(lambda: target.told_since(_Cursor()), grpc.StatusCode.INVALID_ARGUMENT))


def _must_follow(events: list[positions_pb2.PositionEvent], epoch: int, seq: int) -> None:
    for number, event in enumerate(events, seq + 1):
        at = f"{event.cursor.epoch}/{event.cursor.seq}"
        must((event.cursor.epoch, event.cursor.seq) == (epoch, number), f"{at} came, {epoch}/{number} was to")


def _must_be_committed(events: list[PositionEvent]) -> None:
    must(bool(events), "no events were told of what was traded")
    instants = [event.committed_ms for event in events]
    must(instants == sorted(instants), f"committed_ms goes back: {instants}")


def _differ(told: object, folded: object) -> bool:
    """Of a position; one that has ended may be left out of a snapshot."""
    return told is not None and told != folded
