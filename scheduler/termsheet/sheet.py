"""What a term sheet consists of, and the making of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.core.instruments import InstrumentTerms, PeakProfile
from scheduler.core.listing import check_listing
from scheduler.core.models import Model
from scheduler.termsheet.delivered import delivered, when
from scheduler.termsheet.examples import Example, examples
from scheduler.termsheet.paid import metered, paid, unused
from scheduler.termsheet.sentence import Sentence
from scheduler.termsheet.surely import fast, served, surely
from scheduler.termsheet.wording import Clock


@dataclass(frozen=True, slots=True)
class Section:
    """Sentences about one thing."""

    title: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class TermSheet:
    """All that an instrument says."""

    instrument: str
    spec_hash: str
    sections: tuple[Section, ...]
    examples: tuple[Example, ...]

    @property
    def fields(self) -> frozenset[str]:
        """The paths of all fields that some sentence speaks of."""
        return frozenset(field for part in self.sections for each in part.sentences for field in each.fields)


def term_sheet(terms: InstrumentTerms, zone: str = "") -> TermSheet:
    """The sheet of terms that can be honoured. `zone`: a time zone to show instants in beside UTC; of a PEAK profile
    its own, unless another is given.

    Raises InvalidInstrument for terms that cannot be honoured as written, UnknownName for a zone.
    """
    check_listing(terms)
    own = terms.profile.time_zone if isinstance(terms.profile, PeakProfile) else ""
    clock = Clock(zone or own)
    sections = (
        Section("What is delivered", tuple(delivered(terms))),
        Section("When", tuple(when(terms, clock))),
        Section("How surely", tuple(surely(terms))),
        Section("How fast", tuple(fast(terms))),
        Section("How it is served", tuple(served(terms))),
        Section("How it is metered", tuple(metered(terms))),
        Section("What is not used", tuple(unused(terms))),
        Section("What is paid", tuple(paid(terms))),
    )
    return TermSheet(terms.id, terms.spec_hash, sections, tuple(examples(terms)))


def leaf_paths(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every field of terms with its path (`lot.gpus`, `deliverables.0.grade`) and value; an empty list, and what is
    left out, is a field of its own.
    """
    if isinstance(value, Model):
        for name in type(value).model_fields:
            yield from leaf_paths(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, tuple) and value:
        for number, item in enumerate(value):
            yield from leaf_paths(item, f"{path}.{number}")
    else:
        yield path, value
