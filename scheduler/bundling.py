"""Bundles of a home: the evidence of everything delivered so far, made beside a scheduler that runs on.

Run again, it writes what came since: full tiles are taken over as they are. Statements are computed from the leaves
that the bundle holds, so that whoever audits it gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import Refused
from scheduler.core.models import canonical_bytes
from scheduler.core.state.state import State
from scheduler.exchange import bundles
from scheduler.exchange.statements import RecordedLeaf, statement_of
from scheduler.home_log import HomeLog, by_position, read_home


@dataclass(frozen=True, slots=True)
class Bundled:
    """What was written. `before`: how many leaves the folder had; `left_out`: positions without statement, and why."""

    folder: Path
    origin: str
    size: int
    before: int
    statements: int
    left_out: Mapping[str, str]


def bundle_home(
    home: Path, folder: Path, stream: str | None = None, tick: bundles.Tick = lambda _done, _of: None
) -> Bundled:
    """Writes the home's log as a bundle at `folder`, in place of a beginning of it that is there.

    Raises as `read_home` and `scheduler.ledger.bundle.write_bundle`; Conflict where the folder holds another log, or
    another history of this one. A crash leaves the bundle that was there before.
    """
    with read_home(home, stream) as log:
        onto = bundles.beginning(log.journal, log.stream, folder, log.checkpoint.origin)
        state = log.state()
        statements, left_out = settled(log, state, tick)
        terms = [state.instruments[name] for name in sorted(state.instruments)]
        vkeys = [key.encode() for key in log.vkeys()]
        bundles.write(log.journal, log.stream, folder, terms, statements, vkeys, onto=onto, tick=tick)
        before = onto.stated.size if onto is not None else 0
        return Bundled(folder, log.checkpoint.origin, log.size, before, len(statements), left_out)


def settled(
    log: HomeLog, state: State, tick: bundles.Tick = lambda _done, _of: None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The canonical bytes of every position's statement so far; and of those with records but without, why."""
    statements: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    for name, leaves in sorted(by_position(log, tick).items()):
        position = state.book.positions.get(name)
        if position is None:
            left_out[name] = "the journal knows no such position"
            continue
        recorded = (RecordedLeaf.of(leaf) for leaf in leaves)
        mine = [each for each in recorded if each is not None]
        try:
            made = statement_of(state.instruments[position.instrument], position, mine)
        except Refused as error:
            left_out[name] = str(error)
        else:
            statements[name] = canonical_bytes(made)
    return statements, left_out
