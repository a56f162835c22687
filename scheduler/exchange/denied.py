"""Peers that are refused although their certificates are sound: a file of names, read again as it changes.

One `ROLE/NAME` a line; empty lines and those that begin with `#` say nothing. Law: a file that cannot be read, or that
holds something else, takes nobody off the list: what was read last holds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.core.errors import InvalidValue, TenorError, Unauthorised
from scheduler.exchange.peers import Peer

LOOKED_AT_S = 1.0
"""So often the file is looked at, at the most."""


class Denied:
    """See the module. Raises InvalidValue for a file that cannot be read as such at the start."""

    def __init__(self, path: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock_s = clock_s
        self._guard = threading.Lock()
        self._looked_s = clock_s()
        self._peers = self._read()

    @classmethod
    def of(cls, path: Path | None) -> Denied | None:
        """The list in a file; None where there is none. Raises as the class does."""
        return None if path is None else cls(path)

    def check(self, peer: Peer) -> None:
        """Raises Unauthorised for a peer that is on the list."""
        with self._guard:
            now_s = self._clock_s()
            if now_s - self._looked_s >= LOOKED_AT_S:
                self._looked_s = now_s
                with contextlib.suppress(TenorError):  # half-written, or gone for the moment
                    self._peers = self._read()
            denied = peer in self._peers
        if denied:
            raise Unauthorised(f"{peer} is denied here, whatever its certificate says")

    def _read(self) -> frozenset[Peer]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValue(
                "denied", str(self._path), "unreadable", f"a file of ROLE/NAME lines ({error})"
            ) from error
        names = [line.strip() for line in lines]
        return frozenset(Peer.parse(name) for name in names if name and not name.startswith("#"))
