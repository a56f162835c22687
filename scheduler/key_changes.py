"""The log's next key: left in the home as `log.key.next`, it is announced in the log and signs from then on.

The steps, each safe to be the last before a crash: the key is kept under its own name; the change is a leaf of the log,
committed with the list of keys; the file that asked for it goes. A start finds the step that was reached and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import Conflict, TenorError, Unavailable
from scheduler.delivery import LogWriter
from scheduler.exchange.leaves import encode_key_change
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import NEXT_FILE, KeyChange, Keyring, file_of
from scheduler.ledger.keys import SignerKey
from scheduler.service import Scheduler


def prepare(home: Path, name: str) -> SignerKey:
    """Leaves a new key of that name where the scheduler of `home` takes it up. Raises as `SignerKey.save`."""
    key = SignerKey.generate(name)
    key.save(home / NEXT_FILE)
    return key


@dataclass
class KeyChanges:
    """Takes up the next key of one log, between rounds. `overlap_ms`: how long the old one goes on signing."""

    home: Path
    journal: Journal
    stream: str
    keys: Keyring
    overlap_ms: int

    def maybe(self, scheduler: Scheduler, now_ms: int) -> str:
        """A sentence on what was done; empty where there was nothing to do. What is wrong with the file is said too."""
        waiting = self.home / NEXT_FILE
        if not waiting.exists() or scheduler.paused:
            return ""
        try:
            return self._taken_up(waiting, scheduler, now_ms)
        except Unavailable:
            return ""  # the disk; it is tried again
        except TenorError as error:
            waiting.rename(waiting.with_name(f"{NEXT_FILE}.refused"))
            return f"the log's next key was not taken up, and is {NEXT_FILE}.refused now: {error}"

    def _taken_up(self, waiting: Path, scheduler: Scheduler, now_ms: int) -> str:
        key = SignerKey.load(waiting)
        if key.name != self.keys.name:
            raise Conflict(f"the key {waiting} is of {key.name!r}, expected {self.keys.name!r}")
        if key.verifier not in self.keys.verifiers:
            kept = file_of(self.home, key.verifier)
            if not kept.exists():
                key.save(kept)
            with scheduler.guard:
                self._announce(key, now_ms)
        waiting.unlink()
        return f"the log's key is {key.verifier.encode()} now; the one before it signs too for {self.overlap_ms} ms"

    def _announce(self, key: SignerKey, now_ms: int) -> None:
        """With the scheduler's guard held, and nothing of its own unsaved: no leaf comes in between."""
        leaf, until_ms = self.journal.log_size(self.stream), now_ms + self.overlap_ms
        before = self.keys.tenures
        change = encode_key_change(KeyChange.signed(self.keys.current, key, until_ms), now_ms)
        self.keys.tenures = self.keys.following(key, leaf, until_ms)  # first, so that nobody signs over it without
        try:
            self.journal.commit((), leaves=[change], stream=self.stream, cursors=dict([self.keys.cursor(self.stream)]))
        except BaseException:
            self.keys.tenures = before
            raise
        LogWriter(self.stream, self.keys).checkpoint(self.journal)
