"""A sentence, and which fields of the terms it speaks of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sentence:
    """`fields`: paths as `lot.gpus`, `deliverables.0.grade`."""

    text: str
    fields: tuple[str, ...]


def said(text: str, *fields: str) -> Sentence:
    """A sentence about these fields."""
    return Sentence(text, fields)
