"""Which shortages last: who waits for cells of which level, by the last certificate that said so.

A certificate is issued when the facts change, not each time that somebody looks; so the state remembers what the last
one said. Those of the first rule are not remembered: their journals were written by a program that did not either.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import RULE, Certificate, certificate_of, unmet
from scheduler.core.events import ShortageDecided, ShortageOver


class Shortage(NamedTuple):
    """What is short: cells of a level in a pool (`GRADE@SITE`), for lots of a firmness class. Sorts by pool."""

    pool: str
    level: Level
    firmness_class: int


class Waits(NamedTuple):
    """The digest of the last certificate, and who waits: (position, lots), by position."""

    certificate: str
    lots: tuple[tuple[str, int], ...]


def shortage_of(certificate: Certificate) -> tuple[Shortage, Waits]:
    """What a certificate is about, and who waits on by it."""
    first = min((claim.firmness_class for claim in certificate.claims), default=0)
    waits = Waits(certificate.digest, tuple(sorted(unmet(certificate).items())))
    return Shortage(certificate.pool, certificate.level, first), waits


def after(shortages: dict[Shortage, Waits], event: ShortageDecided | ShortageOver) -> dict[Shortage, Waits]:
    """The shortages that last after an event. Raises Damaged where a certificate cannot be read."""
    kept = dict(shortages)
    match event:
        case ShortageDecided():
            certificate = certificate_of(event.certificate)
            if certificate.rule == RULE:
                shortage, waits = shortage_of(certificate)
                if waits.lots:
                    kept[shortage] = waits
        case ShortageOver():
            kept.pop(Shortage(event.pool, event.level, event.firmness_class), None)
    return kept
