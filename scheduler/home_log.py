"""A home of `tenor up`, read beside the scheduler that owns it: one stream's log, and what the journal says of it.

It exists so that bundles and exports can be made at any time, of a home that runs as of one that was stopped. Laws:
nothing is written, nothing is waited for; everything is of one instant; only leaves under a signed checkpoint are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.state.state import State
from scheduler.exchange import bundles
from scheduler.exchange.leaves import position_of
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import verifiers_of
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import Checkpoint, parse_note
from scheduler.recovery import fold

JOURNAL_FILE = "journal.db"
_SIGNED_WITHIN_S = 2.0
"""Leaves are signed right after they are durable; a scheduler that is gone signs them when it starts again."""


@dataclass(frozen=True, slots=True)
class HomeLog:
    """One stream's log as far as it is signed."""

    home: Path
    journal: Journal
    stream: str
    checkpoint: Checkpoint

    @property
    def size(self) -> int:
        """How many leaves are signed."""
        return self.checkpoint.size

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """`(index, leaf)` of the signed leaves from `start` on."""
        return self.journal.leaves(self.stream, start, max(0, self.size - start))

    def state(self) -> State:
        """What the journal folds to. Raises Damaged."""
        return fold(self.journal, check_up_to=0).state

    def vkeys(self) -> tuple[VerifierKey, ...]:
        """All keys that ever signed this log. Raises as `verifiers_of`."""
        return verifiers_of(self.home, self.journal, self.stream)


@contextmanager
def read_home(home: Path, stream: str | None = None) -> Iterator[HomeLog]:
    """The log in the home, as of now. `stream`: None where there is only one.

    Raises InvalidValue where there is no home or nothing was signed yet, UnknownName for a stream that is not there,
    Damaged where the journal is not what was written.
    """
    if not (home / JOURNAL_FILE).is_file():
        raise InvalidValue("home", "tenor up", str(home), f"a folder with the file {JOURNAL_FILE}")
    with Journal.beside(home / JOURNAL_FILE) as journal:
        name = _stream_of(journal, home, stream)
        _until_signed(journal, name)
        with journal.one_instant():
            _, note = bundles.signed(journal, name)
            yield HomeLog(home, journal, name, Checkpoint.parse(parse_note(note).text))


def by_position(log: HomeLog, tick: bundles.Tick = lambda _done, _of: None) -> Mapping[str, list[bytes]]:
    """The leaves of each position's records, in order, as bytes: a million fit in memory, decoded they would not."""
    found: dict[str, list[bytes]] = {}
    for index, leaf in log.leaves():
        if index % 4_096 == 0:
            tick(index, log.size)
        position = position_of(leaf)
        if position:
            found.setdefault(position, []).append(leaf)
    return found


def _stream_of(journal: Journal, home: Path, stream: str | None) -> str:
    streams = journal.streams()
    if stream is None and len(streams) == 1:
        return streams[0]
    if not streams:
        raise InvalidValue("log", str(home), "empty", "a leaf at least; nothing was delivered yet")
    if stream is None:
        raise InvalidValue("stream", str(home), "not given", f"one of {', '.join(streams)}")
    if stream not in streams:
        raise UnknownName("stream", stream, streams)
    return stream


def _until_signed(
    journal: Journal, stream: str, pause: Callable[[float], None] = time.sleep, within_s: float = _SIGNED_WITHIN_S
) -> None:
    """Waits for the checkpoint over the last leaves, for a moment: what is told should be all that there is."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        kept = journal.checkpoint(stream)
        if kept is not None and kept[0] == journal.log_size(stream):
            return
        pause(0.05)
