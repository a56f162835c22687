"""The keys of each stream as its own log announced them: the first one seen, and those that followed it.

Laws: a key follows the newest one only, by a change that both have signed; one that was followed signs new checkpoints
until its overlap is over by this exchange's clock, and not a moment longer.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.exchange.checks import Reason, Rejected
from scheduler.exchange.leaves import KeyChangeLeaf
from scheduler.exchange.reference.database import Database
from scheduler.ledger.keys import VerifierKey


class StreamKeys:
    """See the module. Call with the database's guard held; `change` inside a transaction."""

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms

    def known(self, stream: str) -> tuple[VerifierKey, ...]:
        """All keys of the stream, oldest first; none for one that was never opened."""
        first = self._database.one("SELECT vkey FROM stream WHERE name = ?", stream)
        vkeys = [*(first or ()), *(vkey for vkey, _ in self._changes(stream))]
        return tuple(map(VerifierKey.parse, vkeys))

    def in_force(self, stream: str) -> tuple[VerifierKey, ...]:
        """Those whose signature counts now: the newest, and those before it whose overlap lasts."""
        now_ms, known = self._clock_ms(), self.known(stream)
        lasting = [key for key, (_, until_ms) in zip(known, self._changes(stream), strict=False) if now_ms < until_ms]
        return (*lasting, *known[-1:])

    def change(self, stream: str, index: int, leaf: KeyChangeLeaf) -> Rejected | None:
        """Lets the new key follow; why not, where it may not."""
        known, change = self.known(stream), leaf.change
        if change.old != known[-1] or change.new in known:
            was = f"{change.new.encode()} was to follow {change.old.encode()}"
            return Rejected(Reason.WRONG_KEY_CHANGE, f"{was}, expected a new key to follow {known[-1].encode()}")
        row = (stream, index, change.new.encode(), change.until_ms)
        self._database.write("INSERT INTO key_change VALUES (?, ?, ?, ?)", *row)
        return None

    def _changes(self, stream: str) -> list[tuple[str, int]]:
        """The vkey of each that followed, with the end of the overlap of the one before it."""
        query = "SELECT vkey, until_ms FROM key_change WHERE stream = ? ORDER BY leaf"
        return [(vkey, until_ms) for vkey, until_ms in self._database.all(query, stream)]
