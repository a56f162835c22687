"""Where exports are made from: a bundle, or a home of `tenor up`, which may be running. Both are read as far as
signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.bundling import settled
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.positions import Position
from scheduler.exchange.bundles import read_statements
from scheduler.exchange.convert import terms_from_bytes
from scheduler.home_log import HomeLog, read_home
from scheduler.ledger.bundle import Bundle, read_bundle


@dataclass(frozen=True, slots=True)
class Commitments:
    """What is promised and what was made of it: terms by id, statements by position (canonical bytes), and positions as
    the exchange told them, where that is known: a log alone does not say who owns what.
    """

    terms: Mapping[str, InstrumentTerms]
    statements: Mapping[str, bytes]
    positions: Mapping[str, Position] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """One log. `leaves(start)`: `(index, leaf)` from there on, each checked against its tile or tree on the way, and a
    bundle's root at the end; `verify` does that before anything is told. Raises Damaged.
    """

    origin: str
    size: int
    leaves: Callable[[int], Iterator[tuple[int, bytes]]]
    verify: Callable[[], None]
    commitments: Callable[[], Commitments]


@contextmanager
def opened(bundle: Path | None, home: Path, stream: str | None = None) -> Iterator[Source]:
    """The bundle, or where there is none given, the home's log of that stream.

    Raises InvalidValue where there is neither, Damaged where it is not what was written, and as `read_home`.
    """
    if bundle is not None:
        yield _of_bundle(read_bundle(bundle))
        return
    with read_home(home, stream) as log:
        yield Source(log.checkpoint.origin, log.size, log.leaves, _nothing, lambda: _of_home(log))


def _of_bundle(bundle: Bundle) -> Source:
    def leaves(start: int) -> Iterator[tuple[int, bytes]]:
        for index, leaf in enumerate(bundle.leaves()):
            if index >= start:
                yield index, leaf

    def commitments() -> Commitments:
        terms = {name: terms_from_bytes(encoded, name) for name, encoded in bundle.terms.items()}
        return Commitments(terms, read_statements(bundle.folder))

    return Source(bundle.stated.origin, bundle.stated.size, leaves, bundle.verify, commitments)


def _nothing() -> None:
    """The journal checks each leaf against its tree as it is read."""


def _of_home(log: HomeLog) -> Commitments:
    state = log.state()
    statements, _ = settled(log, state)
    return Commitments(dict(state.instruments), statements, dict(state.book.positions))
