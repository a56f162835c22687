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

RULE: Literal["class-then-pro-rata-1"] = "class-then-pro-rata-1"
"""The rule's published name; a change of the rule is a new name."""


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

    rule: Literal["class-then-pro-rata-1"] = RULE
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
) -> Certificate:
    """The certificate of sharing so many whole cells among the claims. Raises InvalidValue on fewer than 0 cells or
    two claims of one position.
    """
    if cells < 0:
        raise InvalidValue("cells", "a shortage", cells, "0 or more")
    if len({claim.position for claim in claims}) != len(claims):
        raise InvalidValue("claims", "a shortage", [claim.position for claim in claims], "one for each position")
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
        "rule": RULE,
        "pool": pool,
        "level": int(level),
        "start_ms": start_ms,
        "end_ms": end_ms,
        "cells": cells,
        "claims": [claim.model_dump(mode="json") for claim in ordered],
        "awards": [award.model_dump(mode="json") for award in awards],
    }
    return Certificate(
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
    """The certificate, once the rule gives the same awards and digest from its facts. Raises Conflict where it does
    not, Damaged where bytes cannot be read.
    """
    given = certificate if isinstance(certificate, Certificate) else certificate_of(certificate)
    again = ration(
        given.claims,
        given.cells,
        pool=given.pool,
        level=given.level,
        start_ms=given.start_ms,
        end_ms=given.end_ms,
    )
    if again != given:
        differing = sorted(name for name in Certificate.model_fields if getattr(again, name) != getattr(given, name))
        raise Conflict(
            f"the shortage certificate {given.digest[:12]} does not follow from its facts: {differing} differ"
        )
    return given
