"""The leaf that says to which substitutes the owner of a position agreed, as the exchange told it.

It lies in the log before what is delivered by it, so that anybody can check that nothing was delivered in a grade that
its owner had not accepted; the exchange, which has the consent from its owner, takes no leaf that says another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import MAX_INSTANT_MS, InstrumentTerms
from scheduler.core.positions import MOST_GRADES, Position
from scheduler.exchange.v1 import delivery_pb2 as wire

LONGEST_GRADE = 253


@dataclass(frozen=True, slots=True)
class SubstituteConsent:
    """From `from_ms` on the position's owner agrees to delivery in `grades`."""

    position: str
    instrument: str
    grades: tuple[str, ...]
    from_ms: int


@dataclass(frozen=True, slots=True)
class ConsentLeaf:
    """A consent, as it was learnt at `written_ms`."""

    written_ms: int
    said: SubstituteConsent


def encode_consent(said: SubstituteConsent, written_ms: int) -> bytes:
    """The leaf of a consent."""
    sent = wire.SubstituteConsent(
        position=said.position, instrument=said.instrument, grades=said.grades, from_ms=said.from_ms
    )
    return wire.LogEntry(written_ms=written_ms, consent=sent).SerializeToString()


def consent_from_wire(sent: wire.SubstituteConsent) -> SubstituteConsent:
    """A consent from its message. Raises InvalidValue."""
    where = f"a consent of {sent.position[:253]}"
    if not sent.position or not sent.instrument:
        raise InvalidValue("position, instrument", where, f"{sent.position!r}, {sent.instrument!r}", "their names")
    if not 0 <= sent.from_ms <= MAX_INSTANT_MS:
        raise InvalidValue("from_ms", where, sent.from_ms, f"0..{MAX_INSTANT_MS} ms since 1970")
    if not 1 <= len(sent.grades) <= MOST_GRADES:
        raise InvalidValue("grades", where, f"{len(sent.grades)} of them", f"1..{MOST_GRADES}")
    if not all(0 < len(grade) <= LONGEST_GRADE for grade in sent.grades):
        raise InvalidValue("grades", where, tuple(sent.grades), f"names of 1..{LONGEST_GRADE} characters")
    return SubstituteConsent(sent.position, sent.instrument, tuple(sent.grades), sent.from_ms)


def consents_of(position: str, instrument: str, agreed: tuple[tuple[str, int], ...]) -> tuple[SubstituteConsent, ...]:
    """What a position's owner agreed to, (grade, from when on), as a consent an instant, in order of time."""
    instants = sorted({from_ms for _, from_ms in agreed})
    return tuple(
        SubstituteConsent(position, instrument, tuple(grade for grade, since in agreed if since == at_ms), at_ms)
        for at_ms in instants
    )


def wrong_consent(said: SubstituteConsent, position: Position, terms: InstrumentTerms) -> str:
    """Why a consent is none that the position's owner gave, in words; empty for a right one."""
    if said.instrument != position.instrument:
        return f"instrument of the consent of {position.id} was {said.instrument}, expected {position.instrument}"
    unknown = unasked(said.grades, terms)
    if unknown:
        return f"the consent of {position.id} is to {', '.join(unknown)}, for which {terms.id} asks none"
    since_ms = dict(position.consents)
    for grade in said.grades:
        if grade not in since_ms or said.from_ms < since_ms[grade]:
            given = f"that from {since_ms[grade]} on" if grade in since_ms else "none to it"
            return f"the consent of {position.id} to {grade} was from {said.from_ms} on, its owner gave {given}"
    return ""


def unasked(grades: tuple[str, ...], terms: InstrumentTerms) -> tuple[str, ...]:
    """Those of the grades for which the terms ask no consent."""
    asked = {each.grade for each in terms.deliverables if each.needs_consent}
    return tuple(grade for grade in grades if grade not in asked)
