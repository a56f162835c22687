"""Checks of listing and trading, where the target serves `TradingService`."""

from __future__ import annotations

from functools import partial

import grpc

from scheduler.core.models import canonical_bytes
from scheduler.exchange import convert
from scheduler.exchange.conformance.outcome import must, refused
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.v1 import instruments_pb2

_WRONG = grpc.StatusCode.INVALID_ARGUMENT
_AGAINST = grpc.StatusCode.FAILED_PRECONDITION


def listing_repeats(target: Target) -> str:
    """The same listing again changes nothing and is answered alike."""
    terms = target.market.draft("CONFORMANCE.TWICE")
    first, second = target.market.list(terms), target.market.list(terms)
    must(first == second, "the second answer is another")
    must(first.spec_hash.hex() == terms.spec_hash, f"spec_hash is {first.spec_hash.hex()}, expected {terms.spec_hash}")
    found = [each for each in target.instruments(terms.symbol) if each.symbol == terms.symbol]
    must(len(found) == 1, f"it is listed {len(found)} times")
    must(found[0].terms == canonical_bytes(terms), "the terms come back with other bytes than were listed")
    return f"{terms.id} is listed once, {terms.spec_hash[:12]}"


def listing_never_changes(target: Target) -> str:
    """The same version with other terms."""
    terms = target.market.draft("CONFORMANCE.FIXED")
    target.market.list(terms)
    other = target.market.draft("CONFORMANCE.FIXED", price_micro_per_gpu_hour=1)
    return str(refused(lambda: target.market.list(other), _AGAINST, "CONFLICT"))


def listing_names_every_fault(target: Target) -> str:
    """Each fault of a wrong listing is a field violation."""
    wrong = target.market.draft("CONFORMANCE.WRONG")
    plain = wrong.model_copy(
        update={
            "throughput": wrong.throughput.model_copy(update={"floor_ppm": 1_200_000}),
            "window": wrong.window.model_copy(update={"start_ms": wrong.window.start_ms + 1}),
        }
    )
    refusal = refused(lambda: target.market.list(plain), _WRONG, "INVALID_INSTRUMENT")
    named = " ".join(refusal.fields)
    must(
        "floor_ppm" in named and "window" in named,
        f"violations {refusal.fields}, expected floor_ppm and window",
    )
    return f"{len(refusal.fields)} field violations: {', '.join(refusal.fields)}"


def listing_hash_is_checked(target: Target) -> str:
    """The hash must be that of the terms."""
    sent = convert.instrument_to_wire(target.market.draft("CONFORMANCE.HASH"))
    sent.spec_hash = bytes(32)
    return str(refused(lambda: target.market.list_as(sent), _WRONG))


def listing_fields_agree(target: Target) -> str:
    """What repeats the terms must repeat them."""
    sent = convert.instrument_to_wire(target.market.draft("CONFORMANCE.FIELDS"))
    sent.gpus_per_lot += 1
    return str(refused(lambda: target.market.list_as(sent), _WRONG))


def listing_terms_are_canonical(target: Target) -> str:
    """Other bytes of the same JSON would have another hash."""
    sent = convert.instrument_to_wire(target.market.draft("CONFORMANCE.SPACES"))
    sent.terms = sent.terms.replace(b",", b", ", 1)
    return str(refused(lambda: target.market.list_as(sent), _WRONG))


def listing_enum_is_known(target: Target) -> str:
    """A kind of cell that nobody knows, and none at all."""
    seen = ""
    for cell in (99, instruments_pb2.CELL_UNSPECIFIED):
        sent = convert.instrument_to_wire(target.market.draft("CONFORMANCE.CELL"))
        sent.cell = cell  # type: ignore[assignment]
        seen = str(refused(partial(target.market.list_as, sent), _WRONG))
    return seen


def trade_repeats(target: Target) -> str:
    """The same request id and content: the same answer, and one position."""
    name = f"conformance-{target.run}-again"
    first = target.market.trade(request_id=name)
    again = target.market.trade(request_id=name, effective_ms=first.event.effective_ms)
    must(first == again, f"the same request made {first.event.position} and then {again.event.position}")
    return f"{first.event.position}, both times"


def trade_changed_is_refused(target: Target) -> str:
    """The same request id with another content."""
    name = f"conformance-{target.run}-changed"
    target.market.trade(request_id=name, lots=1)
    return str(refused(lambda: target.market.trade(request_id=name, lots=2), _AGAINST, "CONFLICT"))


def trade_in_the_past_is_refused(target: Target) -> str:
    """What is owned cannot be changed behind those who delivered."""
    past_ms = target.now_ms() - 3_600_000
    return str(refused(lambda: target.market.trade(effective_ms=past_ms), _WRONG))


def trade_of_the_unknown_is_refused(target: Target) -> str:
    """Nobody lists it."""
    target.market.terms()
    return str(
        refused(lambda: target.market.trade(instrument="NO.SUCH.THING@1"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME")
    )


def trade_id_is_bounded(target: Target) -> str:
    """What is kept for ever is short."""
    return str(refused(lambda: target.market.trade(request_id="x" * 10_000), _WRONG))


def oversold_is_refused(target: Target) -> str:
    """No more lots than are listed, at any instant."""
    terms = target.market.draft("CONFORMANCE.FEW")
    target.market.list(terms, lots_listed=2)
    target.market.trade(instrument=terms.id, lots=2)
    return str(refused(lambda: target.market.trade(instrument=terms.id, lots=1), _AGAINST, "OVERSOLD"))


def transfer_conserves(target: Target) -> str:
    """What one account gives is what the other gets, and no more than there was."""
    bought = target.market.buy(lots=3)
    moved = convert.event_from_wire(target.market.transfer(bought.position, f"{target.account}-2", 1).event)
    held = {each.id: each for each in convert.positions_from_wire(target.snapshot().positions)}
    left = held[bought.position].lots_at(moved.effective_ms)
    got = held[moved.position].lots_at(moved.effective_ms)
    must((left, got) == (2, 1), f"3 lots became {left} and {got}")
    kind = "transfer"
    must(moved.kind.value == kind, f"the event is a {moved.kind}, expected a {kind}")
    refusal = refused(lambda: target.market.transfer(bought.position, f"{target.account}-2", 3), _AGAINST, "OVERSOLD")
    return f"3 lots became 2 and 1; {refusal}"


def split_stays_in_the_account(target: Target) -> str:
    """A transfer to the same account is a split."""
    bought = target.market.buy(lots=2)
    event = convert.event_from_wire(target.market.transfer(bought.position, bought.account, 1).event)
    must((event.kind.value, event.account) == ("split", bought.account), f"a {event.kind} for {event.account}")
    return f"{event.position} has 1 of the 2 lots"


def correction_to_nothing_ends(target: Target) -> str:
    """A correction to no lots is an expiry."""
    bought = target.market.buy(lots=2)
    corrected = convert.event_from_wire(target.market.correct(bought.position, 1).event)
    ended = convert.event_from_wire(target.market.correct(bought.position, 0).event)
    must(corrected.kind.value == "correction", f"a correction to 1 lot is told as a {corrected.kind}")
    must((ended.kind.value, ended.lots) == ("expiry", 0), f"a correction to 0 lots is told as a {ended.kind}")
    return f"{bought.position} was corrected, then ended"
