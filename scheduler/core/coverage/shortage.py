"""The shortage rule: who goes short when healthy cells do not reach, and the certificate that proves the decision.

By firmness class (FIRM, then UNIT_FIRM and SYSTEM_FIRM, then RECALLABLE, then NON_FIRM); within a class pro rata to the
lots, in whole cells, by largest remainder; ties by the time the position was acquired, then by its id. So no lower
class holds a cell that an unmet higher one could use. A certificate holds the facts, the order and the result; anyone
recomputes it from its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

from pydantic import Field, ValidationError

from scheduler.core.cluster import Level
from scheduler.core.errors import Conflict, Damaged, InvalidValue
from scheduler.core.ids import Name
from scheduler.core.models import Model, canonical_bytes, canonical_hash
from scheduler.core.quantities import apportion

RuleName = Literal["class-then-pro-rata-1", "class-then-pro-rata-2"]
FIRST_RULE: RuleName = "class-then-pro-rata-1"
"""One level at a time: lots of all classes of that level share its cells. Certificates of old logs name it."""
RULE: RuleName = "class-then-pro-rata-2"
"""The rule in force, by its published name; a change of the rule is a new name. One class at a time, at every level:
the first class of a certificate are lots that wait for a cell; the claims of lower classes are the cells that they
hold, each counted for the most senior lot in it.
"""


class FirmnessClass(IntEnum):
    """The order in which firmness is served: lower first."""

    FIRM = 0
    UNIT_OR_SYSTEM_FIRM = 1
    RECALLABLE = 2
    NON_FIRM = 3


class ShortClaim(Model):
    """One position's claim to so many whole cells."""

    position: Name
    firmness_class: int = Field(ge=0, le=3, description="A FirmnessClass.")
    lots: int = Field(ge=0)
    acquired_ms: int


class Award(Model):
    """What one position gets of what it claims."""

    position: Name
    claimed: int
    awarded: int


class Certificate(Model):
    """A decided shortage: the facts, the claims in the order of the rule, the awards in the same order, and their
    digest.
    """

    rule: RuleName = RULE
    pool: str = Field(max_length=600)
    level: Level
    start_ms: int
    end_ms: int | None = Field(description="None: until the facts change.")
    cells: int = Field(ge=0, description="Healthy cells that the claims compete for.")
    claims: tuple[ShortClaim, ...]
    awards: tuple[Award, ...]
    digest: str = Field(description="SHA-256 of the canonical bytes of all other fields, lower-case hex.")

    @property
    def body(self) -> bytes:
        """The canonical bytes: what goes into the log."""
        return canonical_bytes(self)

    @property
    def awarded(self) -> dict[str, int]:
        """Cells by position."""
        return {award.position: award.awarded for award in self.awards}


def ration(
    claims: Sequence[ShortClaim],
    cells: int,
    *,
    pool: str = "",
    level: Level = Level.NODE,
    start_ms: int = 0,
    end_ms: int | None = None,
    rule: RuleName = RULE,
) -> Certificate:
    """The certificate of sharing so many whole cells among the claims. Raises InvalidValue on fewer than 0 cells, two
    claims of one position, or, by the rule in force, fewer cells than lower classes hold.
    """
    if cells < 0:
        raise InvalidValue("cells", "a shortage", cells, "0 or more")
    if len({claim.position for claim in claims}) != len(claims):
        raise InvalidValue("claims", "a shortage", [claim.position for claim in claims], "one for each position")
    first = min((claim.firmness_class for claim in claims), default=0)
    held = sum(claim.lots for claim in claims if claim.firmness_class > first)
    if rule == RULE and cells < held:
        raise InvalidValue("cells", "a shortage", cells, f"{held} or more: lower classes hold so many")
    ordered = tuple(sorted(claims, key=lambda c: (c.firmness_class, c.acquired_ms, c.position)))
    awards: list[Award] = []
    left = cells
    for firmness in FirmnessClass:
        members = [claim for claim in ordered if claim.firmness_class == firmness]
        asked = sum(claim.lots for claim in members)
        shares = apportion(min(left, asked), [claim.lots for claim in members])
        left -= sum(shares)
        awards += [
            Award(position=claim.position, claimed=claim.lots, awarded=share)
            for claim, share in zip(members, shares, strict=True)
        ]
    facts = {
        "rule": rule,
        "pool": pool,
        "level": int(level),
        "start_ms": start_ms,
        "end_ms": end_ms,
        "cells": cells,
        "claims": [claim.model_dump(mode="json") for claim in ordered],
        "awards": [award.model_dump(mode="json") for award in awards],
    }
    return Certificate(
        rule=rule,
        pool=pool,
        level=level,
        start_ms=start_ms,
        end_ms=end_ms,
        cells=cells,
        claims=ordered,
        awards=tuple(awards),
        digest=canonical_hash(facts),
    )


def certificate_of(body: bytes | str) -> Certificate:
    """The certificate back from its canonical bytes. Raises Damaged where they are not such bytes."""
    raw = body.encode() if isinstance(body, str) else body
    try:
        certificate = Certificate.model_validate_json(raw)
    except ValidationError as error:
        raise Damaged(f"a shortage certificate cannot be read: {error.errors()[0]['msg']}") from error
    if certificate.body != raw:
        raise Damaged("a shortage certificate is not in its canonical form")
    return certificate


def verify(certificate: Certificate | bytes | str) -> Certificate:
    """The certificate, once the rule that it names gives the same order, awards and digest from its facts. Raises
    Conflict where it does not, naming the first thing that is wrong; Damaged where bytes cannot be read.
    """
    given = certificate if isinstance(certificate, Certificate) else certificate_of(certificate)
    named = f"the shortage certificate {given.digest[:12]}"
    try:
        again = ration(
            given.claims,
            given.cells,
            pool=given.pool,
            level=given.level,
            start_ms=given.start_ms,
            end_ms=given.end_ms,
            rule=given.rule,
        )
    except InvalidValue as error:
        raise Conflict(f"{named} states facts that cannot be: {error}") from error
    if again.claims != given.claims:
        wrong = next(
            (was, right)
            for was, right in zip(given.claims, again.claims, strict=True)
            if was.position != right.position
        )
        raise Conflict(f"{named}: the order of its claims had {wrong[0].position}, expected {wrong[1].position}")
    if [award.position for award in again.awards] != [award.position for award in given.awards]:
        raise Conflict(f"{named}: its awards are of {sorted(given.awarded)}, expected one for each claim in its order")
    for got, due in zip(given.awards, again.awards, strict=True):
        if got != due:
            told, expected = f"{got.awarded} of {got.claimed}", f"{due.awarded} of {due.claimed}"
            raise Conflict(f"{named} does not follow from its facts: {got.position} got {told}, expected {expected}")
    if again.digest != given.digest:
        raise Conflict(f"{named}: its digest was {given.digest}, expected {again.digest}")
    return given


def unmet(certificate: Certificate) -> dict[str, int]:
    """Lots by position, of the first class of a certificate, that got no cell."""
    first = min((claim.firmness_class for claim in certificate.claims), default=0)
    return {
        award.position: award.claimed - award.awarded
        for claim, award in zip(certificate.claims, certificate.awards, strict=True)
        if claim.firmness_class == first and award.awarded < award.claimed
    }


def changes_nothing(certificate: Certificate) -> bool:
    """Whether nobody gets a cell by it: it only says that the same lots wait on."""
    return not any(award.awarded for award in certificate.awards)
