"""Substitution: the grades that a position may be delivered in, by its terms and by what its owner consented to.

The terms list the grades that may stand in for par, each with its conversion; some of them only if the buyer agrees. He
does so through the exchange, whose events say from when on; consent is not taken back, since coverage is planned on it
(who wants it for a part of the lots splits them off first). Laws (tested): par may always be delivered; nothing that
the terms do not list may; what may be delivered at an instant may be at every later one; a split keeps its owner's
consents, a transfer does not pass them on.
"""

from __future__ import annotations

from scheduler.core.instruments import Deliverable, InstrumentTerms
from scheduler.core.positions import Position


def accepted_grades(terms: InstrumentTerms, position: Position, at_ms: int) -> tuple[Deliverable, ...]:
    """The grades that the position may be delivered in at an instant, and from then on: par first, the others in the
    order of the terms.
    """
    since_ms = dict(position.consents)
    return tuple(
        each
        for each in terms.deliverables
        if not each.needs_consent or (each.grade in since_ms and since_ms[each.grade] <= at_ms)
    )


def asked_since_ms(terms: InstrumentTerms, position: Position) -> tuple[tuple[str, int | None], ...]:
    """(grade, since when the owner agrees to it) of the deliverables that need consent, by grade; None: it does not."""
    since_ms = dict(position.consents)
    asked = (each.grade for each in terms.deliverables if each.needs_consent)
    return tuple((grade, since_ms.get(grade)) for grade in sorted(asked))
